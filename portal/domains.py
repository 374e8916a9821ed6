"""Domains of the merchants' own: which names can be claimed, and from a claim to a name that is served.

A claim reserves nothing. It becomes `portal.domain` once its TXT record is seen and the name leads to us; from then on
it is looked at again and again. Where the proof goes, no more links are mailed with the name, and after three days it
is not served any more.
"""

import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Literal

import idna
from publicsuffixlist import PublicSuffixList
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, lookups, models, walls
from portal.db import Database
from portal.ids import new_id
from portal.jobs import enqueue
from portal.lookups import Look, Problem, domain, look, proof_name, proof_value
from portal.settings import LOCAL, Settings
from portal.texts import gettext as _

__all__ = [
    "BadName",
    "Look",
    "Problem",
    "claim",
    "look",
    "normalized",
    "proof_name",
    "proof_value",
    "release",
]

HELD = ("proved", "lost")  # states in which a name stands in `portal.domain`
ONCE_IN = timedelta(seconds=10)  # looks asked for by hand
FIRST_HOUR, FIRST_DAY, FIRST_WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
AGAIN = timedelta(days=1)  # a proved name
AGAIN_SOON = timedelta(hours=1)  # one that is not as it should be
SILENCE = timedelta(hours=24)  # without any answer counts as lost
GRACE = timedelta(hours=72)  # a lost name is served so long


# Names


