"""What is wrong with an installation, and what to do about it: each finding is a sentence, each trouble has a remedy.

What rows and settings say is known at once. What has to be asked outside (`SLOW`) runs side by side under one limit of
time. A merchant sees what belongs to their own portals; what belongs to the installation is for owners.
"""

import asyncio
import json
import shutil
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import aiosmtplib
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import (
    accounts,
    alarms,
    clock,
    domains,
    figures,
    lookups,
    mail,
    models,
    objects,
    reach,
    rhythm,
    store,
    tally,
    walls,
    work,
)
from portal.accounts import Checked
from portal.connect import open_gateway
from portal.db import SLOWING, Database, goes_through_pooler
from portal.gateways import http
from portal.migrate import serves
from portal.render import Format
from portal.settings import LOCAL, Settings
from portal.texts import gettext as _
from portal.texts import ngettext
from portal.vault import Vault, VaultError

State = Literal["ok", "warn", "bad", "unknown"]
Area = Literal[
    "keys",
    "webhooks",
    "sync",
    "events",
    "domains",
    "tls",
    "delivery",
    "mail",
    "sender",
    "worker",
    "jobs",
    "database",
    "disk",
    "store",
    "backup",
    "clock",
    "secrets",
    "address",
]
MERCHANTS: tuple[Area, ...] = ("keys", "webhooks", "sync", "events", "domains", "tls", "delivery")
INSTALLATION: tuple[Area, ...] = (
    "mail",
    "sender",
    "worker",
    "jobs",
    "database",
    "disk",
    "store",
    "backup",
    "clock",
    "secrets",
    "address",
)
SLOW: tuple[Area, ...] = (
    "domains",
    "tls",
    "mail",
    "sender",
    "store",
)  # are asked outside, and change nothing

ALL_S = 9.0  # for everything that is asked outside
ONE_S = 6.0  # for one of it
AT_ONCE = 10
MOST = 200  # of accounts and domains that are looked at

SILENT = timedelta(seconds=60)  # of a worker
LATE, VERY_LATE = 60.0, 600.0  # seconds that a job waits
OLD_CHECK = timedelta(days=3)
RECENTLY = timedelta(days=1)  # that events had to be asked for
BACKUP_DUE, BACKUP_OLD = timedelta(hours=26), timedelta(days=7)
CERTIFICATE_DUE, CERTIFICATE_LATE = 14, 4  # days
SKEW, FAR_SKEW = 5.0, 60.0  # seconds
LOW, VERY_LOW = (2 * 1024**3, 0.10), (512 * 1024**2, 0.03)  # of a disk: bytes and share that are free


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing. `about` names it where there are several; `todo` is one sentence, to whom it
    concerns."""

    area: Area
    state: State
    sentence: str
    todo: str = ""
    about: str = ""


def label(area: Area) -> str:
    return {
        "keys": _("Processor keys"),
        "webhooks": _("Events of the processors"),
        "sync": _("Looks for changes"),
        "events": _("Events that could not be handled"),
        "domains": _("Domains"),
        "tls": _("Certificates"),
        "delivery": _("Mails to customers"),
        "mail": _("Mail server"),
        "sender": _("Sender’s domain"),
        "worker": _("Worker"),
        "jobs": _("Work that was given up"),
        "database": _("Database"),
        "disk": _("Disk"),
        "store": _("Documents and files"),
        "backup": _("Backup"),
        "clock": _("Clock"),
        "secrets": _("Keys of the installation"),
        "address": _("Address"),
    }[area]


# Everything


async def examine(settings: Settings) -> list[Finding]:
    """The whole installation with all its portals, for the command line. Says so where there is no database to ask."""
    trouble = _missing(settings)
    database = None
    if trouble is None:
        try:
            database = Database(settings.database_url, threads=4, outside=walls.EVERYTHING)
            if not await database.read(lambda db: serves(database)):
                trouble = _old_schema()
        except (SQLAlchemyError, RuntimeError) as error:
            trouble = _no_database(error)
    try:
        if trouble is not None or database is None:
            asked = await _side_by_side([mail_server(settings), sender(settings)])
            return in_order([*([trouble] if trouble else []), *of_settings(settings), *asked])
        known = [
            *await database.read(of_merchant, settings, None, clock.now()),
            *await database.read(of_installation, settings, None, clock.now()),
        ]
        asked = await ask(database, settings, None, (*SLOW, "keys"))
        return in_order([*(one for one in known if one.area not in (*SLOW, "keys")), *asked])
    finally:
        if database is not None:
            database.dispose()


def _missing(settings: Settings) -> Finding | None:
    """A file that is not there: asking for it would make it."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database or Path(url.database).exists():
        return None
    sentence = _("There is no database at {path} yet.").format(path=url.database)
    return Finding("database", "bad", sentence, _("Run `portal migrate`, or set PORTAL_DATABASE_URL."))


def _no_database(error: Exception) -> Finding:
    name = type(error.orig if isinstance(error, DBAPIError) else error).__name__
    return Finding(
        "database",
        "bad",
        _("The database does not answer ({error}).").format(error=name),
        _("Look whether it runs, and whether PORTAL_DATABASE_URL leads to it."),
    )


def _old_schema() -> Finding:
    return Finding(
        "database",
        "bad",
        _("The database is not at this version’s schema."),
        _("Run `portal migrate`."),
    )


def as_text(found: Sequence[Finding]) -> str:
    """For a terminal: what is wrong stands out, with what to do under it."""
    marks = {"ok": "ok", "warn": "LOOK", "bad": "BAD", "unknown": "?"}
    lines = []
    for one in found:
        about = f"{one.about}: " if one.about else ""
        lines.append(f"{marks[one.state]:5}{label(one.area)}: {about}{one.sentence}")
        if one.todo:
            lines.append(f"     -> {one.todo}")
    return "\n".join(lines)


