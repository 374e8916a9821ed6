"""What all simulators share: a clock, switches, webhooks that are sent when something changes, and a server.

A simulator is a module `seeds.simulators.<name>` with a class `Simulator(Harness)`: state in memory, `routes()` with
the processor's own paths, and the few methods by which the demo and the contract tests fill it, put a subscription into
a situation, and ask what is true. It never imports portal.
"""

import asyncio
import html
import json
import pickle
import random
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

# "refused_keys": every call is answered as if the keys had been taken away. "decline": every call that changes
# something, and every hosted page, is refused for a business reason, in the processor's own shape.
MODES = ("ok", "slow", "hang", "down", "decline", "refused_keys", "duplicate", "reorder", "lose_webhooks")

# One-shot faults for `fail_next`. "429" and "429:7" limit (the number is Retry-After); "timeout_after" has its effect
# and never answers, "drop" has none; the rest spoil an answer whose effect has happened.
FAULTS = (
    *("500", "429", "429:7", "401", "timeout_after", "drop"),
    *("html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A merchant's account as they would type it into the settings form: fields and options as the facts name them."""

    label: str
    credentials: Mapping[str, str]
    variant: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """What a subscription is to be like: our word for its state, and what the conditions of the facts speak of."""

    state: str = "active"
    method: str | None = None
    object: str | None = None
    due: bool | None = None
    token: bool | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What is true of a subscription at the processor, told past its API."""

    raw: str  # the processor's word for its state
    charges: bool  # whether it will be charged again if nobody does anything
    next_on: date | None = None
    method: str | None = None  # what tells one card or account from another
    payments: int = 0  # that went through so far
    amount: int | None = None  # of the next charge, in minor units by ISO 4217


@dataclass(frozen=True, slots=True)
class Forgery:
    """A delivery that must be refused: what is wrong with it, its headers and its body."""

    what: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class Delivery:
    """A webhook on its way to an address that the merchant gave."""

    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Call:
    """One request that the simulator got, for tests that count effects."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to the API and its answer, for a validator."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    status: int
    content_type: str
    content: bytes


class Harness:
    """State, switches, the log of calls, and the queue of webhooks of one simulator."""

    name = ""
    # Fields of the API whose values are words for states: the fault "unknown_status" spoils these.
    STATUS_FIELDS: tuple[str, ...] = ("status",)

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.now = clock
        self.address = ""  # set by serve(): where this simulator answers, without a slash at the end
        self.mode = "ok"
        self.slow_s = 4.0
        self.calls: list[Call] = []
        self.problems: list[str] = []  # requests or answers that a validator refused
        # Given an exchange, says what in it is not as the processor's contract has it.
        self.contract: Callable[[Exchange], list[str]] | None = None
        self.state: dict[str, Any] = {}
        self.fail_next: list[str] = []  # one-shot faults, first in first out: see FAULTS
        self.fail_writes: list[str] = []  # the same, for calls that change something
        self.sent: list[Delivery] = []  # every webhook that was sent or lost, oldest first
        self._held: list[Delivery] = []
        self._outbox: asyncio.Queue[Delivery] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._saved: bytes | None = None

    def routes(self) -> list[BaseRoute]:
        """The processor's own paths."""
        raise NotImplementedError

    # What demo and contract tests ask of every simulator

    def samples(self) -> list[Sample]:
        """The accounts it can serve, always the same. The first is the demo's; the second is a stranger's of the same
        kind; further ones show variants and options (one account may have several options)."""
        raise NotImplementedError

    def open(self, sample: Sample, webhook_url: str) -> None:
        """Open the account of a sample, empty, with the address to which its webhooks go."""
        raise NotImplementedError

    def fill(self, sample: Sample) -> None:
        """Give an account a history that ends now, without sending webhooks: for `noor@example.com` an active
        subscription and a paid order (or what this processor has of these), and for `<name>@example.com` one
        subscription of every state it knows, orders, a refund, a failed payment."""
        raise NotImplementedError

    def plans(self, sample: Sample) -> list[dict[str, Any]]:
        """What this shop lets customers switch to, for subscriptions of `stage`: title, plan (the processor's id or
        None), minor, currency, unit, count."""
        return []

    def registered(self, sample: Sample) -> list[str]:
        """The addresses of the webhooks that are switched on for this account, one for each webhook; nothing where
        this processor has no call that registers one."""
        return []

    def past_deliveries(self, sample: Sample) -> list[tuple[list[tuple[str, str]], bytes]]:
        """Headers and bodies of the webhooks that the history of `fill` would have sent, oldest first, where the
        processor's lists do not tell everything; else nothing."""
        return []

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        """Make a subscription of that person in that situation and tell it by webhook as in life; its remote id.
        None where this processor cannot have it."""
        return None

    def standing(self, remote_id: str) -> Standing:
        """What is true of a subscription now; KeyError for an unknown one."""
        raise KeyError(remote_id)

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        """Take the next payment of a subscription now, as if its day had come, or after its end by mistake (the
        processor goes on charging), with the webhooks of such a payment."""
        raise NotImplementedError

    def opened_by_script(self, options: str) -> str:
        """The page to which this processor's script leads when it is started with these options (JSON)."""
        raise NotImplementedError

    def resend(self, delivery: "Delivery") -> None:
        """Send a webhook again, as it was."""
        self._send(delivery)

    def forgeries(self, sample: Sample, delivery: "Delivery") -> list[Forgery]:
        """At least 25 ways in which a true delivery to this account is spoiled; empty where nothing is signed.

        `proof_of` and `with_proof` say where the proof stands; a simulator whose proof needs more overrides this."""
        proof = self.proof_of(delivery)
        if proof is None:
            return []
        return [
            Forgery(what, *self.with_proof(delivery, proofs)) for what, proofs in _spoiled(proof).items()
        ] + self.other_bodies(delivery)

    def proof_of(self, delivery: "Delivery") -> str | None:
        """The signature or token of a delivery; None where nothing is signed."""
        return None

    def with_proof(self, delivery: "Delivery", proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        """The delivery with these in place of its proof: none, one, or several side by side."""
        raise NotImplementedError

    def other_bodies(self, delivery: "Delivery") -> list[Forgery]:
        """The true proof over another body. Where the proof does not cover the body, override with what is covered."""
        headers, body = list(delivery.headers.items()), delivery.body
        return [
            Forgery("an empty body", headers, b""),
            Forgery("a body cut short", headers, body[:-1]),
            Forgery("a body made longer", headers, body + b" "),
            Forgery("a digit changed", headers, _with_another_digit(body)),
        ]

    # Switches

    def switch(self, mode: str) -> None:
        """Change behaviour; ValueError for an unknown mode. Held-back webhooks go out when reordering ends."""
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; one of {', '.join(MODES)}")
        self.mode = mode
        if mode != "reorder":
            self.flush()

    def save(self) -> None:
        """Remember the state as it is, for reset()."""
        self._saved = pickle.dumps(self.state)

    def reset(self) -> None:
        """Back to the saved state, mode ok."""
        if self._saved is not None:
            self.state = pickle.loads(self._saved)
        self.mode = "ok"
        self.calls.clear()
        self.problems.clear()
        self.fail_next.clear()
        self.fail_writes.clear()
        self.sent.clear()
        self._held.clear()

    def tick(self) -> None:
        """The clock was moved: let fall due what is due (renewals, ends, retries), sending webhooks as in life."""

    def deliver(self, delivery: Delivery) -> None:
        """Send a webhook as the switch says: lost, twice, or held back and sent in another order."""
        self.sent.append(delivery)
        if self.mode == "lose_webhooks" or not delivery.url:
            return
        if self.mode == "reorder":
            self._held.append(delivery)
            if len(self._held) >= 3:
                self.flush()
            return
        self._send(delivery)
        if self.mode == "duplicate":
            self._send(delivery)

    def flush(self) -> None:
        """Send what was held back, newest first."""
        held, self._held = self._held[::-1], []
        for delivery in held:
            self._send(delivery)

    def _send(self, delivery: Delivery) -> None:
        if self._loop is not None and self._outbox is not None:
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, delivery)

    async def _postman(self) -> None:
        assert self._outbox is not None
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                delivery = await self._outbox.get()
                for wait in (0.0, 0.5, 2.0, 5.0, 10.0):
                    await asyncio.sleep(wait)
                    try:
                        answer = await client.post(
                            _on_this_machine(delivery.url), content=delivery.body, headers=delivery.headers
                        )
                    except httpx.HTTPError:
                        continue
                    if answer.status_code < 500:
                        break
                self._outbox.task_done()

    def app(self) -> ASGIApp:
        inner = Starlette(routes=self.routes())

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await inner(scope, receive, send)
                return
            try:
                body = await Request(scope, receive).body()
            except ClientDisconnect:  # whoever asked was killed in the middle
                return
            replayed = False

            async def replay() -> Any:
                nonlocal replayed
                if replayed:
                    return await receive()
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}

            headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
            path = scope["path"]
            page = self.is_page(scope["method"], path)
            if not page:
                self.calls.append(Call(scope["method"], path, body, headers))
            fault = "" if page else self._fault(scope["method"], path)
            if self.mode == "slow" and not page:
                await asyncio.sleep(self.slow_s + random.random() / 10)
            if self.mode == "hang" and not page:
                await asyncio.sleep(120)
                return
            if (self.mode == "down" and not page) or fault == "500":
                await self.outage()(scope, replay, send)
                return
            if (self.mode == "refused_keys" and not page) or fault == "401":
                await self.refused_keys()(scope, replay, send)
                return
            if fault.startswith("429"):
                seconds = fault.partition(":")[2]
                await self.limited(int(seconds) if seconds else None)(scope, replay, send)
                return
            if fault == "timeout_after":  # the call has its effect, the answer never comes
                await _swallow(inner, scope, replay)
            if fault in ("timeout_after", "drop"):
                await asyncio.sleep(30)
                return
            if fault:
                status, content = await _answer(inner, scope, replay)
                await self.spoiled(fault, status, content)(scope, replay, send)
                return
            if self.contract is not None and not page:
                send = self._watched(scope, headers, body, send)
            await inner(scope, replay, send)

        return outer

    def _watched(self, scope: Scope, headers: dict[str, str], body: bytes, send: Send) -> Send:
        """Passes an answer on and, when it is whole, has the exchange validated."""
        status, content_type, content = 200, "", bytearray()

        async def watch(message: Any) -> None:
            nonlocal status, content_type
            if message["type"] == "http.response.start":
                status = message["status"]
                content_type = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
            else:
                content.extend(message.get("body", b""))
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body") and self.contract:
                exchange = Exchange(
                    scope["method"],
                    scope["path"],
                    scope["query_string"].decode("latin-1"),
                    headers,
                    body,
                    status,
                    content_type,
                    bytes(content),
                )
                self.problems += self.contract(exchange)

        return watch

    def refused_keys(self) -> Response:
        """What the processor answers to keys that are no longer good."""
        return JSONResponse({"message": "Unauthorized"}, 401)

    def limited(self, retry_after: int | None) -> Response:
        """What the processor answers when it is asked too often."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return JSONResponse({"message": "Too many requests"}, 429, headers)

    def spoiled(self, fault: str, status: int, content: bytes) -> Response:
        """A true answer made into garbage."""
        if fault == "html":
            return HTMLResponse("<html><body><h1>Welcome to nginx!</h1></body></html>", status)
        if fault == "empty":
            return Response(b"", status, media_type="application/json")
        if fault == "truncated":
            return Response(content[: len(content) // 2], status, media_type="application/json")
        try:
            said = json.loads(content)
        except ValueError:
            return Response(content[: len(content) // 2], status, media_type="text/plain")
        return JSONResponse(_garbage(fault, said, self.STATUS_FIELDS), status)

    def _fault(self, method: str, path: str) -> str:
        if self.fail_writes and self.changes(method, path):
            return self.fail_writes.pop(0)
        return self.fail_next.pop(0) if self.fail_next else ""

    def changes(self, method: str, path: str) -> bool:
        """Whether a call changes something for a customer; a simulator says so of reads and of keys that are POSTs."""
        return method not in ("GET", "HEAD")

    def is_page(self, method: str, path: str) -> bool:
        """Whether a path is a hosted page for people, which outages and the log of calls leave alone."""
        return False

    def outage(self) -> Response:
        """What the processor answers when it is down."""
        return Response("Service Unavailable", status_code=503)


async def _swallow(app: Starlette, scope: Scope, receive: Receive) -> None:
    async def nowhere(message: Any) -> None:
        pass

    await app(scope, receive, nowhere)


async def _answer(app: Starlette, scope: Scope, receive: Receive) -> tuple[int, bytes]:
    """The answer that the application gives, taken instead of sent."""
    status, parts = 200, []

    async def take(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        parts.append(message.get("body", b""))

    await app(scope, receive, take)
    return status, b"".join(parts)


def _garbage(fault: str, said: Any, status_fields: tuple[str, ...], name: str = "") -> Any:
    """JSON with every value of another type, without its fields, or with words for states that nobody knows."""
    if isinstance(said, dict):
        if fault == "missing_fields":
            return {
                key: {} if isinstance(value, dict) else []
                for key, value in said.items()
                if isinstance(value, dict | list)
            }
        return {key: _garbage(fault, value, status_fields, key) for key, value in said.items()}
    if isinstance(said, list):
        return [_garbage(fault, value, status_fields, name) for value in said]
    if fault == "unknown_status":
        return "a_word_of_tomorrow" if name in status_fields and isinstance(said, str) else said
    return 7 if isinstance(said, str) else "seven"


def _spoiled(proof: str) -> dict[str, list[str]]:
    """A proof made wrong in every way that has fooled somebody, by what was done to it."""
    flipped = "".join("1" if char == "0" else "0" for char in proof)
    wrong = {
        "missing": [],
        "empty": [""],
        "blank": [" "],
        "nothing but zeros": ["0" * len(proof)],
        "every character another": [flipped],
        "the first character changed": [_changed(proof, 0)],
        "a middle character changed": [_changed(proof, len(proof) // 2)],
        "the last but third character changed": [_changed(proof, len(proof) - 3)],
        "without its first character": [proof[1:]],
        "without its last three characters": [proof[:-3]],
        "its first half": [proof[: len(proof) // 2]],
        "its second half": [proof[len(proof) // 2 :]],
        "its first eight characters": [proof[:8]],
        "one character": [proof[:1]],
        "made longer": [proof + "00ab"],
        "twice in one": [proof + proof],
        "with itself behind a comma": [f"{'0' * len(proof)},{proof}"],
        "other case": [proof.swapcase()],
        "backwards": [proof[::-1]],
        "in quotes": [f'"{proof}"'],
        "behind an unknown scheme": [f"sha1={proof}x"],
        "the word null": ["null"],
        "the word true": ["true"],
        "a star": ["*"],
        "signs outside ASCII": ["\u00fc\u00f1\u00ee" * 8],
        "markup": ["<script>"],
        "SQL": ["' OR 1=1 --"],
        "two, the wrong one first": ["0" * len(proof), proof],
        "two, the right one first": [proof, "0" * len(proof)],
    }
    return {what: proofs for what, proofs in wrong.items() if proofs != [proof]}


def _changed(proof: str, at: int) -> str:
    return proof[:at] + ("1" if proof[at : at + 1] != "1" else "2") + proof[at + 1 :]


def _with_another_digit(body: bytes) -> bytes:
    """The body with its last digit changed, or one more where it has none."""
    for at in range(len(body) - 1, -1, -1):
        if body[at : at + 1].isdigit():
            return body[:at] + (b"1" if body[at : at + 1] != b"1" else b"2") + body[at + 1 :]
    return body + b"1"


def page(label: str, title: str, body: str, status: int = 200) -> HTMLResponse:
    """A hosted page of a processor: plain, without script, and said to be simulated. `title` and `label` are escaped,
    `body` is HTML."""
    shown, company = html.escape(title), html.escape(label)
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{shown} · {company}</title><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f3f4f6;color:#14181f}}
main{{max-width:26rem;margin:3rem auto;background:#fff;border:1px solid #d5d9e0;border-radius:10px;padding:1.5rem}}
h1{{font-size:1.25rem;margin:.25rem 0 1rem}}small{{color:#5b6472}}label{{display:block;margin:.75rem 0}}
input,select{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;border:1px solid #8a93a3;border-radius:6px}}
input[type=radio],input[type=checkbox]{{width:auto}}
button,a.button{{font:inherit;padding:.6rem 1rem;border-radius:6px;border:1px solid #14181f;background:#14181f;
color:#fff;text-decoration:none;display:inline-block;margin:.5rem .5rem 0 0}}
button[data-test=decline],a.button{{background:#fff;color:#14181f}}
</style></head><body><main><small>{company}, simulated</small><h1>{shown}</h1>{body}</main></body></html>""",
        status,
    )


