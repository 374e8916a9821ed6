"""Running it: web and worker, in one process or two, with a graceful stop."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp

from portal import clock, merchants
from portal.app import create_app
from portal.db import Database
from portal.middleware import configure_logging
from portal.migrate import serves
from portal.settings import Settings
from portal.work import Worker

GRACE_S = 20
MEASURE_S = 10


async def serve(settings: Settings, host: str, port: int, with_worker: bool) -> None:
    """Web, and the worker beside it, until a signal; open requests and jobs in hand are finished."""
    configure_logging(settings)
    if not with_worker:
        refuse_private_secret(settings)
    database = Database(settings.database_url, settings.threads)
    refuse_old_schema(database)
    worker = Worker(settings, database) if with_worker else None
    clock.follow(await database.clock_ahead())
    timing = asyncio.create_task(keep_time(database))
    try:
        listening = listen(host, port)
        await welcome(settings, database)
        await run(create_app(settings, database), worker, [listening])
    finally:
        timing.cancel()
        database.dispose()


async def keep_time(database: Database) -> None:
    """Go by the database's clock, for as long as we run: processes on several machines then agree on what is due."""
    while True:
        await asyncio.sleep(MEASURE_S)
        with suppress(DBAPIError):
            clock.follow(await database.clock_ahead())


async def welcome(settings: Settings, database: Database) -> None:
    """On the first start, say how the first merchant gets in: on the terminal alone, since a log keeps what it gets."""
    if not await database.read(merchants.is_empty):
        return
    if not sys.stdout.isatty():
        hint = "Nobody can sign in to the settings yet: run `portal merchant add` on a terminal for a one-time link."
        print(f"portal: {hint}", file=sys.stderr, flush=True)
        return
    token = await database.write(merchants.new_setup, clock.now())
    link = f"{settings.origin(settings.admin_host)}/setup/{token}"
    print(f"\nSet up your customer portal here, within an hour:\n\n    {link}\n", flush=True)


async def work(settings: Settings) -> None:
    """The worker alone, until a signal."""
    configure_logging(settings)
    refuse_private_secret(settings)
    database = Database(settings.database_url, settings.threads)
    refuse_old_schema(database)
    worker = Worker(settings, database)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    try:
        await worker.run()
    finally:
        database.dispose()


async def run(app: ASGIApp, worker: Worker | None, sockets: list[socket.socket]) -> None:
    """uvicorn and the worker side by side; when uvicorn has been told to stop, the worker is told too."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
        proxy_headers=False,
    )
    server = _Server(config)
    working = asyncio.create_task(worker.run()) if worker else None
    try:
        await server.serve(sockets=sockets)
    finally:
        if worker and working:
            worker.stop()
            with suppress(TimeoutError):
                await asyncio.wait_for(working, GRACE_S)


class _Server(uvicorn.Server):
    """uvicorn would end the process by the signal it caught; here the worker is still to finish."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; RuntimeError that says what to do where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise RuntimeError(f"Port {port} is taken. Choose another one with --port.") from error
    found.listen(256)
    return found


def refuse_old_schema(database: Database) -> None:
    if not serves(database):
        raise RuntimeError("The database is not at this version's schema. Run `portal migrate` first.")


def refuse_private_secret(settings: Settings) -> None:
    """Web and worker apart must share one secret: the worker makes the codes that the web checks."""
    if "secret_key" not in settings.model_fields_set:
        raise RuntimeError(
            "Set PORTAL_SECRET_KEY to the same value for web and worker, for instance from `openssl rand -base64 32`."
        )
