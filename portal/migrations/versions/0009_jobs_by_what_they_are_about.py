"""Jobs by what they are about.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

from portal.migrate import build_index

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    build_index(
        "ix_job_about", "job", ["about"], where="about IS NOT NULL AND done_at IS NULL AND parked_at IS NULL"
    )


def downgrade() -> None:
    op.drop_index("ix_job_about", "job")
