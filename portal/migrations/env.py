"""How Alembic meets our tables; it is called by `portal.migrate` only, which gives it a connection: on SQLite in a
transaction, on PostgreSQL for one transaction each migration."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from portal import clock, models
from portal.migrate import FLOOR

_TYPES = {
    "Moment": "sa.DateTime(timezone=True)",
    "AutoString": "sa.String()",
    "JSON": "sa.JSON()",
}


def _plain(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Migrations name no type of ours: those may change, what a migration once did may not."""
    if kind != "type":
        return False
    if item.dialect_impl(autogen.dialect) is not item and getattr(item, "_variant_mapping", None):
        return 'sa.BigInteger().with_variant(sa.Integer(), "sqlite")'
    return _TYPES.get(type(item).__name__, False)


def _note_floor(ctx: Any, heads: Any, **_: Any) -> None:
    """Which version is the oldest that runs on the schema: the migrations that took something away say it."""
    scripts = context.script
    if not any(_contracts(script) for script in scripts.walk_revisions()):
        return
    setting = models.metadata.tables["setting"]
    ctx.connection.execute(setting.delete().where(setting.c.name == FLOOR))
    applied = scripts.walk_revisions("base", next(iter(heads))) if heads else ()
    oldest = max((_contracts(script) for script in applied), default="")
    if oldest:
        ctx.connection.execute(setting.insert().values(name=FLOOR, value=oldest, at=clock.now()))


def _contracts(script: Any) -> str:
    return getattr(script.module, "contracts", "")


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        transaction_per_migration=connection.dialect.name != "sqlite",
        on_version_apply=_note_floor,  # type: ignore[arg-type]  # it is called by keywords
        target_metadata=models.metadata,
        render_as_batch=True,
        render_item=_plain,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
