"""Signing in without a password: the ask, the mail's link and code, sessions, and the guard of every signed-in page."""

import functools
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, models, render, sync
from portal.ids import new_id
from portal.settings import Settings

LINK_LIFE = timedelta(minutes=10)
TRIES = 5
IDLE, ABSOLUTE = timedelta(hours=1), timedelta(hours=24)
SEEN_EVERY = timedelta(minutes=5)
PER_ADDRESS = ((timedelta(minutes=15), 3), (timedelta(days=1), 10))
PER_NETWORK = (timedelta(minutes=15), 20)
LINKS_SIDE_BY_SIDE = 3
HOME = "/customers/orders"
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 32 letters and digits, none to be taken for another
_READ_AS = str.maketrans(
    {"0": "O", "1": "L", "I": "L"}
)  # how a look-alike is meant; O is none of ours either


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who a session belongs to."""

    id: int
    email: str
    name: str | None
    session_id: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One ask for a mail, as the sign-in pages need to know it."""

    id: int
    email: str
    created_at: datetime
    user_agent: str
    browser_hash: str
    next_path: str


Trouble = Literal["expired", "used", "foreign"]


# Asking


def ask(
    db: Session,
    portal_id: int,
    email: str,
    browser: str,
    user_agent: str,
    network: str,
    next_path: str,
    now: datetime,
) -> int:
    """Write down that somebody typed an address. The same statements whoever it is; a worker finds out."""
    request_id = new_id()
    db.add(
        models.LoginRequest(
            id=request_id,
            portal_id=portal_id,
            email=email[:254].strip().lower(),
            browser_hash=digest(browser),
            user_agent=user_agent[:200],
            network=network[:60],
            next_path=safe_next(next_path),
            created_at=now,
            expires_at=now + LINK_LIFE,
        )
    )
    db.flush()
    sync.insert_once(
        db,
        models.Job.__table__,  # type: ignore[attr-defined]
        {
            "id": new_id(),
            "kind": "login_mail",
            "payload": {"request": request_id},
            "run_at": now,
            "created_at": now,
            "attempts": 0,
        },
    )
    return request_id


@dataclass(frozen=True, slots=True)
class Prepared:
    """What goes into a sign-in mail, and to whom: the address stored on the customer."""

    portal_id: int
    to: str
    token: str
    code: str
    asked_at: datetime
    user_agent: str


def prepare_mail(db: Session, request_id: int, secret: str, now: datetime) -> Prepared | None:
    """Decide whether an ask gets a mail, and make its link and code; None where nothing is to be sent."""
    asked = db.get(models.LoginRequest, request_id)
    if asked is None or asked.expires_at <= now or _over_limit(db, asked):
        return None
    customer = db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == asked.portal_id, col(models.Customer.email) == asked.email
        )
    ).scalar_one_or_none()
    if customer is None:
        return None
    token = secrets.token_urlsafe(32)
    code = "".join(secrets.choice(ALPHABET) for _ in range(6))
    db.add(
        models.LoginToken(
            token_hash=digest(token),
            request_id=asked.id,
            portal_id=asked.portal_id,
            email=customer.email,
            expires_at=asked.expires_at,
        )
    )
    asked.code_hash = _code_hash(secret, asked.id, code)
    asked.mailed_at = now
    return Prepared(asked.portal_id, customer.email, token, code, asked.created_at, asked.user_agent)


def _over_limit(db: Session, asked: models.LoginRequest) -> bool:
    """Too many mails to this address, or asks from this network, before this one; the page never shows it."""
    request = models.LoginRequest
    earlier = [col(request.portal_id) == asked.portal_id, col(request.id) != asked.id]
    for span, most in PER_ADDRESS:
        sent = db.execute(
            select(func.count()).where(
                *earlier,
                col(request.email) == asked.email,
                col(request.mailed_at).is_not(None),
                col(request.created_at) > asked.created_at - span,
                col(request.created_at) <= asked.created_at,
            )
        ).scalar_one()
        if sent >= most:
            return True
    span, most = PER_NETWORK
    tried = db.execute(
        select(func.count()).where(
            *earlier,
            col(request.network) == asked.network,
            col(request.created_at) > asked.created_at - span,
            col(request.created_at) <= asked.created_at,
        )
    ).scalar_one()
    return tried >= most


# The link and the code


