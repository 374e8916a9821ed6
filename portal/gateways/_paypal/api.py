"""How PayPal is asked: with a token that is kept, and its refusals in the five errors."""

import asyncio
import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from portal import clock
from portal.gateways import base, wire
from portal.gateways._paypal.shapes import id_of, items
from portal.gateways.base import Declined, Gone, Unavailable
from portal.gateways.http import Http

SENTENCES = {
    "SUBSCRIPTION_STATUS_INVALID": "PayPal can't do this in the state that the subscription is in.",
    "SUBSCRIPTION_CANNOT_BE_ACTIVATED": "PayPal doesn't let this go on from here: a payment was missed, or it was "
    "stopped in the PayPal account. Look at the automatic payments there.",
    "USER_ACCOUNT_CLOSED": "The PayPal account behind this subscription is closed or locked.",
    "PLAN_PRODUCT_NOT_COMPATIBLE": "PayPal can't change this subscription to that plan.",
}
NO_ANSWER = "PayPal does not answer at the moment."
NO_KEYS = "PayPal does not accept this shop's keys at the moment. Nothing was changed."


class KeysRefused(Unavailable):
    """A 401: client ID, secret or environment are wrong, or the token has run out."""


class NotAllowed(Unavailable):
    """A 403: the keys are good, the app lacks a feature."""


class Api:
    """One REST app at one host. `http` is the gateway's client."""

    def __init__(self, http: Http, host: str, credentials: Mapping[str, str]) -> None:
        self.http, self.host = http, host
        names = (credentials.get(name, "").strip() for name in ("client_id", "client_secret"))
        self._basic = base64.b64encode(":".join(names).encode()).decode()
        self._token, self._until = "", datetime.min.replace(tzinfo=UTC)
        self._lock = asyncio.Lock()

    async def get(self, path: str, number: str, **params: str) -> wire.Json:
        """One object; an answer about anything else is none."""
        said = wire.obj(await self.ask("GET", f"{path}/{wire.safe(number)}", params=params))
        if id_of(said) != number:
            raise Unavailable(NO_ANSWER, "The answer is about something else.")
        return said

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        key: str = "",
    ) -> Any:
        """The answer's JSON. A token that is refused is renewed once; refused again, it was not the token."""
        token = await self._bearer()
        try:
            return await self._send(method, path, token, params, body, key)
        except KeysRefused:
            return await self._send(method, path, await self._bearer(renew=True), params, body, key)

    async def _send(
        self, method: str, path: str, token: str, params: Mapping[str, Any] | None, body: Any, key: str
    ) -> Any:
        headers = {"Authorization": f"Bearer {token}"} | ({"PayPal-Request-Id": key} if key else {})
        return await self.http.ask(
            method, self.host, path, words=_words, headers=headers, params=params, json=body, refused=_refused
        )

    async def _bearer(self, renew: bool = False) -> str:
        """The token, kept for as long as PayPal says: asking for one each time is answered 429."""
        async with self._lock:
            if renew or clock.now() >= self._until:
                said = wire.obj(await self._grant())
                token = wire.text(said.get("access_token"))
                if token is None:
                    raise Unavailable(NO_ANSWER, "PayPal gave no token.")
                lasts = timedelta(seconds=(wire.whole(said.get("expires_in")) or 360) - 60)
                self._token, self._until = token, clock.now() + lasts
            return self._token

    async def _grant(self) -> Any:
        headers = {
            "Authorization": f"Basic {self._basic}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        form, path = b"grant_type=client_credentials", "/v1/oauth2/token"
        try:
            return await self.http.ask(
                "POST", self.host, path, words=_words, headers=headers, content=form, refused=_refused
            )
        except Unavailable as error:
            error.sent = False  # nothing but a token was asked for
            raise


def _words(said: Any) -> tuple[str, str]:
    """Code and message of a refusal: the issue of its first detail, else its name; OAuth has its own two words."""
    detail = next(iter(items(said.get("details"))), {})
    code = detail.get("issue") or said.get("name") or said.get("error")
    message = detail.get("description") or said.get("message") or said.get("error_description") or ""
    debug = wire.text(said.get("debug_id"))
    return str(code or ""), f"{message} (PayPal-Debug-Id {debug})" if debug else str(message)


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    hint = f"HTTP {status}: {code} {message}".strip()
    if status == 401 or code in ("invalid_client", "invalid_token"):
        return KeysRefused(
            NO_KEYS, f"{hint}. Compare client ID, secret and environment with the app at PayPal."
        )
    if status == 403:
        return NotAllowed(NO_KEYS, f"{hint}. Look at the features of the app at PayPal.")
    if code in ("RESOURCE_NOT_FOUND", "INVALID_RESOURCE_ID"):
        return Gone("PayPal does not know this.", f"{hint}. It may belong to another app, or to the sandbox.")
    if status == 409 or code in ("PREVIOUS_REQUEST_IN_PROGRESS", "DUPLICATE_REQUEST_ID"):
        return Unavailable("PayPal is still working on this.", hint, sent=True)
    if code in SENTENCES:
        return Declined(SENTENCES[code], hint, reason=code)
    return None
