"""Instamojo (India): payment requests and their payments, in rupees. Nothing recurs, nothing is stored, nothing is
written: a request that is open has a page of Instamojo's on which it is paid.

Two generations of the API tell the same objects: v1.1 by two keys, with lists of everything; v2 by a token, with lists
of requests and orders that name payments by address. Notices go to the address that a request was made with, so asking
is the base. No list takes an e-mail. Sources: https://docs.instamojo.com/docs/payments-api and those of the facts.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlencode

from portal import clock
from portal.gateways import _instamojo as shapes
from portal.gateways import base, wire
from portal.gateways._instamojo import Group
from portal.gateways.base import Gone, Record, Ref, Snapshot, Unavailable, Unreadable, Unsupported
from portal.gateways.http import Http
from portal.gateways.wire import Json, text

LIVE, API, TEST = "www.instamojo.com", "api.instamojo.com", "test.instamojo.com"
NO_ANSWER = "Instamojo does not answer at the moment."
NO_KEYS = "Instamojo does not accept this shop's keys at the moment. Nothing was changed."
PAGE, MOST = 25, 500  # requests may take a call each; of other lists Instamojo gives 500 at once
EARLY = timedelta(seconds=300)  # a token is renewed this long before its end
Refused = Callable[[int, str, str], base.GatewayError | None]


@dataclass(frozen=True, slots=True)
class Generation:
    """The paths of one generation. Refunds are read before payments, so that none is first called paid. `probes` are
    questions for `check`, by what they prove may be read: made-up ids are answered 404 where it may."""

    root: str
    requests: str
    refunds: str
    lists: tuple[str, ...]
    probes: Mapping[str, str]


ORDERS, PAYMENTS = "gateway/orders/", "payments/"
V1 = Generation(
    "/api/1.1/",
    "payment-requests/",
    "refunds/",
    ("refunds/", "payment-requests/", PAYMENTS),
    {"payment requests": "payment-requests/"},
)
V2 = Generation(
    "/v2/",
    "payment_requests/",
    "resolutioncenter/cases/",
    ("payment_requests/", ORDERS),
    {
        "payment-requests:read": "payment_requests/",
        "payments:read": "payments/MOJO00000000000000000/",
        "cases:read": "resolutioncenter/cases/C0000000000/",
    },
)


class KeysRefused(Unavailable):
    """A 401: the keys are not known at this host, or the token has run out."""


class NotAllowed(Unavailable):
    """A 403: the keys are good, a scope is missing."""


class Adapter(base.Gateway):
    """One account. Credentials: api_key and auth_token (v1.1) or client_id and client_secret (v2); salt, for notices;
    test ("yes" or "no")."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "instamojo")
        self._test = self._field("test") == "yes"
        self._api = V2 if self.variant == "v2" or not self._field("api_key") else V1
        self._host = TEST if self._test else API if self._api is V2 else LIVE
        self._token, self._until = "", datetime.min.replace(tzinfo=UTC)
        self._lock = asyncio.Lock()

    def _field(self, name: str) -> str:
        return self.credentials.get(name, "").strip()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """v1.1 keys are good or not; for v2 each scope is asked for."""
        missing = []
        for scope, path in self._api.probes.items():
            try:
                await self._get(path, **({"limit": "1"} if path == self._api.requests else {}))
            except KeysRefused as refused:
                return base.Health(ok=False, live=not self._test, hint=refused.hint)
            except NotAllowed:
                missing.append(scope)
            except Gone:
                continue
        hint = f"The keys may not read: {', '.join(missing)}." if missing else None
        return base.Health(not missing, not self._test, None, tuple(missing), hint)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """All lists by page number, newest first: what comes in meanwhile moves the rest down, so that rows are read
        twice at most and none is left out."""
        name, number = json.loads(cursor) if cursor else (self._api.lists[0], 1)
        while name:
            as_of, listed = clock.now(), name
            rows, more = await self._page(name, number, MOST if name in (V1.refunds, PAYMENTS) else PAGE)
            name, number = (name, number + 1) if more else (dict(pairwise(self._api.lists)).get(name), 1)
            parts = await wire.sifted(listed, rows, partial(self._listed, as_of, listed), None)
            yield base.Page(wire.together(as_of, parts), json.dumps([name, number]) if name else None)

    def lists(self) -> list[str]:
        return [json.dumps([name, 1]) for name in self._api.lists]

    async def _page(self, name: str, number: int, limit: int) -> tuple[list[Json], bool]:
        """One page, and whether there is another. The address of v2's next page is not followed, only counted."""
        try:
            said = wire.obj(await self._get(name, page=str(number), limit=str(limit)))
        except Gone:
            if number == 1:
                raise
            return [], False  # past the end
        key = name.rstrip("/").rpartition("/")[2].replace("-", "_")
        rows = wire.objects(said.get(key, said.get("results")))
        return rows, bool(said.get("next")) if self._api is V2 else len(rows) >= limit

    async def _listed(self, as_of: datetime, name: str, rows: Sequence[Json]) -> Snapshot:
        if name == V1.refunds:
            return _told(as_of, [], rows)
        groups: list[Group] = []
        for row in rows:
            about: Json = {} if name == PAYMENTS else row
            paid = [row] if name == PAYMENTS else await self._payments_of(row)
            # An order of v2 without a payment is a checkout that somebody left; one with a request is told by that.
            if name != ORDERS or (paid and not any(shapes.named(one.get("payment_request")) for one in paid)):
                groups.append((about, paid))
        return _told(as_of, groups, await self._refunds(groups) if self._api is V2 else [])

    async def _payments_of(self, about: Json) -> list[Json]:
        """The payments of a request: inside it in v1.1, though not in its list; by address or by id in v2."""
        listed = about.get("payments")
        with suppress(Gone):
            if not listed and self._api is V1 and about.get("status") == "Completed":
                listed = (await self._one(V1.requests, shapes.id_of(about) or "")).get("payments")
        found: list[Json] = []
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict) and "payment_id" in one:
                found.append(one)
                continue
            with suppress(Gone):
                found.append(await self._one(PAYMENTS, shapes.named(one) or shapes.id_of(one) or ""))
        return found

    async def _refunds(self, groups: Sequence[Group]) -> list[Json]:
        """What was given back of these payments. v1.1 cannot be asked by payment: the newest refunds are looked at."""
        paid = [one for _, payments in groups for one in payments if shapes.status_of(one) == "paid"]
        if self._api is V2:
            found = []
            for case in (case for one in paid for case in shapes.ids(one, "cases")):
                with suppress(Gone, NotAllowed):  # not every account gives the scope; `check` says so
                    found.append(await self._one(V2.refunds, case))
            return found
        ids = {shapes.id_of(one) for one in paid}
        rows, _ = await self._page(V1.refunds, 1, MOST) if paid else ([], False)
        return [row for row in rows if shapes.named(row.get("payment_id")) in ids]

    async def fetch(self, ref: Ref) -> Snapshot:
        """A payment (MOJO…) or a refund (C…) by its id; an order is a request, an order of v2 (with hyphens in its
        id), or a payment that stands alone."""
        as_of = clock.now()
        if ref.kind == "refund":
            return _told(as_of, [], [await self._one(self._api.refunds, ref.id)])
        if ref.kind == "payment" or (ref.kind == "order" and ref.id.startswith("MOJO")):
            return await self._paid(as_of, ref.id)
        if ref.kind != "order":
            raise Unsupported("Instamojo can't be asked about this.", f"It has no {ref.kind}.")
        prefix = f"{ORDERS}id:" if self._api is V2 and "-" in ref.id else self._api.requests
        about = await self._one(prefix, ref.id)
        groups: list[Group] = [(about, await self._payments_of(about))]
        return _told(as_of, groups, await self._refunds(groups))

    async def _paid(self, as_of: datetime, number: str, hint: str | None = None) -> Snapshot:
        """A payment with its request, which it names; `hint` is one that only a notice names, and is proved."""
        said = await self._one(PAYMENTS, number)
        about: Json = {}
        with suppress(Gone):
            if request := shapes.named(said.get("payment_request")) or hint:
                about = await self._one(self._api.requests, request)
        if not shapes.named(said.get("payment_request")) and number not in shapes.ids(about, "payments"):
            about = {}
        groups: list[Group] = [(about, [said])]
        return _told(as_of, groups, await self._refunds(groups))

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """The code covers the values and neither their names nor a time, so it only says where to look."""
        salt = wire.secret_of(self.credentials, "salt", "private salt")
        said = shapes.fields(body)
        if not wire.same(said.get("mac", ""), shapes.mac(said, salt)):
            raise base.BadSignature(
                "The mac is wrong, or the private salt here is not the one of the account."
            )
        return [shapes.event(said)]

    async def refetch(self, event: base.Event) -> Snapshot | None:
        if event.subject and event.subject.kind == "payment":
            return await self._paid(clock.now(), event.subject.id, event.body.get("payment_request"))
        return await super().refetch(event)

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | base.Leave:
        """Instamojo's page of an open request, as it says now. It sends nobody here: a request has the address to
        which it returns from the shop that made it."""
        if ref.kind != "order":
            raise Unsupported("There is nothing that could be paid here.", "Only an open request is paid.")
        snapshot = await self.fetch(ref)
        order = next((one for one in snapshot.orders if one.remote_id == ref.id), None)
        if order and order.status == "paid":
            return snapshot
        if order is None or not order.due_link:
            hint = f"The request is {order.raw_status if order else 'a link for everybody'}, or has expired."
            raise Unsupported("This can no longer be paid here.", hint)
        return base.Leave(order.due_link, returns=False)

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> Record | list[base.Event]:
        if not isinstance(said, dict):
            raise ValueError("An object of Instamojo's is a JSON object.")
        if kind == "event":
            if not {"payment_id", "payment_request_id"} & set(said):
                raise ValueError("This is no notice of Instamojo's.")
            return [shapes.event(said)]
        about = shapes.bare(said)
        inner = about.get("payment")
        match kind:
            case "order":
                if (shapes.id_of(about) or "").startswith("MOJO"):
                    return shapes.sale(about)
                listed = about.get("payments")
                paid = listed if isinstance(listed, list) else [inner]
                found = shapes.order(about, [one for one in paid if isinstance(one, dict)], clock.now())
                if found is None:
                    raise ValueError(
                        "A link that anybody may pay again is no order: each of its payments is one."
                    )
                return found
            case "payment":
                return shapes.payment(inner, about) if isinstance(inner, dict) else shapes.payment(about)
            case "refund":
                return shapes.refund(about)
            case _:
                raise Unsupported("", f"Instamojo has no {kind} of its own.")

    # Asking

    async def _one(self, path: str, number: str) -> Json:
        """One object; an answer about anything else is none."""
        said = shapes.bare(await self._get(f"{path}{wire.safe(number, shapes.ID)}/"))
        if shapes.id_of(said) != number:
            raise Unavailable(NO_ANSWER, "The answer is about something else.")
        return said

    async def _get(self, path: str, **params: str) -> Any:
        """The answer's JSON. A token that is refused is renewed once; refused again, it was not the token."""
        if self._api is V1:
            keys = {"X-Api-Key": self._field("api_key"), "X-Auth-Token": self._field("auth_token")}
            return await self._ask(path, keys, params)
        bearer = await self._bearer()
        try:
            return await self._ask(path, bearer, params)
        except KeysRefused:
            return await self._ask(path, await self._bearer(renew=True), params)

    async def _ask(self, path: str, headers: Mapping[str, str], params: Mapping[str, str]) -> Any:
        return await self._http.ask(
            "GET",
            self._host,
            self._api.root + path,
            words=_words,
            headers=headers,
            params=params,
            refused=_refused,
        )

    async def _bearer(self, renew: bool = False) -> dict[str, str]:
        async with self._lock:
            if renew or clock.now() >= self._until:
                said = wire.obj(await self._grant())
                token = text(said.get("access_token")) or ""
                if not re.fullmatch(r"[!-~]{1,2000}", token):
                    raise Unavailable(NO_ANSWER, "Instamojo gave no token.")
                lasts = min(wire.whole(said.get("expires_in")) or 0, 86_400)
                self._token, self._until = token, clock.now() + timedelta(seconds=lasts) - EARLY
            return {"Authorization": f"Bearer {self._token}"}

    async def _grant(self) -> Any:
        """Two hosts give tokens and either may be the lasting one; only a host that has none to give is passed by."""
        keys = {name: self._field(name) for name in ("client_id", "client_secret")}
        form = urlencode({"grant_type": "client_credentials", **keys}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        for host in () if self._test else (API,):
            with suppress(_NotHere):
                return await self._token_from(host, headers, form, _not_here)
        return await self._token_from(TEST if self._test else LIVE, headers, form, _refused)

    async def _token_from(self, host: str, headers: Mapping[str, str], form: bytes, refused: Refused) -> Any:
        try:
            return await self._http.ask(
                "POST", host, "/oauth2/token/", words=_words, headers=headers, content=form, refused=refused
            )
        except Unavailable as error:
            error.sent = False  # nothing but a token was asked for
            raise


class _NotHere(Unavailable):
    """The host has no tokens to give."""


def _told(as_of: datetime, groups: Sequence[Group], refunds: Sequence[Json]) -> Snapshot:
    try:
        return shapes.snapshot(as_of, groups, refunds)
    except ValueError as error:
        raise Unreadable(NO_ANSWER, str(error)) from error


def _words(said: Any) -> tuple[str, str]:
    """v1.1: a message, or the messages of each field; v2 and its token: an error."""
    message = said.get("message") or said.get("error_description") or ""
    return str(said.get("error") or ""), message if isinstance(message, str) else json.dumps(message)


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    hint = f"HTTP {status}: {code} {message}".strip()
    if status == 401 or code == "invalid_client":
        return KeysRefused(
            NO_KEYS,
            f"{hint}. Compare the keys with those under API & Plugins. The test account and the live one have keys of "
            "their own, and each refuses the other's.",
        )
    if status == 403:
        return NotAllowed(NO_KEYS, f"{hint}. Give the keys the scopes that are named at their field.")
    return None


def _not_here(status: int, code: str, message: str) -> base.GatewayError | None:
    if status == 404 or status >= 500:
        return _NotHere(NO_ANSWER, f"HTTP {status} for a token.")
    return _refused(status, code, message)
