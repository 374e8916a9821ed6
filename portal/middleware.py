"""What happens around every request: id and log, limits of size, whose portal it is, proof of origin, headers,
compression. Pure ASGI."""

import asyncio
import gzip
import logging
import re
import secrets
import sys
import time
from ipaddress import IPv6Address, ip_address
from typing import Any

import brotli
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portal import outage, tenancy, texts, walls
from portal.db import Database
from portal.faults import places
from portal.settings import Settings

PICTURES = re.compile(r"/settings/portals/(new|[0-9a-z]{13}/logo(_dark)?)")  # forms that carry a picture
PICTURE_BODY, PICTURE_S = (
    64 * 1024 * 1024,
    120.0,
)  # read through to the end, to be answered; kept is at most 1 MB
SHEETS = re.compile(r"/settings/portals/[0-9a-z]{13}/sheets")  # the form that carries a file of rows
SHEET_BODY, SHEET_S = 202 * 1024 * 1024, 900.0
MACHINE = ("/webhooks/", "/health/", "/__demo/", "/internal/", "/api/v1/")
STILL_OPEN = (
    "/customers/static/",
    "/customers/logo/",
    "/customers/return/",
)  # while a portal is switched off
SAFE = frozenset({"GET", "HEAD"})
COME_BACK = "/customers/return/"  # processors send people back by cross-site POST; only a one-time state is spent there
PAGE_BODY, MACHINE_BODY = 64 * 1024, 1024 * 1024
BODY_S = 60.0
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
KNOWN_FOR_S = 5.0  # how long a host's portal is remembered
MOST_KNOWN = 10_000
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

log = structlog.get_logger()


def middleware(settings: Settings, database: Database) -> list[Middleware]:
    """The layers, from the outside in."""
    return [
        Middleware(Log, settings=settings),
        Middleware(SecurityHeaders, secure=settings.secure),
        Middleware(Compression),
        Middleware(Faults),
        Middleware(Tenancy, settings=settings, database=database),
        Middleware(SameOrigin, scheme=settings.scheme),
        Middleware(BodyLimit),
    ]


def configure_logging(settings: Settings) -> None:
    """One line an event on standard error, as JSON or for people."""
    last: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)


def is_machine(path: str) -> bool:
    """Whether an address is for machines: it reads neither Host nor cookie."""
    return path.startswith(MACHINE) or path == "/metrics"


def is_customers(path: str) -> bool:
    """Whether an address is a customers' page, which a portal's host alone answers."""
    return path == "/customers" or path.startswith("/customers/")


class Log:
    """A request id, and one line when it is answered: the route's pattern, never the address with its secrets."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["network"] = client_address(scope, self.settings)
        started = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            portal = state.get("portal")
            log.info(
                "request",
                request_id=request_id,
                portal=portal.slug if portal else None,
                method=scope["method"],
                route=_pattern(scope),
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
            )


def _pattern(scope: Scope) -> str:
    """The route's pattern, in which no token stands."""
    route = scope.get("route")
    return getattr(route, "path", None) or "-"


def client_address(scope: Scope, settings: Settings) -> str:
    """The network of who asks: the last hop that no proxy of ours is; IPv6 by its /64."""
    address = scope["client"][0] if scope.get("client") else "0.0.0.0"  # noqa: S104
    hops = [hop.strip() for hop in Headers(scope=scope).get("x-forwarded-for", "").split(",") if hop.strip()]
    while hops and _is_ours(address, settings):
        address = hops.pop()
    try:
        found = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64)) + "/64"
    return str(found)


def _is_ours(address: str, settings: Settings) -> bool:
    try:
        return any(ip_address(address) in network for network in settings.proxy_networks)
    except ValueError:
        return False


