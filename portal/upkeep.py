"""What the command line does with the database: the first link, answering requests, sealing keys anew."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import (
    clock,
    imports,
    merchants,
    models,
    objects,
    reconcile,
    requests,
    sheetfile,
    sheetrows,
    sheets,
    store,
    walls,
    work,
)
from portal.connect import open_gateway
from portal.db import Database
from portal.gateways import facts
from portal.gateways.base import GatewayError, Pace, Snapshot
from portal.ids import id_text, parse_id
from portal.settings import Settings, trouble_with_store
from portal.vault import Vault

BATCH = 100
_Result = TypeVar("_Result")


def rotate_keys(database: Database, ring: str) -> int:
    """Seal all credentials with the first key of the ring, in batches; how many accounts. Safe to run again.

    Raises VaultError where no key of the ring opens one; what is done up to then stays done.
    """
    vault = Vault(ring)
    count, last = 0, 0
    while ids := database.write_now(_rotate, vault, last):
        count, last = count + len(ids), ids[-1]
    last = 0
    while ids := database.write_now(_rotate_users, vault, last):
        last = ids[-1]
    last = 0
    while ids := database.write_now(_rotate_endpoints, vault, last):
        last = ids[-1]
    return count


def _rotate_users(db: Session, vault: Vault, after: int) -> list[int]:
    """The secrets of authenticator apps."""
    row = models.User
    found = list(
        db.execute(
            select(row).where(col(row.id) > after).order_by(col(row.id)).limit(BATCH).with_for_update()
        ).scalars()
    )
    for user in found:
        if user.totp is not None:
            user.totp = vault.seal(0, user.id, vault.open(0, user.id, user.totp))
    return [user.id for user in found]


def _rotate_endpoints(db: Session, vault: Vault, after: int) -> list[int]:
    """The secrets by which deliveries to merchants' apps are signed."""
    row = models.Endpoint
    found = list(
        db.execute(
            select(row).where(col(row.id) > after).order_by(col(row.id)).limit(BATCH).with_for_update()
        ).scalars()
    )
    for endpoint in found:
        where = endpoint.portal_id, endpoint.id
        endpoint.secret = vault.seal(*where, vault.open(*where, endpoint.secret))
        if endpoint.previous_secret is not None:
            endpoint.previous_secret = vault.seal(*where, vault.open(*where, endpoint.previous_secret))
    return [endpoint.id for endpoint in found]


def _rotate(db: Session, vault: Vault, after: int) -> list[int]:
    row = models.Account
    found = list(
        db.execute(
            select(row).where(col(row.id) > after).order_by(col(row.id)).limit(BATCH).with_for_update()
        ).scalars()
    )
    for account in found:
        where = account.portal_id, account.id
        account.credentials = vault.seal(*where, vault.open(*where, account.credentials))
        if account.previous_credentials is not None:
            account.previous_credentials = vault.seal(
                *where, vault.open(*where, account.previous_credentials)
            )
    return [account.id for account in found]


# Who may sign in


def setup_link(settings: Settings, email: str | None = None) -> str:
    """A one-time link by which somebody begins a merchant of their own."""
    if email is not None and not re.fullmatch(r"[^\s@]{1,64}@[^\s@]+", email):
        raise RuntimeError("That is no e-mail address.")
    address = email.strip().lower() if email else None
    token = _with_database(
        settings, lambda database: database.write_now(merchants.new_setup, clock.now(), address)
    )
    return f"{settings.origin(settings.admin_host)}/setup/{token}"


def unlock(settings: Settings, email: str) -> str:
    """Take away somebody's second step; they sign in by mail alone until they set one up again."""

    def write(db: Session) -> str:
        found = db.execute(
            select(models.User).where(col(models.User.email) == email.strip().lower())
        ).scalar_one_or_none()
        if found is None:
            raise RuntimeError(f"Nobody signs in to the settings as {email}.")
        db.execute(delete(models.Passkey).where(col(models.Passkey.user_id) == found.id))
        found.totp = found.totp_confirmed_at = found.totp_step = found.recovery_hashes = None
        merchants.end_all(db, found.id)
        for merchant_id in db.execute(
            select(col(models.Member.merchant_id)).where(col(models.Member.user_id) == found.id)
        ).scalars():
            merchants.audit_by(db, merchant_id, None, "factor.taken_away", subject=found.email)
        return f"{found.email} signs in by mail alone now, and is signed out everywhere."

    return _with_database(settings, lambda database: database.write_now(write))