class BadName(Exception):
    """The name cannot be claimed; the sentence says why, and what to enter instead."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):/{1,2}", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MOST = 253 - len(lookups.PROOF) - 1  # the proof stands before the name, and has to fit too
_NEVER = frozenset({"arpa", "onion", "alt", "invalid"})


def normalized(text: str, settings: Settings) -> str:
    """The name in a text, lower case, in A-labels; BadName where it cannot be a merchant's own.

    An address with nothing but a scheme and a slash around the name is taken for the name.
    """
    name = _ascii(_bare(text.strip()))
    _refuse_shape(name)
    _refuse_ours(name, settings)
    _refuse_reserved(name, settings)
    return name


def is_as_typed(text: str, name: str) -> bool:
    """Whether somebody typed the name itself, give or take capitals, its dot at the end and its way of writing."""
    typed = text.strip().rstrip(".").lower()
    return typed in (name, readable(name))


def readable(name: str) -> str:
    """The name as people write it: münchen.example for xn--mnchen-3ya.example."""
    try:
        return idna.decode(name)
    except idna.IDNAError:
        return name


def is_apex(name: str) -> bool:
    """Whether it is a registered domain itself, where no CNAME can stand."""
    return domain(name) == name


def _bare(text: str) -> str:
    """A name without what people copy along with it."""
    if not text:
        raise BadName(_("Enter a name, such as account.example.com."))
    if len(text) > 2000:
        raise BadName(_("This is too long for a name."))
    scheme = _SCHEME.match(text)
    if scheme:
        if scheme[1].lower() not in ("http", "https"):
            raise BadName(_("Enter the name alone, without “{scheme}”.").format(scheme=scheme[0]))
        text = text[scheme.end() :]
    text = text.removesuffix("/")
    if any(c.isspace() or unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        raise BadName(_("A name has no spaces. Enter one name alone, such as account.example.com."))
    if "@" in text:
        raise BadName(
            _("This is an e-mail address, or has a user in it. Enter only what stands after the “@”.")
        )
    if any(c in text for c in "/?#\\"):
        raise BadName(_("Enter the name alone, without the path after it."))
    if text.startswith("[") or text.count(":") > 1:
        raise BadName(_address_words())
    if ":" in text:
        port = text[text.index(":") :]
        raise BadName(_("Enter the name alone, without the port after it (“{port}”).").format(port=port))
    if "*" in text:
        raise BadName(_("A name with “*” stands for many. Enter one name, such as account.example.com."))
    return text


def _address_words() -> str:
    return _("This is an IP address. Customers come by a name, such as account.example.com.")


def _ascii(text: str) -> str:
    """By UTS 46 and IDNA 2008, label by label, so that it can be said which one is wrong."""
    text = re.sub("[。．｡]", ".", text)
    text = text.removesuffix(".")
    if not text:
        raise BadName(_("Enter a name, such as account.example.com."))
    try:
        mapped = idna.uts46_remap(text, std3_rules=False, transitional=False)
    except idna.IDNAError as error:
        raise BadName(_("There is a sign in this that no name has.")) from error
    labels = mapped.split(".")
    if not all(labels):
        raise BadName(_("There is a dot too many: nothing stands before, after or between two of them."))
    if _NUMBER.fullmatch(labels[-1]):
        raise BadName(_address_words())
    return ".".join(_label(label) for label in labels)


def _label(label: str) -> str:
    _refuse_mixed(label)
    try:
        found = idna.encode(label, std3_rules=True).decode()
    except idna.IDNAError as error:
        raise BadName(_label_words(label)) from error
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found):
        raise BadName(_label_words(label))
    if found.startswith("xn--"):
        _refuse_mixed(readable(found))
    return found


def _label_words(label: str) -> str:
    if len(label) > 63:
        return _("“{part}…” is too long: a part between two dots has at most 63 signs.").format(
            part=label[:20]
        )
    if "_" in label:
        return _("“{part}” has an underscore. The name of a site has letters, digits and hyphens.").format(
            part=label
        )
    return _("“{part}” can't be part of a name: letters, digits, and hyphens between them.").format(
        part=label
    )


# Scripts that are written together; all else is one script to a label.
_TOGETHER = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
)


def _refuse_mixed(label: str) -> None:
    """No label of two scripts: that is how a name is made to look like another one."""
    scripts = {
        unicodedata.name(c, "UNKNOWN").split(" ")[0]
        for c in label
        if not c.isascii() and unicodedata.category(c)[0] == "L"
    }
    if any(c.isascii() and c.isalpha() for c in label):
        scripts.add("LATIN")
    if len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER):
        words = _(
            "“{part}” mixes letters of several scripts, so it can look like another name. Use one script."
        )
        raise BadName(words.format(part=label))


def _refuse_shape(name: str) -> None:
    labels = name.split(".")
    if len(labels) == 1 and name not in LOCAL:
        raise BadName(
            _("“{name}” is one word. A name has a dot in it, such as account.example.com.").format(name=name)
        )
    if len(name) > _MOST:
        raise BadName(_("This is too long: a name has at most {most} signs.").format(most=_MOST))


def _refuse_ours(name: str, settings: Settings) -> None:
    """The installation's own names, and those it gives to portals, are nobody's to claim."""
    ours = {settings.base_domain, settings.admin_host, settings.cname_target} - {""}
    for own in ours:
        below = name.removesuffix(f".{own}") if name.endswith(f".{own}") else None
        # Where all is tried out under one word, names two steps below it stand for merchants' own.
        deep = below is not None and "." in below and own in LOCAL and settings.takes_local_names
        if name == own or (below is not None and not deep):
            raise BadName(
                _("{name} belongs to this installation. Enter a name of a domain of your own.").format(
                    name=name
                )
            )


def _refuse_reserved(name: str, settings: Settings) -> None:
    last = name.rpartition(".")[2]
    if last in _NEVER or (_is_local(name) and (name in LOCAL or not settings.takes_local_names)):
        words = _(
            "Names that end in “.{last}” are not reached from everywhere. Enter one of a registered domain."
        )
        raise BadName(words.format(last=last))
    if _suffixes().is_public(name):
        words = _("Under {name} many register domains of theirs. Enter your own one below it.")
        raise BadName(words.format(name=readable(name)))


def _is_local(name: str) -> bool:
    return name.rpartition(".")[2] in LOCAL


@cache
def _suffixes() -> PublicSuffixList:
    """All public suffixes, those of hosting companies too."""
    return PublicSuffixList()


# Claims


def claim(db: Session, portal_id: int, name: str, now: datetime) -> models.DomainClaim:
    """Claim a name for a portal, in place of what it claimed before. Nobody else is kept from it by that.

    The value that proves it is new each time, so that what once stood in the DNS proves nothing for a later claim.
    """
    portal = _hold(db, portal_id)
    old = _claim_of(db, portal_id)
    if old is not None and old.name == name and old.state != "released":
        return old
    first = now
    if old is not None:
        if old.checked_at is not None:
            first = max(now, old.checked_at + ONCE_IN)
        _let_go(portal, old)
        db.delete(old)
        db.flush()
    found = models.DomainClaim(
        id=new_id(),
        portal_id=portal_id,
        name=name,
        token=secrets.token_hex(12),
        created_at=now,
        next_check_at=first,
    )
    db.add(found)
    db.flush()
    _look_at(db, found.id, first)
    return found


def release(db: Session, portal_id: int, now: datetime) -> models.DomainClaim | None:
    """Let the name go: it is not served from now on, and only a new proof brings it back."""
    portal = _hold(db, portal_id)
    found = _claim_of(db, portal_id)
    if found is None or found.state == "released":
        return None
    _let_go(portal, found)
    found.state, found.next_check_at, found.problems = "released", None, None
    found.lost_at = found.silent_since = None
    return found


def look_soon(db: Session, portal_id: int, now: datetime) -> bool:
    """Somebody wants a look now; False where there is nothing to look at, or one was just taken or is under way."""
    found = _claim_of(db, portal_id)
    if found is None or found.state == "released":
        return False
    if found.checked_at is not None and now - found.checked_at < ONCE_IN:
        return False
    if found.next_check_at is not None and found.next_check_at <= now:
        return False
    found.next_check_at = now
    _look_at(db, found.id, now)
    return True


def current(db: Session, portal_id: int) -> tuple[str, str] | None:
    """Value and name of what a portal claims or has; None where that is nothing."""
    found = _claim_of(db, portal_id)
    return None if found is None or found.state == "released" else (found.token, found.name)


def _hold(db: Session, portal_id: int) -> models.Portal:
    """The portal, and nobody else changes its domain until this transaction is over."""
    return db.execute(
        select(models.Portal).where(col(models.Portal.id) == portal_id).with_for_update()
    ).scalar_one()


def _claim_of(db: Session, portal_id: int) -> models.DomainClaim | None:
    row = models.DomainClaim
    return db.execute(select(row).where(col(row.portal_id) == portal_id)).scalar_one_or_none()


def _let_go(portal: models.Portal, found: models.DomainClaim) -> None:
    if portal.domain == found.name:
        portal.domain = portal.domain_until = None


def _look_at(db: Session, claim_id: int, at: datetime) -> None:
    """Have the claim's one job done at a moment, whether it waits, is finished or was set aside."""
    row, dedupe = models.Job, f"domain_look:{claim_id}"
    again = db.execute(
        update(row)
        .where(col(row.dedupe) == dedupe)
        .values(run_at=at, done_at=None, parked_at=None, attempts=0, error=None)
        .returning(col(row.id))
    ).first()
    if again is None:
        enqueue(db, "domain_look", {"claim": claim_id}, at, dedupe)