class SecurityHeaders:
    """The headers of every answer; a view may have set a stricter or a special one of its own."""

    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self.app = app
        self.fixed = {
            "Content-Security-Policy": CSP,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
            "Cache-Control": "private, no-store",
        }
        self.for_files = {
            name: self.fixed[name] for name in ("X-Content-Type-Options", "Cross-Origin-Resource-Policy")
        }
        if secure:
            self.fixed["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A stylesheet or script is no page: what governs pages would only weigh on it.
        is_file = scope["type"] == "http" and scope["path"].startswith(("/customers/static/", "/static/"))
        fixed = self.for_files if is_file else self.fixed
        # A picture in a mail is shown by the pages of somebody's web mail.
        elsewhere = scope["type"] == "http" and scope["path"].startswith("/customers/logo/")

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if elsewhere:
                    headers["Cross-Origin-Resource-Policy"] = "cross-origin"
                for name, value in fixed.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, adding)


class Compression:
    """Brotli or gzip for texts that are worth it and are not compressed yet."""

    TYPES = ("text/", "application/json", "image/svg")
    LEAST = 500

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        coding = _coding(Headers(scope=scope).get("accept-encoding", ""))
        start: Message | None = None

        async def squeezing(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is None:
                await send(message)
                return
            headers = MutableHeaders(scope=start)
            body = message.get("body", b"")
            texty = headers.get("content-type", "").startswith(self.TYPES)
            if texty:
                headers.add_vary_header("Accept-Encoding")
            whole = not message.get("more_body", False)
            if coding and texty and whole and len(body) >= self.LEAST and "content-encoding" not in headers:
                body = brotli.compress(body, quality=4) if coding == "br" else gzip.compress(body, 5)
                headers["Content-Encoding"] = coding
                headers["Content-Length"] = str(len(body))
                message = {**message, "body": body}
            await send(start)
            start = None
            await send(message)

        await self.app(scope, receive, squeezing)


def _coding(accepted: str) -> str | None:
    """The best coding that the browser takes; one with `q=0` it does not."""
    offered = set()
    for part in accepted.lower().split(","):
        name, _, weight = part.replace(" ", "").partition(";q=")
        if weight.strip("0.") or not weight:
            offered.add(name)
    return "br" if "br" in offered else "gzip" if "gzip" in offered else None


class Faults:
    """Our own faults, answered inside the layers that add headers; nothing of them is told but the request id.

    The log gets the places in the code and not the message, in which a value of a row may stand.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as error:
            if scope["type"] != "http":
                raise
            status = 503 if isinstance(error, DBAPIError | PoolTimeout) else 500
            if outage.trouble(error) is None:  # else it is said once, by what watches the database
                log.error(
                    "fault", request_id=_request_id(scope), error=type(error).__name__, at=places(error)
                )
            if started:
                return  # the server closes what was cut off in the middle
            try:
                await _error(scope, receive, noting, status)
            except Exception as again:
                log.error("fault in a fault", error=type(again).__name__, at=places(again))
                await PlainTextResponse("Something went wrong on our side.", 500)(scope, receive, send)


def _request_id(scope: Scope) -> str:
    found: str = scope.get("state", {}).get("request_id", "")
    return found


class Tenancy:
    """Finds the portal of the Host header, strictly; anything that is not exactly a portal's name is misdirected."""

    def __init__(self, app: ASGIApp, settings: Settings, database: Database) -> None:
        self.app = app
        self.settings = settings
        self.database = database
        self._known: dict[str, tuple[float, tenancy.PortalView | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with walls.closed():  # until it is known whose rows are asked for
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_machine(scope["path"]):
            await self.app(scope, receive, send)
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = parse_host(hosts[0]) if len(hosts) == 1 else None
        if host == self.settings.admin_host:
            await self._merchants_side(scope, receive, send)
            return
        portal = await self._portal(host) if host else None
        if portal is None:
            words = (
                "No portal answers under this name. Check the address, or open the link of your mail again."
            )
            await PlainTextResponse(words, 421)(scope, receive, send)
            return
        scope["scheme"] = self.settings.scheme
        scope["state"]["portal"] = portal
        walls.narrow(portal.id)
        if not (is_customers(scope["path"]) or scope["path"] == "/"):
            await _error(scope, receive, send, 404)
            return
        token = texts.locale.set(portal.locale)
        try:
            if portal.enabled or scope["path"].startswith(STILL_OPEN):
                await self.app(scope, receive, send)
            else:
                await _closed(scope, receive, send)
        finally:
            texts.locale.reset(token)

    async def _merchants_side(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Its own host, and nothing of the customers' there."""
        scope["scheme"] = self.settings.scheme
        scope["state"]["portal"] = None
        scope["state"]["merchants"] = True
        if is_customers(scope["path"]):
            await _error(scope, receive, send, 404)
        else:
            walls.narrow(also=(walls.INSTALLATION,))  # and more once it is known who asks: `merchants`
            await self.app(scope, receive, self._forgetting(send) if scope["method"] == "POST" else send)

    def _forgetting(self, send: Send) -> Send:
        """What a merchant has changed is seen at once by customers of this process, and soon by the others'."""

        async def forgetting(message: Message) -> None:
            self._known.clear()
            await send(message)

        return forgetting

    async def _portal(self, host: str) -> tenancy.PortalView | None:
        now = time.monotonic()
        known = self._known.get(host)
        if known and known[0] > now:
            return known[1]
        try:
            with walls.wide("host"):
                found = await self.database.read(tenancy.portal_by_host, host, self.settings.base_domain)
        except DBAPIError:
            if known and known[1]:
                return known[1]  # so that the page that says so is the shop's
            raise
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[host] = (now + KNOWN_FOR_S, found)
        return found


def parse_host(raw: bytes) -> str | None:
    """The name in a Host header, lower case and without its port; None where it is not exactly a host name."""
    try:
        text = raw.decode("ascii").lower()
    except UnicodeDecodeError:
        return None
    name, colon, port = text.partition(":")
    if colon and not (port.isdigit() and 0 < len(port) <= 5 and 0 < int(port) < 65_536):
        return None
    labels = name.split(".")
    if len(name) > 253 or not all(
        0 < len(label) <= 63 and set(label) <= _LABEL and label[0] != "-" and label[-1] != "-"
        for label in labels
    ):
        return None
    return name


class SameOrigin:
    """Whatever is not safe must come from our own pages: by Sec-Fetch-Site, else by Origin; with neither, refused."""

    def __init__(self, app: ASGIApp, scheme: str) -> None:
        self.app = app
        self.scheme = scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._may_pass(scope):
            await self.app(scope, receive, send)
        else:
            await _error(scope, receive, send, 403)

    def _may_pass(self, scope: Scope) -> bool:
        method, path = scope["method"], scope["path"]
        if method in SAFE or is_machine(path):
            return True
        if method == "POST" and path.startswith(COME_BACK):
            return True
        headers = Headers(scope=scope)
        site = headers.getlist("sec-fetch-site")
        if site:
            return site == ["same-origin"]
        return headers.getlist("origin") == [f"{self.scheme}://{headers.get('host', '').lower()}"]


class BodyLimit:
    """Cuts a body off while it arrives. Who reads it gets a 413 to pass on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit, seconds = _limits(scope["path"])
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            await _error(scope, receive, send, 413)
            return
        got, until, whole = 0, time.monotonic() + seconds, False

        async def counting() -> Message:
            nonlocal got, whole
            if whole:  # what comes now is that they have gone, whenever that may be
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408) from None
            got += len(message.get("body", b""))
            if got > limit:
                raise HTTPException(413)
            whole = not message.get("more_body", False)
            return message

        await self.app(scope, counting, send)


def _limits(path: str) -> tuple[int, float]:
    """How many bytes a body may have, and in how many seconds it is to arrive."""
    if is_machine(path):
        return MACHINE_BODY, BODY_S
    if SHEETS.fullmatch(path):
        return SHEET_BODY, SHEET_S
    return (PICTURE_BODY, PICTURE_S) if PICTURES.fullmatch(path) else (PAGE_BODY, BODY_S)


async def _closed(scope: Scope, receive: Receive, send: Send) -> None:
    """The merchant has switched the portal off."""
    from portal.views import errors

    await errors.closed(Request(scope, receive))(scope, receive, send)


async def _error(scope: Scope, receive: Receive, send: Send, status: int) -> None:
    from portal.views import errors

    await errors.answer(Request(scope, receive), status)(scope, receive, send)