def merchants_text(settings: Settings) -> str:
    """Merchants with their portals and owners, as text."""

    def read(db: Session) -> list[str]:
        lines = []
        for merchant in db.execute(select(models.Merchant).order_by(col(models.Merchant.id))).scalars():
            slugs = db.execute(
                select(col(models.Portal.slug)).where(col(models.Portal.merchant_id) == merchant.id)
            ).scalars()
            owners = db.execute(
                select(col(models.User.email))
                .join(models.Member, col(models.Member.user_id) == col(models.User.id))
                .where(col(models.Member.merchant_id) == merchant.id, col(models.Member.role) == "owner")
            ).scalars()
            lines.append(
                f"{merchant.name}  portals: {', '.join(slugs) or '-'}  owners: {', '.join(owners) or '-'}"
            )
        return lines

    return "\n".join(_with_database(settings, lambda database: database.read_now(read))) or "Nobody yet."


# Accounts


async def reconcile_account(settings: Settings, named: str, fix: bool) -> reconcile.Result:
    """Compare an account with its processor, and keep how many differences there were."""
    database = Database(settings.database_url, threads=2, outside=walls.EVERYTHING)
    try:
        account = await database.read(find_account, named)
        gateway = open_gateway(
            settings, Vault(settings.master_keys.get_secret_value()), account, patient=True
        )
        gateway.pace = Pace(imports.pace_of(account))

        async def take(account: models.Account, snapshot: Snapshot, fetched: bool) -> None:
            await database.write(work.taken, account, snapshot, fetched, clock.now())

        try:
            result = await reconcile.run(database, gateway, account, take if fix else None)
        except GatewayError as error:
            raise RuntimeError(error.hint or error.customer) from error
        finally:
            await gateway.aclose()
        await database.write(reconcile.note, account, result, clock.now())
        return result
    finally:
        database.dispose()


def find_account(db: Session, wanted: str) -> models.Account:
    """The account with this label, id or token; RuntimeError with the list where that is none or several."""
    row = models.Account
    every = list(
        db.execute(
            select(row).where(col(row.disconnected_at).is_(None)).order_by(col(row.portal_id), col(row.id))
        ).scalars()
    )
    number = parse_id(wanted) or (int(wanted) if wanted.isdecimal() else None)
    meant = [one for one in every if one.token == wanted or one.id == number]
    meant = meant or [one for one in every if one.label.casefold() == wanted.strip().casefold()]
    if len(meant) == 1:
        return meant[0]
    why = "Several accounts are called so" if meant else "No connected account has this label, id or token"
    shown = meant or every
    raise RuntimeError(f"{why}: {wanted}.\n{_listed(db, shown)}" if shown else "No account is connected.")


def _listed(db: Session, found: Sequence[models.Account]) -> str:
    portals = {row.id: row.slug for row in db.execute(select(models.Portal)).scalars()}
    return "\n".join(
        f"  {id_text(one.id)}  {portals[one.portal_id]}: {one.label} ({facts(one.processor).label}, "
        f"{'live' if one.live else 'test'})"
        for one in found
    )


def queue(settings: Settings, slug: str | None, everything: bool, as_json: bool) -> str:
    """The queue as text, or as JSON."""

    def read(db: Session) -> list[dict[str, Any]]:
        portal = _portal(db, slug).id if slug else None
        return [_shown(db, row) for row in requests.queue(db, portal, everything)]

    rows = _with_database(settings, lambda database: database.read_now(read))
    if as_json:
        return json.dumps(rows)
    lines = [
        f"{row['reference']}  {row['status']:9}  by {row['due_at'][:10]}{'  LATE' if row['late'] else ''}  "
        f"{row['portal']}  {row['customer']}  {row['kind']}  {row['what']}"
        for row in rows
    ]
    return "\n".join(lines) or "Nobody waits for an answer."


def show(settings: Settings, slug: str | None, reference: str) -> str:
    """One request with its history, as JSON."""

    def read(db: Session) -> dict[str, Any]:
        return _shown(db, _find(db, slug, reference))

    return json.dumps(_with_database(settings, lambda database: database.read_now(read)), indent=2)


