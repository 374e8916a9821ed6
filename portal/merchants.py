"""The merchant's side: its people, their roles and sessions, invitations, and the record of every change.

Its sessions are of a purpose of their own, with a cookie of their own, on a host of their own: nothing of a customer's
opens anything here, and the other way round.
"""

import contextlib
import functools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import clock, login, models, walls
from portal.ids import new_id
from portal.jobs import enqueue
from portal.settings import Settings
from portal.texts import gettext as _

Role = Literal["viewer", "editor", "owner"]
ROLES: tuple[Role, ...] = ("viewer", "editor", "owner")
IDLE, ABSOLUTE = timedelta(hours=1), timedelta(hours=24)
SEEN_EVERY = timedelta(minutes=5)
FRESH = timedelta(minutes=10)  # for so long a proof of who they are opens keys and domains
SETUP_LIFE = timedelta(hours=1)
INVITATION_LIFE = timedelta(days=7)
HOME = "/settings"
SECOND = "/sign-in/second"
CONFIRM = "/settings/confirm"


@dataclass(frozen=True, slots=True)
class Person:
    """Who is signed in on the merchant's side, for which merchant, and what they may."""

    user_id: int
    email: str
    name: str | None
    merchant_id: int
    merchant: str
    role: Role
    session_id: int
    proved_at: datetime
    network: str = ""
    browser: str = ""
    others: tuple[tuple[int, str], ...] = field(default=())  # further merchants they belong to: id, name

    @property
    def called(self) -> str:
        return self.name or self.email

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


class Refused(Exception):
    """The wish cannot be taken; the sentence says why."""


# Sessions


def open_session(
    db: Session, user_id: int, merchant_id: int, agent: str, network: str, now: datetime, strong: bool = False
) -> str:
    """A new session; returns the secret for its cookie. `strong`: a second factor was given already."""
    token = secrets.token_urlsafe(32)
    user = db.get_one(models.User, user_id)
    asks_more = user.totp_confirmed_at is not None or _has_passkey(db, user_id)
    db.add(
        models.MerchantSession(
            token_hash=login.digest(token),
            user_id=user_id,
            merchant_id=merchant_id,
            user_agent=agent[:200],
            network=network[:60],
            second_factor="given" if strong else "wanted" if asks_more else "none",
            created_at=now,
            proved_at=now,
            last_seen_at=now,
            expires_at=now + ABSOLUTE,
        )
    )
    return token


def _has_passkey(db: Session, user_id: int) -> bool:
    found = db.execute(select(col(models.Passkey.id)).where(col(models.Passkey.user_id) == user_id).limit(1))
    return found.first() is not None


def sign_in(
    db: Session,
    email: str,
    agent: str,
    network: str,
    old_session: str | None,
    now: datetime,
    open_to_all: bool,
) -> str | None:
    """A session for who has just proved this address; None where it belongs to nobody here.

    Where the installation is open to all, whoever proves an address begins a merchant of their own.
    """
    user = db.execute(select(models.User).where(col(models.User.email) == email)).scalar_one_or_none()
    if user is None and open_to_all:
        user = begin(db, email, None, email.rpartition("@")[2], now)
    if user is None:
        return None
    merchant_id = newest_merchant(db, user.id)
    if merchant_id is None:
        return None
    if old_session:
        end_by_cookie(db, old_session)
    audit_by(db, merchant_id, user, "signed_in", network=network, browser=login.browser_words(agent), now=now)
    return open_session(db, user.id, merchant_id, agent, network, now)


def newest_merchant(db: Session, user_id: int) -> int | None:
    """The merchant that somebody joined last; None where they belong to none."""
    return db.execute(
        select(col(models.Member.merchant_id))
        .where(col(models.Member.user_id) == user_id)
        .order_by(col(models.Member.created_at).desc(), col(models.Member.id).desc())
        .limit(1)
    ).scalar_one_or_none()