@dataclass(frozen=True, slots=True)
class LinkView:
    """What the page of a link says before anything is done."""

    masked: str
    asked_at: datetime
    user_agent: str
    same_browser: bool


def look_at_link(
    db: Session, portal_id: int, token: str, browser: str | None, now: datetime
) -> LinkView | Trouble:
    """What a link leads to; changes nothing."""
    found = db.execute(
        select(models.LoginToken, models.LoginRequest)
        .join(models.LoginRequest, col(models.LoginRequest.id) == col(models.LoginToken.request_id))
        .where(
            col(models.LoginToken.token_hash) == digest(token), col(models.LoginToken.portal_id) == portal_id
        )
    ).one_or_none()
    if found is None:
        return "foreign"
    row, asked = found
    if row.used_at is not None:
        return "used"
    if row.expires_at <= now:
        return "expired"
    same = browser is not None and hmac.compare_digest(digest(browser), asked.browser_hash)
    return LinkView(masked(row.email), asked.created_at, asked.user_agent, same)


def ask_again(
    db: Session, portal_id: int, token: str, browser: str, user_agent: str, network: str, now: datetime
) -> int | None:
    """Another mail to the address of an old link, which stands in no page; None where the link is none of ours."""
    old = db.execute(
        select(models.LoginRequest)
        .join(models.LoginToken, col(models.LoginToken.request_id) == col(models.LoginRequest.id))
        .where(
            col(models.LoginToken.token_hash) == digest(token), col(models.LoginToken.portal_id) == portal_id
        )
    ).scalar_one_or_none()
    if old is None:
        return None
    return ask(db, portal_id, old.email, browser, user_agent, network, old.next_path, now)


@dataclass(frozen=True, slots=True)
class Redeemed:
    """A new session: its secret for the cookie, and where the customer was going."""

    token: str
    next_path: str


def redeem_link(
    db: Session,
    portal_id: int,
    token: str,
    browser: str,
    user_agent: str,
    old_session: str | None,
    now: datetime,
) -> Redeemed | Trouble:
    """Spend a link in one conditional UPDATE and open a session in the same transaction."""
    row = models.LoginToken
    spent = db.execute(
        update(row)
        .where(
            col(row.token_hash) == digest(token),
            col(row.portal_id) == portal_id,
            col(row.purpose) == "customer",
            col(row.used_at).is_(None),
            col(row.expires_at) > now,
        )
        .values(used_at=now)
        .returning(col(row.email), col(row.request_id))
    ).one_or_none()
    if spent is None:
        found = look_at_link(db, portal_id, token, None, now)
        return found if isinstance(found, str) else "used"
    asked = db.get_one(models.LoginRequest, spent.request_id)
    opened = _open_session(db, portal_id, spent.email, browser, user_agent, old_session, now)
    return Redeemed(opened, asked.next_path) if opened else "foreign"


@dataclass(frozen=True, slots=True)
class WrongCode:
    """The code was not right; so many tries are left with the newest mail."""

    left: int


def redeem_code(
    db: Session,
    portal_id: int,
    code: str,
    browser: str | None,
    secret: str,
    user_agent: str,
    old_session: str | None,
    now: datetime,
) -> Redeemed | WrongCode:
    """Sign in by the code, in the browser that asked; five tries for each ask, then it is dead."""
    if browser is None:
        return WrongCode(0)
    request = models.LoginRequest
    open_asks = (
        db.execute(
            select(request)
            .where(
                col(request.browser_hash) == digest(browser),
                col(request.portal_id) == portal_id,
                col(request.purpose) == "customer",
                col(request.expires_at) > now,
                col(request.code_used_at).is_(None),
            )
            .order_by(col(request.created_at).desc(), col(request.id).desc())
            .limit(LINKS_SIDE_BY_SIDE)
            .with_for_update()
        )
        .scalars()
        .all()
    )
    live = [asked for asked in open_asks if asked.tries < TRIES]
    typed = normalized_code(code)
    for asked in live:
        asked.tries += 1
        expected = asked.code_hash or secrets.token_hex(32)
        if not hmac.compare_digest(expected, _code_hash(secret, asked.id, typed)):
            continue
        asked.code_used_at = now
        opened = _open_session(db, portal_id, asked.email, browser, user_agent, old_session, now)
        if opened:
            return Redeemed(opened, asked.next_path)
    return WrongCode(max((TRIES - asked.tries for asked in live), default=0))


