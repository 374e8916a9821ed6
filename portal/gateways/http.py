"""The one HTTP client behind the adapters: fixed hosts, short time-outs, no redirects, a breaker, retries for reads."""

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx2 as httpx

from portal import clock
from portal.gateways.base import Declined, Gateway, GatewayError, Gone, Unavailable

CONNECT_S, READ_S, TOTAL_S, PATIENT_S = 3.0, 10.0, 15.0, 60.0
PAUSE_S = 0.2  # before the second try of a read, and twice that before the third

# Its lines for every call hold whole addresses, and so the tokens in them.
logging.getLogger("httpx2").setLevel(logging.WARNING)


class Breaker:
    """Stops calling a host that keeps failing: after `limit` failures in a row it refuses for `rest` seconds."""

    def __init__(self, limit: int = 5, rest: float = 30.0) -> None:
        self.limit = limit
        self.rest = rest
        self._failures = 0
        self._open_until = 0.0
        self._lock = threading.Lock()

    def guard(self) -> None:
        with self._lock:
            wait = self._open_until - clock.now().timestamp()
            if wait > 0:
                raise Unavailable(
                    "The payment company does not answer at the moment. Nothing was changed.",
                    f"Not called: it failed {self.limit} times in a row.",
                    retry_after=wait,
                )

    def record(self, ok: bool) -> None:
        with self._lock:
            self._failures = 0 if ok else self._failures + 1
            if self._failures >= self.limit:
                self._open_until = clock.now().timestamp() + self.rest
                self._failures = 0

    def close(self) -> None:
        with self._lock:
            self._failures, self._open_until = 0, 0.0


_breakers: dict[tuple[str, str], Breaker] = {}


def breaker(processor: str, host: str) -> Breaker:
    """The breaker of one processor and host, shared by the whole process."""
    return _breakers.setdefault((processor, host), Breaker())


# By processor: by how many seconds its clock was ahead of ours when it last answered. To a second, as its answers say.
clocks: dict[str, float] = {}


def _note_clock(processor: str, answer: httpx.Response) -> None:
    try:
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return
    if theirs.tzinfo is not None:
        clocks[processor] = theirs.timestamp() - time.time()


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates that we trust, read once: that takes a tenth of a second."""
    return httpx.create_ssl_context(trust_env=False)


class Http:
    """A client for one gateway. Errors of transport become Unavailable; every answer is returned as it is."""

    def __init__(self, gateway: Gateway, processor: str) -> None:
        self._gateway = gateway
        self._processor = processor
        total = PATIENT_S if gateway.patient else TOTAL_S
        self._total = total
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(READ_S if not gateway.patient else total, connect=CONNECT_S),
            follow_redirects=False,
            trust_env=False,
            verify=_trusted(),
            headers={"User-Agent": "Portal/0.1"},
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def call(
        self,
        method: str,
        host: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """One call. A GET is tried twice more when the transport fails; anything else never is."""
        tries = 3 if method == "GET" else 1
        guard = breaker(self._processor, self._gateway.base(host))
        for attempt in range(tries):
            guard.guard()
            if self._gateway.pace is not None:
                await self._gateway.pace.turn()
            try:
                async with asyncio.timeout(self._total):
                    answer = await self._client.request(
                        method,
                        self._gateway.base(host) + path,
                        headers=dict(headers or {}),
                        params=dict(params) if params else None,
                        json=json,
                        content=content,
                    )
            except (httpx.TransportError, TimeoutError, httpx.InvalidURL, httpx.DecodingError) as error:
                guard.record(False)
                sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if attempt + 1 < tries:
                    await asyncio.sleep(PAUSE_S * 2**attempt)
                    continue
                raise Unavailable(
                    "The payment company does not answer at the moment.",
                    f"{type(error).__name__} on {method} {host}",
                    sent=sent and method != "GET",
                ) from error
            guard.record(answer.status_code < 500)
            _note_clock(self._processor, answer)
            return answer
        raise AssertionError("unreachable")

    async def ask(
        self,
        method: str,
        host: str,
        path: str,
        *,
        words: Callable[[Any], tuple[str, str]],
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        refused: Callable[[int, str, str], GatewayError | None] | None = None,
        empty: tuple[int, ...] = (204,),
    ) -> Any:
        """The JSON of an answer in the 2xx (None where it is empty by rule: `empty`), else one of the five errors.

        `words` finds code and message in a refusal's JSON. `refused` may know better what a refusal means, by HTTP
        status, code and message; where it gives None the usual meaning of the status holds.
        """
        answer = await self.call(
            method, host, path, headers=headers, params=params, json=json, content=content
        )
        write = method != "GET"
        try:
            said = answer.json()
        except ValueError:
            said = None
        if 200 <= answer.status_code < 300:
            if said is None and answer.status_code not in empty:
                raise Unavailable(
                    "The payment company does not answer at the moment.",
                    f"{method} {host} was answered {answer.status_code} without JSON.",
                    sent=write,
                )
            return said
        code, message = _words(words, said)
        if refused and (error := refused(answer.status_code, code, message)) is not None:
            raise error
        raise refusal(answer, f"{code} {message}".strip(), code, write)


def _words(words: Callable[[Any], tuple[str, str]], said: Any) -> tuple[str, str]:
    try:
        code, message = words(said)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return "", ""
    return str(code or "")[:100], str(message or "")[:300]


def refusal(answer: httpx.Response, said: str, reason: str, write: bool) -> GatewayError:
    """The usual meaning of a status outside the 2xx."""
    status = answer.status_code
    hint = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    if status in (401, 403):
        return Unavailable(
            "The payment company does not accept this shop's keys at the moment. Nothing was changed.",
            f"{hint}. Compare the keys with those in the processor's dashboard.",
        )
    if status in (404, 410):
        return Gone("The payment company does not know this any more.", hint)
    if status == 429:
        return Unavailable(
            "The payment company is busy. Nothing was changed.", hint, retry_after(answer) or 60.0
        )
    if status >= 500 or status < 400 or status in (408, 425):
        return Unavailable(
            "The payment company does not answer at the moment.", hint, retry_after(answer), sent=write
        )
    return Declined("The payment company did not accept this.", hint, reason=reason)


def retry_after(answer: httpx.Response) -> float | None:
    """The seconds that an answer asks us to wait, given as a number or as a date; None where it names none."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdigit():
        return min(float(text), 86_400.0)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - clock.now()).total_seconds())
