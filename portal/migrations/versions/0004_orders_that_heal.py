"""Imports, the state of syncing, finding lost orders.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from portal.models import Moment

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _imports()
    _sheets()
    _syncing()
    _people()


def downgrade() -> None:
    _without_people()
    _without_syncing()
    _without_sheets()
    _without_imports()


def _imports() -> None:
    pass


def _without_imports() -> None:
    pass


def _sheets() -> None:
    pass


def _without_sheets() -> None:
    pass


def _syncing() -> None:
    pass


def _without_syncing() -> None:
    pass


def _people() -> None:
    pass


def _without_people() -> None:
    pass