def answer(settings: Settings, slug: str | None, reference: str, status: str, sentence: str) -> str:
    """Answer a request; what was done, in a line. RuntimeError says why it could not be."""

    def write(db: Session) -> str:
        row = _find(db, slug, reference)
        try:
            requests.answer(
                db, row.portal_id, row.reference, status, sentence or None, "merchant", clock.now()
            )
        except (requests.NotOpen, ValueError) as error:
            raise RuntimeError(f"{error}.") from error
        return f"{row.reference} is {status}; the customer gets a mail."

    return _with_database(settings, lambda database: database.write_now(write))


def _with_database(settings: Settings, do: Callable[[Database], _Result]) -> _Result:
    database = Database(settings.database_url, threads=1, outside=walls.EVERYTHING)
    try:
        return do(database)
    finally:
        database.dispose()


def _portal(db: Session, slug: str) -> models.Portal:
    found = db.execute(select(models.Portal).where(col(models.Portal.slug) == slug)).scalar_one_or_none()
    if found is None:
        raise RuntimeError(f"There is no portal called {slug}.")
    return found


def _find(db: Session, slug: str | None, reference: str) -> models.Request:
    statement = select(models.Request).where(col(models.Request.reference) == reference.upper())
    if slug:
        statement = statement.where(col(models.Request.portal_id) == _portal(db, slug).id)
    found = list(db.execute(statement.limit(2)).scalars())
    if not found:
        raise RuntimeError(f"There is no request {reference}. See `portal requests list --all`.")
    if len(found) > 1:
        raise RuntimeError(f"Several portals have a request {reference}. Say which with --portal.")
    return found[0]


def _shown(db: Session, row: models.Request) -> dict[str, Any]:
    return {
        "reference": row.reference,
        "portal": db.get_one(models.Portal, row.portal_id).slug,
        "processor": db.get_one(models.Account, row.account_id).processor if row.account_id else None,
        "customer": db.get_one(models.Customer, row.customer_id).email if row.customer_id else row.contact,
        "kind": row.kind,
        "what": row.what,
        "words": row.words,
        "to_do": row.params.get("to_do"),
        "status": row.status,
        "answer": row.answer,
        "due_at": row.due_at.isoformat(),
        "late": row.told_late_at is not None,
        "history": row.history,
    }


# Orders from a file


@dataclass(frozen=True, slots=True)
class FileChoice:
    """What the command line says of a file."""

    account: str | None = None
    columns: tuple[str, ...] = ()  # email=E-Mail
    decimal: str = ""
    dates: str = ""
    currency: str = ""
    as_of: str = ""
    own: bool = False


def import_file(
    settings: Settings, path: Path, slug: str, chosen: FileChoice, only_try: bool, problems: Path | None
) -> int:
    """Take a file in and go through it at once; the exit status. The same as on the page, and it is listed there."""
    place = store.open_store(settings)

    def run(database: Database) -> int:
        portal_id, account_id = database.write_now(_where, slug, chosen.account)
        if chosen.own and account_id is None:
            raise RuntimeError("Name the account whose list it is: --account.")
        try:
            with path.open("rb") as file:
                own_of = account_id if chosen.own else None
                sheet_id = sheets.take(database, portal_id, file, path.name, "command line", own_of, place)
            number = database.write_now(_begin, portal_id, sheet_id, account_id, chosen, only_try)
            _go_through(database, place, sheet_id, number)
        except (sheetfile.Unreadable, sheets.Refused) as error:
            raise RuntimeError(str(error)) from None
        except OSError as error:
            raise RuntimeError(f"{path}: {error.strerror}") from None
        except store.StoreDown as error:
            raise RuntimeError(f"The store does not answer ({error}). Run it again later.") from None
        return _told(database, portal_id, sheet_id, only_try, problems)

    return _with_database(settings, run)


def _go_through(database: Database, place: store.Store | None, sheet_id: int, number: int) -> None:
    parts = sheets.NOTHING
    while True:
        try:
            if not database.write_now(sheets.step, sheet_id, number, clock.now(), parts):
                return
        except sheets.NotFetched:
            try:
                parts = sheets.fetched(database, place, sheet_id, number)
            except store.Lost:
                database.write_now(sheets.give_up, sheet_id, number, clock.now())
            except store.StoreDown:
                database.write_now(sheets.give_up, sheet_id, number, clock.now())
                database.write_now(_let_go, sheet_id)
                raise


