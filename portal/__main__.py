"""The command line: `portal serve`, `worker`, `migrate`, `demo`, and tools for those who run a portal."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from portal.settings import Settings

if TYPE_CHECKING:
    from portal import backups

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="Keys of the installation.")
gateway = typer.Typer(no_args_is_help=True, help="What the processors can do.")
requests = typer.Typer(no_args_is_help=True, help="What customers ask of the merchant.")
merchant = typer.Typer(no_args_is_help=True, help="Who may sign in to the settings.")
store = typer.Typer(no_args_is_help=True, help="Where documents and uploaded files lie.")
app.add_typer(merchant, name="merchant")
app.add_typer(store, name="store")
app.add_typer(keys, name="keys")
app.add_typer(requests, name="requests")
app.add_typer(gateway, name="gateway")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", envvar="PORT")] = 8000,
    worker: Annotated[bool, typer.Option(help="Run the worker in this process too.")] = True,
) -> None:
    """Serve the portal; and, unless --no-worker, do the work that is to happen later."""
    from portal import server

    _or_say_why(lambda: uvloop.run(server.serve(Settings(), host, port, worker)))


@app.command("worker")
def run_worker() -> None:
    """Do the work that is to happen later: mails, webhooks, read-backs. Any number may run."""
    from portal import server

    _or_say_why(lambda: uvloop.run(server.work(Settings())))


@app.command("migrate")
def run_migrations(
    wait: Annotated[
        bool, typer.Option("--wait", help="Take all the time it takes: for when web and worker are stopped.")
    ] = False,
) -> None:
    """Bring the database to this version's schema, while web and worker run on."""
    from portal.migrate import ENDLESS, upgrade

    settings = Settings()
    owner, how = settings.direct_url, ENDLESS if wait else None
    _or_say_why(lambda: upgrade(owner, patience=how, app_url=settings.database_url))
    typer.echo("The database is up to date.", err=True)


@app.command("backup")
def make_backup(
    target: Annotated[Path, typer.Argument(help="A folder, or a file that ends in .tar.")] = Path("."),
    keep: Annotated[
        int | None, typer.Option(help="Of the folder's backups, keep the newest so many.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Try this backup instead: restore it, look, forget.")
    ] = None,
) -> None:
    """Back the database up into one file, while everything runs on. Without the master keys: keep those elsewhere."""
    from portal import backups

    def run() -> None:
        if verify is not None:
            _say_restored(backups.verify(Settings(), verify))
        else:
            typer.echo(backups.made_text(*backups.make(Settings(), target, keep)))

    _or_say_why(run)


@app.command("restore")
def restore_backup(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    into: Annotated[
        str, typer.Option(help="Address of a database that is empty: sqlite:///… or postgresql://…")
    ],
) -> None:
    """Bring a backup back into an empty database, and compare it with what was taken. Overwrites nothing."""
    from portal import backups

    _or_say_why(lambda: _say_restored(backups.restore(Settings(), file, into)))


def _say_restored(found: "backups.Restored") -> None:
    from portal import backups

    typer.echo(backups.restored_text(found))
    if found.problems:
        sys.exit(1)


@app.command("import")
def read_in(
    account: Annotated[str, typer.Argument(help="Its label, id or the end of its webhook address.")],
    anew: Annotated[bool, typer.Option(help="From the beginning, where a run was stopped.")] = False,
) -> None:
    """Read in everything that an account's processor lists. Goes on where it was; safe to stop and to run again."""
    from portal import terminal

    _or_say_why(lambda: sys.exit(uvloop.run(terminal.read_in(Settings(), account, anew))))