def begin(db: Session, email: str, name: str | None, merchant: str, now: datetime) -> models.User:
    """A new merchant and its first owner."""
    user = _user(db, email, name, now)
    business = models.Merchant(name=merchant[:120], email=user.email)
    db.add(business)
    db.flush()
    db.add(models.Member(merchant_id=business.id, user_id=user.id, role="owner", created_at=now))
    db.flush()
    audit_by(db, business.id, user, "merchant.begun", subject=merchant, now=now)
    return user


def _user(db: Session, email: str, name: str | None, now: datetime) -> models.User:
    """The user of an address, made where there is none."""
    address = email.strip().lower()
    found = db.execute(select(models.User).where(col(models.User.email) == address)).scalar_one_or_none()
    if found is None:
        found = models.User(email=address, name=name or None, created_at=now)
        db.add(found)
        db.flush()
    elif name and not found.name:
        found.name = name
    return found


@dataclass(frozen=True, slots=True)
class Loaded:
    person: Person
    second_factor: str
    last_seen_at: datetime


def load_session(db: Session, token: str, now: datetime) -> Loaded | None:
    """Who is signed in with this cookie, still, and still a member."""
    row, user, member, merchant = models.MerchantSession, models.User, models.Member, models.Merchant
    found = db.execute(
        select(row, user, member, merchant)
        .join(user, col(user.id) == col(row.user_id))
        .join(
            member,
            (col(member.user_id) == col(row.user_id)) & (col(member.merchant_id) == col(row.merchant_id)),
        )
        .join(merchant, col(merchant.id) == col(row.merchant_id))
        .where(col(row.token_hash) == login.digest(token))
    ).one_or_none()
    if found is None:
        return None
    session, who, part, business = found
    if session.expires_at <= now or session.last_seen_at <= now - IDLE:
        return None
    others = db.execute(
        select(col(merchant.id), col(merchant.name))
        .join(member, col(member.merchant_id) == col(merchant.id))
        .where(col(member.user_id) == who.id, col(merchant.id) != business.id)
        .order_by(col(merchant.name))
        .limit(50)
    ).all()
    person = Person(
        user_id=who.id,
        email=who.email,
        name=who.name,
        merchant_id=business.id,
        merchant=business.name,
        role=_role(part.role),
        session_id=session.id,
        proved_at=session.proved_at,
        network=session.network,
        browser=login.browser_words(session.user_agent),
        others=tuple((row.id, row.name) for row in others),
    )
    return Loaded(person, session.second_factor, session.last_seen_at)


def _role(text: str) -> Role:
    """A role as it is kept; what is none may least."""
    return text if text in ROLES else "viewer"


def touch(db: Session, session_id: int, now: datetime) -> None:
    row = models.MerchantSession
    db.execute(update(row).where(col(row.id) == session_id).values(last_seen_at=now))


def prove(db: Session, session_id: int, now: datetime, second: bool = False) -> None:
    """They have just shown again who they are; `second`: by the second factor that was still wanted."""
    row = models.MerchantSession
    values: dict[str, Any] = {"proved_at": now, **({"second_factor": "given"} if second else {})}
    db.execute(update(row).where(col(row.id) == session_id).values(**values))


def switch(db: Session, person: Person, merchant_id: int) -> bool:
    """Go on in another merchant one belongs to; False where one does not."""
    member = models.Member
    found = db.execute(
        select(col(member.id)).where(
            col(member.user_id) == person.user_id, col(member.merchant_id) == merchant_id
        )
    ).first()
    if found is None:
        return False
    row = models.MerchantSession
    db.execute(update(row).where(col(row.id) == person.session_id).values(merchant_id=merchant_id))
    return True


def end_by_cookie(db: Session, token: str) -> None:
    row = models.MerchantSession
    db.execute(delete(row).where(col(row.token_hash) == login.digest(token)))


