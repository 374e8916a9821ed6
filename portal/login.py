"""Signing in without a password: the ask, the mail's link and code, sessions, and the guard of every signed-in page."""

import contextlib
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match

from portal import clock, finding, models, outgoing, sync, tally, walls
from portal.gateways.capabilities import is_placeholder
from portal.ids import id_text, new_id
from portal.settings import Settings
from portal.texts import gettext as _

LINK_LIFE = timedelta(minutes=10)
ENTRY_LIFE = timedelta(minutes=5)
TRIES = 5
IDLE, ABSOLUTE = timedelta(hours=1), timedelta(hours=24)
SEEN_EVERY = timedelta(minutes=5)
PER_ADDRESS = ((timedelta(minutes=15), 3), (timedelta(days=1), 10))
PER_NETWORK = (timedelta(minutes=15), 20)
LIVE_ASKS = (
    20  # of one browser and one address that a code is compared with; three of them are mailed at most
)
KEEP_ASKS = timedelta(days=2)  # longer than the longest limit looks back
HOME = "/customers/orders"
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # 32 signs; whatever looks like one of them is read as it
_READ_AS = str.maketrans("OIL", "011")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who a session belongs to."""

    id: int
    email: str
    name: str | None
    session_id: int
    viewer: bool = False  # somebody of the merchant looks, and can do nothing
    return_url: str | None = None  # of the merchant's app, which sent them here


@dataclass(frozen=True, slots=True)
class Ask:
    """The last ask of a browser, as its pages need to know it. `address` is masked where nobody typed it here."""

    address: str
    created_at: datetime
    next_path: str
    left: int  # tries of its code


Trouble = Literal["expired", "used", "foreign", "unknown", "malformed"]
# Where somebody signs in: a portal, or the merchant's side (None). What was asked for in one opens nothing in another.
Realm = int | None
# Besides signing in: a further address of somebody who is signed in is proved, with the same links and codes.
ADDRESS, RESCUE = "address", "rescue"


def purpose_of(realm: Realm) -> str:
    return "merchant" if realm is None else "customer"


def _in(row: Any, realm: Realm, purpose: str | None = None) -> tuple[Any, Any]:
    """That a row of asks or links is of this realm, and for signing in or for another purpose."""
    of_it = col(row.portal_id).is_(None) if realm is None else col(row.portal_id) == realm
    return of_it, col(row.purpose) == (purpose or purpose_of(realm))


# Asking


def ask(
    db: Session,
    portal_id: Realm,
    email: str,
    browser: str,
    user_agent: str,
    network: str,
    next_path: str,
    now: datetime,
    typed: bool = True,
) -> int:
    """Write down that somebody typed an address. The same statements whoever it is; a worker finds out."""
    request_id = new_id()
    db.add(
        models.LoginRequest(
            id=request_id,
            portal_id=portal_id,
            purpose=purpose_of(portal_id),
            email=email[:254].strip().lower(),
            browser_hash=digest(browser),
            user_agent=user_agent[:200],
            network=network[:60],
            next_path=safe_next(next_path) if portal_id is not None else next_path[:500],
            typed=typed,
            created_at=now,
            expires_at=now + LINK_LIFE,
        )
    )
    db.flush()
    _queue(db, "login_mail", {"request": request_id}, now)
    return request_id


def _queue(db: Session, kind: str, payload: dict[str, Any], now: datetime, dedupe: str | None = None) -> None:
    job = models.Job.__table__  # type: ignore[attr-defined]
    values = {"kind": kind, "payload": payload, "run_at": now, "created_at": now, "attempts": 0}
    sync.insert_once(db, job, {"id": new_id(), "dedupe": dedupe, "within": walls.home(), **values})


def ask_again(
    db: Session, portal_id: Realm, token: str, browser: str, user_agent: str, network: str, now: datetime
) -> int | None:
    """Another mail to the address of an old link, which stands in no page; None where the link is none of ours."""
    request, row = models.LoginRequest, models.LoginToken
    old = db.execute(
        select(request)
        .join(row, col(row.request_id) == col(request.id))
        .where(col(row.token_hash) == digest(token), *_in(row, portal_id))
    ).scalar_one_or_none()
    if old is None:
        return None
    return ask(db, portal_id, old.email, browser, user_agent, network, old.next_path, now, typed=False)


def resend(
    db: Session, portal_id: Realm, browser: str, user_agent: str, network: str, now: datetime
) -> int | None:
    """The last ask of this browser once more; None where it has not asked of late."""
    old = _newest(db, portal_id, browser, now - KEEP_ASKS)
    if old is None:
        return None
    typed = old.typed
    return ask(db, portal_id, old.email, browser, user_agent, network, old.next_path, now, typed=typed)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What goes into a sign-in mail, and to whom: the address stored on the customer."""

    portal_id: Realm
    to: str
    token: str
    code: str
    asked_at: datetime
    user_agent: str


