"""What a portal's overview adds up over many subscriptions, kept for some minutes.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from portal.migrate import put_up_wall
from portal.models import Moment

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "totals",
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("counted_at", Moment(timezone=True), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_totals_portal_id_portal")),
        sa.PrimaryKeyConstraint("portal_id", name=op.f("pk_totals")),
    )
    put_up_wall("totals", "portal_id")


def downgrade() -> None:
    op.drop_table("totals")
