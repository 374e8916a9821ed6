"""For the proxy in front of us: which names may have a certificate."""

import secrets
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from time import monotonic

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from portal import tenancy, walls
from portal.middleware import parse_host
from portal.settings import Settings

SERVED_FOR_S, UNKNOWN_FOR_S = 30.0, 5.0  # how long an answer is remembered
MOST_KNOWN = 10_000


def tls_ask() -> Callable[[Request], Awaitable[Response]]:
    """`GET /internal/tls-ask?domain=`: 200 for a name that we serve now, 403 for any other.

    The proxy asks before every handshake with a name it has no certificate for, so strangers decide how often: one
    indexed read, remembered for some seconds, for so many names and no more.
    """
    known: dict[str, tuple[float, bool]] = {}

    async def ask(request: Request) -> Response:
        settings: Settings = request.app.state.settings
        if not _may_ask(request, settings):
            return PlainTextResponse("This is asked by the proxy alone.", 403)
        asked = request.query_params.getlist("domain")
        host = _name(asked[0]) if len(asked) == 1 else None
        if host is None:
            return PlainTextResponse("Not a host name.", 400)
        now = monotonic()
        found = known.get(host)
        if found is None or found[0] <= now:
            known.pop(host, None)
            served = await _is_served(request, host)
            while len(known) >= MOST_KNOWN:
                known.pop(next(iter(known)), None)  # the one that came first
            found = known[host] = (now + (SERVED_FOR_S if served else UNKNOWN_FOR_S), served)
        return PlainTextResponse("Served." if found[1] else "Unknown.", 200 if found[1] else 403)

    return ask


async def _is_served(request: Request, host: str) -> bool:
    settings: Settings = request.app.state.settings
    if host == settings.admin_host:
        return True
    with walls.wide("host"):
        served: bool = await request.app.state.database.read(tenancy.is_served, host, settings.base_domain)
    return served


def _name(text: str) -> str | None:
    """A host name without a port; None for what is none."""
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    return None if b":" in raw else parse_host(raw)


def _may_ask(request: Request, settings: Settings) -> bool:
    """Whoever has the secret; and this machine itself, but not what a proxy on it passes on for others."""
    secret = settings.tls_ask_secret.get_secret_value()
    given = _given(request)
    if given is not None:
        return bool(secret) and secrets.compare_digest(given.encode(), secret.encode())
    return is_this_machine(request)


def is_this_machine(request: Request) -> bool:
    """Whether something on this machine asks, of its own accord and not as a proxy."""
    passed_on = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via"))
    return not passed_on and _is_loopback(request.client.host if request.client else "")


def _given(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return request.query_params.get("secret")


def _is_loopback(text: str) -> bool:
    """By the connection itself, not by what a header says of it."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