# Looking, by the worker


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a look needs to know of a claim."""

    id: int
    portal_id: int
    name: str
    token: str
    target: str


async def look_again(database: Database, settings: Settings, claim_id: int) -> float | None:
    """Take a look at a claim and draw the conclusions; in how many seconds the next one is due, None for not again."""
    wanted = await database.read(_wanted, claim_id, settings)
    if wanted is None:
        return None
    found = await look(wanted.name, wanted.token, wanted.target, settings)
    now = clock.now()
    due = await database.write(settle, wanted, found, now)
    return None if due is None else max(1.0, (due - now).total_seconds())


def target_of(slug: str, settings: Settings) -> str:
    """Where a merchant's name is to point."""
    return settings.cname_target or f"{slug}.{settings.base_domain}"


def _wanted(db: Session, claim_id: int, settings: Settings) -> Wanted | None:
    row = models.DomainClaim
    found = db.execute(
        select(row, col(models.Portal.slug))
        .join(models.Portal, col(models.Portal.id) == col(row.portal_id))
        .where(col(row.id) == claim_id, col(row.state) != "released")
    ).one_or_none()
    if found is None:
        return None
    one, slug = found
    return Wanted(one.id, one.portal_id, one.name, one.token, target_of(slug, settings))


def settle(db: Session, wanted: Wanted, found: Look, now: datetime) -> datetime | None:
    """What follows from a look; when the next one is due, None for not by itself."""
    portal = _hold(db, wanted.portal_id)
    row = models.DomainClaim
    one = db.execute(select(row).where(col(row.id) == wanted.id)).scalar_one_or_none()
    if one is None or one.state == "released":
        return None  # replaced or let go while we looked
    one.checked_at = now
    one.problems = [{"record": p.record, "code": p.code, "seen": p.seen} for p in found.problems] or None
    if one.state == "pending":
        due = _settle_pending(db, portal, one, found, now)
    else:
        due = _settle_held(db, portal, one, found, now)
    one.next_check_at = due
    return due