def end_session(db: Session, person: Person, session_id: int) -> bool:
    """Sign out one of one's own browsers."""
    row = models.MerchantSession
    ended = db.execute(
        delete(row)
        .where(col(row.user_id) == person.user_id, col(row.id) == session_id)
        .returning(col(row.id))
    ).first()
    return ended is not None


def end_all(db: Session, user_id: int, but: int | None = None) -> None:
    row = models.MerchantSession
    kept = [] if but is None else [col(row.id) != but]
    db.execute(delete(row).where(col(row.user_id) == user_id, *kept))


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: int
    browser: str
    network: str
    created_at: datetime
    last_seen_at: datetime
    current: bool


def own_sessions(db: Session, person: Person, now: datetime) -> list[SessionRow]:
    row = models.MerchantSession
    found = db.execute(
        select(row)
        .where(
            col(row.user_id) == person.user_id,
            col(row.expires_at) > now,
            col(row.last_seen_at) > now - IDLE,
        )
        .order_by(col(row.created_at).desc())
        .limit(50)
    ).scalars()
    return [
        SessionRow(
            one.id,
            login.browser_words(one.user_agent),
            one.network,
            one.created_at,
            one.last_seen_at,
            one.id == person.session_id,
        )
        for one in found
    ]


def forget_old(db: Session, now: datetime) -> None:
    """Sessions that have ended, and links that nobody took."""
    db.execute(delete(models.MerchantSession).where(col(models.MerchantSession.expires_at) <= now))
    old = models.Invitation
    db.execute(delete(old).where(col(old.expires_at) <= now - timedelta(days=30)))


# The first start, and invitations


def is_empty(db: Session) -> bool:
    """Whether nobody can sign in on the merchant's side yet."""
    return db.execute(select(col(models.Member.id)).limit(1)).first() is None


def new_setup(db: Session, now: datetime, email: str | None = None) -> str:
    """A one-time link's secret for whoever begins a merchant of their own; earlier ones stop working."""
    row = models.Invitation
    db.execute(
        update(row)
        .where(col(row.merchant_id).is_(None), col(row.invited_by).is_(None), col(row.used_at).is_(None))
        .values(expires_at=now)
    )
    token = secrets.token_urlsafe(32)
    db.add(
        row(
            token_hash=login.digest(token),
            email=email,
            role="owner",
            created_at=now,
            expires_at=now + SETUP_LIFE,
        )
    )
    return token


def invite(
    db: Session, person: Person, email: str, role: Role, now: datetime, own_merchant: bool = True
) -> int:
    """Ask somebody in, by a mail whose link the worker makes. `own_merchant` False: to begin one of their own."""
    address = email.strip().lower()
    if own_merchant and _is_member(db, person.merchant_id, address):
        raise Refused(_("{email} belongs to this already.").format(email=address))
    row = models.Invitation
    db.execute(
        update(row)
        .where(
            col(row.merchant_id) == person.merchant_id, col(row.email) == address, col(row.used_at).is_(None)
        )
        .values(expires_at=now)
    )
    asked = row(
        token_hash=login.digest(secrets.token_urlsafe(32)),  # of nothing: the worker makes the link
        merchant_id=person.merchant_id if own_merchant else None,
        email=address,
        role=role,
        invited_by=person.user_id,
        created_at=now,
        expires_at=now + INVITATION_LIFE,
    )
    db.add(asked)
    db.flush()
    enqueue(db, "mail", {"template": "invitation", "invitation": asked.id}, now, f"invitation:{asked.id}")
    audit(db, person, "person.invited", subject=address, after={"role": role})
    return asked.id


def _is_user(db: Session, email: str) -> bool:
    found = db.execute(select(col(models.User.id)).where(col(models.User.email) == email))
    return found.first() is not None


