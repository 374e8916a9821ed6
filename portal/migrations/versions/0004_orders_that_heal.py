"""Imports, the state of syncing, finding lost orders.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from portal.migrate import put_up_wall
from portal.models import Moment

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _imports()
    _sheets()
    _syncing()
    _people()
    _leases()
    _walls()
    _store()


def downgrade() -> None:
    _without_store()
    _without_walls()
    _without_leases()
    _without_people()
    _without_syncing()
    _without_sheets()
    _without_imports()


def _imports() -> None:
    op.create_table(
        "import_run",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("cursor", sa.String(), nullable=True),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("reasons", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("trail", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("stop_wanted", sa.Boolean(), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("retry_at", Moment(), nullable=True),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("lease_until", Moment(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_import_run_portal_id_account_id_account"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_run")),
    )
    op.create_index("ix_import_run_account", "import_run", ["account_id", "id"])
    op.create_index(
        "ux_import_run_open",
        "import_run",
        ["account_id"],
        unique=True,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )


def _without_imports() -> None:
    op.drop_table("import_run")


def _sheets() -> None:
    op.create_table(
        "sheet",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("encoding", sa.String(), nullable=True),
        sa.Column("guessed", sa.Boolean(), nullable=False),
        sa.Column("header", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("mapping", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("rules", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("first", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("as_of", Moment(), nullable=True),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("emptied_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_sheet_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_sheet_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sheet")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_sheet_portal_id_id")),
    )
    op.create_index("ix_sheet_kept", "sheet", ["created_at"])
    op.create_table(
        "sheet_part",
        sa.Column("sheet_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "sheet_id"],
            ["sheet.portal_id", "sheet.id"],
            name=op.f("fk_sheet_part_portal_id_sheet_id_sheet"),
        ),
        sa.PrimaryKeyConstraint("sheet_id", "number", name=op.f("pk_sheet_part")),
    )
    op.create_table(
        "sheet_problem",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("sheet_id", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("column", sa.String(), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "sheet_id"],
            ["sheet.portal_id", "sheet.id"],
            name=op.f("fk_sheet_problem_portal_id_sheet_id_sheet"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sheet_problem")),
    )
    op.create_index("ix_sheet_problem_list", "sheet_problem", ["portal_id", "sheet_id", "id"])


def _without_sheets() -> None:
    op.drop_table("sheet_problem")
    op.drop_table("sheet_part")
    op.drop_table("sheet")


_MIRRORED = ("remote_customer", "order_", "subscription", "payment", "refund", "invoice")


def _syncing() -> None:
    op.create_table(
        "sync_state",
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("since", Moment(timezone=True), nullable=False),
        sa.Column("walk", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("known", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("next_at", Moment(timezone=True), nullable=False),
        sa.Column("looked_at", Moment(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("missed", sa.BigInteger(), nullable=False),
        sa.Column("missed_at", Moment(timezone=True), nullable=True),
        sa.Column("night_at", Moment(timezone=True), nullable=False),
        sa.Column("night_until", Moment(timezone=True), nullable=True),
        sa.Column("night", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("night_left", sa.Integer(), nullable=False),
        sa.Column("night_done_at", Moment(timezone=True), nullable=True),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("differences", sa.Integer(), nullable=True),
        sa.Column("compared_at", Moment(timezone=True), nullable=True),
        sa.Column("troubles", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_sync_state_portal_id_account_id_account"),
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_sync_state")),
    )
    op.create_index("ix_sync_state_next", "sync_state", ["next_at"])
    op.create_index("ix_sync_state_night", "sync_state", ["night_at"])
    op.create_index("ix_sync_state_portal", "sync_state", ["portal_id"])
    op.add_column("event", sa.Column("asked_at", Moment(timezone=True), nullable=True))
    for table in _MIRRORED:
        op.add_column(table, sa.Column("missing_at", Moment(timezone=True), nullable=True))
        op.add_column(table, sa.Column("doubted_at", Moment(timezone=True), nullable=True))


def _without_syncing() -> None:
    for table in _MIRRORED:
        op.drop_column(table, "doubted_at")
        op.drop_column(table, "missing_at")
    op.drop_column("event", "asked_at")
    op.drop_table("sync_state")


def _people() -> None:
    with op.batch_alter_table("login_request", schema=None) as batch_op:
        batch_op.add_column(sa.Column("customer_id", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("looked_at", Moment(timezone=True), nullable=True))
    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.add_column(sa.Column("contact", sa.String(), nullable=True))
        batch_op.alter_column("account_id", existing_type=sa.BigInteger(), nullable=True)
        batch_op.alter_column("customer_id", existing_type=sa.BigInteger(), nullable=True)
    op.create_table(
        "order_ask",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("last4", sa.String(), nullable=False),
        sa.Column("amount", sa.String(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("placed_on", sa.Date(), nullable=True),
        sa.Column("contact", sa.String(), nullable=True),
        sa.Column("browser_hash", sa.String(), nullable=False),
        sa.Column("user_agent", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("created_at", Moment(timezone=True), nullable=False),
        sa.Column("looked_at", Moment(timezone=True), nullable=True),
        sa.Column("subject_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_order_ask_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_ask")),
    )
    with op.batch_alter_table("order_ask", schema=None) as batch_op:
        for name, columns in (
            ("ix_order_ask_network", ["portal_id", "network", "created_at"]),
            ("ix_order_ask_browser", ["portal_id", "browser_hash", "created_at"]),
            ("ix_order_ask_reference", ["portal_id", "reference", "created_at"]),
            ("ix_order_ask_portal", ["portal_id", "created_at"]),
        ):
            batch_op.create_index(name, columns, unique=False)
        batch_op.create_index(
            "ix_order_ask_subject",
            ["portal_id", "subject_id", "created_at"],
            unique=False,
            sqlite_where=sa.text("subject_id IS NOT NULL"),
            postgresql_where=sa.text("subject_id IS NOT NULL"),
        )


def _without_people() -> None:
    op.drop_table("order_ask")
    # What nobody signed in has asked has no place in the older table.
    op.execute("DELETE FROM request WHERE customer_id IS NULL OR account_id IS NULL")
    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.alter_column("customer_id", existing_type=sa.BigInteger(), nullable=False)
        batch_op.alter_column("account_id", existing_type=sa.BigInteger(), nullable=False)
        batch_op.drop_column("contact")
    with op.batch_alter_table("login_request", schema=None) as batch_op:
        batch_op.drop_column("looked_at")
        batch_op.drop_column("customer_id")


def _leases() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("locked_by", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("deaths", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("account_id", sa.BigInteger(), nullable=True))


def _without_leases() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_column("account_id")
        batch_op.drop_column("deaths")
        batch_op.drop_column("locked_by")


# What a row is seen by: its portal, where 0 stands for the installation.
_OF_PORTALS = """
    account action address_join api_key asset assignment counter customer customer_key delivery device domain_claim
    endpoint entry event import_run invoice issued_document mail_text order_ order_ask own_event payment refund
    remote_customer request session sheet sheet_part sheet_problem subscription sync_state tally
