"""The way to Stripe: the official SDK over a transport of ours, tries, time-outs, idempotency keys and errors."""

import asyncio
import json
import logging
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx2 as httpx

from portal.gateways import http, wire
from portal.gateways.base import Declined, Gateway, GatewayError, Gone, Unavailable, Unreadable
from portal.gateways.capabilities import facts

if TYPE_CHECKING:
    import stripe

Json = dict[str, Any]

API, VERSION = "api.stripe.com", "2026-10-28.endive"
RATE_LIMIT_REST_S, LOCK_REST_S = 2.0, 2.0
MAX_FILE = 20 * 1024 * 1024
TRIES = 3  # of a read
NEXT_KEYS = ("", "-b", "-c", "-d")  # what follows a key whose answer Stripe keeps as a 500

# Threads of its own, so that a slow Stripe holds up nobody else's.
_callers = ThreadPoolExecutor(16, thread_name_prefix="stripe")


@dataclass(eq=False)
class Refusal(Exception):
    """What came instead of an object: Stripe's error, or no answer at all (status 0)."""

    status: int = 0
    error: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    reached: bool = True

    @property
    def worth_another_try(self) -> bool:
        said = self.headers.get("stripe-should-retry")
        if said in ("true", "false"):
            return said == "true"
        return self.status in (0, 409) or self.status >= 500

    @property
    def replayed(self) -> bool:
        """A saved failure, given again. Without the header (its absence is UNVERIFIED) nothing is assumed."""
        return self.status >= 500 and self.headers.get("idempotent-replayed") == "true"


class Wire:
    """Calls for one gateway. What comes back is plain JSON; what goes wrong is one of the five errors."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self._gateway = gateway
        self._key = key
        self._base = gateway.base(API)
        self._sdk: stripe.StripeClient | None = None
        self._http: httpx.Client | None = None
        self._making = threading.Lock()
        self._said = threading.local()  # `answer`: of the call that this thread is in

    async def aclose(self) -> None:
        if self._http is not None:
            await asyncio.get_running_loop().run_in_executor(_callers, self._http.close)

    @property
    def _total(self) -> float:
        return http.PATIENT_S if self._gateway.patient else http.TOTAL_S

    def _timeout(self) -> httpx.Timeout:
        """The time-outs of one call, which are those of all adapters at that moment."""
        read = self._total if self._gateway.patient else http.READ_S
        return httpx.Timeout(read, connect=http.CONNECT_S)

    async def all(self, path: str, **params: Any) -> AsyncIterator[Json]:
        """All rows of a list, newest first."""
        after: str | None = None
        while True:
            page = await self.read(path, limit=100, starting_after=after, **params)
            rows = _rows(page)
            for row in rows:
                yield row
            if not rows or not page.get("has_more"):
                return
            after = rows[-1]["id"]

    async def read(self, path: str, method: str = "get", **params: Any) -> Json:
        """A call without effect: tried twice more where Stripe does not advise against it, in the time of one."""
        end = time.monotonic() + self._total
        for attempt in range(TRIES):
            wait, last = http.PAUSE_S * 2**attempt, attempt + 1 == TRIES
            try:
                return await self.send(method, path, params, within=end - time.monotonic())
            except Refusal as refusal:
                if last or not refusal.worth_another_try or time.monotonic() + wait >= end:
                    raise error_of(refusal, writes=False) from refusal
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def write(self, method: str, path: str, key: str, **params: Any) -> Json:
        """A call with an effect, sent once. A failure that Stripe only repeats from its memory counts for nothing:
        our look just before saw no effect of it, so the key after it is used."""
        for suffix in NEXT_KEYS:
            try:
                return await self.send(method, path, params, key + suffix)
            except Refusal as refusal:
                if not refusal.replayed or suffix == NEXT_KEYS[-1]:
                    raise error_of(refusal, writes=True) from refusal
        raise AssertionError("unreachable")

    async def send(
        self, method: str, path: str, params: Json, key: str | None = None, within: float | None = None
    ) -> Json:
        guard = http.breaker("stripe", self._base)
        guard.guard()
        if self._gateway.pace is not None:
            await self._gateway.pace.turn()
        given = {name: value for name, value in params.items() if value is not None and value != []}
        if key:
            given["idempotency_key"] = key
        try:
            async with asyncio.timeout(self._total if within is None else within):
                answer = await asyncio.get_running_loop().run_in_executor(
                    _callers, self._in_thread, method, path, given
                )
            if not _is_whole(answer):
                raise Refusal(502)
        except TimeoutError:
            guard.record(False)
            raise Refusal() from None
        except Refusal as refusal:
            guard.record(0 < refusal.status < 500)
            raise
        guard.record(True)
        return answer

    def _in_thread(self, method: str, path: str, params: Json) -> Json:
        import stripe

        self._said.answer = None
        try:
            answer: Json = self._client().raw_request(method, path, **params).data
        except stripe.StripeError as error:
            reached = not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
            refusal = Refusal(error.http_status or 0, _said(error.json_body), error.headers or {}, reached)
            raise refusal from None  # its own text may hold a key
        finally:
            read, self._said.answer = self._said.answer, None
        return answer if read is None else read.pop()

    def taken(self, status: int, text: str) -> bool:
        """Read a good answer here. The SDK would read it into ordered dicts and write it into a line of a log that
        nobody keeps, at twice the price."""
        if not 200 <= status < 300:
            return False
        try:
            self._said.answer = [json.loads(text)]
        except (ValueError, RecursionError):
            return False  # the SDK says what is wrong with it
        return True

    def _client(self) -> "stripe.StripeClient":
        """The SDK's client over our transport; importing the SDK takes a third of a second, so it is done here."""
        import stripe

        with self._making:
            if self._sdk is None:
                # Its lines hold whole addresses, and so e-mails.
                logging.getLogger("stripe").setLevel(logging.WARNING)
                self._http = httpx.Client(verify=_tls(), trust_env=False, follow_redirects=False)
                here = self._base
                self._sdk = stripe.StripeClient(
                    self._key,
                    stripe_version=VERSION,
                    base_addresses={"api": here, "files": here, "connect": here, "meter_events": here},
                    max_network_retries=0,
                    http_client=_transport(self._http, self),
                )
            return self._sdk

    async def file(self, url: str) -> bytes:
        """A PDF of Stripe's, from its own hosts only, redirects included."""
        timeout = httpx.Timeout(http.READ_S, connect=http.CONNECT_S)
        try:
            async with (
                asyncio.timeout(self._total),
                httpx.AsyncClient(
                    verify=_tls(), timeout=timeout, trust_env=False, follow_redirects=False
                ) as client,
            ):
                for _ in range(3):
                    if not facts("stripe").allows_link(url, self._gateway.addresses):
                        raise _no_file("its address leads away from Stripe's own hosts")
                    async with client.stream("GET", url) as answer:
                        if not answer.is_redirect:
                            return await _pdf(answer)
                        url = urljoin(url, answer.headers.get("location", ""))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise _no_file(type(error).__name__) from error
        raise _no_file("it is redirected again and again")