def _is_member(db: Session, merchant_id: int, email: str) -> bool:
    found = db.execute(
        select(col(models.Member.id))
        .join(models.User, col(models.User.id) == col(models.Member.user_id))
        .where(col(models.Member.merchant_id) == merchant_id, col(models.User.email) == email)
    )
    return found.first() is not None


def invitation_link(db: Session, invitation_id: int, now: datetime) -> tuple[models.Invitation, str] | None:
    """For the worker, when it writes the mail: the invitation with a fresh secret; None where it is over."""
    row = db.get(models.Invitation, invitation_id)
    if row is None or row.used_at is not None or row.expires_at <= now:
        return None
    token = secrets.token_urlsafe(32)
    row.token_hash = login.digest(token)
    return row, token


@dataclass(frozen=True, slots=True)
class Invited:
    """What the page of an invitation says. `merchant` None: they begin one of their own."""

    email: str | None
    role: str
    merchant: str | None
    known: bool  # somebody of this address is here already


def look_at_invitation(db: Session, token: str, now: datetime) -> Invited | None:
    """None where the link is none of ours, used or over; changes nothing."""
    row = db.execute(
        select(models.Invitation).where(col(models.Invitation.token_hash) == login.digest(token))
    ).scalar_one_or_none()
    if row is None or row.used_at is not None or row.expires_at <= now:
        return None
    merchant = db.get_one(models.Merchant, row.merchant_id).name if row.merchant_id else None
    known = row.email is not None and _is_user(db, row.email)
    return Invited(row.email, row.role, merchant, known)


def take_invitation(
    db: Session,
    token: str,
    email: str,
    name: str,
    merchant: str,
    agent: str,
    network: str,
    now: datetime,
) -> str | None:
    """Spend a link by one conditional UPDATE and open a session; None where it was no longer good.

    `email` and `merchant` count only where the link does not say them: it was shown on the terminal of the machine, so
    who holds it may enter without a mail. Refused where somebody is here under that address already: the link would
    let its holder in as them.
    """
    row = models.Invitation
    spent = db.execute(
        update(row)
        .where(
            col(row.token_hash) == login.digest(token), col(row.used_at).is_(None), col(row.expires_at) > now
        )
        .values(used_at=now)
        .returning(col(row.merchant_id), col(row.email), col(row.role))
    ).one_or_none()
    if spent is None:
        return None
    address = spent.email or email.strip().lower()
    if spent.email is None and _is_user(db, address):
        raise Refused(_("Somebody signs in here with this address already. Use another one, or sign in."))
    if spent.merchant_id is None:
        user = begin(db, address, name, merchant, now)
        merchant_id = newest_merchant(db, user.id)
        assert merchant_id is not None
    else:
        user, merchant_id = _user(db, address, name, now), spent.merchant_id
        if not _is_member(db, merchant_id, address):
            db.add(models.Member(merchant_id=merchant_id, user_id=user.id, role=spent.role, created_at=now))
            db.flush()
        audit_by(db, merchant_id, user, "person.joined", after={"role": spent.role}, now=now)
    return open_session(db, user.id, merchant_id, agent, network, now)


# People


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: int  # of the membership
    email: str
    name: str | None
    role: str
    since: datetime
    strong: bool  # has a second factor
    is_me: bool


@dataclass(frozen=True, slots=True)
class OpenInvitation:
    id: int
    email: str | None
    role: str
    expires_at: datetime


def people(db: Session, person: Person) -> list[PersonRow]:
    member, user = models.Member, models.User
    keys = select(col(models.Passkey.user_id))
    found = db.execute(
        select(member, user, col(user.id).in_(keys).label("keyed"))
        .join(user, col(user.id) == col(member.user_id))
        .where(col(member.merchant_id) == person.merchant_id)
        .order_by(col(member.id))
        .limit(200)
    ).all()
    return [
        PersonRow(
            part.id,
            who.email,
            who.name,
            part.role,
            part.created_at,
            bool(keyed) or who.totp_confirmed_at is not None,
            who.id == person.user_id,
        )
        for part, who, keyed in found
    ]


