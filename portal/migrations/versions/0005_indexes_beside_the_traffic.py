"""Indexes on tables that may be big: each is built while rows are written to them.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

from portal.migrate import build_index, take_index_away

revision = "0005"
down_revision = "0004"

_INDEXES: dict[str, tuple[str, list[str], str | None]] = {
    "ix_portal_merchant": ("portal", ["merchant_id"], None),
    "ix_order_in_doubt": ("order_", ["account_id", "id"], "status = 'open' OR doubted_at IS NOT NULL"),
    "ix_payment_in_doubt": (
        "payment",
        ["account_id", "id"],
        "status IN ('pending', 'authorized') OR doubted_at IS NOT NULL",
    ),
    "ix_refund_in_doubt": ("refund", ["account_id", "id"], "status = 'pending' OR doubted_at IS NOT NULL"),
    "ix_subscription_in_doubt": (
        "subscription",
        ["account_id", "id"],
        "status NOT IN ('cancelled', 'expired') OR doubted_at IS NOT NULL",
    ),
    "ix_subscription_doubted": ("subscription", ["account_id", "id"], "doubted_at IS NOT NULL"),
    "ix_login_request_looked": ("login_request", ["portal_id", "looked_at"], "looked_at IS NOT NULL"),
    "ix_login_request_customer": (
        "login_request",
        ["customer_id", "created_at"],
        "customer_id IS NOT NULL",
    ),
    "ix_event_of_account": ("event", ["account_id", "received_at", "id"], None),
    "ix_request_due": ("request", ["portal_id", "status", "due_at", "id"], None),
}
# Those that the last two take the place of: without the id at their end, a page was sorted out of all that there was.
_SHORTER: dict[str, tuple[str, list[str]]] = {
    "ix_event_account": ("event", ["account_id", "received_at"]),
    "ix_request_queue": ("request", ["portal_id", "status", "due_at"]),
}


def upgrade() -> None:
    for name, (table, columns, where) in _INDEXES.items():
        build_index(name, table, columns, where=where)
    for name, (table, _) in _SHORTER.items():
        take_index_away(name, table)


def downgrade() -> None:
    for name, (table, columns) in _SHORTER.items():
        op.create_index(name, table, columns)
    for name, (table, *_) in _INDEXES.items():
        op.drop_index(name, table)
