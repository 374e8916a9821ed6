"""${message}.

What docs/migrations.md says of migrations holds for this one."""

import sqlalchemy as sa
from alembic import op

revision = "${up_revision}"
down_revision = ${f"\"{down_revision}\"" if down_revision else None}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