def as_json(found: Sequence[Finding]) -> str:
    return json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2)


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """By area, and in each what is worst first."""
    areas = (*MERCHANTS, *INSTALLATION)
    states = ("bad", "warn", "unknown", "ok")
    return sorted(found, key=lambda one: (areas.index(one.area), states.index(one.state), one.about))


async def ask(
    database: Database, settings: Settings, merchant_id: int | None, areas: Sequence[Area]
) -> list[Finding]:
    """What the outside says, all at once and within a limit of time; nothing is changed by it."""
    asking: list[Awaitable[list[Finding]]] = []
    if "keys" in areas:
        asking.append(_keys_now(database, settings, merchant_id))
    if "domains" in areas or "tls" in areas:
        names = await database.read(_names, settings, merchant_id)
        if "domains" in areas:
            asking.append(_domains_now(names, settings))
        if "tls" in areas:
            asking.append(_certificates(names, settings))
    if "mail" in areas:
        asking.append(mail_server(settings))
    if "sender" in areas:
        asking.append(sender(settings))
    if "store" in areas:
        asking.append(storage(settings, await database.read(objects.noted)))
    return in_order(await _side_by_side(asking))


async def _side_by_side(asking: Sequence[Awaitable[list[Finding]]]) -> list[Finding]:
    found = await asyncio.gather(*asking)
    return [finding for one in found for finding in one]


async def _each(
    things: Sequence[Any], look: Callable[[Any], Awaitable[Finding]], late: Callable[[Any], Finding]
) -> list[Finding]:
    """Look at several, some at a time; who takes too long is said to have."""
    door = asyncio.Semaphore(AT_ONCE)
    until = asyncio.get_running_loop().time() + ALL_S

    async def one(thing: Any) -> Finding:
        try:
            async with asyncio.timeout_at(until), door, asyncio.timeout(ONE_S):
                return await look(thing)
        except TimeoutError:
            return late(thing)

    return await asyncio.gather(*(one(thing) for thing in things))


# What rows say of a merchant's portals


def of_merchant(db: Session, settings: Settings, merchant_id: int | None, now: datetime) -> list[Finding]:
    """What is known of a merchant's portals, or of all: nothing outside is asked."""
    sites = _sites(db, merchant_id)
    connected = _connected(db, merchant_id)
    found = [
        *_keys(connected, now),
        *(
            _silence(account, _about(account, site), rhythm.last_times(db, account.id), now)
            for account, site in connected
        ),
        *(
            _kept(db.get(models.SyncState, account.id), account, _about(account, site), now)
            for account, site in connected
        ),
        *_events(db, sites),
        *_domains(db, sites, settings, now),
        *(_delivery(db, site, now) for site in sites),
    ]
    return in_order(found)


def _sites(db: Session, merchant_id: int | None) -> list[models.Portal]:
    row = models.Portal
    mine = [] if merchant_id is None else [col(row.merchant_id) == merchant_id]
    return list(db.execute(select(row).where(*mine).order_by(col(row.id)).limit(MOST)).scalars())


def _connected(db: Session, merchant_id: int | None) -> list[tuple[models.Account, models.Portal]]:
    row, site = models.Account, models.Portal
    mine = [] if merchant_id is None else [col(site.merchant_id) == merchant_id]
    found = db.execute(
        select(row, site)
        .join(site, col(site.id) == col(row.portal_id))
        .where(col(row.disconnected_at).is_(None), *mine)
        .order_by(col(row.id))
        .limit(MOST)
    )
    return [(account, portal) for account, portal in found]


def _about(account: models.Account, site: models.Portal) -> str:
    return f"{site.name}: {account.label}"


_STATES: Mapping[str, State] = {"ok": "ok", "warn": "warn", "bad": "bad"}


def _keys(connected: Sequence[tuple[models.Account, models.Portal]], now: datetime) -> Iterator[Finding]:
    """As the last check left them."""
    if not connected:
        yield Finding("keys", "unknown", _("No processor is connected."), _("Connect one under Processors."))
    for account, site in connected:
        standing = accounts.standing(account)
        missing = ", ".join(standing.missing)
        sentence = f"{standing.word}. {standing.sentence}".strip()
        if missing:
            sentence += " " + _("Not allowed: {missing}.").format(missing=missing)
        state = _STATES.get(standing.tone, "unknown")
        todo = ""
        if state == "bad":
            todo = _("Enter new keys under Processors.")
        elif missing:
            todo = _("Allow the keys at the processor what they miss, or make new ones.")
        elif standing.at is not None and now - standing.at > OLD_CHECK:
            state = "warn" if state == "ok" else state
            todo = _("Check them now: the last check is {days} days old.").format(
                days=(now - standing.at).days
            )
        elif state in ("warn", "unknown"):
            todo = _("Check them again in a while.")
        yield Finding("keys", state, sentence, todo, _about(account, site))


# Silence


