"""The calls: hosts, keys, refusals, and what is read back after a change.

The `status_code` in a body counts more than HTTP's: https://docs.midtrans.com/reference/code-4xx
"""

import base64
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import httpx2 as httpx

from portal.gateways import base, wire
from portal.gateways._midtrans import sales
from portal.gateways._midtrans.common import WIB, rupiah
from portal.gateways.base import Gone, Ref, Unavailable
from portal.gateways.http import Http, refusal
from portal.gateways.wire import Json, part
from portal.money import Money

LIVE = ("api.midtrans.com", "app.midtrans.com", "merchants.midtrans.com")
SANDBOX = ("api.sandbox.midtrans.com", "app.sandbox.midtrans.com", "merchants.sbx.midtrans.com")
ID = r"[A-Za-z0-9_.~:-]{1,64}"
NO_ANSWER = "Midtrans does not answer at the moment."
NOT_YET = "Midtrans took it, but does not show it yet."


class KeysRefused(Unavailable):
    """A 401: Midtrans does not know these keys."""


class Api:
    """The calls of one account. Keys without the SB- of a sandbox may still be one's: then `environment` says so."""

    def __init__(self, gateway: base.Gateway) -> None:
        self.http = Http(gateway, "midtrans")
        key, chosen = gateway.credentials.get("server_key", ""), gateway.credentials.get("environment")
        self.live = chosen == "production" or (not chosen and not key.startswith("SB-"))
        self.core, self.snap, self.reports = LIVE if self.live else SANDBOX
        self._basic = {"Authorization": f"Basic {base64.b64encode(f'{key}:'.encode()).decode()}"}

    async def aclose(self) -> None:
        await self.http.aclose()

    async def subscription(self, ref: Ref) -> Json:
        said = await self.ask("GET", _path(ref))
        if said.get("id") != ref.id or not part(said, "schedule"):
            raise Unavailable(NO_ANSWER, "The answer is not the subscription that was asked for.")
        return said

    async def read_back(self, ref: Ref, word: str | None = None) -> Json:
        """The subscription after a call that was taken, once it shows the word that it should."""
        try:
            said = await self.subscription(ref)
        except (Unavailable, Gone) as error:
            raise Unavailable(NOT_YET, error.hint, sent=True) from error
        if word and said.get("status") != word:
            raise Unavailable(NOT_YET, f"It should be {word} and is {said.get('status')}.", sent=True)
        return said

    async def transaction(self, number: str) -> Json:
        """By its own id or the order's; where that is DANA's or a virtual account's, its own alone is known."""
        said = await self.ask("GET", f"/v2/{wire.safe(number, ID)}/status")
        if not isinstance(said.get("transaction_id"), str):
            raise Unavailable(NO_ANSWER, "The answer is no transaction.")
        return said

    async def transactions(self, numbers: Iterable[str]) -> list[Json]:
        """Those that Midtrans knows."""
        found = []
        for number in numbers:
            try:
                found.append(await self.transaction(number))
            except Gone:
                continue
        return found

    async def invoice(self, ref: Ref) -> tuple[base.InvoiceRecord, base.OrderRecord]:
        said = await self.ask("GET", f"/v1/invoices/{wire.safe(ref.id, ID)}")
        try:
            return sales.billed(said)
        except ValueError as error:
            raise Unavailable(NO_ANSWER, str(error)) from error

    async def post(self, ref: Ref, verb: str) -> None:
        await self.ask("POST", f"{_path(ref)}/{verb}")

    async def patch(
        self,
        ref: Ref,
        said: Json,
        *,
        amount: Money | None = None,
        count: int | None = None,
        token: str | None = None,
        account: str | None = None,
        next_at: datetime | None = None,
    ) -> Json:
        """Name, amount, currency and token must go along every time, so what was just read (`said`) is sent back with
        what changes: https://docs.midtrans.com/reference/update-subscription"""
        price, linked = amount or rupiah(said), account or part(said, "gopay").get("account_id")
        schedule: dict[str, Any] = {"interval": count or part(said, "schedule").get("interval")}
        if next_at:
            schedule["next_execution_at"] = next_at.astimezone(WIB).strftime("%Y-%m-%d %H:%M:%S %z")
        body = {
            "name": said.get("name"),
            "amount": str(price.minor // 100) if price else said.get("amount"),
            "currency": said.get("currency") or "IDR",
            "token": token or said.get("token"),
            "schedule": schedule,
        }
        more = {"gopay": {"account_id": linked}} if linked else {}
        await self.ask("PATCH", _path(ref), body | more)
        return await self.read_back(ref)

    async def ask_report(self, path: str, headers: dict[str, str], body: bytes) -> Json:
        return await self._said("POST", self.reports, path, headers, content=body)

    async def ask(
        self, method: str, path: str, body: Any = None, host: str = "", headers: dict[str, str] | None = None
    ) -> Json:
        return await self._said(method, host or self.core, path, self._basic | (headers or {}), json=body)

    async def _said(self, method: str, host: str, path: str, headers: dict[str, str], **body: Any) -> Json:
        """The answer's object. 407 in it is a state (expired), any other code from 400 on is a refusal."""
        more = {"Accept": "application/json", "Content-Type": "application/json", **headers}
        said = await self.http.ask(method, host, path, words=_words, headers=more, refused=_refused, **body)
        if not isinstance(said, dict):
            raise Unavailable(NO_ANSWER, "The answer holds no object.", sent=method != "GET")
        code = wire.whole(said.get("status_code")) or 200
        if code < 400 or code == 407:
            return said
        stands_for = code if code in (401, 404, 429) else 500 if code >= 500 else 400
        told, message = _words(said)
        known = _refused(stands_for, told, message)
        raise known or refusal(httpx.Response(stands_for), f"{told} {message}", told, method != "GET")


def _path(ref: Ref) -> str:
    return f"/v1/subscriptions/{wire.safe(ref.id, ID)}"


def _words(said: Any) -> tuple[str, str]:
    told = said.get("status_message") or said.get("responseMessage") or ""
    details = said.get("validation_messages") or said.get("error_messages") or []
    code = str(said.get("status_code") or said.get("responseCode") or "")
    return code, " ".join(str(one) for one in (told, *details))[:300]


def _refused(status: int, code: str, message: str) -> KeysRefused | None:
    if status != 401:
        return None
    hint = f"HTTP 401: {message} Compare the keys with Settings > Access Keys, of sandbox or production."
    return KeysRefused("Midtrans does not accept this shop's keys at the moment. Nothing was changed.", hint)
