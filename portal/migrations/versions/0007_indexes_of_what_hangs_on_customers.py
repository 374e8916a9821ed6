"""What hangs on a customer, by portal and customer: for lists in their order, and for foreign keys when one is deleted.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

from portal.migrate import build_index, take_index_away

revision = "0007"
down_revision = "0006"

_INDEXES: dict[str, tuple[str, list[str], str | None]] = {
    "ix_request_of_customer": ("request", ["portal_id", "customer_id", "id"], None),
    "ix_request_open": ("request", ["portal_id", "subject_id"], "closed_at IS NULL"),
    "ix_customer_key_of": ("customer_key", ["customer_id", "portal_id", "key"], None),
    "ix_device_customer": ("device", ["portal_id", "customer_id"], None),
    "ix_entry_customer": ("entry", ["portal_id", "customer_id"], None),
    "ix_issued_document_customer": ("issued_document", ["portal_id", "customer_id"], None),
    "ix_assignment_customer": ("assignment", ["portal_id", "customer_id"], None),
}


def upgrade() -> None:
    for name, (table, columns, where) in _INDEXES.items():
        build_index(name, table, columns, where=where)
    take_index_away("ix_customer_key_customer", "customer_key")


def downgrade() -> None:
    op.create_index("ix_customer_key_customer", "customer_key", ["customer_id", "key"])
    for name, (table, *_) in _INDEXES.items():
        op.drop_index(name, table)