def prepare_mail(
    db: Session, request_id: int, secret: str, now: datetime, open_to_all: bool = False
) -> Prepared | None:
    """Decide whether an ask gets a mail, and make its link and code; None where nothing is to be sent.

    On the merchant's side anybody gets one where the installation is `open_to_all`: the mail proves the address.

    To be called by the worker only: what it does takes another time for a customer than for a stranger.
    """
    asked = db.get(models.LoginRequest, request_id)
    if asked is None or asked.expires_at <= now:
        return None
    if asked.portal_id is not None and is_placeholder(asked.email):
        return None
    who: Any = models.User if asked.portal_id is None else models.Customer
    wanted = [col(who.email) == asked.email]
    if asked.portal_id is not None:
        wanted.append(col(who.portal_id) == asked.portal_id)
    # Locked: two workers would both see the last mail that is still allowed.
    known = db.execute(select(who).where(*wanted).with_for_update()).scalar_one_or_none()
    if over_limit(db, asked):
        return None
    if known is None and not (open_to_all and asked.portal_id is None):
        # Perhaps a processor knows them, whose word has not come yet: it is asked, and this job runs once more.
        finding.want(db, asked, "login_mail", {"request": asked.id}, now)
        return None
    return new_proof(db, asked, known.email if known is not None else asked.email, secret, now)


def new_proof(
    db: Session,
    asked: models.LoginRequest,
    email: str,
    secret: str,
    now: datetime,
    purpose: str | None = None,
) -> Prepared:
    """A link and a code that prove an address, for the purpose that was asked for or another. For the worker alone."""
    token = secrets.token_urlsafe(32)
    code = "".join(secrets.choice(ALPHABET) for _ in range(6))
    db.add(
        models.LoginToken(
            token_hash=digest(token),
            request_id=asked.id,
            portal_id=asked.portal_id,
            purpose=purpose or asked.purpose,
            email=email,
            expires_at=asked.expires_at,
        )
    )
    asked.code_hash = _code_hash(secret, asked.id, code)
    asked.mailed_at = now
    return Prepared(asked.portal_id, email, token, code, asked.created_at, asked.user_agent)


def over_limit(db: Session, asked: models.LoginRequest) -> bool:
    """Too many mails to this address, or asks from this network, before this one; the page never shows it.

    Of a network, asks are counted and not mails: else one could count who is a customer by what still reaches oneself.
    """
    request = models.LoginRequest
    earlier = [*_in(request, asked.portal_id, asked.purpose), col(request.id) != asked.id]
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

    email: str  # never shown whole: `masked`
    asked_at: datetime
    user_agent: str
    same_browser: bool
    customer_id: int | None = None  # who asked, where they were signed in

    @property
    def masked(self) -> str:
        return masked(self.email)


def look_at_link(
    db: Session,
    portal_id: Realm,
    token: str,
    browser: str | None,
    now: datetime,
    purpose: str | None = None,
) -> LinkView | Trouble:
    """What a link leads to, or what is wrong with it; changes nothing."""
    if not _TOKEN.fullmatch(token):
        return "malformed"
    request, row = models.LoginRequest, models.LoginToken
    asked = (
        select(
            col(row.portal_id),
            col(row.purpose),
            col(row.email),
            col(row.used_at),
            col(row.expires_at),
            col(request.created_at),
            col(request.user_agent),
            col(request.browser_hash),
            col(request.customer_id),
        )
        .join(request, col(request.id) == col(row.request_id))
        .where(col(row.token_hash) == digest(token))
    )
    with walls.wide("link"):
        found = db.execute(asked).one_or_none()
    if found is None:
        return "unknown"
    if found.portal_id != portal_id or found.purpose != (purpose or purpose_of(portal_id)):
        return "foreign"
    if found.used_at is not None:
        return "used"
    if found.expires_at <= now:
        return "expired"
    same = browser is not None and hmac.compare_digest(digest(browser), found.browser_hash)
    return LinkView(found.email, found.created_at, found.user_agent, same, found.customer_id)


