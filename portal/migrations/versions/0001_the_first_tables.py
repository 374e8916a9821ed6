"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("dedupe", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("dedupe", name=op.f("uq_job_dedupe")),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index(
            "ix_job_due",
            ["run_at"],
            unique=False,
            sqlite_where=sa.text("done_at IS NULL AND parked_at IS NULL"),
            postgresql_where=sa.text("done_at IS NULL AND parked_at IS NULL"),
        )

    op.create_table(
        "merchant",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchant")),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    op.create_table(
        "portal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("merchant_id", sa.BigInteger(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("domain", sa.String(), nullable=True),
        sa.Column("support_email", sa.String(), nullable=False),
        sa.Column("shop_url", sa.String(), nullable=True),
        sa.Column("sender_name", sa.String(), nullable=True),
        sa.Column("locale", sa.String(), nullable=False),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.Column("country", sa.String(), nullable=True),
        sa.Column("brand", sa.JSON(), nullable=False),
        sa.Column("logo_id", sa.BigInteger(), nullable=True),
        sa.Column("legal_name", sa.String(), nullable=True),
        sa.Column("legal_address", sa.String(), nullable=True),
        sa.Column("tax_id", sa.String(), nullable=True),
        sa.Column("invoice_prefix", sa.String(), nullable=False),
        sa.Column("terms_url", sa.String(), nullable=True),
        sa.Column("privacy_url", sa.String(), nullable=True),
        sa.Column("cancel_reasons", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"], ["merchant.id"], name=op.f("fk_portal_merchant_id_merchant")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portal")),
        sa.UniqueConstraint("domain", name=op.f("uq_portal_domain")),
        sa.UniqueConstraint("slug", name=op.f("uq_portal_slug")),
    )
    op.create_table(
        "account",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("processor", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("variant", sa.String(), nullable=True),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("credentials", sa.LargeBinary(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("switched_off", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_account_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_account_portal_id_id")),
        sa.UniqueConstraint("token", name=op.f("uq_account_token")),
    )
    op.create_table(
        "asset",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_asset_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asset")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_asset_portal_id_id")),
    )
    op.create_table(
        "counter",
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("next", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_counter_portal_id_portal")),
        sa.PrimaryKeyConstraint("portal_id", "name", name=op.f("pk_counter")),
    )
    op.create_table(
        "customer",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_customer_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customer")),
        sa.UniqueConstraint("portal_id", "email", name=op.f("uq_customer_portal_id_email")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_customer_portal_id_id")),
    )
    op.create_table(
        "login_request",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("browser_hash", sa.String(), nullable=False),
        sa.Column("user_agent", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("next_path", sa.String(), nullable=False),
        sa.Column("typed", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code_hash", sa.String(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("code_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("mailed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_login_request_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_request")),
    )
    with op.batch_alter_table("login_request", schema=None) as batch_op:
        batch_op.create_index("ix_login_request_address", ["portal_id", "email", "created_at"], unique=False)
        batch_op.create_index("ix_login_request_browser", ["browser_hash", "created_at"], unique=False)
        batch_op.create_index(
            "ix_login_request_network", ["portal_id", "network", "created_at"], unique=False
        )

    op.create_table(
        "device",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("browser_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_device_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
        sa.UniqueConstraint("customer_id", "browser_hash", name=op.f("uq_device_customer_id_browser_hash")),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_event_portal_id_account_id_account"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("account_id", "event_id", name=op.f("uq_event_account_id_event_id")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index("ix_event_received", ["portal_id", "received_at"], unique=False)

    op.create_table(
        "invoice",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("remote_customer", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("raw_status", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("due_minor", sa.BigInteger(), nullable=True),
        sa.Column("payment_remote", sa.String(), nullable=True),
        sa.Column("subscription_remote", sa.String(), nullable=True),
        sa.Column("order_remote", sa.String(), nullable=True),
        sa.Column("document", sa.Boolean(), nullable=False),
        sa.Column("page_url", sa.String(), nullable=True),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_invoice_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_invoice_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoice")),
        sa.UniqueConstraint("account_id", "remote_id", name=op.f("uq_invoice_account_id_remote_id")),
    )
    with op.batch_alter_table("invoice", schema=None) as batch_op:
        batch_op.create_index("ix_invoice_payment", ["account_id", "payment_remote"], unique=False)
        batch_op.create_index("ix_invoice_remote_customer", ["account_id", "remote_customer"], unique=False)
        batch_op.create_index("ix_invoice_subscription", ["account_id", "subscription_remote"], unique=False)

    op.create_table(
        "login_token",
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("request_id", sa.BigInteger(), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["request_id"], ["login_request.id"], name=op.f("fk_login_token_request_id_login_request")
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_login_token")),
    )
    with op.batch_alter_table("login_token", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_login_token_request_id"), ["request_id"], unique=False)

    op.create_table(
        "order_",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("remote_customer", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("raw_status", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=True),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("tax_minor", sa.BigInteger(), nullable=True),
        sa.Column("discount_minor", sa.BigInteger(), nullable=True),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.Column("subscription_remote", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_order__portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_order__portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_")),
        sa.UniqueConstraint("account_id", "remote_id", name=op.f("uq_order__account_id_remote_id")),
    )
    with op.batch_alter_table("order_", schema=None) as batch_op:
        batch_op.create_index("ix_order_list", ["portal_id", "customer_id", "placed_at", "id"], unique=False)
        batch_op.create_index("ix_order_remote_customer", ["account_id", "remote_customer"], unique=False)

    op.create_table(
        "payment",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("remote_customer", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("raw_status", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=True),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("method", sa.JSON(), nullable=True),
        sa.Column("order_remote", sa.String(), nullable=True),
        sa.Column("subscription_remote", sa.String(), nullable=True),
        sa.Column("invoice_remote", sa.String(), nullable=True),
        sa.Column("failure_code", sa.String(), nullable=True),
        sa.Column("failure_reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_payment_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_payment_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment")),
        sa.UniqueConstraint("account_id", "remote_id", name=op.f("uq_payment_account_id_remote_id")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_payment_portal_id_id")),
    )
    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.create_index(
            "ix_payment_list", ["portal_id", "customer_id", "placed_at", "id"], unique=False
        )
        batch_op.create_index("ix_payment_order", ["account_id", "order_remote"], unique=False)
        batch_op.create_index("ix_payment_remote_customer", ["account_id", "remote_customer"], unique=False)
        batch_op.create_index("ix_payment_subscription", ["account_id", "subscription_remote"], unique=False)

    op.create_table(
        "refund",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("remote_customer", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("raw_status", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("payment_remote", sa.String(), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_refund_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_refund_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refund")),
        sa.UniqueConstraint("account_id", "remote_id", name=op.f("uq_refund_account_id_remote_id")),
    )
    with op.batch_alter_table("refund", schema=None) as batch_op:
        batch_op.create_index("ix_refund_payment", ["account_id", "payment_remote"], unique=False)

    op.create_table(
        "remote_customer",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("remote_customer", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("raw_status", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_remote_customer_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_remote_customer_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remote_customer")),
        sa.UniqueConstraint("account_id", "remote_id", name=op.f("uq_remote_customer_account_id_remote_id")),
    )
    with op.batch_alter_table("remote_customer", schema=None) as batch_op:
        batch_op.create_index("ix_remote_customer_customer", ["portal_id", "customer_id"], unique=False)

    op.create_table(
        "session",
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("user_agent", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_session_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_session")),
        sa.UniqueConstraint("id", name=op.f("uq_session_id")),
    )
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.create_index("ix_session_customer", ["portal_id", "customer_id"], unique=False)

    op.create_table(
        "subscription",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("remote_customer", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("raw_status", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stamps", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("interval_unit", sa.String(), nullable=True),
        sa.Column("interval_count", sa.Integer(), nullable=True),
        sa.Column("quantity", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trial_ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("current_period_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("current_period_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_on", sa.Date(), nullable=True),
        sa.Column("next_minor", sa.BigInteger(), nullable=True),
        sa.Column("next_certainty", sa.String(), nullable=True),
        sa.Column("cancels_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resumes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("method", sa.JSON(), nullable=True),
        sa.Column("due_minor", sa.BigInteger(), nullable=True),
        sa.Column("due_link", sa.String(), nullable=True),
        sa.Column("pending_change", sa.JSON(), nullable=True),
        sa.Column("object", sa.String(), nullable=True),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.Column("retries_on", sa.Date(), nullable=True),
        sa.Column("access_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_scheduled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("method_visited_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_subscription_portal_id_account_id_account"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_subscription_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
        sa.UniqueConstraint("account_id", "remote_id", name=op.f("uq_subscription_account_id_remote_id")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_subscription_portal_id_id")),
    )
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.create_index(
            "ix_subscription_list", ["portal_id", "customer_id", "placed_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_subscription_remote_customer", ["account_id", "remote_customer"], unique=False
        )

    op.create_table(
        "action",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("capability", sa.String(), nullable=False),
        sa.Column("how", sa.String(), nullable=True),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("state_hash", sa.String(), nullable=True),
        sa.Column("leave_state", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_late_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_action_portal_id_customer_id_customer"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "subscription_id"],
            ["subscription.portal_id", "subscription.id"],
            name=op.f("fk_action_portal_id_subscription_id_subscription"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_action")),
    )
    with op.batch_alter_table("action", schema=None) as batch_op:
        batch_op.create_index("ix_action_state", ["state_hash"], unique=True)
        batch_op.create_index("ix_action_subscription", ["subscription_id", "created_at"], unique=False)
        batch_op.create_index(
            "ux_action_claim",
            ["subscription_id"],
            unique=True,
            sqlite_where=sa.text("closed_at IS NULL"),
            postgresql_where=sa.text("closed_at IS NULL"),
        )

    op.create_table(
        "issued_document",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("payment_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "payment_id"],
            ["payment.portal_id", "payment.id"],
            name=op.f("fk_issued_document_portal_id_payment_id_payment"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issued_document")),
        sa.UniqueConstraint(
            "portal_id", "kind", "sequence", name=op.f("uq_issued_document_portal_id_kind_sequence")
        ),
        sa.UniqueConstraint(
            "portal_id", "payment_id", "kind", name=op.f("uq_issued_document_portal_id_payment_id_kind")
        ),
    )


def downgrade() -> None:
    op.drop_table("issued_document")
    with op.batch_alter_table("action", schema=None) as batch_op:
        batch_op.drop_index(
            "ux_action_claim",
            sqlite_where=sa.text("closed_at IS NULL"),
            postgresql_where=sa.text("closed_at IS NULL"),
        )
        batch_op.drop_index("ix_action_subscription")
        batch_op.drop_index("ix_action_state")

    op.drop_table("action")
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.drop_index("ix_subscription_remote_customer")
        batch_op.drop_index("ix_subscription_list")

    op.drop_table("subscription")
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.drop_index("ix_session_customer")

    op.drop_table("session")
    with op.batch_alter_table("remote_customer", schema=None) as batch_op:
        batch_op.drop_index("ix_remote_customer_customer")

    op.drop_table("remote_customer")
    with op.batch_alter_table("refund", schema=None) as batch_op:
        batch_op.drop_index("ix_refund_payment")

    op.drop_table("refund")
    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.drop_index("ix_payment_subscription")
        batch_op.drop_index("ix_payment_remote_customer")
        batch_op.drop_index("ix_payment_order")
        batch_op.drop_index("ix_payment_list")

    op.drop_table("payment")
    with op.batch_alter_table("order_", schema=None) as batch_op:
        batch_op.drop_index("ix_order_remote_customer")
        batch_op.drop_index("ix_order_list")

    op.drop_table("order_")
    with op.batch_alter_table("login_token", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_login_token_request_id"))

    op.drop_table("login_token")
    with op.batch_alter_table("invoice", schema=None) as batch_op:
        batch_op.drop_index("ix_invoice_subscription")
        batch_op.drop_index("ix_invoice_remote_customer")
        batch_op.drop_index("ix_invoice_payment")

    op.drop_table("invoice")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index("ix_event_received")

    op.drop_table("event")
    op.drop_table("device")
    with op.batch_alter_table("login_request", schema=None) as batch_op:
        batch_op.drop_index("ix_login_request_network")
        batch_op.drop_index("ix_login_request_browser")
        batch_op.drop_index("ix_login_request_address")

    op.drop_table("login_request")
    op.drop_table("customer")
    op.drop_table("counter")
    op.drop_table("asset")
    op.drop_table("account")
    op.drop_table("portal")
    op.drop_table("setting")
    op.drop_table("merchant")
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_job_due",
            sqlite_where=sa.text("done_at IS NULL AND parked_at IS NULL"),
            postgresql_where=sa.text("done_at IS NULL AND parked_at IS NULL"),
        )

    op.drop_table("job")
