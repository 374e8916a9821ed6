"""What all simulators share: a clock, switches, webhooks that are sent when something changes, and a server.

A simulator is a module `seeds.simulators.<name>` with a class `Simulator(Harness)`: state in memory, `routes()` with
the processor's own paths, and `forge()` helpers for tests where they need one. It never imports portal.
"""

import asyncio
import copy
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2 as httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

MODES = ("ok", "slow", "down", "decline", "duplicate", "reorder", "lose_webhooks")


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


class Harness:
    """State, switches, the log of calls, and the queue of webhooks of one simulator."""

    name = ""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.now = clock
        self.address = ""  # set by serve(): where this simulator answers, without a slash at the end
        self.mode = "ok"
        self.slow_s = 4.0
        self.calls: list[Call] = []
        self.problems: list[str] = []  # requests or answers that a validator refused
        self.state: dict[str, Any] = {}
        # One-shot faults, first in first out: "timeout_after", "500", "drop" …
        self.fail_next: list[str] = []
        self._held: list[Delivery] = []
        self._outbox: asyncio.Queue[Delivery] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._saved: dict[str, Any] | None = None

    def routes(self) -> list[BaseRoute]:
        """The processor's own paths."""
        raise NotImplementedError

    def switch(self, mode: str) -> None:
        """Change behaviour; ValueError for an unknown mode. Held-back webhooks go out when reordering ends."""
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; one of {', '.join(MODES)}")
        self.mode = mode
        if mode != "reorder":
            self.flush()

    def save(self) -> None:
        """Remember the state as it is, for reset()."""
        self._saved = copy.deepcopy(self.state)

    def reset(self) -> None:
        """Back to the saved state, mode ok."""
        if self._saved is not None:
            self.state = copy.deepcopy(self._saved)
        self.mode = "ok"
        self.calls.clear()
        self.problems.clear()
        self.fail_next.clear()
        self._held.clear()

    def tick(self) -> None:
        """The clock was moved: let fall due what is due (renewals, ends, retries), sending webhooks as in life."""

    def deliver(self, delivery: Delivery) -> None:
        """Send a webhook as the switch says: lost, twice, or held back and sent in another order."""
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
                            delivery.url, content=delivery.body, headers=delivery.headers
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
            body = await Request(scope, receive).body()
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
            fault = self.fail_next.pop(0) if self.fail_next and not page else ""
            if self.mode == "slow" and not page:
                await asyncio.sleep(self.slow_s + random.random() / 10)
            if (self.mode == "down" and not page) or fault == "500":
                await self.outage()(scope, replay, send)
                return
            if fault == "timeout_after":  # the call has its effect, the answer never comes
                await _swallow(inner, scope, replay)
            if fault in ("timeout_after", "drop"):
                await asyncio.sleep(30)
                return
            await inner(scope, replay, send)

        return outer

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


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()