def _where(db: Session, slug: str, label: str | None) -> tuple[int, int | None]:
    portal_id = db.execute(
        select(col(models.Portal.id)).where(col(models.Portal.slug) == slug)
    ).scalar_one_or_none()
    if portal_id is None:
        raise RuntimeError(f"There is no portal {slug}.")
    if label is None:
        return portal_id, None
    try:
        return portal_id, sheets.Accounts(db, portal_id, None).named(label).id
    except sheets.Refused as error:
        raise RuntimeError(str(error)) from None


def _begin(
    db: Session, portal_id: int, sheet_id: int, account_id: int | None, chosen: FileChoice, only_try: bool
) -> int:
    sheet = sheets.sheet_of(db, portal_id, sheet_id, lock=True)
    assert sheet is not None
    mapping = list(sheet.mapping)
    for pair in chosen.columns:
        ours, _sign, theirs = pair.partition("=")
        places = [number for number, name in enumerate(sheet.header) if name.casefold() == theirs.casefold()]
        if ours not in sheetrows.COLUMNS:
            raise RuntimeError(f"There is no column {ours}; there are: {', '.join(sheetrows.COLUMNS)}.")
        if not places:
            raise RuntimeError(f"The file has no column {theirs}; it has: {', '.join(sheet.header)}.")
        mapping = ["" if name == ours else name for name in mapping]
        mapping[places[0]] = ours
    choice = sheets.Choice(
        tuple(mapping), account_id, chosen.decimal, chosen.dates, chosen.currency, chosen.as_of
    )
    return sheets.begin(db, sheet, choice, "checking" if only_try else "importing", clock.now())


def _told(database: Database, portal_id: int, sheet_id: int, only_try: bool, problems: Path | None) -> int:
    """Say what became of it, and let the rows go again."""
    sheet = database.read_now(lambda db: db.get_one(models.Sheet, sheet_id))
    counts = ("created", "changed", "unchanged", "refused")
    typer.echo(", ".join(f"{name} {getattr(sheet, name)}" for name in counts))
    after, shown = 0, 0
    with problems.open("wb") if problems else contextlib.nullcontext() as out:
        if out is not None:
            out.write(sheets.PROBLEMS_HEAD)
        while found := database.read_now(sheets.problems, portal_id, sheet_id, after, 500):
            after = found[-1].id
            if out is not None:
                out.write(sheets.problem_lines(found))
            for one in found[: max(0, 20 - shown)] if out is None else ():
                shown += 1
                typer.echo(f"line {one.line}: {one.column}: {one.sentence}", err=True)
    if sheet.error:
        typer.echo(f"portal: {sheet.error}", err=True)
    database.write_now(_let_go, sheet_id)
    return 1 if sheet.refused or sheet.error else 0


def _let_go(db: Session, sheet_id: int) -> None:
    sheets.empty(db, db.get_one(models.Sheet, sheet_id), clock.now())


# Where documents and files lie


def move_store(settings: Settings, source: str) -> int:
    """Bring them to where the settings say; the exit status."""
    if source and (trouble := trouble_with_store(source)):
        raise RuntimeError(f"--from: {trouble}.")
    place = store.open_store(settings)
    before = store.store_at(source, settings) if source else None
    return _counted(settings, place, lambda database: objects.move(database, place, before))


def check_store(settings: Settings) -> int:
    """Read all of them; the exit status."""
    place = store.open_store(settings)
    return _counted(settings, place, lambda database: objects.check(database, place))


def _counted(
    settings: Settings, place: store.Store | None, do: Callable[[Database], Counter[objects.Became]]
) -> int:
    try:
        found = _with_database(settings, do)
    except store.StoreDown as error:
        raise RuntimeError(f"The store does not answer ({error}). Run it again; nothing is lost.") from None
    names: tuple[objects.Became, ...] = ("moved", "there", "missing", "damaged")
    where = place.place if place else "the database"
    typer.echo(
        f"{where}: " + ", ".join(f"{name} {found[name]}" for name in names if found[name] or name == "there")
    )
    return 1 if found["missing"] or found["damaged"] else 0