def _silence(account: models.Account, about: str, times: Sequence[datetime], now: datetime) -> Finding:
    """Whether an account has been quiet for longer than it uses to be."""
    facts = accounts.webhook_facts(account.processor, account.variant)
    if not facts:
        return Finding("webhooks", "ok", _("None come from here; the portal asks regularly."), about=about)
    if not times:
        by_object = all(one.registration == "per_object" for one in facts)
        if by_object or now - account.created_at < timedelta(days=1):
            return Finding("webhooks", "unknown", _("Nothing has come yet."), about=about)
        return Finding(
            "webhooks",
            "warn",
            _("Nothing has ever come, since {days} days.").format(days=(now - account.created_at).days),
            _("Enter the webhook address at the processor, or send a test event, under Processors."),
            about,
        )
    quiet, usual = now - times[0], rhythm.longest_usual(times)
    patience = rhythm.patience(times)
    sentence = _("The last one came {ago} ago.").format(ago=_span(quiet))
    if quiet <= patience:
        return Finding("webhooks", "ok", sentence, about=about)
    if usual:
        sentence += " " + _("Usually one comes within {usual}.").format(usual=_span(usual))
    return Finding(
        "webhooks",
        "bad" if account.live and quiet > 2 * patience else "warn",
        sentence,
        _(
            "Look at the processor whether its webhook is still switched on; under Processors it can be tested."
        ),
        about,
    )


def _span(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    if hours < 1:
        minutes = max(1, round(hours * 60))
        return ngettext("{minutes} minute", "{minutes} minutes", minutes).format(minutes=minutes)
    if hours < 48:
        return ngettext("{hours} hour", "{hours} hours", round(hours)).format(hours=round(hours))
    return _("{days} days").format(days=round(hours / 24))


def _kept(state: models.SyncState | None, account: models.Account, about: str, now: datetime) -> Finding:
    """Whether an account is looked at regularly, and what the looks have found."""
    if state is None or (state.looked_at is None and not state.failures):
        return Finding("sync", "unknown", _("Not looked at yet."), about=about)
    if state.failures:
        sentence = _("The last {count} looks failed: {why}").format(
            count=state.failures, why=state.error or ""
        )
        if state.looked_at:
            sentence += " " + _("The last good one was {ago} ago.").format(ago=_span(now - state.looked_at))
        bad = alarms.failing(state, account, now)
        todo = _("Check its keys under Processors; if they are good, wait until the processor answers again.")
        return Finding("sync", "bad" if bad else "warn", sentence, todo, about)
    assert state.looked_at is not None
    sentence = _("Looked at {ago} ago.").format(ago=_span(now - state.looked_at))
    if state.differences:
        sentence += " " + _("The last comparison found {count} differences.").format(count=state.differences)
        return Finding("sync", "bad", sentence, _("Run `portal reconcile` with --fix."), about)
    if state.missed_at and now - state.missed_at < RECENTLY:
        sentence += " " + _(
            "Events were found that had never been delivered, {count} in all; they have been handled."
        ).format(count=state.missed)
        todo = _(
            "Look at the processor whether its webhook still leads here, and what it says of failed deliveries."
        )
        return Finding("sync", "warn", sentence, todo, about)
    if now - state.looked_at > alarms.LONGEST_BLIND:
        return Finding("sync", "warn", sentence, _("Look whether a worker runs."), about)
    return Finding("sync", "ok", sentence, about=about)


def _events(db: Session, sites: Sequence[models.Portal]) -> Iterator[Finding]:
    row = models.Event
    troubled = False
    for site in sites:
        count = db.execute(
            select(func.count()).where(col(row.portal_id) == site.id, col(row.parked_at).is_not(None))
        ).scalar_one()
        if count:
            troubled = True
            yield Finding(
                "events",
                "bad",
                _("{count} events could not be handled.").format(count=count),
                _("Look at them under Events, and have them handled again."),
                site.name,
            )
    if not troubled:
        yield Finding("events", "ok", _("All events that came were handled."))


# Domains, as the last look left them


def _domains(
    db: Session, sites: Sequence[models.Portal], settings: Settings, now: datetime
) -> Iterator[Finding]:
    claimed = False
    for site in sites:
        view = domains.of_portal(db, site.id, settings, now)
        if view.state in ("none", "released"):
            continue
        claimed = True
        seen = " ".join(view.found)
        todo = _("Put the records in place that stand under Domain.")
        name = view.readable or view.name
        if view.state == "proved" and not seen:
            yield Finding("domains", "ok", _("Proved, and leads to us."), about=name)
        elif view.state == "proved":
            yield Finding("domains", "warn", seen, todo, name)
        elif view.state in ("lost", "ended"):
            sentence = _("The proof is gone: mails have links with {own} in its place.").format(own=view.own)
            yield Finding("domains", "bad", f"{sentence} {seen}".strip(), todo, name)
        else:
            sentence = _("Not proved yet: {own} works meanwhile.").format(own=view.own)
            yield Finding("domains", "warn", f"{sentence} {seen}".strip(), todo, name)
    if not claimed:
        yield Finding("domains", "ok", _("No portal has a domain of its own."))


@dataclass(frozen=True, slots=True)
class Name:
    """A domain that is proved or claimed, and what its records should be."""

    name: str
    token: str
    target: str
    serves: bool

    @property
    def readable(self) -> str:
        return domains.readable(self.name)


def _names(db: Session, settings: Settings, merchant_id: int | None) -> list[Name]:
    claim, site = models.DomainClaim, models.Portal
    mine = [] if merchant_id is None else [col(site.merchant_id) == merchant_id]
    found = db.execute(
        select(claim, site)
        .join(site, col(site.id) == col(claim.portal_id))
        .where(col(claim.state).in_(("pending", *domains.HELD)), *mine)
        .order_by(col(claim.id))
        .limit(MOST)
    )
    return [
        Name(one.name, one.token, domains.target_of(portal.slug, settings), portal.domain == one.name)
        for one, portal in found
    ]


async def _domains_now(names: Sequence[Name], settings: Settings) -> list[Finding]:
    async def look(one: Name) -> Finding:
        seen = await domains.look(one.name, one.token, one.target, settings)
        if seen.right:
            return Finding("domains", "ok", _("Both records are right."), about=one.readable)
        sentence = " ".join(domains.sentence(problem, one.name, one.target) for problem in seen.problems)
        if not seen.wrong:
            todo = _("Look again later; if it stays so, ask who keeps the DNS of the name.")
            return Finding("domains", "unknown", sentence, todo, one.readable)
        todo = _("Put the records in place that stand under Domain.")
        return Finding("domains", "bad" if one.serves else "warn", sentence, todo, one.readable)

    def late(one: Name) -> Finding:
        return Finding("domains", "unknown", _("The DNS did not answer in time."), about=one.readable)

    if not names:
        return [Finding("domains", "ok", _("No portal has a domain of its own."))]
    return await _each(names, look, late)


# Certificates


async def _certificates(names: Sequence[Name], settings: Settings) -> list[Finding]:
    if not settings.secure:
        sentence = _("Not looked at: browsers reach this installation by http (PORTAL_SCHEME).")
        return [Finding("tls", "unknown", sentence)]
    serving = [one.name for one in names if one.serves]
    if not serving:
        return [Finding("tls", "ok", _("No portal has a domain of its own."))]

    def late(name: str) -> Finding:
        return _no_tls(domains.readable(name), _("It does not answer in time."))

    port = settings.public_port or 443
    return await _each(serving, lambda name: certificate(name, port, settings.takes_local_names), late)


def _no_tls(name: str, sentence: str) -> Finding:
    todo = _("Look whether the proxy before the portal runs, and makes certificates for this name.")
    return Finding("tls", "bad", sentence, todo, name)


async def certificate(name: str, port: int, private: bool = False) -> Finding:
    """Connect as a browser does, and look at the certificate. Nothing inside our own network is connected to unless
    `private`: a name's owner decides where it leads."""
    shown = domains.readable(name)
    loop = asyncio.get_running_loop()
    try:
        rows = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return _no_tls(shown, _("The name can’t be found."))
    addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
    hidden = [one for one in addresses if not reach.is_public(ip_address(one.partition("%")[0]))]
    if hidden and not private:
        sentence = _("It leads to {address}, which is not in the public net, so nothing here connects to it.")
        todo = _("Open it in a browser from outside.")
        return Finding("tls", "unknown", sentence.format(address=hidden[0]), todo, shown)
    try:
        return _lasts(shown, await _certificate_at(addresses, port, name))
    except ssl.SSLCertVerificationError as error:
        return _no_tls(shown, _refused_certificate(error))
    except ssl.SSLError:
        return _no_tls(shown, _("What answers there speaks no TLS for this name, so browsers show an error."))
    except (OSError, EOFError):
        return _no_tls(shown, _("Nothing answers at port {port}.").format(port=port))


async def _certificate_at(addresses: Sequence[str], port: int, name: str) -> Mapping[str, Any]:
    """What the first of the addresses shows that answers at all."""
    trouble: Exception = EOFError()
    for address in addresses[:4]:
        try:
            _reader, writer = await asyncio.open_connection(
                address, port, ssl=_trusted(), server_hostname=name
            )
        except ssl.SSLError:
            raise
        except OSError as error:
            trouble = error
            continue
        found: Mapping[str, Any] = writer.get_extra_info("peercert")
        writer.transport.abort()
        return found
    raise trouble


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


def _refused_certificate(error: ssl.SSLCertVerificationError) -> str:
    return {
        10: _("The certificate has expired."),
        18: _("The certificate is self-signed; browsers refuse it."),
        19: _("The certificate is self-signed; browsers refuse it."),
        20: _("The certificate is not from anyone that browsers trust, or a part of its chain is not sent."),
        21: _("The certificate is not from anyone that browsers trust, or a part of its chain is not sent."),
        62: _("The certificate is for another name."),
    }.get(error.verify_code, _("The certificate is refused: {why}.").format(why=error.verify_message))


def _lasts(name: str, found: Mapping[str, Any]) -> Finding:
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC)
    days = (ends - datetime.now(UTC)).days
    day = Format("en", "UTC").day_text(ends)
    sentence = _("Good until {day}, {days} days from now.").format(day=day, days=days)
    if days >= CERTIFICATE_DUE:
        return Finding("tls", "ok", sentence, about=name)
    todo = _("It should have been renewed by now: look at the proxy’s log.")
    return Finding("tls", "bad" if days < CERTIFICATE_LATE else "warn", sentence, todo, name)