@app.command("import-file")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV or .xlsx, one row for each order.")],
    portal: Annotated[str, typer.Option(help="The portal's short name.")],
    account: Annotated[
        str | None, typer.Option(help="Whose orders they are; left out: as each row says.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", help="What a column is called in the file: email=E-Mail. May be given again."),
    ] = None,
    decimal: Annotated[str, typer.Option(help="The sign before the decimals: . or ,")] = "",
    dates: Annotated[str, typer.Option(help="dmy or mdy, where 03/04/2026 could be both.")] = "",
    currency: Annotated[str, typer.Option(help="Of all rows, where no column says it.")] = "",
    as_of: Annotated[str, typer.Option(help="The day on which the list was true; today by default.")] = "",
    own: Annotated[bool, typer.Option(help="It is a list in the form of the account's processor.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing, only say what would be.")
    ] = False,
    problems: Annotated[Path | None, typer.Option(help="Where to write what is wrong, as CSV.")] = None,
) -> None:
    """Import orders that no processor lists, from a file. Safe to run again. Exits 1 where rows are refused."""
    from portal import upkeep

    chosen = upkeep.FileChoice(account, tuple(columns or ()), decimal, dates, currency, as_of, own)
    _or_say_why(lambda: sys.exit(upkeep.import_file(Settings(), file, portal, chosen, dry_run, problems)))