_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


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
    spent = spend_link(db, portal_id, token, now)
    if not isinstance(spent, Spent):
        return spent
    opened = _open_session(db, portal_id, spent.email, browser, user_agent, old_session, now)
    return Redeemed(opened, spent.next_path) if opened else "unknown"


@dataclass(frozen=True, slots=True)
class Spent:
    """An address that is proved now, and where they were going."""

    email: str
    next_path: str
    customer_id: int | None = None  # who asked, where they were signed in


def spend_link(
    db: Session, realm: Realm, token: str, now: datetime, purpose: str | None = None
) -> Spent | Trouble:
    """Spend a link in one conditional UPDATE; who opens a session does so in the same transaction."""
    row = models.LoginToken
    spent = db.execute(
        update(row)
        .where(
            col(row.token_hash) == digest(token),
            *_in(row, realm, purpose),
            col(row.used_at).is_(None),
            col(row.expires_at) > now,
        )
        .values(used_at=now)
        .returning(col(row.email), col(row.request_id))
    ).one_or_none()
    if spent is None:
        found = look_at_link(db, realm, token, None, now, purpose)
        return found if isinstance(found, str) else "used"
    asked = db.get_one(models.LoginRequest, spent.request_id)
    return Spent(spent.email, asked.next_path, asked.customer_id)


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
    """Sign in by the code, in the browser that asked; five tries for each mail, then its code is dead."""
    spent = spend_code(db, portal_id, code, browser, secret, now)
    if isinstance(spent, WrongCode) or browser is None:
        return spent if isinstance(spent, WrongCode) else WrongCode(0)
    opened = _open_session(db, portal_id, spent.email, browser, user_agent, old_session, now)
    return Redeemed(opened, spent.next_path) if opened else WrongCode(0)


def spend_code(
    db: Session,
    realm: Realm,
    code: str,
    browser: str | None,
    secret: str,
    now: datetime,
    purpose: str | None = None,
    customer_id: int | None = None,
) -> Spent | WrongCode:
    """Take a code, in the browser that asked for it.

    Mails overtake each other, and over the limit there is none: so the code of any mail to the newest address that
    this browser asked for is right, as long as it lives. A try counts against all of them, mailed or not.
    """
    live = _live_asks(db, realm, browser, now, purpose, customer_id) if browser else []
    typed = normalized_code(code)
    right: models.LoginRequest | None = None
    for asked in live:
        asked.tries += 1
        expected = asked.code_hash or secrets.token_hex(32)
        if hmac.compare_digest(expected, _code_hash(secret, asked.id, typed)):
            right = asked
    if right is None:
        return WrongCode(max((TRIES - asked.tries for asked in live), default=0))
    right.code_used_at = now
    return Spent(right.email, right.next_path, right.customer_id)