@cache
def _tls() -> ssl.SSLContext:
    """The certificates that are trusted; to load them takes a tenth of a second, so it is done once."""
    return httpx.create_ssl_context(trust_env=False)


def _transport(client: httpx.Client, wire: Wire) -> "stripe.HTTPClient":
    """The SDK's way to the network: fixed time-outs, no proxy of the environment, no redirects."""
    import stripe

    class Transport(stripe.HTTPClient):
        name = "portal"

        def request(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str] | None,
            post_data: Any = None,
            *,
            _usage: list[str] | None = None,
        ) -> tuple[str, int, Mapping[str, str]]:
            end = time.monotonic() + wire._total
            received = bytearray()
            sent: Json = {"headers": dict(headers or {}), "content": post_data or None}
            try:
                with client.stream(method, url, timeout=wire._timeout(), **sent) as answer:
                    for chunk in answer.iter_bytes():
                        received += chunk
                        if time.monotonic() > end:
                            raise httpx.ReadTimeout("too slow as a whole")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise stripe.APIConnectionError(type(error).__name__) from error  # type: ignore[no-untyped-call]
            text = received.decode("utf-8", "replace")
            return "{}" if wire.taken(answer.status_code, text) else text, answer.status_code, answer.headers

        def close(self) -> None:
            client.close()

    return Transport()


def _is_whole(answer: object) -> bool:
    """Whether an answer is an object of Stripe's, or a list of them: each says what it is, or which. Who reads
    everything passes over a row that is none."""
    rows = answer.get("data") if isinstance(answer, dict) else None
    found = rows if isinstance(rows, list) else [answer]
    enough = any if found and isinstance(rows, list) and wire.forgives() else all
    return enough(
        isinstance(one, dict) and any(isinstance(one.get(name), str) for name in ("id", "object"))
        for one in found
    )


