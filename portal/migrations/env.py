"""How Alembic meets our tables; it is called by `portal.migrate` only, which gives it a connection in a transaction."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from portal import models

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


def run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=models.metadata,
        render_as_batch=True,
        render_item=_plain,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