def _live_asks(
    db: Session,
    portal_id: Realm,
    browser: str,
    now: datetime,
    purpose: str | None,
    customer_id: int | None,
) -> list[models.LoginRequest]:
    """The asks of this browser whose codes may still be tried, newest first, locked."""
    newest = _newest(db, portal_id, browser, now - LINK_LIFE, purpose, customer_id)
    if newest is None:
        return []
    request = models.LoginRequest
    found = db.execute(
        select(request)
        .where(
            col(request.browser_hash) == digest(browser),
            *_in(request, portal_id, purpose),
            *([] if customer_id is None else [col(request.customer_id) == customer_id]),
            col(request.email) == newest.email,
            col(request.expires_at) > now,
            col(request.code_used_at).is_(None),
            col(request.tries) < TRIES,
        )
        .order_by(col(request.created_at).desc(), col(request.id).desc())
        .limit(LIVE_ASKS)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(found.scalars())


def normalized_code(text: str) -> str:
    """A typed code as we compare it: spaces, dashes, lower case and look-alikes do not matter."""
    return "".join(c for c in text.upper().translate(_READ_AS) if c.isalnum())[:12]


def newest_ask(
    db: Session,
    portal_id: Realm,
    browser: str,
    now: datetime,
    purpose: str | None = None,
    customer_id: int | None = None,
) -> Ask | None:
    """The last ask of this browser, while its mail is good."""
    row = _newest(db, portal_id, browser, now - LINK_LIFE, purpose, customer_id)
    if row is None:
        return None
    address = row.email if row.typed else masked(row.email)
    return Ask(address, row.created_at, row.next_path, max(0, TRIES - row.tries))


def _newest(
    db: Session,
    portal_id: Realm,
    browser: str,
    since: datetime,
    purpose: str | None = None,
    customer_id: int | None = None,
) -> models.LoginRequest | None:
    request = models.LoginRequest
    return db.execute(
        select(request)
        .where(
            col(request.browser_hash) == digest(browser),
            *_in(request, portal_id, purpose),
            *([] if customer_id is None else [col(request.customer_id) == customer_id]),
            col(request.created_at) > since,
        )
        .order_by(col(request.created_at).desc(), col(request.id).desc())
        .limit(1)
    ).scalar_one_or_none()


# The way in from the merchant's own app, which knows who is in front of it

FLOWS = ("update_payment_method", "cancel", "invoices")


def new_entry(
    db: Session,
    customer: models.Customer,
    key_id: int,
    now: datetime,
    flow: str | None = None,
    subscription_id: int | None = None,
    return_url: str | None = None,
) -> str:
    """The secret of a single-use link that opens a session of this customer, at a page of their own."""
    token = secrets.token_urlsafe(32)
    db.add(
        models.Entry(
            token_hash=digest(token),
            portal_id=customer.portal_id,
            customer_id=customer.id,
            purpose="app",
            flow=flow,
            subscription_id=subscription_id,
            return_url=return_url,
            created_by=key_id,
            created_at=now,
            expires_at=now + ENTRY_LIFE,
        )
    )
    return token


@dataclass(frozen=True, slots=True)
class EntryView:
    """What the page of an entry says before anything is done."""

    email: str  # never shown whole: `masked`
    return_url: str | None

    @property
    def masked(self) -> str:
        return masked(self.email)


def look_at_entry(db: Session, portal_id: int, token: str, now: datetime) -> EntryView | None:
    """Whose pages an entry opens; changes nothing. None where it is none of ours, used or over."""
    entry, customer = models.Entry, models.Customer
    found = db.execute(
        select(col(customer.email), col(entry.return_url))
        .join(
            entry,
            (col(entry.portal_id) == col(customer.portal_id)) & (col(entry.customer_id) == col(customer.id)),
        )
        .where(*_open_entry(portal_id, token, now))
    ).one_or_none()
    return EntryView(*found) if found else None


def redeem_entry(
    db: Session,
    portal_id: int,
    token: str,
    browser: str,
    user_agent: str,
    old_session: str | None,
    now: datetime,
) -> Redeemed | None:
    """Spend an entry by one conditional UPDATE and open its session in the same transaction."""
    entry = models.Entry
    spent = db.execute(
        update(entry)
        .where(*_open_entry(portal_id, token, now))
        .values(used_at=now)
        .returning(col(entry.customer_id), col(entry.flow), col(entry.subscription_id), col(entry.return_url))
    ).one_or_none()
    if spent is None:
        return None
    email = db.get_one(models.Customer, spent.customer_id).email
    opened = _open_session(
        db, portal_id, email, browser, user_agent, old_session, now, return_url=spent.return_url
    )
    return Redeemed(opened, _first_page(spent.flow, spent.subscription_id)) if opened else None


def _open_entry(portal_id: int, token: str, now: datetime) -> tuple[Any, ...]:
    entry = models.Entry
    return (
        col(entry.token_hash) == digest(token),
        col(entry.portal_id) == portal_id,
        col(entry.purpose) == "app",
        col(entry.used_at).is_(None),
        col(entry.expires_at) > now,
    )


def _first_page(flow: str | None, subscription_id: int | None) -> str:
    """Where the merchant's app wanted them to be."""
    if flow == "invoices":
        return "/customers/payments"
    if flow is not None and subscription_id is not None:
        return f"/customers/subscriptions/{id_text(subscription_id)}/{flow}"
    return HOME


# Sessions


def _open_session(
    db: Session,
    portal_id: int,
    email: str,
    browser: str,
    user_agent: str,
    old_session: str | None,
    now: datetime,
    return_url: str | None = None,
) -> str | None:
    customer = db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == portal_id, col(models.Customer.email) == email
        )
    ).scalar_one_or_none()
    if customer is None:
        return None
    # Who comes by a further address of theirs is the person it was joined with.
    person_id = sync.joined(db, portal_id, customer.id)
    joined_id = customer.id if person_id != customer.id else None
    customer = db.get_one(models.Customer, person_id)
    customer.seen_at = now
    if old_session:
        db.execute(delete(models.SignIn).where(col(models.SignIn.token_hash) == digest(old_session)))
    token = secrets.token_urlsafe(32)
    db.add(
        models.SignIn(
            token_hash=digest(token),
            portal_id=portal_id,
            customer_id=customer.id,
            joined_id=joined_id,
            return_url=return_url,
            user_agent=user_agent[:200],
            created_at=now,
            last_seen_at=now,
            expires_at=now + ABSOLUTE,
        )
    )
    _know_device(db, customer, browser, user_agent, now)
    # Once an hour at most the processors are asked how things stand, so that nobody reads yesterday's word for long.
    _queue(db, "look_at_customer", {"customer": customer.id}, now, f"look:{customer.id}:{now:%Y%m%d%H}")
    tally.count(db, portal_id, tally.SIGN_IN, now)
    outgoing.of_customer(db, "customer.signed_in", customer, now)
    return token