def _settle_pending(
    db: Session, portal: models.Portal, one: models.DomainClaim, found: Look, now: datetime
) -> datetime | None:
    if found.right:
        if _take(db, portal, one.name):
            one.state, one.proved_at = "proved", now
            _note(db, portal, "domain.proved", one.name, now)
            return now + AGAIN
        # Only who could have it is told that somebody else does; whose it is, nobody.
        one.problems = [{"record": "name", "code": "taken", "seen": ""}]
        _look_at_holder(db, one.name, now)
    age = now - one.created_at
    if age < FIRST_HOUR:
        return now + timedelta(seconds=60)
    if age < FIRST_DAY:
        return now + timedelta(minutes=15)
    return now + timedelta(hours=1) if age < FIRST_WEEK else None


def _take(db: Session, portal: models.Portal, name: str) -> bool:
    """Make the name the portal's; False where it is another's. The database decides between two at once."""
    row = models.Portal
    try:
        with db.begin_nested():
            db.execute(update(row).where(col(row.id) == portal.id).values(domain=name, domain_until=None))
    except IntegrityError:
        return False
    return True


def _look_at_holder(db: Session, name: str, now: datetime) -> None:
    """Somebody else has proved a name: perhaps who has it is about to lose it."""
    row = models.DomainClaim
    held = select(row).where(col(row.name) == name, col(row.state).in_(HELD)).limit(1)
    with walls.wide("domain"):
        holder = db.execute(held).scalar_one_or_none()
        if holder is not None and (holder.checked_at is None or now - holder.checked_at > AGAIN_SOON):
            holder.next_check_at = now
            _look_at(db, holder.id, now)
            db.flush()


def _settle_held(
    db: Session, portal: models.Portal, one: models.DomainClaim, found: Look, now: datetime
) -> datetime | None:
    if found.right:
        one.silent_since = None
        if one.state == "lost":
            one.state, one.lost_at, portal.domain_until = "proved", None, None
            _note(db, portal, "domain.back", one.name, now)
            _tell_owners(db, portal, one, "back", now)
        return now + AGAIN
    if one.state == "proved":
        one.silent_since = None if found.wrong else one.silent_since or now
        if not found.wrong and one.silent_since and now - one.silent_since < SILENCE:
            return now + AGAIN_SOON  # nobody has said that it is gone
        one.state, one.lost_at, portal.domain_until = "lost", now, now + GRACE
        _note(db, portal, "domain.lost", one.name, now)
        _tell_owners(db, portal, one, "lost", now)
    assert one.lost_at is not None
    if now - one.lost_at < GRACE:
        return min(now + AGAIN_SOON, one.lost_at + GRACE)
    _let_go(portal, one)
    one.state = "released"
    _note(db, portal, "domain.ended", one.name, now)
    _tell_owners(db, portal, one, "ended", now)
    return None