@app.command("reconcile")
def reconcile_account(
    account: Annotated[str, typer.Argument(help="Its id, or its name.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    fix: Annotated[bool, typer.Option(help="Write what differs as the processor has it.")] = False,
) -> None:
    """Compare every row of an account with its processor, field by field. Exits 1 where anything differs."""
    from portal import reconcile, upkeep

    def run() -> None:
        result = uvloop.run(upkeep.reconcile_account(Settings(), account, fix))
        typer.echo(reconcile.as_json(result) if as_json else reconcile.as_text(result))
        if result.faults:
            sys.exit(1)

    _or_say_why(run)


@app.command("doctor")
def run_doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What is wrong here and what to do about it: keys, webhooks, domains, mail, worker, disk. Exits 1 if it is red."""
    from portal import doctor

    found = uvloop.run(doctor.examine(Settings()))
    typer.echo(doctor.as_json(found) if as_json else doctor.as_text(found))
    if any(one.state == "bad" for one in found):
        sys.exit(1)


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port of the portals; the simulators take the next ones.")] = 8000,
    database: Annotated[str, typer.Option(help="Database address; by default a file that lasts.")] = "",
    reset: Annotated[bool, typer.Option(help="Begin anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="First line: the addresses as JSON.")] = False,
) -> None:
    """Serve two sample portals with simulated processors, a worker and a mailbox. No keys, no network."""
    from portal import demo as sample

    _or_say_why(lambda: uvloop.run(sample.run(port, database, reset, as_json)))


@merchant.command("add")
def add_merchant(
    email: Annotated[str | None, typer.Argument(help="Whose link it is; left out: whoever holds it.")] = None,
) -> None:
    """Print a one-time link by which somebody begins a merchant of their own. It is good for an hour."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.setup_link(Settings(), email)))


@merchant.command("unlock")
def unlock_person(email: Annotated[str, typer.Argument(help="Their address.")]) -> None:
    """Take away somebody's second step and passkeys, and sign them out everywhere: for who has lost the phone."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.unlock(Settings(), email)))


@merchant.command("list")
def list_merchants() -> None:
    """The merchants, their portals and their owners."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.merchants_text(Settings())))


@keys.command("new")
def new_key() -> None:
    """Print a fresh master key for PORTAL_MASTER_KEYS."""
    from portal.vault import new_key

    typer.echo(new_key())


@keys.command("rotate")
def rotate_keys() -> None:
    """Seal all stored keys of processors anew with the first key of PORTAL_MASTER_KEYS.

    Put a fresh key in front of the old one, restart, run this, and take the old one away. Safe to run again.
    """
    from portal import upkeep, walls
    from portal.db import Database

    settings = Settings()

    def run() -> None:
        database = Database(settings.database_url, threads=1, outside=walls.EVERYTHING)
        try:
            count = upkeep.rotate_keys(database, settings.master_keys.get_secret_value())
        finally:
            database.dispose()
        typer.echo(f"{count} accounts are sealed with the first key.", err=True)

    _or_say_why(run)


@gateway.command("verify")
def verify_delivery(
    processor: Annotated[str, typer.Argument(help="Such as stripe.")],
    body: Annotated[Path, typer.Argument(help="The raw body, byte by byte.")],
    credentials: Annotated[Path, typer.Option(help="JSON: the fields of the settings form.")],
    headers: Annotated[Path, typer.Option(help="JSON: header to value, or to a list of values.")],
    now: Annotated[str | None, typer.Option(help="When it arrived, ISO 8601; now by default.")] = None,
    variant: Annotated[str | None, typer.Option(help="The kind of account, where there are several.")] = None,
) -> None:
    """What would the portal make of this webhook? Prints its events as JSON; exits 3 where the proof is wrong."""
    from portal import tools

    try:
        found = tools.verify(processor, credentials, headers, body, now, variant)
    except tools.BadSignature as error:
        typer.echo(f"portal: {error.hint}", err=True)
        sys.exit(3)
    except tools.BadInput as error:
        typer.echo(f"portal: {error}", err=True)
        sys.exit(2)
    typer.echo(json.dumps(found))


@gateway.command("read")
def read_object(
    processor: Annotated[str, typer.Argument(help="Such as stripe.")],
    kind: Annotated[str, typer.Argument(help="customer order subscription payment refund invoice event")],
    file: Annotated[Path, typer.Argument(help="JSON: the object as the processor's API shows it.")],
) -> None:
    """What would the portal make of this object? Prints its snapshot as JSON; exits 2 for what it cannot be."""
    from portal import tools

    try:
        found = tools.read(processor, kind, file)
    except tools.BadInput as error:
        typer.echo(f"portal: {error}", err=True)
        sys.exit(2)
    typer.echo(json.dumps(found))


@store.command("move")
def move_store(
    source: Annotated[
        str,
        typer.Option("--from", help="Where they lay before, as PORTAL_STORE had it; left out: in the rows."),
    ] = "",
) -> None:
    """Bring documents and files to where PORTAL_STORE says. Safe to stop and to run again; deletes no object."""
    from portal import upkeep

    _or_say_why(lambda: sys.exit(upkeep.move_store(Settings(), source)))


@store.command("check")
def check_store() -> None:
    """Read every document and file and compare it with its hash. Exits 1 where one is missing or damaged."""
    from portal import upkeep

    _or_say_why(lambda: sys.exit(upkeep.check_store(Settings())))


_Site = Annotated[str | None, typer.Option("--portal", help="The portal's short name.")]
_Say = Annotated[str, typer.Option(help="A sentence that the customer reads.")]


@requests.command("list")
def list_requests(
    portal: _Site = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is answered.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """The queue, what is due first on top."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.queue(Settings(), portal, everything, as_json)))


@requests.command("show")
def show_request(reference: str, portal: _Site = None) -> None:
    """One request with its history, as JSON."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.show(Settings(), portal, reference)))


@requests.command("done")
def request_done(reference: str, portal: _Site = None, say: _Say = "") -> None:
    """It is done: the customer gets a mail."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.answer(Settings(), portal, reference, "done", say)))


@requests.command("decline")
def request_declined(reference: str, say: _Say, portal: _Site = None) -> None:
    """It can't be done: the customer gets your sentence by mail."""
    from portal import upkeep

    _or_say_why(lambda: typer.echo(upkeep.answer(Settings(), portal, reference, "declined", say)))


@gateway.command("facts")
def print_facts(
    as_json: Annotated[bool, typer.Option("--json", help="The tables as they stand, as JSON.")] = False,
) -> None:
    """What each processor lets a customer do, with the source of each fact."""
    from portal.gateways.capabilities import facts, processors, raw_facts

    if as_json:
        typer.echo(json.dumps({"processors": {name: raw_facts(name) for name in processors()}}, default=str))
        return
    for name in processors():
        table = facts(name)
        typer.echo(table.label)
        typer.echo(f"  {'sync':24}{table.sync.by}, every {table.sync.minutes} minutes")
        for key, capability in table.capabilities.items():
            how = f" ({capability.how})" if capability.how else ""
            typer.echo(f"  {key:24}{capability.mode}{how}")


@gateway.command("table")
def print_table() -> None:
    """The table of the README: features per processor, in Markdown."""
    from portal.gateways.documents import features_table

    typer.echo(features_table())


@gateway.command("document")
def print_document() -> None:
    """docs/processors.md: every fact of every processor, with its evidence, in Markdown."""
    from portal.gateways.documents import processors_document

    typer.echo(processors_document(), nl=False)


def _or_say_why(run: object) -> None:
    """Problems of set-up in one line instead of a traceback."""
    from portal.vault import VaultError

    try:
        run()  # type: ignore[operator]
    except (VaultError, RuntimeError) as error:
        typer.echo(f"portal: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    app()