def open_invitations(db: Session, person: Person, now: datetime) -> list[OpenInvitation]:
    row = models.Invitation
    found = db.execute(
        select(row)
        .where(
            col(row.merchant_id) == person.merchant_id, col(row.used_at).is_(None), col(row.expires_at) > now
        )
        .order_by(col(row.id).desc())
        .limit(100)
    ).scalars()
    return [OpenInvitation(one.id, one.email, one.role, one.expires_at) for one in found]


def withdraw_invitation(db: Session, person: Person, invitation_id: int, now: datetime) -> bool:
    row = models.Invitation
    ended = db.execute(
        update(row)
        .where(
            col(row.id) == invitation_id,
            col(row.merchant_id) == person.merchant_id,
            col(row.used_at).is_(None),
        )
        .values(expires_at=now)
        .returning(col(row.email))
    ).one_or_none()
    if ended is None:
        return False
    audit(db, person, "invitation.withdrawn", subject=ended.email)
    return True


def change_role(db: Session, person: Person, member_id: int, role: Role) -> None:
    """Give somebody another role. LookupError where there is no such member; the last owner stays one."""
    part, who = _member(db, person, member_id)
    if part.role == role:
        return
    _keep_an_owner(db, part, role)
    audit(db, person, "person.role", subject=who.email, before={"role": part.role}, after={"role": role})
    part.role = role


def remove(db: Session, person: Person, member_id: int) -> None:
    """Take somebody out; their sessions here end at once."""
    part, who = _member(db, person, member_id)
    _keep_an_owner(db, part, None)
    row = models.MerchantSession
    db.execute(delete(row).where(col(row.user_id) == part.user_id, col(row.merchant_id) == part.merchant_id))
    audit(db, person, "person.removed", subject=who.email, before={"role": part.role})
    db.delete(part)


def _member(db: Session, person: Person, member_id: int) -> tuple[models.Member, models.User]:
    member, user = models.Member, models.User
    found = db.execute(
        select(member, user)
        .join(user, col(user.id) == col(member.user_id))
        .where(col(member.id) == member_id, col(member.merchant_id) == person.merchant_id)
    ).one_or_none()
    if found is None:
        raise LookupError(member_id)
    return found[0], found[1]


def _keep_an_owner(db: Session, part: models.Member, role: Role | None) -> None:
    """Refuse what would leave a merchant without an owner. Owners are locked: two may leave at once."""
    if part.role != "owner" or role == "owner":
        return
    member = models.Member
    owners = db.execute(
        select(col(member.id))
        .where(col(member.merchant_id) == part.merchant_id, col(member.role) == "owner")
        .with_for_update()
    ).all()
    if len(owners) < 2:
        raise Refused(_("Somebody has to be the owner. Make another person an owner first."))


def rename_merchant(db: Session, person: Person, name: str) -> None:
    row = db.get_one(models.Merchant, person.merchant_id)
    if row.name != name:
        audit(db, person, "merchant.renamed", before={"name": row.name}, after={"name": name})
        row.name = name


# The record of changes


def audit(
    db: Session,
    person: Person,
    what: str,
    subject: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    portal_id: int | None = None,
) -> None:
    """Write down a change, in its transaction. Nothing secret may stand in `before` and `after`."""
    db.add(
        models.Audit(
            id=new_id(),
            merchant_id=person.merchant_id,
            portal_id=portal_id,
            user_id=person.user_id,
            who=person.email,
            what=what,
            subject=subject,
            before=dict(before) if before is not None else None,
            after=dict(after) if after is not None else None,
            network=person.network,
            browser=person.browser,
            at=clock.now(),
        )
    )


