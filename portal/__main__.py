"""The command line: `portal serve`, `worker`, `migrate`, `demo`, and tools for those who run a portal."""

import json
import sys
from typing import Annotated

import typer
import uvloop

from portal.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="Keys of the installation.")
gateway = typer.Typer(no_args_is_help=True, help="What the processors can do.")
app.add_typer(keys, name="keys")
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
def run_migrations() -> None:
    """Bring the database to this version's schema."""
    from portal.migrate import upgrade

    settings = Settings()
    _or_say_why(lambda: upgrade(settings.database_url))
    typer.echo("The database is up to date.", err=True)


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


@keys.command("new")
def new_key() -> None:
    """Print a fresh master key for PORTAL_MASTER_KEYS."""
    from portal.vault import new_key

    typer.echo(new_key())


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