def _note(db: Session, portal: models.Portal, what: str, name: str, now: datetime) -> None:
    db.add(
        models.Audit(
            id=new_id(),
            merchant_id=portal.merchant_id,
            portal_id=portal.id,
            who="worker",
            what=what,
            subject=name,
            at=now,
        )
    )


def _tell_owners(
    db: Session, portal: models.Portal, one: models.DomainClaim, event: str, now: datetime
) -> None:
    """One mail to each owner of the merchant; to the merchant's own address where there are none yet."""
    member = models.Member
    owners = db.execute(
        select(col(member.user_id))
        .where(col(member.merchant_id) == portal.merchant_id, col(member.role) == "owner")
        .order_by(col(member.id))
    ).scalars()
    told: list[int | None] = [*owners] or [None]
    for user in told:
        payload = {
            "template": "domain",
            "event": event,
            "portal": portal.id,
            "user": user,
            "name": one.name,
            "until": (one.lost_at + GRACE).isoformat() if one.lost_at else None,
            "problems": one.problems or [],
        }
        enqueue(db, "mail", payload, now, f"domain_{event}:{one.id}:{now.isoformat()}:{user}")


def address_of_owner(db: Session, merchant_id: int, user_id: int | None) -> str | None:
    """Where a mail to an owner goes, None where they no longer are one; without any owner, the merchant's address."""
    if user_id is None:
        return db.get_one(models.Merchant, merchant_id).email
    member, user = models.Member, models.User
    return db.execute(
        select(col(user.email))
        .join(member, col(member.user_id) == col(user.id))
        .where(
            col(member.merchant_id) == merchant_id,
            col(member.role) == "owner",
            col(user.id) == user_id,
        )
    ).scalar_one_or_none()


def revive(db: Session, now: datetime) -> None:
    """Looks that are overdue because their job was set aside or never written are due again."""
    row = models.DomainClaim
    late = db.execute(
        select(row).where(col(row.next_check_at) < now - AGAIN_SOON, col(row.state) != "released").limit(100)
    ).scalars()
    for one in late:
        _look_at(db, one.id, now)


# What the page shows


@dataclass(frozen=True, slots=True)
class RecordView:
    """A DNS record to set. `short` is its name without the domain, as most DNS pages want it."""

    kind: str
    name: str
    short: str
    value: str
    is_right: bool
    is_wrong: bool  # there, and not as it should be
    problem: str | None


@dataclass(frozen=True, slots=True)
class DomainView:
    """A portal's domain as its page shows it. `state` also knows none (nothing claimed), taken and ended."""

    state: Literal["none", "pending", "taken", "proved", "lost", "ended", "released"]
    own: str  # the name that always works
    host: str  # the name that links are mailed with
    name: str = ""
    readable: str = ""
    is_apex: bool = False
    domain: str = ""
    records: tuple[RecordView, ...] = ()
    addresses: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # those of neither record
    created_at: datetime | None = None
    checked_at: datetime | None = None
    next_at: datetime | None = None
    proved_at: datetime | None = None
    lost_at: datetime | None = None
    until: datetime | None = None
    is_looking: bool = False
    silent_since: datetime | None = None

    @property
    def is_claimed(self) -> bool:
        return self.state in ("pending", "taken", "proved", "lost")

    @property
    def found(self) -> tuple[str, ...]:
        """What the last look found wrong, in sentences."""
        return (*self.problems, *(record.problem for record in self.records if record.problem))

    @property
    def refreshes(self) -> bool:
        """Whether it is worth asking again every few seconds."""
        soon = self.next_at is not None and self.next_at - clock.now() <= timedelta(seconds=90)
        return self.is_looking or (self.state in ("pending", "taken") and soon)