def audit_by(
    db: Session,
    merchant_id: int,
    user: models.User | None,
    what: str,
    subject: str | None = None,
    after: Mapping[str, Any] | None = None,
    network: str = "",
    browser: str = "",
    now: datetime | None = None,
    portal_id: int | None = None,
) -> None:
    """The same without a session: at the door, on the command line (`user` None), by the worker."""
    with walls.more(merchant_id):
        db.add(
            models.Audit(
                id=new_id(),
                merchant_id=merchant_id,
                portal_id=portal_id,
                user_id=user.id if user else None,
                who=user.email if user else "command line",
                what=what,
                subject=subject,
                after=dict(after) if after is not None else None,
                network=network,
                browser=browser,
                at=now or clock.now(),
            )
        )
        db.flush()


AUDIT_PAGE = 50


@dataclass(frozen=True, slots=True)
class AuditPage:
    rows: tuple[models.Audit, ...]
    older: int | None


def audit_page(db: Session, person: Person, before: int | None) -> AuditPage:
    """The merchant's changes, newest first."""
    row = models.Audit
    older = [] if before is None else [col(row.id) < before]
    found = list(
        db.execute(
            select(row)
            .where(col(row.merchant_id) == person.merchant_id, *older)
            .order_by(col(row.id).desc())
            .limit(AUDIT_PAGE + 1)
        ).scalars()
    )
    more = len(found) > AUDIT_PAGE
    return AuditPage(tuple(found[:AUDIT_PAGE]), found[AUDIT_PAGE - 1].id if more else None)


def changes_since(db: Session, portal_id: int, what: str, version_at: datetime) -> list[models.Audit]:
    """What others changed of a portal since a moment, newest first: for who saves later."""
    row = models.Audit
    return list(
        db.execute(
            select(row)
            .where(col(row.portal_id) == portal_id, col(row.what) == what, col(row.at) >= version_at)
            .order_by(col(row.id).desc())
            .limit(10)
        ).scalars()
    )


# Portals of a merchant


@dataclass(frozen=True, slots=True)
class PortalRow:
    id: int
    name: str
    slug: str
    domain: str | None
    enabled: bool
    accounts: int
    customers: int


def portals(db: Session, merchant_id: int) -> list[PortalRow]:
    row = models.Portal
    accounts = (
        select(func.count())
        .where(col(models.Account.portal_id) == col(row.id), col(models.Account.disconnected_at).is_(None))
        .scalar_subquery()
    )
    customers = select(func.count()).where(col(models.Customer.portal_id) == col(row.id)).scalar_subquery()
    found = db.execute(
        select(
            col(row.id),
            col(row.name),
            col(row.slug),
            # One whose proof is lost is in no link any more.
            case((col(row.domain_until).is_(None), col(row.domain))),
            col(row.enabled),
            accounts,
            customers,
        )
        .where(col(row.merchant_id) == merchant_id)
        .order_by(col(row.id))
        .limit(200)
    ).all()
    return [PortalRow(*one) for one in found]


def portal_of(db: Session, merchant_id: int, portal_id: int) -> models.Portal | None:
    """A portal, found through its merchant: a stranger's is not found."""
    return db.execute(
        select(models.Portal).where(
            col(models.Portal.id) == portal_id, col(models.Portal.merchant_id) == merchant_id
        )
    ).scalar_one_or_none()


def portal_ids(db: Session, merchant_id: int) -> list[int]:
    row = models.Portal
    return list(db.execute(select(col(row.id)).where(col(row.merchant_id) == merchant_id)).scalars())


# The guards

View = Callable[[Request], Awaitable[Response]]


def may(role: Role, fresh: bool = False) -> Callable[[View], View]:
    """Only for people of a merchant with at least this role; `fresh`: who have proved themselves of late."""

    def guard(view: View) -> View:
        @functools.wraps(view)
        async def guarded(request: Request) -> Response:
            turned_away = await _admit(request, role, fresh)
            if turned_away is not None:
                return turned_away
            merchant_id = request.state.person.merchant_id
            with walls.wide("membership"):
                theirs = await request.app.state.database.read(portal_ids, merchant_id)
            walls.narrow(also=(walls.INSTALLATION, merchant_id, *theirs))  # at home in none of them
            return await view(request)

        guarded.guard = ("merchant", role, fresh)  # type: ignore[attr-defined]
        return guarded

    return guard


