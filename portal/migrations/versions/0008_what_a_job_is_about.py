"""What the event of a job is about, so that one look answers all that wait for it.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("job", sa.Column("about", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "about")