def names() -> list[str]:
    """All simulators there are, by the modules beside this one."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "harness"))


def simulator(name: str, clock: Callable[[], datetime] | None = None) -> Harness:
    """A fresh simulator by name."""
    found: type[Harness] = import_module(f"seeds.simulators.{name}").Simulator
    return found(clock) if clock else found()


class Servers:
    """Serves simulators on loopback, each on a port of its own, from one thread. Use as a context manager."""

    def __init__(self, simulators: list[Harness], first_port: int = 0) -> None:
        self._simulators = simulators
        self._first_port = first_port
        self._servers: list[uvicorn.Server] = []
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="simulators", daemon=True)

    def __enter__(self) -> "Servers":
        self._thread.start()
        self._started.wait(20)
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.should_exit = True
        self._thread.join(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._started.set()

    async def _serve(self) -> None:
        tasks: list[Awaitable[Any]] = []
        postmen = []
        for number, one in enumerate(self._simulators):
            port = self._first_port + number if self._first_port else 0
            config = uvicorn.Config(
                one.app(),
                host="127.0.0.1",
                port=port,
                log_level="warning",
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,  # an answer that was told never to come is not waited for
            )
            socket = config.bind_socket()
            socket.setsockopt(
                IPPROTO_TCP, TCP_NODELAY, 1
            )  # else every kept connection waits 40 ms per answer
            socket.listen(config.backlog)  # the first caller may be quicker than the server
            one.address = f"http://127.0.0.1:{socket.getsockname()[1]}"
            one._loop = asyncio.get_running_loop()
            one._outbox = asyncio.Queue()
            postmen.append(asyncio.create_task(one._postman()))
            server = uvicorn.Server(config)
            server.capture_signals = _no_signals  # type: ignore[method-assign]
            self._servers.append(server)
            tasks.append(server.serve(sockets=[socket]))
        self._started.set()
        await asyncio.gather(*tasks)
        for postman in postmen:
            postman.cancel()


def _on_this_machine(url: str) -> str:
    """Every name under .localhost is this machine, as browsers have it; not every resolver knows."""
    parts = urlsplit(url)
    if not (parts.hostname or "").endswith(".localhost"):
        return url
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"127.0.0.1{port}").geturl()


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()