def normalized_code(text: str) -> str:
    """A typed code as we compare it: spaces, dashes and lower case do not matter."""
    return "".join(c for c in text.upper().translate(_READ_AS) if c.isalnum())[:12]


def newest_ask(db: Session, portal_id: int, browser: str, now: datetime) -> Ask | None:
    """The last ask of this browser that is still good."""
    request = models.LoginRequest
    row = db.execute(
        select(request)
        .where(
            col(request.browser_hash) == digest(browser),
            col(request.portal_id) == portal_id,
            col(request.expires_at) > now,
        )
        .order_by(col(request.created_at).desc(), col(request.id).desc())
        .limit(1)
    ).scalar_one_or_none()
    if row is None:
        return None
    return Ask(row.id, row.email, row.created_at, row.user_agent, row.browser_hash, row.next_path)


# Sessions


def _open_session(
    db: Session,
    portal_id: int,
    email: str,
    browser: str,
    user_agent: str,
    old_session: str | None,
    now: datetime,
) -> str | None:
    customer = db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == portal_id, col(models.Customer.email) == email
        )
    ).scalar_one_or_none()
    if customer is None:
        return None
    if old_session:
        db.execute(delete(models.SignIn).where(col(models.SignIn.token_hash) == digest(old_session)))
    token = secrets.token_urlsafe(32)
    db.add(
        models.SignIn(
            token_hash=digest(token),
            portal_id=portal_id,
            customer_id=customer.id,
            user_agent=user_agent[:200],
            created_at=now,
            last_seen_at=now,
            expires_at=now + ABSOLUTE,
        )
    )
    _know_device(db, customer, browser, user_agent, now)
    return token


def _know_device(
    db: Session, customer: models.Customer, browser: str, user_agent: str, now: datetime
) -> None:
    """Remember the browser; the first sign-in from a further one is told by mail."""
    device = models.Device
    known = db.execute(
        select(col(device.browser_hash)).where(col(device.customer_id) == customer.id)
    ).scalars()
    before = set(known)
    if digest(browser) in before:
        return
    db.add(
        models.Device(
            portal_id=customer.portal_id,
            customer_id=customer.id,
            browser_hash=digest(browser),
            created_at=now,
        )
    )
    if before:
        sync.insert_once(
            db,
            models.Job.__table__,  # type: ignore[attr-defined]
            {
                "id": new_id(),
                "kind": "mail",
                "payload": {
                    "template": "new_device",
                    "customer": customer.id,
                    "at": now.isoformat(),
                    "browser": browser_words(user_agent),
                },
                "run_at": now,
                "created_at": now,
                "attempts": 0,
            },
        )


_session = models.SignIn.__table__  # type: ignore[attr-defined]
_customer = models.Customer.__table__  # type: ignore[attr-defined]
LOAD = (
    select(
        _session.c.customer_id,
        _customer.c.email,
        _customer.c.name,
        _session.c.id,
        _session.c.last_seen_at,
        _session.c.expires_at,
    )
    .join(_customer, _customer.c.id == _session.c.customer_id)
    .where(
        _session.c.token_hash == bindparam("token_hash"),
        _session.c.portal_id == bindparam("portal"),
        _session.c.purpose == "customer",
    )
)


@dataclass(frozen=True, slots=True)
class Loaded:
    customer: SignedIn
    last_seen_at: datetime


def load_session(db: Session, portal_id: int, token: str, now: datetime) -> Loaded | None:
    """Who is signed in with this cookie, in this portal and still."""
    row = db.execute(LOAD, {"token_hash": digest(token), "portal": portal_id}).one_or_none()
    if row is None or row.expires_at <= now or row.last_seen_at <= now - IDLE:
        return None
    return Loaded(SignedIn(row.customer_id, row.email, row.name, row.id), row.last_seen_at)


def touch(db: Session, session_id: int, now: datetime) -> None:
    db.execute(update(models.SignIn).where(col(models.SignIn.id) == session_id).values(last_seen_at=now))


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: int
    browser: str
    created_at: datetime
    last_seen_at: datetime
    current: bool


