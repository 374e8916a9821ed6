"""Requests to the merchant, and what we keep beside the processor's word."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("subject_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("words", sa.String(), nullable=True),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("answer", sa.String(), nullable=True),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_late_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_request_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_request_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request")),
        sa.UniqueConstraint("portal_id", "reference", name=op.f("uq_request_portal_id_reference")),
    )
    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.create_index(
            "ix_request_list", ["portal_id", "customer_id", "created_at", "id"], unique=False
        )
        batch_op.create_index("ix_request_queue", ["portal_id", "status", "due_at"], unique=False)
        batch_op.create_index(
            "ux_request_open",
            ["subject_id", "kind"],
            unique=True,
            sqlite_where=sa.text("closed_at IS NULL"),
            postgresql_where=sa.text("closed_at IS NULL"),
        )

    with op.batch_alter_table("account", schema=None) as batch_op:
        batch_op.add_column(sa.Column("previous_credentials", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("plans", sa.JSON(), nullable=True))

    with op.batch_alter_table("order_", schema=None) as batch_op:
        batch_op.add_column(sa.Column("due_link", sa.String(), nullable=True))

    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.add_column(sa.Column("object", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("after_end_at", sa.DateTime(timezone=True), nullable=True))

    with op.batch_alter_table("portal", schema=None) as batch_op:
        batch_op.add_column(sa.Column("request_days", sa.Integer(), nullable=False, server_default="3"))
        batch_op.add_column(sa.Column("request_email", sa.String(), nullable=True))

    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ended_here_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("promised_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.drop_column("promised_until")
        batch_op.drop_column("ended_here_at")

    with op.batch_alter_table("portal", schema=None) as batch_op:
        batch_op.drop_column("request_email")
        batch_op.drop_column("request_days")

    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.drop_column("after_end_at")
        batch_op.drop_column("object")

    with op.batch_alter_table("order_", schema=None) as batch_op:
        batch_op.drop_column("due_link")

    with op.batch_alter_table("account", schema=None) as batch_op:
        batch_op.drop_column("plans")
        batch_op.drop_column("previous_until")
        batch_op.drop_column("previous_credentials")

    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.drop_index(
            "ux_request_open",
            sqlite_where=sa.text("closed_at IS NULL"),
            postgresql_where=sa.text("closed_at IS NULL"),
        )
        batch_op.drop_index("ix_request_queue")
        batch_op.drop_index("ix_request_list")

    op.drop_table("request")