# Mails to customers


def _delivery(db: Session, site: models.Portal, now: datetime) -> Finding:
    """By what became of the mails of the last seven days."""
    today = now.astimezone(ZoneInfo(site.time_zone)).date()
    names = (tally.MAIL_SENT, tally.MAIL_REFUSED)
    counted = tally.days(db, site.id, names, today - timedelta(days=6), today)
    sent, refused = (sum(counted[name].values()) for name in names)
    row = models.Job
    waiting = db.execute(
        select(func.count()).where(
            col(row.portal_id) == site.id,
            col(row.done_at).is_(None),
            col(row.parked_at).is_(None),
            col(row.kind).in_(figures.MAILS),
        )
    ).scalar_one()
    sentence = _(
        "In seven days {sent} were taken and {refused} refused; {waiting} wait to be sent again."
    ).format(sent=sent, refused=refused, waiting=waiting)
    if waiting or refused * 20 > sent + refused:
        state: State = "bad" if sent == 0 or waiting > 20 else "warn"
        todo = _("An owner finds more about the mail server on this page, and can send a mail to themselves.")
        return Finding("delivery", state, sentence, todo, site.name)
    return Finding("delivery", "ok" if sent else "unknown", sentence, about=site.name)


# Keys, asked now


async def _keys_now(database: Database, settings: Settings, merchant_id: int | None) -> list[Finding]:
    connected = await database.read(_connected, merchant_id)
    results = await _check_all(settings, connected)
    now = clock.now()
    judged = []
    for (account, site), result in zip(connected, results, strict=True):
        if result is None:
            judged.append((account, site))
            continue
        health = result.health
        account.health = {
            "ok": health.ok if health else None,
            "live": health.live if health else None,
            "account": health.account if health else None,
            "missing": list(health.missing) if health else [],
            "hint": result.sentence,
        }
        account.checked_at = now
        judged.append((account, site))
    return list(_keys(judged, now))