def of_portal(db: Session, portal_id: int, settings: Settings, now: datetime) -> DomainView:
    """The claim of a portal, in words."""
    portal = db.get_one(models.Portal, portal_id)
    own = f"{portal.slug}.{settings.base_domain}"
    host = portal.domain if portal.domain and portal.domain_until is None else own
    one = _claim_of(db, portal_id)
    if one is None:
        return DomainView("none", own, host)
    target = target_of(portal.slug, settings)
    problems = [Problem(p["record"], p["code"], p.get("seen", "")) for p in one.problems or ()]  # type: ignore[arg-type]
    said: dict[str, str] = {p.record: sentence(p, one.name, target) for p in problems}
    is_taken = any(p.code == "taken" for p in problems)
    state = one.state
    if state == "pending" and is_taken:
        state = "taken"
    elif state == "released" and one.lost_at is not None:
        state = "ended"
    is_known = one.checked_at is not None and all(p.record in ("txt", "cname", "name") for p in problems)
    registered = domain(one.name)
    records = tuple(
        RecordView(
            kind,
            full,
            full.removesuffix(registered).rstrip(".") or "@",
            value,
            is_known and record not in said,
            any(p.record == record and p.code != "missing" for p in problems),
            said.get(record),
        )
        for record, kind, full, value in (
            ("txt", "TXT", proof_name(one.name), proof_value(one.token)),
            ("cname", "CNAME", one.name, target),
        )
    )
    return DomainView(
        state=state,  # type: ignore[arg-type]
        own=own,
        host=host,
        name=one.name,
        readable=readable(one.name),
        is_apex=is_apex(one.name),
        domain=registered,
        records=records,
        addresses=tuple(sorted(settings.own_addresses)),
        problems=tuple(text for record, text in said.items() if record in ("zone", "name")),
        created_at=one.created_at,
        checked_at=one.checked_at,
        next_at=one.next_check_at,
        proved_at=one.proved_at,
        lost_at=one.lost_at,
        until=one.lost_at + GRACE if one.lost_at else None,
        is_looking=one.next_check_at is not None and one.next_check_at <= now,
        silent_since=one.silent_since,
    )


def sentence(problem: Problem, name: str, target: str) -> str:
    """A problem in words: what is there, and what should be."""
    texts = {
        ("txt", "missing"): _("The TXT record {proof} is not there yet."),
        ("txt", "other"): _(
            "The TXT record {proof} has another value: “{seen}”. Put the value above in its place, or beside it."
        ),
        ("txt", "led_away"): _(
            "{proof} is led on to {seen}, where the value is not. If a record with “*” does that, add the TXT record "
            "itself."
        ),
        ("txt", "at_name"): _("The TXT value stands at {name} itself. Give the record the name {proof}."),
        ("txt", "doubled"): _(
            "The TXT record stands at {seen}. Your DNS page adds the domain by itself: enter only the short name."
        ),
        ("txt", "circle"): _("The CNAME records from {proof} lead in a circle."),
        ("cname", "missing"): _("There is no record for {name} yet."),
        ("cname", "elsewhere"): _("{name} points to {seen}, it should point to {target}."),
        ("cname", "address"): _(
            "{name} has the address {seen}, which is not ours. It should point to {target}; take other A and AAAA "
            "records away."
        ),
        ("cname", "circle"): _("The CNAME records from {name} lead in a circle."),
        ("zone", "no_answer"): _("The name servers of {seen} do not answer."),
        ("zone", "failed"): _("The name servers of {seen} answer with an error."),
        ("zone", "lame"): _(
            "The name servers that are entered for {seen} do not know it. Ask who keeps your DNS."
        ),
        ("zone", "no_zone"): _("{seen} is not registered, or has no name servers yet."),
        ("zone", "no_resolver"): _(
            "Our own look at the DNS did not get through. It is not about your records."
        ),
        ("name", "taken"): _(
            "{name} is proved by another portal here. If it is yours, let it go there or remove that portal's TXT "
            "record; else ask who runs this installation."
        ),
    }
    text = texts.get((problem.record, problem.code), _("The look at {name} did not work out."))
    return text.format(
        name=readable(name),
        proof=proof_name(name),
        seen=problem.seen,
        target=target,
    )