def _know_device(
    db: Session, customer: models.Customer, browser: str, user_agent: str, now: datetime
) -> None:
    """Remember the browser; the first sign-in from a further one is told by mail."""
    device = models.Device.__table__  # type: ignore[attr-defined]
    values = {
        "id": new_id(),
        "portal_id": customer.portal_id,
        "customer_id": customer.id,
        "browser_hash": digest(browser),
        "created_at": now,
        "seen_at": now,
    }
    if not sync.insert_once(db, device, values):
        this = device.c.customer_id == customer.id, device.c.browser_hash == values["browser_hash"]
        db.execute(update(device).where(*this).values(seen_at=now))
        return
    others = select(device.c.id).where(device.c.customer_id == customer.id, device.c.id != values["id"])
    if db.execute(others.limit(1)).first():
        payload = {
            "template": "new_device",
            "customer": customer.id,
            "at": now.isoformat(),
            "browser": browser_words(user_agent),
        }
        _queue(db, "mail", payload, now)


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
        _session.c.return_url,
    )
    .join(_customer, _customer.c.id == _session.c.customer_id)
    .where(
        _session.c.token_hash == bindparam("token_hash"),
        _session.c.portal_id == bindparam("portal"),
        _session.c.purpose == bindparam("purpose"),
    )
)


@dataclass(frozen=True, slots=True)
class Loaded:
    customer: SignedIn
    last_seen_at: datetime


def load_session(
    db: Session, portal_id: int, token: str, now: datetime, purpose: str = "customer"
) -> Loaded | None:
    """Who is signed in with this cookie, in this portal and still; or, for the purpose `view`, who is looked at."""
    given = {"token_hash": digest(token), "portal": portal_id, "purpose": purpose}
    row = db.execute(LOAD, given).one_or_none()
    if row is None or row.expires_at <= now or row.last_seen_at <= now - IDLE:
        return None
    viewer = purpose != "customer"
    who = SignedIn(row.customer_id, row.email, row.name, row.id, viewer, row.return_url)
    return Loaded(who, row.last_seen_at)


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


def end_session(db: Session, portal_id: int, customer: SignedIn, session_id: int | None = None) -> bool:
    """Sign out here, or in one other of the customer's own browsers; False where there is no such session."""
    row = models.SignIn
    ended = db.execute(
        delete(row)
        .where(
            col(row.portal_id) == portal_id,
            col(row.customer_id) == customer.id,
            col(row.id) == (customer.session_id if session_id is None else session_id),
        )
        .returning(col(row.id))
    ).first()
    return ended is not None