async def check_keys(database: Database, settings: Settings, merchant_id: int) -> None:
    """Ask about all accounts of a merchant, and keep the answers."""
    connected = await database.read(_connected, merchant_id)
    results = await _check_all(settings, connected)
    for (account, _site), result in zip(connected, results, strict=True):
        if result is not None:
            await database.write(accounts.noted, account.id, result, clock.now())


async def _check_all(
    settings: Settings, connected: Sequence[tuple[models.Account, models.Portal]]
) -> list[Checked | None]:
    """What the processors say; None where the keys cannot be opened here."""
    door = asyncio.Semaphore(AT_ONCE)
    until = asyncio.get_running_loop().time() + ALL_S
    try:
        vault = Vault(settings.master_keys.get_secret_value())
    except (VaultError, ValueError):
        return [None] * len(connected)

    async def one(account: models.Account) -> Checked | None:
        try:
            gateway = open_gateway(settings, vault, account)
        except (VaultError, ValueError):
            return None
        try:
            async with asyncio.timeout_at(until), door:
                return await accounts.checked(account.processor, gateway)
        except TimeoutError:
            return Checked(None, _("It took too long to answer."))
        finally:
            await gateway.aclose()

    return await asyncio.gather(*(one(account) for account, _site in connected))


# The mail server


async def mail_server(settings: Settings) -> list[Finding]:
    """Connect, greet, encrypt and sign in as for a mail, and send none."""
    smtp = mail.client(settings, timeout=ONE_S)
    where = f"{settings.smtp_host}:{settings.smtp_port}"
    try:
        async with asyncio.timeout(ALL_S):
            await smtp.connect()
            await smtp.ehlo()
            version = getattr(smtp.get_transport_info("ssl_object"), "version", lambda: None)()
            await smtp.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
        return [_no_mail(where, error)]
    finally:
        smtp.close()
    if version:
        sentence = _("{where} answers, encrypted by {version}.").format(where=where, version=version)
        return [Finding("mail", "ok", sentence)]
    sentence = _("{where} answers, without encryption.").format(where=where)
    if _is_here(settings.smtp_host):
        return [Finding("mail", "ok", sentence)]
    todo = _("Set PORTAL_SMTP_TLS to starttls, or to tls where the server wants that.")
    return [Finding("mail", "bad" if settings.smtp_username else "warn", sentence, todo)]


# Documents and files


async def storage(settings: Settings, noted: str | None) -> list[Finding]:
    """Write an object, read it back, take it away; and whether it is the place where the others lie."""
    try:
        place = store.open_store(settings)
    except RuntimeError as error:
        return [Finding("store", "bad", str(error), _("Set both, and restart web and worker."))]
    if place is None:
        sentence = _("They stand in the database.")
        return [_elsewhere(noted, "database") or Finding("store", "ok", sentence)]
    began = asyncio.get_running_loop().time()
    try:
        await store.ask(store.probe, place)
        here = await store.ask(objects.place_of, place)
    except store.StoreDown as error:
        sentence = (
            _("{place} refuses us ({why}).") if error.refused else _("{place} does not answer ({why}).")
        )
        todo = _("Look whether it runs, whether PORTAL_STORE leads to it, and what its keys or rights allow.")
        return [Finding("store", "bad", sentence.format(place=place.place, why=str(error)), todo)]
    except store.Lost:
        sentence = _("{place} does not give back what was written.").format(place=place.place)
        return [Finding("store", "bad", sentence, _("Don’t rely on it: use another store."))]
    if found := _elsewhere(noted, here or place.place):
        return [found]
    took = round((asyncio.get_running_loop().time() - began) * 1000)
    sentence = _("{place} takes, gives and deletes, in {count} ms.").format(place=place.place, count=took)
    if isinstance(place, store.Folder):
        sentence += " " + _("A folder is for one machine only.")
    return [Finding("store", "ok", sentence)]


def _elsewhere(noted: str | None, here: str) -> Finding | None:
    """Where the rows' objects lie elsewhere: the address was changed, or two machines have a folder each."""
    if noted is None or noted == here:
        return None
    sentence = _("Up to now they were kept in {before}; this process keeps them in {here}.")
    todo = _(
        "Run `portal store move`, with --from where they lay before. If several machines run, a folder of one of them "
        "is not enough: set PORTAL_STORE to the database or to an S3-compatible store."
    )
    return Finding("store", "warn", sentence.format(before=noted, here=here), todo)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _no_mail(where: str, error: Exception) -> Finding:
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        sentence = _("The certificate of {where} is not good: {why}.")
        todo = _(
            "Give PORTAL_SMTP_HOST as the certificate names it, or have the server’s certificate renewed."
        )
        return Finding("mail", "bad", sentence.format(where=where, why=cause.verify_message), todo)
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        sentence = _("{where} refuses the name and password: “{answer}”.")
        todo = _("Set PORTAL_SMTP_USERNAME and PORTAL_SMTP_PASSWORD anew.")
        return Finding("mail", "bad", sentence.format(where=where, answer=_answer(error)), todo)
    if isinstance(error, aiosmtplib.SMTPTimeoutError | TimeoutError):
        sentence = _("{where} does not answer in time.").format(where=where)
    elif isinstance(error, aiosmtplib.SMTPResponseException):
        sentence = _("{where} turns us away: “{answer}”.").format(where=where, answer=_answer(error))
    elif isinstance(error, aiosmtplib.SMTPConnectError | OSError):
        sentence = _("Nothing answers at {where}.").format(where=where)
    else:
        sentence = _("{where} answers, but: “{answer}”.").format(where=where, answer=_clean(str(error)))
    todo = _(
        "Look whether PORTAL_SMTP_HOST, PORTAL_SMTP_PORT and PORTAL_SMTP_TLS are right and the server runs."
    )
    return Finding("mail", "bad", sentence, todo)