def own_sessions(db: Session, portal_id: int, customer: SignedIn, now: datetime) -> list[SessionRow]:
    """Where a customer is signed in, newest first."""
    row = models.SignIn
    found = db.execute(
        select(row)
        .where(
            col(row.portal_id) == portal_id,
            col(row.customer_id) == customer.id,
            col(row.expires_at) > now,
            col(row.last_seen_at) > now - IDLE,
        )
        .order_by(col(row.created_at).desc())
        .limit(50)
    ).scalars()
    return [
        SessionRow(
            one.id,
            browser_words(one.user_agent),
            one.created_at,
            one.last_seen_at,
            one.id == customer.session_id,
        )
        for one in found
    ]


def end_session(db: Session, portal_id: int, customer: SignedIn) -> None:
    """Sign out here."""
    row = models.SignIn
    db.execute(
        delete(row).where(
            col(row.portal_id) == portal_id,
            col(row.customer_id) == customer.id,
            col(row.id) == customer.session_id,
        )
    )


def end_all(db: Session, portal_id: int, customer_id: int) -> None:
    """Sign out everywhere."""
    row = models.SignIn
    db.execute(delete(row).where(col(row.portal_id) == portal_id, col(row.customer_id) == customer_id))


# The guard

View = Callable[[Request], Awaitable[Response]]


def signed_in(view: View) -> View:
    """Only for customers who are signed in; anybody else goes to the form and comes back to where they were going."""

    @functools.wraps(view)
    async def guarded(request: Request) -> Response:
        if not await recognise(request):
            aim = request.url.path if request.method in ("GET", "HEAD") else HOME
            if request.url.query and request.method == "GET":
                aim += f"?{request.url.query}"
            return _to_form(request, aim)
        return await view(request)

    return guarded


async def recognise(request: Request) -> bool:
    """Find out who asks, and note that they were here (seldom, and not for what a browser fetches ahead)."""
    settings: Settings = request.app.state.settings
    token = request.cookies.get(cookie_name(settings))
    if not token or len(token) > 200:
        return False
    database = request.app.state.database
    now = clock.now()
    found = await database.read(load_session, request.state.portal.id, token, now)
    if found is None:
        return False
    request.state.customer = found.customer
    if now - found.last_seen_at > SEEN_EVERY and "prefetch" not in request.headers.get("sec-purpose", ""):
        await database.write(touch, found.customer.session_id, now)
    return True


def _to_form(request: Request, aim: str) -> Response:
    return render.see_other(request, f"/customers?next={quote(safe_next(aim), safe='/')}")


def safe_next(text: str) -> str:
    """A page of ours to go to after signing in: a path inside /customers/, else the orders."""
    decoded = text
    for _ in range(3):
        decoded = unquote(decoded)
    parts = urlsplit(text)
    path = parts.path
    plain = (
        text.isascii()
        and text.isprintable()
        and not parts.scheme
        and not parts.netloc
        and path.startswith("/customers/")
        and not any(bad in decoded for bad in ("\\", "//", "/../", "/./", "@", "\r", "\n", "\t", "\0"))
        and not decoded.split("?")[0].endswith(("/..", "/."))
        and not path.startswith(
            ("/customers/login", "/customers/logout", "/customers/return", "/customers/leave")
        )
        and len(text) <= 500
    )
    return text if plain and "#" not in text else HOME


# Small things


def cookie_name(settings: Settings) -> str:
    return "__Host-portal" if settings.secure else "portal"


def browser_cookie_name(settings: Settings) -> str:
    """The cookie by which we know the browser that asked."""
    return f"{cookie_name(settings)}-browser"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _code_hash(secret: str, request_id: int, code: str) -> str:
    """Keyed: thirty bits alone could be tried out by who holds a copy of the table."""
    return hmac.new(secret.encode(), f"{request_id}/{code}".encode(), hashlib.sha256).hexdigest()


def masked(email: str) -> str:
    """An address as its owner knows it again and nobody else learns it: a•••@example.com."""
    name, _, host = email.partition("@")
    return f"{name[:1]}•••@{host}"


_BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS", "Mac"),
    ("Linux", "Linux"),
)


def browser_words(user_agent: str) -> str:
    """A browser as people call it: "Firefox on Windows"; "" where it says nothing we know."""
    browser = next((word for mark, word in _BROWSERS if mark in user_agent), "")
    system = next((word for mark, word in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if browser and system else browser or system