def in_portal(role: Role, fresh: bool = False) -> Callable[[View], View]:
    """`may`, and the portal of the address is one of that merchant's."""

    def guard(view: View) -> View:
        @functools.wraps(view)
        async def guarded(request: Request) -> Response:
            turned_away = await _admit(request, "viewer", False)
            if turned_away is not None:
                return turned_away
            # First whether it is theirs at all: a stranger does not learn by a 403 that it exists.
            merchant_id = request.state.person.merchant_id
            with walls.wide("membership"):
                site = await request.app.state.database.read(
                    portal_of, merchant_id, request.path_params["portal_id"]
                )
            if site is None:
                raise HTTPException(404)
            request.state.site = site
            walls.narrow(site.id, also=(walls.INSTALLATION, merchant_id))
            turned_away = _check(request, role, fresh)
            return await view(request) if turned_away is None else turned_away

        guarded.guard = ("portal", role, fresh)  # type: ignore[attr-defined]
        return guarded

    return guard


async def _admit(request: Request, role: Role, fresh: bool) -> Response | None:
    loaded = await recognise(request)
    if loaded is None:
        return go(request, f"/sign-in?next={quote(aim(request), safe='/')}")
    if loaded.second_factor == "wanted":
        return go(request, f"{SECOND}?next={quote(aim(request), safe='/')}")
    return _check(request, role, fresh)


def _check(request: Request, role: Role, fresh: bool) -> Response | None:
    person: Person = request.state.person
    if not person.may(role):
        raise HTTPException(
            403,
            _("Your role does not allow this. Ask an owner of {merchant}.").format(merchant=person.merchant),
        )
    if fresh and clock.now() - person.proved_at > FRESH:
        return go(request, f"{CONFIRM}?next={quote(aim(request), safe='/')}")
    return None


async def recognise(request: Request) -> Loaded | None:
    """Find out who asks, and note that they were here."""
    token = request.cookies.get(cookie_name(request.app.state.settings))
    if not token or len(token) > 200:
        return None
    database, now = request.app.state.database, clock.now()
    found: Loaded | None = await database.read(load_session, token, now)
    if found is None:
        return None
    request.state.person = found.person
    if now - found.last_seen_at > SEEN_EVERY and "prefetch" not in request.headers.get("sec-purpose", ""):
        with contextlib.suppress(DBAPIError):  # what can be read is shown, also where nothing can be written
            await database.write(touch, found.person.session_id, now)
    return found


def go(request: Request, url: str) -> Response:
    if request.headers.get("HX-Request"):
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, 303)


def aim(request: Request) -> str:
    """Where to go on afterwards: the page in front of them, else the address asked for, if it can be opened."""
    current = request.headers.get("HX-Current-URL", "").partition("://")[2]
    if current:
        return safe_next("/" + current.partition("/")[2])
    if request.method not in ("GET", "HEAD") and not login.is_page(request):
        return HOME
    return safe_next(request.url.path + (f"?{request.url.query}" if request.url.query else ""))


_PAGE = re.compile(r"/settings(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*(\?[A-Za-z0-9_.~=&%+@-]*)?")


def safe_next(text: str) -> str:
    """A page of the settings, else their first one."""
    if len(text) > 500 or not _PAGE.fullmatch(text) or text.startswith(CONFIRM):
        return HOME
    return text


def cookie_name(settings: Settings) -> str:
    return "__Host-portal-merchant" if settings.secure else "portal-merchant"


def browser_cookie_name(settings: Settings) -> str:
    return f"{cookie_name(settings)}-browser"
