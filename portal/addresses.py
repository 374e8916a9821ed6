"""Further addresses that a person adds themselves: one mail to the address with a link and a code, and whoever has it
shows that the mailbox is theirs. The ask looks nobody up; the page says the same whether anybody bought with it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import finding, login, models, people
from portal.gateways.capabilities import is_placeholder
from portal.ids import new_id
from portal.jobs import enqueue
from portal.login import ADDRESS, LINK_LIFE, LinkView, SignedIn, Spent, Trouble, WrongCode, digest
from portal.texts import gettext as _

FRESH = timedelta(minutes=15)  # a stolen session is not to open itself a door that stays
ASKS_A_DAY = 5  # of one customer
MAILS_A_DAY = 3  # to one address
MOST = 20  # further addresses of one person


@dataclass(frozen=True, slots=True)
class Page:
    """What "Your addresses" shows. `asked`: the last ask of this browser, while its code is good."""

    further: tuple[people.Address, ...]
    asked: login.Ask | None
    is_fresh: bool


def page(db: Session, portal_id: int, customer: SignedIn, browser: str | None, now: datetime) -> Page:
    found = people.addresses(db, portal_id, customer.id)
    proved = tuple(one for one in found.further if one.proved_at is not None)
    asked = None
    if browser is not None:
        asked = login.newest_ask(db, portal_id, browser, now, ADDRESS, customer.id)
    if asked is not None and any(one.email == asked.address for one in proved):
        asked = None  # proved meanwhile, perhaps by the link in another browser
    return Page(proved, asked, is_fresh(db, customer, now))


def is_fresh(db: Session, customer: SignedIn, now: datetime) -> bool:
    """Whether somebody proved a moment ago that they read this person's mail."""
    row = models.SignIn
    since = db.execute(
        select(col(row.created_at)).where(col(row.id) == customer.session_id, col(row.return_url).is_(None))
    ).scalar_one_or_none()
    return since is not None and since > now - FRESH


def ask(
    db: Session,
    portal_id: int,
    customer: SignedIn,
    email: str,
    browser: str,
    user_agent: str,
    network: str,
    now: datetime,
) -> None:
    """Write down that somebody wants to add an address. The same statements whoever's it is; the worker finds out."""
    row = models.LoginRequest(
        id=new_id(),
        portal_id=portal_id,
        purpose=ADDRESS,
        email=email[:254].strip().lower(),
        customer_id=customer.id,
        browser_hash=digest(browser),
        user_agent=user_agent[:200],
        network=network[:60],
        next_path="/customers/addresses",
        typed=True,
        created_at=now,
        expires_at=now + LINK_LIFE,
    )
    db.add(row)
    db.flush()
    enqueue(db, "mail", {"template": "address_asked", "ask": row.id}, now, None)


def prepare_mail(db: Session, ask_id: int, secret: str, now: datetime) -> login.Prepared | None:
    """Decide whether an ask gets a mail, and make its link and code. For the worker alone."""
    asked = db.get(models.LoginRequest, ask_id)
    if asked is None or asked.purpose != ADDRESS or asked.portal_id is None or asked.expires_at <= now:
        return None
    row = models.Customer
    known = db.execute(
        select(row)
        .where(col(row.portal_id) == asked.portal_id, col(row.email) == asked.email)
        .with_for_update()
    ).scalar_one_or_none()
    if is_placeholder(asked.email) or login.over_limit(db, asked) or _over_limit(db, asked):
        return None
    if known is None:
        finding.want(db, asked, "mail", {"template": "address_asked", "ask": asked.id}, now)
        return None
    if known.id == asked.customer_id:
        return None
    return login.new_proof(db, asked, known.email, secret, now)


def _over_limit(db: Session, asked: models.LoginRequest) -> bool:
    row = models.LoginRequest

    def count(*where: Any) -> int:
        wanted = (
            col(row.portal_id) == asked.portal_id,
            col(row.purpose) == ADDRESS,
            col(row.id) != asked.id,
            col(row.created_at) > asked.created_at - timedelta(days=1),
            col(row.created_at) <= asked.created_at,
        )
        return db.execute(select(func.count()).where(*wanted, *where)).scalar_one()

    sent = count(col(row.email) == asked.email, col(row.mailed_at).is_not(None))
    return sent >= MAILS_A_DAY or count(col(row.customer_id) == asked.customer_id) >= ASKS_A_DAY


# The proof


@dataclass(frozen=True, slots=True)
class NotJoined:
    """The mailbox is proved, and still the two cannot be one person."""

    why: str


def prove_by_code(
    db: Session,
    portal_id: int,
    customer: SignedIn,
    code: str,
    browser: str | None,
    secret: str,
    now: datetime,
) -> Spent | WrongCode | NotJoined:
    """The code from the mail, typed where it was asked for, by who asked for it."""
    spent = login.spend_code(db, portal_id, code, browser, secret, now, ADDRESS, customer.id)
    return _join(db, portal_id, spent, now) if isinstance(spent, Spent) else spent


@dataclass(frozen=True, slots=True)
class Question:
    """What the page of a link asks."""

    address: str
    other: str
    asked_at: datetime
    browser: str


def question(db: Session, portal_id: int, token: str, now: datetime) -> Question | Trouble:
    """What a link asks, or what is wrong with it; changes nothing."""
    found = login.look_at_link(db, portal_id, token, None, now, ADDRESS)
    if not isinstance(found, LinkView):
        return found
    other = db.get(models.Customer, found.customer_id) if found.customer_id else None
    if other is None:
        return "unknown"
    return Question(found.email, other.email, found.asked_at, login.browser_words(found.user_agent))


def prove_by_link(db: Session, portal_id: int, token: str, now: datetime) -> Spent | Trouble | NotJoined:
    """The link from the mail, in any browser: who opens it reads mail there, and has pressed the button."""
    spent = login.spend_link(db, portal_id, token, now, ADDRESS)
    return _join(db, portal_id, spent, now) if isinstance(spent, Spent) else spent


def _join(db: Session, portal_id: int, spent: Spent, now: datetime) -> Spent | NotJoined:
    row = models.Customer
    here = col(row.portal_id) == portal_id
    second_id = db.execute(
        select(col(row.id)).where(here, col(row.email) == spent.email)
    ).scalar_one_or_none()
    asker_id = db.execute(
        select(col(row.id)).where(here, col(row.id) == spent.customer_id)
    ).scalar_one_or_none()
    if second_id is None or asker_id is None or second_id == asker_id:
        return NotJoined(_("One of the two addresses is not kept here any more. Nothing has changed."))
    second, into = people.both_locked(db, second_id, asker_id)
    if len(people.addresses(db, portal_id, into.id).further) >= MOST:
        return NotJoined(_("There are {n} further addresses already. Remove one first.").format(n=MOST))
    why = people.join(db, portal_id, second, into, now)
    return NotJoined(why) if why else spent