@contextmanager
def half_way(begun: bool) -> Iterator[None]:
    """Once a part has had its effect, nobody may say any more that nothing was changed."""
    try:
        yield
    except Unavailable as error:
        if not begun or error.sent:
            raise
        raise Unavailable(
            "A part of this is done at Stripe; we are looking how it stands.",
            error.hint,
            error.retry_after,
            sent=True,
        ) from error


@contextmanager
def legible() -> Iterator[None]:
    """Where something in an answer is not what Stripe writes there, the answer says nothing."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise Unreadable(
            "Stripe does not answer at the moment.", f"Its answer makes no sense: {type(error).__name__}."
        ) from error


def _said(body: object) -> Json:
    """Stripe's error out of an answer, without the rest of a key that it may name."""
    found = body.get("error") if isinstance(body, dict) else None
    if not isinstance(found, dict):
        return {}
    message = re.sub(r"\b([sr]k_(?:live|test)_)\S+", r"\1…", str(found.get("message") or ""))
    return {**found, "message": message}


def error_of(refusal: Refusal, writes: bool) -> GatewayError:
    """Stripe's answer as one of ours. Only where it surely had no effect does the sentence say so."""
    said = refusal.error
    code, status = str(said.get("code") or ""), refusal.status
    hint = _hint(refusal)
    if code == "lock_timeout":
        return Unavailable("Stripe is busy with this at the moment. Nothing was changed.", hint, LOCK_REST_S)
    if status == 409:  # of a write: an earlier call under the same key may still be at work
        sentence = "Stripe is busy with this at the moment; we are looking how it stands."
        return Unavailable(sentence, hint, LOCK_REST_S, sent=writes)
    if status == 429 or code == "rate_limit":
        rest = _seconds(refusal.headers.get("retry-after"))
        return Unavailable("Stripe is busy at the moment. Nothing was changed.", hint, rest)
    if said.get("type") == "idempotency_error":
        return Unavailable("It was sent to Stripe before; we are looking how it stands.", hint, sent=True)
    if status in (401, 403):
        return Unavailable("This shop's connection to Stripe needs attention. Nothing was changed.", hint)
    if status == 402:
        sentence = str(said.get("message") or "The payment was declined.")
        return Declined(sentence, hint, str(said.get("decline_code") or code or "card_declined"))
    if status == 404 or code == "resource_missing":
        return Gone("Stripe does not know this any more.", hint)
    if 400 <= status < 500:
        return Declined("Stripe did not accept this. Nothing was changed.", hint, code)
    sent = writes and refusal.reached
    rest_of_it = "We can't say yet whether this went through." if sent else "Nothing was changed."
    return Unavailable(f"Stripe does not answer at the moment. {rest_of_it}", hint, sent=sent)


def _hint(refusal: Refusal) -> str:
    """For the merchant, in Stripe's words."""
    if refusal.status == 0:
        return "No answer from Stripe." if refusal.reached else "Stripe could not be reached."
    message = str(refusal.error.get("message") or "")
    if refusal.status == 401:
        return f"Stripe refuses the key: {message}"
    if refusal.status == 403:
        missing = permission_of(refusal)
        wanted = f"Give the restricted key the permission {missing}. " if missing else ""
        return f"{wanted}Stripe says: {message}"
    request = refusal.headers.get("request-id")
    return f"Stripe answered {refusal.status}: {message}" + (f" ({request})" if request else "")


def permission_of(refusal: Refusal) -> str | None:
    found = re.search(r"\brak_[a-z0-9_]+", str(refusal.error.get("message") or ""))
    return found[0] if found else None


def _seconds(text: str | None) -> float:
    return float(text) if text and re.fullmatch(r"[0-9]{1,4}", text) else RATE_LIMIT_REST_S


def _no_file(why: str) -> Unavailable:
    return Unavailable(
        "Stripe's document can't be had at the moment.", f"The invoice's file was not read: {why}."
    )


async def _pdf(answer: httpx.Response) -> bytes:
    if answer.status_code != 200:
        raise _no_file(f"it was answered {answer.status_code}")
    content = bytearray()
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > MAX_FILE:
            raise _no_file("it is larger than 20 MB")
    if not content.startswith(b"%PDF-"):
        raise _no_file("it is no PDF")
    return bytes(content)


def _rows(page: Json) -> list[Json]:
    rows = page.get("data")
    return rows if isinstance(rows, list) else []