async def send_test(settings: Settings, to: str) -> Finding:
    """Really send a mail; what the server answered."""
    message = EmailMessage()
    message["From"] = settings.mail_from
    message["To"] = mail.one_address(to)
    message["Subject"] = _("A mail to yourself from your customer portal")
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = make_msgid(domain=settings.mail_from.rpartition("@")[2] or "localhost")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        _(
            "You asked for this on the doctor’s page. That you read it shows that mails get through.\n"
            "If it was in the spam folder, look at the lines on SPF, DKIM and DMARC there."
        )
    )
    smtp = mail.client(settings, timeout=ONE_S)
    try:
        async with asyncio.timeout(ALL_S):
            await smtp.connect()
            _refused, answer = await smtp.sendmail(settings.mail_from, [to], message.as_bytes())
            with suppress(aiosmtplib.SMTPException):
                await smtp.quit()
    except (
        aiosmtplib.SMTPRecipientsRefused,
        aiosmtplib.SMTPSenderRefused,
        aiosmtplib.SMTPDataError,
    ) as error:
        sentence = _("The server refused it: “{answer}”.").format(answer=_answer(error))
        todo = _("Ask who keeps the mail server; often the sender {sender} is not allowed to send there.")
        return Finding("mail", "bad", sentence, todo.format(sender=settings.mail_from))
    except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
        return _no_mail(f"{settings.smtp_host}:{settings.smtp_port}", error)
    finally:
        smtp.close()
    sentence = _("The server took it: “{answer}”. It is on its way to {to}.")
    return Finding("mail", "ok", sentence.format(answer=_clean(answer), to=to))