"""
_SEEN_BY = {
    **dict.fromkeys(_OF_PORTALS.split(), "portal_id"),
    "audit": "coalesce(portal_id, merchant_id)",
    "job": "coalesce(within, portal_id, 0)",
    "login_request": "coalesce(portal_id, 0)",
    "login_token": "coalesce(portal_id, 0)",
    "portal": "id",
}


def _walls() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("within", sa.BigInteger(), nullable=True))
    for table, seen_by in _SEEN_BY.items():
        put_up_wall(table, seen_by)


def _without_walls() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in _SEEN_BY:
            op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
            op.execute(f"DROP POLICY wall ON {table}")
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_column("within")


def _store() -> None:
    with op.batch_alter_table("sheet", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sha256", sa.String(), nullable=True))
    with op.batch_alter_table("sheet_part", schema=None) as batch_op:
        batch_op.alter_column("content", existing_type=sa.LargeBinary(), nullable=True)
        batch_op.add_column(sa.Column("at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("size", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("sha256", sa.String(), nullable=True))


def _without_store() -> None:
    # Files that lie in a store can't be read by what came before; documents are made again by it.
    op.execute("DELETE FROM sheet_part WHERE content IS NULL")
    with op.batch_alter_table("sheet_part", schema=None) as batch_op:
        batch_op.drop_column("sha256")
        batch_op.drop_column("size")
        batch_op.drop_column("at")
        batch_op.alter_column("content", existing_type=sa.LargeBinary(), nullable=False)
    with op.batch_alter_table("sheet", schema=None) as batch_op:
        batch_op.drop_column("sha256")