def end_all(db: Session, portal_id: int, customer_id: int) -> None:
    """Sign out everywhere."""
    row = models.SignIn
    db.execute(delete(row).where(col(row.portal_id) == portal_id, col(row.customer_id) == customer_id))


def forget_old(db: Session, now: datetime) -> None:
    """What no limit and no page looks at any more: sessions that have ended, asks and their links."""
    db.execute(delete(models.SignIn).where(col(models.SignIn.expires_at) <= now))
    db.execute(delete(models.LoginToken).where(col(models.LoginToken.expires_at) <= now - KEEP_ASKS))
    db.execute(delete(models.Entry).where(col(models.Entry.expires_at) <= now - KEEP_ASKS))
    linked = select(col(models.LoginToken.request_id))
    request = models.LoginRequest
    db.execute(
        delete(request).where(
            col(request.created_at) <= now - KEEP_ASKS - LINK_LIFE, col(request.id).not_in(linked)
        )
    )


# The guard

View = Callable[[Request], Awaitable[Response]]


def signed_in(view: View) -> View:
    """Only for customers who are signed in; anybody else goes to the form and comes back to where they were going."""

    @functools.wraps(view)
    async def guarded(request: Request) -> Response:
        if not await recognise(request):
            return _to_form(request)
        if request.state.customer.viewer and request.method not in ("GET", "HEAD"):
            raise HTTPException(403, _("You are looking as a customer. Nothing can be changed from here."))
        return await view(request)

    guarded.guard = ("customer",)  # type: ignore[attr-defined]
    return guarded


async def recognise(request: Request) -> bool:
    """Find out who asks, and note that they were here (seldom, and not for what a browser fetches ahead)."""
    settings: Settings = request.app.state.settings
    database = request.app.state.database
    now = clock.now()
    found: Loaded | None = None
    for name, purpose in ((view_cookie_name(settings), "view"), (cookie_name(settings), "customer")):
        token = request.cookies.get(name)
        if found is None and token and len(token) <= 200:
            found = await database.read(load_session, request.state.portal.id, token, now, purpose)
    if found is None:
        return False
    request.state.customer = found.customer
    if now - found.last_seen_at > SEEN_EVERY and "prefetch" not in request.headers.get("sec-purpose", ""):
        with contextlib.suppress(DBAPIError):  # what can be read is shown, also where nothing can be written
            await database.write(touch, found.customer.session_id, now)
    return True


def _to_form(request: Request) -> Response:
    url = f"/customers?next={quote(_aim(request), safe='/')}"
    if request.headers.get("HX-Request"):
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, 303)


def _aim(request: Request) -> str:
    """Where to go on after signing in: the page in front of the customer, else the address asked for, if it is one."""
    current = urlsplit(request.headers.get("HX-Current-URL", ""))
    if current.path:
        return safe_next(current.path + (f"?{current.query}" if current.query else ""))
    if request.method not in ("GET", "HEAD") and not is_page(request):
        return HOME
    return safe_next(request.url.path + (f"?{request.url.query}" if request.url.query else ""))


def is_page(request: Request) -> bool:
    """Whether the address of a POST draws a page when it is only opened."""
    opened = {**request.scope, "method": "GET"}
    return any(route.matches(opened)[0] is Match.FULL for route in request.app.routes)


_PAGE = re.compile(r"/customers(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+(\?[A-Za-z0-9_.~=&%+-]*)?")
_NO_AIM = ("login", "logout", "enter", "return", "leave", "static", "logo")


def safe_next(text: str) -> str:
    """A page of ours to go to after signing in: a plain path inside /customers/, else the orders."""
    if len(text) > 500 or not _PAGE.fullmatch(text):
        return HOME
    return HOME if text[11:].partition("?")[0].split("/")[0] in _NO_AIM else text


# Small things


def cookie_name(settings: Settings) -> str:
    return "__Host-portal" if settings.secure else "portal"


def view_cookie_name(settings: Settings) -> str:
    """The cookie of who looks as a customer; it goes before a customer's own."""
    return f"{cookie_name(settings)}-view"


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
    if browser and system:
        return _("{browser} on {system}").format(browser=browser, system=system)
    return browser or system