def _answer(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        error = error.recipients[0]
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _clean(f"{error.code} {error.message}")
    return _clean(str(error))


def _clean(words: str) -> str:
    """What somebody else's server says, on one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())[:200]


# The sender's domain


async def sender(settings: Settings) -> list[Finding]:
    """Whether mailboxes believe that our mails are from whom they say."""
    name = settings.mail_from.rpartition("@")[2].lower()
    unknown_outside = name.rpartition(".")[2] in LOCAL and not settings.resolvers
    if "." not in name or unknown_outside:
        sentence = _("PORTAL_MAIL_FROM is {address}, which no mailbox outside knows.")
        todo = _("Set it to an address of a domain of yours.")
        state: State = "unknown" if settings.demo else "bad"
        return [Finding("sender", state, sentence.format(address=settings.mail_from), todo)]
    try:
        async with asyncio.timeout(ALL_S):
            return list(
                await asyncio.gather(_spf(name, settings), _dkim(name, settings), _dmarc(name, settings))
            )
    except TimeoutError:
        return [_no_dns("sender", name)]


def _no_dns(area: Area, about: str) -> Finding:
    todo = _("Look whether this machine can ask the DNS, or set PORTAL_DNS_SERVERS.")
    return Finding(area, "unknown", _("The DNS did not answer."), todo, about)


async def _spf(name: str, settings: Settings) -> Finding:
    about = f"SPF {name}"
    texts = await lookups.texts(name, settings)
    if texts is None:
        return _no_dns("sender", about)
    records = [one for one in texts if one.lower().split(" ")[0] == "v=spf1"]
    if not records:
        todo = _("Add a TXT record at {name} that names your mail server, such as “v=spf1 mx -all”.").format(
            name=name
        )
        return Finding("sender", "bad", _("There is no SPF record."), todo, about)
    if len(records) > 1:
        todo = _("Make one of them; mailboxes believe none of several.")
        return Finding(
            "sender", "bad", _("There are {count} SPF records.").format(count=len(records)), todo, about
        )
    shown = _clean(records[0])
    if {"+all", "all", "?all"} & set(records[0].lower().split()):
        sentence = _("The SPF record lets anybody send: “{record}”.").format(record=shown)
        return Finding("sender", "warn", sentence, _("End it with -all or ~all."), about)
    sentence = _("There is one: “{record}”. See that your mail server is among them.").format(record=shown)
    return Finding("sender", "ok", sentence, about=about)


async def _dkim(name: str, settings: Settings) -> Finding:
    about = f"DKIM {name}"
    selector = settings.dkim_selector.strip().lower()
    if not selector:
        sentence = _("Not looked at: the key stands under a name that only your mail server knows.")
        todo = _("Set PORTAL_DKIM_SELECTOR to the selector that your mail server signs with.")
        return Finding("sender", "unknown", sentence, todo, about)
    where = f"{selector}._domainkey.{name}"
    texts = await lookups.texts(where, settings)
    if texts is None:
        return _no_dns("sender", about)
    keys = [_tags(one) for one in texts if "p=" in one]
    if not keys:
        todo = _("Add the TXT record that your mail server shows for its key.")
        return Finding("sender", "bad", _("There is no key at {where}.").format(where=where), todo, about)
    if not any(one.get("p") for one in keys):
        todo = _("Have the mail server sign with a new key, and set PORTAL_DKIM_SELECTOR to it.")
        return Finding("sender", "bad", _("The key at {where} is revoked.").format(where=where), todo, about)
    return Finding("sender", "ok", _("There is a key at {where}.").format(where=where), about=about)


async def _dmarc(name: str, settings: Settings) -> Finding:
    about = f"DMARC {name}"
    for above in dict.fromkeys((name, lookups.domain(name))):
        texts = await lookups.texts(f"_dmarc.{above}", settings)
        if texts is None:
            return _no_dns("sender", about)
        records = [one for one in texts if one.lower().replace(" ", "").startswith("v=dmarc1")]
        if len(records) > 1:
            sentence = _("There are {count} DMARC records.").format(count=len(records))
            return Finding("sender", "bad", sentence, _("Make one of them; mailboxes believe none."), about)
        if records:
            policy = _tags(records[0]).get("p", "none")
            return Finding(
                "sender", "ok", _("There is one, with p={p}.").format(p=_clean(policy)), about=about
            )
    todo = _("Add a TXT record at _dmarc.{name}, such as “v=DMARC1; p=none”.").format(name=name)
    return Finding("sender", "warn", _("There is no DMARC record; large mailboxes ask for one."), todo, about)


def _tags(record: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in record.split(";"))
    return {name.strip().lower(): value.strip() for name, _sign, value in pairs if name.strip()}


# What rows and settings say of the installation


def of_installation(db: Session, settings: Settings, merchant_id: int | None, now: datetime) -> list[Finding]:
    """What is known of the installation; of accounts, only those of the merchant, where one asks."""
    return in_order(
        [
            *of_settings(settings),
            _worker(db, now),
            _jobs(db),
            *_database(db, settings),
            _disk(settings),
            _backup(db, now),
            *_clocks(db),
            *_sealed(db, settings, merchant_id),
        ]
    )


def of_settings(settings: Settings) -> list[Finding]:
    """What needs no database."""
    return [_secret(settings), _address(settings)]


def _worker(db: Session, now: datetime) -> Finding:
    found = db.get(models.Setting, "worker")
    with walls.wide("health"):
        count, seconds = work.lag(db, now)
    todo = _("Start `portal worker`, or `portal serve` without --no-worker.")
    if found is None:
        return Finding("worker", "bad", _("No worker has ever been at work."), todo)
    if now - found.at > SILENT:
        sentence = _("No worker has been at work for {span}; {count} jobs are due.")
        return Finding("worker", "bad", sentence.format(span=_span(now - found.at), count=count), todo)
    if seconds <= LATE:
        return Finding("worker", "ok", _("At work; {count} jobs are due.").format(count=count))
    sentence = _("At work, but {count} jobs are due, the oldest for {span}.")
    todo = _("Start another `portal worker`, or look whether a processor or the mail server hangs.")
    return Finding(
        "worker",
        "bad" if seconds > VERY_LATE else "warn",
        sentence.format(count=count, span=_span(timedelta(seconds=seconds))),
        todo,
    )


def _jobs(db: Session) -> Finding:
    row = models.Job
    with walls.wide("health"):
        count = db.execute(select(func.count()).where(col(row.parked_at).is_not(None))).scalar_one()
    if not count:
        return Finding("jobs", "ok", _("Nothing was given up."))
    sentence = _("{count} jobs were given up after many tries.").format(count=count)
    return Finding(
        "jobs", "bad", sentence, _("Look at them under Events of each portal, and have them tried again.")
    )


def _database(db: Session, settings: Settings) -> Iterator[Finding]:
    if db.get_bind().dialect.name == "sqlite":
        version = db.execute(text("SELECT sqlite_version()")).scalar_one()
        sentence = _("SQLite {version}, at this version’s schema.").format(version=version)
        yield Finding("database", "ok", sentence)
        return
    version = str(db.execute(text("SHOW server_version")).scalar_one()).split(" ")[0]
    sentence = _("PostgreSQL {version}, at this version’s schema.").format(version=version)
    yield _walls(db) or Finding("database", "ok", sentence)
    if goes_through_pooler(db.connection().connection.driver_connection):
        slow = [name for name in SLOWING if db.execute(text(f"SHOW {name}")).scalar_one() == "on"]
        yield _pooler(settings, slow)


def _pooler(settings: Settings, slow: Sequence[str]) -> Finding:
    """What PgBouncer leaves to whoever runs it."""
    about = _("Pooler")
    if settings.direct_url == settings.database_url:
        sentence = _("It is reached through a pooler, by which migrations and backups can’t go.")
        todo = _("Set PORTAL_DATABASE_DIRECT_URL to the address of PostgreSQL itself.")
        return Finding("database", "bad", sentence, todo, about)
    if slow:
        sentence = _(
            "It is reached through a pooler, by which we can’t switch off {what}; that makes pages slow."
        ).format(what=", ".join(slow))
        todo = _("Say once, to PostgreSQL, for the role of the portal: {commands}").format(
            commands=" ".join(f"ALTER ROLE … SET {name} = off;" for name in slow)
        )
        return Finding("database", "warn", sentence, todo, about)
    return Finding("database", "ok", _("It is reached through a pooler."), about=about)


def _walls(db: Session) -> Finding | None:
    """What keeps row-level security from holding for us; owners it holds for, but they may take it down."""
    role, passes = db.execute(
        text("SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
    ).one()
    if passes:
        return Finding(
            "database",
            "warn",
            _(
                "The role {role} passes by row-level security: the second wall between portals does not hold."
            ).format(role=role),
            _("Connect as a role that is no superuser and has no BYPASSRLS; docs/tenancy.md says how."),
        )
    open_still = db.execute(
        text(
            "SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'portal_id' "
            "WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace "
            "AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
        )
    ).scalar_one()
    if open_still:
        sentence = _("Row-level security is switched off on {count} tables.").format(count=open_still)
        todo = _("Run `portal migrate`; if it stays so, switch it on again as docs/tenancy.md says.")
        return Finding("database", "warn", sentence, todo)
    return None


def _disk(settings: Settings) -> Finding:
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        sentence = _("The database keeps its own files; their disk can’t be seen from here.")
        return Finding("disk", "unknown", sentence, _("Watch the disk of the database server."))
    return _room(Path(url.database).absolute().parent)


def _room(folder: Path) -> Finding:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        sentence = _("The disk of the database can’t be looked at ({error}).").format(
            error=type(error).__name__
        )
        return Finding("disk", "unknown", sentence)
    share = usage.free / usage.total
    sentence = _("{free} GB are free where the database lies ({share} %).").format(
        free=f"{usage.free / 1024**3:.1f}", share=round(share * 100)
    )
    todo = _("Make room: with a full disk nothing can be written any more.")
    if usage.free < VERY_LOW[0] or share < VERY_LOW[1]:
        return Finding("disk", "bad", sentence, todo)
    if usage.free < LOW[0] or share < LOW[1]:
        return Finding("disk", "warn", sentence, todo)
    return Finding("disk", "ok", sentence)


def _backup(db: Session, now: datetime) -> Finding:
    found = db.get(models.Setting, "backup")
    if found is None:
        sentence = _("No backup is known. One that was made in another way is not seen from here.")
        return Finding(
            "backup", "unknown", sentence, _("Have the database and the master key backed up every day.")
        )
    age = now - found.at
    sentence = _("The last one is {span} old.").format(span=_span(age))
    if age <= BACKUP_DUE:
        return Finding("backup", "ok", sentence)
    todo = _("Look why no newer one was made.")
    return Finding("backup", "bad" if age > BACKUP_OLD else "warn", sentence, todo)


def _clocks(db: Session) -> Iterator[Finding]:
    """Ours against the database's, and against the processors' as their last answers to this process had it."""
    if db.get_bind().dialect.name == "sqlite":
        yield Finding("clock", "ok", _("The database runs by this machine’s clock."), about=_("Database"))
    else:
        before = datetime.now(UTC)
        theirs = db.execute(text("SELECT clock_timestamp()")).scalar_one()
        middle = before + (datetime.now(UTC) - before) / 2
        yield _skewed((theirs - middle).total_seconds(), _("Database"))
    if http.clocks:
        # The middle one: a single processor may be wrong.
        ordered = sorted(http.clocks.values())
        yield _skewed(ordered[len(ordered) // 2], _("Processors"))


def _skewed(seconds: float, about: str) -> Finding:
    off = abs(seconds)
    if off <= SKEW:
        return Finding(
            "clock", "ok", _("No more than {seconds} seconds apart.").format(seconds=int(SKEW)), about=about
        )
    sentence = _("This machine’s clock and theirs are {seconds} seconds apart.").format(seconds=round(off))
    todo = _("Have both machines keep their time by NTP; webhooks are refused when the clock is wrong.")
    return Finding("clock", "bad" if off > FAR_SKEW else "warn", sentence, todo, about)


def _sealed(db: Session, settings: Settings, merchant_id: int | None) -> Iterator[Finding]:
    """Whether the ring opens what is sealed, and whether all of it is sealed with the first key."""
    ring = settings.master_keys.get_secret_value()
    about = "PORTAL_MASTER_KEYS"
    try:
        vault, first = Vault(ring), Vault(ring.split(",")[0])
    except (VaultError, ValueError):
        todo = _("Make a key with `portal keys new` and keep it outside the database.")
        yield Finding("secrets", "bad", _("There is no key ring, or it can’t be read."), todo, about)
        return
    shut, old, connected = 0, 0, _connected(db, merchant_id)
    for account, _site in connected:
        if _opens(first, account):
            continue
        old += _opens(vault, account)
        shut += not _opens(vault, account)
    if shut:
        sentence = _("The keys of {count} accounts can’t be opened with this ring.").format(count=shut)
        todo = _("Put the master key of before behind the new one, or enter the keys anew.")
        yield Finding("secrets", "bad", sentence, todo, about)
    elif old:
        sentence = _("{count} accounts are still sealed with an older key.").format(count=old)
        yield Finding("secrets", "warn", sentence, _("Run `portal keys rotate`."), about)
    else:
        yield Finding("secrets", "ok", _("The first key opens everything that is sealed."), about=about)


def _opens(vault: Vault, account: models.Account) -> bool:
    try:
        vault.open(account.portal_id, account.id, account.credentials)
    except (VaultError, ValueError):
        return False
    return True


def _secret(settings: Settings) -> Finding:
    about = "PORTAL_SECRET_KEY"
    if "secret_key" in settings.model_fields_set:
        return Finding("secrets", "ok", _("Set."), about=about)
    sentence = _(
        "Not set: codes and links in hand stop working with every restart, and the worker must not run apart."
    )
    todo = _("Set it for web and worker, for instance from `openssl rand -base64 32`.")
    return Finding("secrets", "warn" if settings.demo else "bad", sentence, todo, about)


def _address(settings: Settings) -> Finding:
    if settings.secure:
        return Finding("address", "ok", _("Browsers reach the portals by https."))
    sentence = _("Browsers reach the portals by http: everything can be read along the way.")
    todo = _("Put a proxy with certificates before the portal and set PORTAL_SCHEME to https.")
    return Finding("address", "warn" if settings.demo else "bad", sentence, todo)
