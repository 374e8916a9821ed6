"""How Flutterwave is asked: with the secret key (v3) or a token that is kept (v4), page by page; its refusals; and what
proves that it is Flutterwave who tells us something."""

import hmac
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from portal import clock
from portal.gateways import base, wire
from portal.gateways._flutterwave.fields import BUSY, id_of
from portal.gateways.base import Declined, Gone, Unavailable
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, whole

HOST, LOGIN = "api.flutterwave.com", "idp.flutterwave.com"
SANDBOX, LIVE = "developersandbox-api.flutterwave.com", "f4bexperience.flutterwave.com"
LOGIN_PATH = "/realms/flutterwave/protocol/openid-connect/token"
REFUSED = "Flutterwave did not accept this."
NO_KEYS = "Flutterwave does not accept this shop's keys at the moment. Nothing was changed."


class KeysRefused(Unavailable):
    """The keys are wrong or taken away."""


class Api:
    """One account of one version. `http` is the gateway's client."""

    def __init__(self, http: Http, credentials: Mapping[str, str], is_v4: bool) -> None:
        self._http, self._credentials, self._is_v4 = http, credentials, is_v4
        self._key = credentials.get("secret_key", "").strip()
        is_live = credentials.get("api_host", "").strip() == LIVE
        self._host = (LIVE if is_live else SANDBOX) if is_v4 else HOST
        self._root = "" if is_v4 else "/v3"
        self.live = is_live if is_v4 else self._key.startswith("FLWSECK-")
        self._token, self._token_until = "", clock.now()

    async def pages(self, name: str, **asked: Any) -> AsyncIterator[list[Json]]:
        page: int | None = 1
        while page:
            items, page = await self.page(name, page, **asked)
            yield items

    async def page(self, name: str, page: int, **asked: Any) -> tuple[list[Json], int | None]:
        """One page, newest first, and the number of the next. Rows that come meanwhile are told twice, never lost."""
        said = await self.call("GET", name, params={"page": page, **asked})
        items, info = wire.objects(said.get("data")), part(said, "meta", "page_info")
        last = whole(info.get("total_pages"))
        if last is None:
            raise Unavailable(BUSY, f"The list of {name} does not say how it goes on.")
        return items, page + 1 if items and page < last else None

    async def one(self, path: str, **asked: str) -> Json:
        """One object by its id; a wrong id is answered 400, so that is Gone here."""
        return wire.obj((await self.call("GET", path, single=True, params=asked)).get("data"))

    async def call(self, method: str, path: str, single: bool = False, **sent: Any) -> Json:
        """The envelope. The status of HTTP and its own must both say that it worked."""
        headers = {"Authorization": f"Bearer {await self._bearer() if self._is_v4 else self._key}".strip()}
        more = {"words": _words, "headers": headers, "refused": _no_such if single else _refused, **sent}
        said = await self._http.ask(method, self._host, f"{self._root}/{path}", **more)
        status = said.get("status") if isinstance(said, dict) else None
        if status in ("error", "failed"):
            code, message = _words(said)
            raise Declined(REFUSED, message, code)
        if status != "success":
            raise Unavailable(BUSY, "The answer is no envelope.", sent=method != "GET")
        return wire.obj(said)

    async def _bearer(self) -> str:
        """A token lives ten minutes; a new one is fetched a minute early."""
        if clock.now() >= self._token_until:
            form = {name: self._credentials.get(name, "") for name in ("client_id", "client_secret")}
            content = urlencode({**form, "grant_type": "client_credentials"}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            more: dict[str, Any] = {"headers": headers, "content": content, "refused": _no_login}
            said = wire.obj(await self._http.ask("POST", LOGIN, LOGIN_PATH, words=_words, **more))
            lives = timedelta(seconds=(whole(said.get("expires_in")) or 120) - 60)
            self._token, self._token_until = id_of(said, "access_token"), clock.now() + lives
        return self._token


def _words(said: Any) -> tuple[str, str]:
    """v3 has a message alone, v4 an object with code and message, the log-in two words of its own."""
    error = said.get("error")
    if isinstance(error, dict):
        return str(error.get("code") or ""), str(error.get("message") or "")
    return str(error or ""), str(said.get("message") or said.get("error_description") or "")


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    if status not in (401, 403):
        return None
    hint = f"Flutterwave says: {message or status}. Compare the keys with Settings > API in its dashboard."
    return KeysRefused(NO_KEYS, hint)


def _no_such(status: int, code: str, message: str) -> base.GatewayError | None:
    if status in (400, 422):
        return Gone("Flutterwave does not know this.", f"HTTP {status}: {message}")
    return _refused(status, code, message)


def _no_login(status: int, code: str, message: str) -> base.GatewayError | None:
    return _refused(401 if status == 400 else status, code, message)


def is_proved(secret: bytes, headers: list[tuple[str, str]], body: bytes, is_v4: bool) -> bool:
    """By a signature of the body where one comes (in v4 always), else by the secret itself, which proves no body."""
    if is_v4 or any(name.lower() == "flutterwave-signature" for name, _ in headers):
        expected = b64encode(hmac.digest(secret, body, "sha256")).decode()
        return wire.same(wire.one_header(headers, "flutterwave-signature"), expected)
    return wire.same(wire.one_header(headers, "verif-hash"), secret.decode())
