"""The merchant's side: people and their sessions, domains, keys of the merchant's app, and what they change."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "merchant_invitation",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.BigInteger(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("invited_by", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchant_invitation")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_merchant_invitation_token_hash")),
    )
    with op.batch_alter_table("merchant_invitation", schema=None) as batch_op:
        batch_op.create_index("ix_merchant_invitation_merchant", ["merchant_id"], unique=False)

    op.create_table(
        "merchant_user",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("totp", sa.LargeBinary(), nullable=True),
        sa.Column("totp_confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("totp_step", sa.BigInteger(), nullable=True),
        sa.Column("recovery_hashes", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchant_user")),
        sa.UniqueConstraint("email", name=op.f("uq_merchant_user_email")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("merchant_id", sa.BigInteger(), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.Column("network", sa.String(), nullable=True),
        sa.Column("browser", sa.String(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"], name=op.f("fk_audit_merchant_id_merchant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index("ix_audit_list", ["merchant_id", "id"], unique=False)

    op.create_table(
        "merchant_member",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("merchant_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"], ["merchant.id"], name=op.f("fk_merchant_member_merchant_id_merchant")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["merchant_user.id"], name=op.f("fk_merchant_member_user_id_merchant_user")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchant_member")),
        sa.UniqueConstraint("merchant_id", "user_id", name=op.f("uq_merchant_member_merchant_id_user_id")),
    )
    with op.batch_alter_table("merchant_member", schema=None) as batch_op:
        batch_op.create_index("ix_merchant_member_user", ["user_id"], unique=False)

    op.create_table(
        "merchant_session",
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("merchant_id", sa.BigInteger(), nullable=False),
        sa.Column("user_agent", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("second_factor", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("proved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["merchant_id"], ["merchant.id"], name=op.f("fk_merchant_session_merchant_id_merchant")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["merchant_user.id"], name=op.f("fk_merchant_session_user_id_merchant_user")
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_merchant_session")),
        sa.UniqueConstraint("id", name=op.f("uq_merchant_session_id")),
    )
    with op.batch_alter_table("merchant_session", schema=None) as batch_op:
        batch_op.create_index("ix_merchant_session_user", ["user_id"], unique=False)

    op.create_table(
        "passkey",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("credential_id", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sign_count", sa.BigInteger(), nullable=False),
        sa.Column("transports", sa.JSON(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["merchant_user.id"], name=op.f("fk_passkey_user_id_merchant_user")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passkey")),
        sa.UniqueConstraint("credential_id", name=op.f("uq_passkey_credential_id")),
    )
    with op.batch_alter_table("passkey", schema=None) as batch_op:
        batch_op.create_index("ix_passkey_user", ["user_id"], unique=False)

    op.create_table(
        "api_key",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_api_key_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_key_key_hash")),
    )
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.create_index("ix_api_key_portal", ["portal_id"], unique=False)

    op.create_table(
        "domain_claim",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_check_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("proved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("silent_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problems", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_domain_claim_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_domain_claim")),
        sa.UniqueConstraint("portal_id", name=op.f("uq_domain_claim_portal_id")),
    )
    with op.batch_alter_table("domain_claim", schema=None) as batch_op:
        batch_op.create_index("ix_domain_claim_name", ["name"], unique=False)
        batch_op.create_index("ix_domain_claim_next", ["next_check_at"], unique=False)

    op.create_table(
        "endpoint",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("previous_secret", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_endpoint_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoint")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_endpoint_portal_id_id")),
    )
    with op.batch_alter_table("endpoint", schema=None) as batch_op:
        batch_op.create_index("ix_endpoint_portal", ["portal_id"], unique=False)

    op.create_table(
        "mail_text",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("body", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_mail_text_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mail_text")),
        sa.UniqueConstraint("portal_id", "template", name=op.f("uq_mail_text_portal_id_template")),
    )
    op.create_table(
        "tally",
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_tally_portal_id_portal")),
        sa.PrimaryKeyConstraint("portal_id", "name", "day", name=op.f("pk_tally")),
    )
    op.create_table(
        "address_join",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("from_id", sa.BigInteger(), nullable=False),
        sa.Column("into_id", sa.BigInteger(), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=True),
        sa.Column("asked_by", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("proved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("undone_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("undone_by", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "from_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_address_join_portal_id_from_id_customer"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "into_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_address_join_portal_id_into_id_customer"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_address_join")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_address_join_token_hash")),
    )
    with op.batch_alter_table("address_join", schema=None) as batch_op:
        batch_op.create_index("ix_address_join_from", ["portal_id", "from_id"], unique=False)
        batch_op.create_index("ix_address_join_into", ["portal_id", "into_id"], unique=False)
        batch_op.create_index(
            "ux_address_join",
            ["from_id"],
            unique=True,
            sqlite_where=sa.text("proved_at IS NOT NULL AND undone_at IS NULL"),
            postgresql_where=sa.text("proved_at IS NOT NULL AND undone_at IS NULL"),
        )

    op.create_table(
        "api_use",
        sa.Column("key_id", sa.BigInteger(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_key.id"], name=op.f("fk_api_use_key_id_api_key")),
        sa.PrimaryKeyConstraint("key_id", "minute", name=op.f("pk_api_use")),
    )
    op.create_table(
        "assignment",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("remote_id", sa.String(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("by", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "account_id"],
            ["account.portal_id", "account.id"],
            name=op.f("fk_assignment_portal_id_account_id_account"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignment")),
        sa.UniqueConstraint(
            "account_id", "kind", "remote_id", name=op.f("uq_assignment_account_id_kind_remote_id")
        ),
    )
    with op.batch_alter_table("assignment", schema=None) as batch_op:
        batch_op.create_index("ix_assignment_list", ["portal_id", "id"], unique=False)

    op.create_table(
        "customer_key",
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_customer_key_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("portal_id", "key", "customer_id", name=op.f("pk_customer_key")),
    )
    with op.batch_alter_table("customer_key", schema=None) as batch_op:
        batch_op.create_index("ix_customer_key_customer", ["customer_id", "key"], unique=False)

    op.create_table(
        "entry",
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("flow", sa.String(), nullable=True),
        sa.Column("subscription_id", sa.BigInteger(), nullable=True),
        sa.Column("return_url", sa.String(), nullable=True),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_entry_portal_id_customer_id_customer"),
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_entry")),
    )
    with op.batch_alter_table("entry", schema=None) as batch_op:
        batch_op.create_index("ix_entry_expires", ["expires_at"], unique=False)

    op.create_table(
        "own_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["portal_id", "customer_id"],
            ["customer.portal_id", "customer.id"],
            name=op.f("fk_own_event_portal_id_customer_id_customer"),
        ),
        sa.ForeignKeyConstraint(["portal_id"], ["portal.id"], name=op.f("fk_own_event_portal_id_portal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_own_event")),
        sa.UniqueConstraint("portal_id", "id", name=op.f("uq_own_event_portal_id_id")),
    )
    with op.batch_alter_table("own_event", schema=None) as batch_op:
        batch_op.create_index("ix_own_event_at", ["at"], unique=False)
        batch_op.create_index("ix_own_event_customer", ["portal_id", "customer_id"], unique=False)

    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("portal_id", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["portal_id", "endpoint_id"],
            ["endpoint.portal_id", "endpoint.id"],
            name=op.f("fk_delivery_portal_id_endpoint_id_endpoint"),
        ),
        sa.ForeignKeyConstraint(
            ["portal_id", "event_id"],
            ["own_event.portal_id", "own_event.id"],
            name=op.f("fk_delivery_portal_id_event_id_own_event"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index("ix_delivery_event", ["portal_id", "event_id"], unique=False)
        batch_op.create_index("ix_delivery_list", ["portal_id", "endpoint_id", "id"], unique=False)

    with op.batch_alter_table("account", schema=None) as batch_op:
        batch_op.add_column(sa.Column("health", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("webhook_remote", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("disconnected_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("version", sa.Integer(), server_default="1", nullable=False))

    with op.batch_alter_table("action", schema=None) as batch_op:
        batch_op.create_index("ix_action_customer", ["portal_id", "customer_id", "id"], unique=False)
        batch_op.create_index("ix_action_figures", ["portal_id", "capability", "created_at"], unique=False)

    with op.batch_alter_table("asset", schema=None) as batch_op:
        batch_op.add_column(sa.Column("twice_sha256", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("twice", sa.LargeBinary(), nullable=True))

    with op.batch_alter_table("customer", schema=None) as batch_op:
        batch_op.add_column(sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("keyed", sa.Boolean(), nullable=True))
        batch_op.create_index(
            "ix_customer_unkeyed",
            ["id"],
            unique=False,
            sqlite_where=sa.text("keyed IS NULL"),
            postgresql_where=sa.text("keyed IS NULL"),
        )

    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.add_column(sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index("ix_device_seen", ["portal_id", "seen_at"], unique=False)

    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.add_column(sa.Column("changed", sa.JSON(), nullable=True))
        batch_op.create_index("ix_event_account", ["account_id", "received_at"], unique=False)
        batch_op.create_index(
            "ix_event_body",
            ["portal_id", "received_at"],
            unique=False,
            sqlite_where=sa.text("body IS NOT NULL"),
            postgresql_where=sa.text("body IS NOT NULL"),
        )
        batch_op.create_index("ix_event_list", ["portal_id", "id"], unique=False)
        batch_op.create_index(
            "ix_event_parked",
            ["portal_id", "id"],
            unique=False,
            sqlite_where=sa.text("parked_at IS NOT NULL"),
            postgresql_where=sa.text("parked_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_event_refused",
            ["portal_id", "id"],
            unique=False,
            sqlite_where=sa.text("handled_at IS NOT NULL AND error IS NOT NULL"),
            postgresql_where=sa.text("handled_at IS NOT NULL AND error IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_event_waiting",
            ["portal_id", "id"],
            unique=False,
            sqlite_where=sa.text("handled_at IS NULL AND parked_at IS NULL"),
            postgresql_where=sa.text("handled_at IS NULL AND parked_at IS NULL"),
        )

    with op.batch_alter_table("invoice", schema=None) as batch_op:
        batch_op.add_column(sa.Column("said_id", sa.BigInteger(), nullable=True))
        batch_op.create_index("ix_invoice_customer", ["portal_id", "customer_id", "id"], unique=False)
        batch_op.create_index(
            "ix_invoice_nobodys",
            ["portal_id", "placed_at", "id"],
            unique=False,
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL AND payment_remote IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL AND payment_remote IS NULL"),
        )
        batch_op.create_index("ix_invoice_number", ["portal_id", "number"], unique=False)

    with op.batch_alter_table("issued_document", schema=None) as batch_op:
        batch_op.create_index("ix_issued_document_number", ["portal_id", "number"], unique=False)

    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("portal_id", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_job_parked",
            ["parked_at"],
            unique=False,
            sqlite_where=sa.text("parked_at IS NOT NULL"),
            postgresql_where=sa.text("parked_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_job_trouble",
            ["portal_id", "id"],
            unique=False,
            sqlite_where=sa.text("portal_id IS NOT NULL AND done_at IS NULL"),
            postgresql_where=sa.text("portal_id IS NOT NULL AND done_at IS NULL"),
        )

    with op.batch_alter_table("login_request", schema=None) as batch_op:
        batch_op.alter_column("portal_id", existing_type=sa.BIGINT(), nullable=True)

    with op.batch_alter_table("login_token", schema=None) as batch_op:
        batch_op.alter_column("portal_id", existing_type=sa.BIGINT(), nullable=True)

    with op.batch_alter_table("order_", schema=None) as batch_op:
        batch_op.add_column(sa.Column("said_id", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_order_amount", ["portal_id", "currency", "amount_minor", "placed_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_order_nobodys",
            ["portal_id", "placed_at", "id"],
            unique=False,
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )
        batch_op.create_index("ix_order_number", ["portal_id", "number", "placed_at", "id"], unique=False)
        batch_op.create_index("ix_order_portal", ["portal_id", "id"], unique=False)

    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.add_column(sa.Column("said_id", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_payment_amount", ["portal_id", "currency", "amount_minor", "placed_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_payment_nobodys",
            ["portal_id", "placed_at", "id"],
            unique=False,
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )

    with op.batch_alter_table("portal", schema=None) as batch_op:
        batch_op.add_column(sa.Column("domain_until", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False))
        batch_op.add_column(sa.Column("brand_colour", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("logo_dark_id", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("cancel_policy", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("save_offers", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("privacy", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("return_urls", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("answer_templates", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("version", sa.Integer(), server_default="1", nullable=False))

    with op.batch_alter_table("refund", schema=None) as batch_op:
        batch_op.add_column(sa.Column("said_id", sa.BigInteger(), nullable=True))
        batch_op.create_index("ix_refund_customer", ["portal_id", "customer_id"], unique=False)

    with op.batch_alter_table("remote_customer", schema=None) as batch_op:
        batch_op.add_column(sa.Column("said_id", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_remote_customer_nobodys",
            ["portal_id", "placed_at", "id"],
            unique=False,
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )

    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.create_index(
            "ix_request_answered",
            ["portal_id", "closed_at", "id"],
            unique=False,
            sqlite_where=sa.text("closed_at IS NOT NULL"),
            postgresql_where=sa.text("closed_at IS NOT NULL"),
        )
        batch_op.create_index("ix_request_portal", ["portal_id", "id"], unique=False)

    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("viewer_id", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("joined_id", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("return_url", sa.String(), nullable=True))

    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.add_column(sa.Column("said_id", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_subscription_amount",
            ["portal_id", "currency", "amount_minor", "placed_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_subscription_figures", ["portal_id", "status", "cancel_scheduled_at", "next_on"], unique=False
        )
        batch_op.create_index(
            "ix_subscription_kept",
            ["account_id", "access_until"],
            unique=False,
            sqlite_where=sa.text("access_until IS NOT NULL"),
            postgresql_where=sa.text("access_until IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_subscription_nobodys",
            ["portal_id", "placed_at", "id"],
            unique=False,
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )
        batch_op.create_index(
            "ix_subscription_past_due",
            ["portal_id", "id"],
            unique=False,
            sqlite_where=sa.text("status = 'past_due'"),
            postgresql_where=sa.text("status = 'past_due'"),
        )


def downgrade() -> None:
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_subscription_past_due",
            sqlite_where=sa.text("status = 'past_due'"),
            postgresql_where=sa.text("status = 'past_due'"),
        )
        batch_op.drop_index(
            "ix_subscription_nobodys",
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )
        batch_op.drop_index(
            "ix_subscription_kept",
            sqlite_where=sa.text("access_until IS NOT NULL"),
            postgresql_where=sa.text("access_until IS NOT NULL"),
        )
        batch_op.drop_index("ix_subscription_figures")
        batch_op.drop_index("ix_subscription_amount")
        batch_op.drop_column("said_id")

    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.drop_column("return_url")
        batch_op.drop_column("joined_id")
        batch_op.drop_column("viewer_id")

    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.drop_index("ix_request_portal")
        batch_op.drop_index(
            "ix_request_answered",
            sqlite_where=sa.text("closed_at IS NOT NULL"),
            postgresql_where=sa.text("closed_at IS NOT NULL"),
        )

    with op.batch_alter_table("remote_customer", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_remote_customer_nobodys",
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )
        batch_op.drop_column("said_id")

    with op.batch_alter_table("refund", schema=None) as batch_op:
        batch_op.drop_index("ix_refund_customer")
        batch_op.drop_column("said_id")

    with op.batch_alter_table("portal", schema=None) as batch_op:
        batch_op.drop_column("version")
        batch_op.drop_column("answer_templates")
        batch_op.drop_column("return_urls")
        batch_op.drop_column("privacy")
        batch_op.drop_column("save_offers")
        batch_op.drop_column("cancel_policy")
        batch_op.drop_column("logo_dark_id")
        batch_op.drop_column("brand_colour")
        batch_op.drop_column("enabled")
        batch_op.drop_column("domain_until")

    with op.batch_alter_table("payment", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_payment_nobodys",
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )
        batch_op.drop_index("ix_payment_amount")
        batch_op.drop_column("said_id")

    with op.batch_alter_table("order_", schema=None) as batch_op:
        batch_op.drop_index("ix_order_portal")
        batch_op.drop_index("ix_order_number")
        batch_op.drop_index(
            "ix_order_nobodys",
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL"),
        )
        batch_op.drop_index("ix_order_amount")
        batch_op.drop_column("said_id")

    with op.batch_alter_table("login_token", schema=None) as batch_op:
        batch_op.alter_column("portal_id", existing_type=sa.BIGINT(), nullable=False)

    with op.batch_alter_table("login_request", schema=None) as batch_op:
        batch_op.alter_column("portal_id", existing_type=sa.BIGINT(), nullable=False)

    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_job_trouble",
            sqlite_where=sa.text("portal_id IS NOT NULL AND done_at IS NULL"),
            postgresql_where=sa.text("portal_id IS NOT NULL AND done_at IS NULL"),
        )
        batch_op.drop_index(
            "ix_job_parked",
            sqlite_where=sa.text("parked_at IS NOT NULL"),
            postgresql_where=sa.text("parked_at IS NOT NULL"),
        )
        batch_op.drop_column("portal_id")

    with op.batch_alter_table("issued_document", schema=None) as batch_op:
        batch_op.drop_index("ix_issued_document_number")

    with op.batch_alter_table("invoice", schema=None) as batch_op:
        batch_op.drop_index("ix_invoice_number")
        batch_op.drop_index(
            "ix_invoice_nobodys",
            sqlite_where=sa.text("coalesce(customer_id, said_id) IS NULL AND payment_remote IS NULL"),
            postgresql_where=sa.text("coalesce(customer_id, said_id) IS NULL AND payment_remote IS NULL"),
        )
        batch_op.drop_index("ix_invoice_customer")
        batch_op.drop_column("said_id")

    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_event_waiting",
            sqlite_where=sa.text("handled_at IS NULL AND parked_at IS NULL"),
            postgresql_where=sa.text("handled_at IS NULL AND parked_at IS NULL"),
        )
        batch_op.drop_index(
            "ix_event_refused",
            sqlite_where=sa.text("handled_at IS NOT NULL AND error IS NOT NULL"),
            postgresql_where=sa.text("handled_at IS NOT NULL AND error IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_event_parked",
            sqlite_where=sa.text("parked_at IS NOT NULL"),
            postgresql_where=sa.text("parked_at IS NOT NULL"),
        )
        batch_op.drop_index("ix_event_list")
        batch_op.drop_index(
            "ix_event_body",
            sqlite_where=sa.text("body IS NOT NULL"),
            postgresql_where=sa.text("body IS NOT NULL"),
        )
        batch_op.drop_index("ix_event_account")
        batch_op.drop_column("changed")

    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.drop_index("ix_device_seen")
        batch_op.drop_column("seen_at")

    with op.batch_alter_table("customer", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_customer_unkeyed",
            sqlite_where=sa.text("keyed IS NULL"),
            postgresql_where=sa.text("keyed IS NULL"),
        )
        batch_op.drop_column("keyed")
        batch_op.drop_column("seen_at")

    with op.batch_alter_table("asset", schema=None) as batch_op:
        batch_op.drop_column("twice")
        batch_op.drop_column("twice_sha256")

    with op.batch_alter_table("action", schema=None) as batch_op:
        batch_op.drop_index("ix_action_figures")
        batch_op.drop_index("ix_action_customer")

    with op.batch_alter_table("account", schema=None) as batch_op:
        batch_op.drop_column("version")
        batch_op.drop_column("disconnected_at")
        batch_op.drop_column("webhook_remote")
        batch_op.drop_column("checked_at")
        batch_op.drop_column("health")

    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index("ix_delivery_list")
        batch_op.drop_index("ix_delivery_event")

    op.drop_table("delivery")
    with op.batch_alter_table("own_event", schema=None) as batch_op:
        batch_op.drop_index("ix_own_event_customer")
        batch_op.drop_index("ix_own_event_at")

    op.drop_table("own_event")
    with op.batch_alter_table("entry", schema=None) as batch_op:
        batch_op.drop_index("ix_entry_expires")

    op.drop_table("entry")
    with op.batch_alter_table("customer_key", schema=None) as batch_op:
        batch_op.drop_index("ix_customer_key_customer")

    op.drop_table("customer_key")
    with op.batch_alter_table("assignment", schema=None) as batch_op:
        batch_op.drop_index("ix_assignment_list")

    op.drop_table("assignment")
    op.drop_table("api_use")
    with op.batch_alter_table("address_join", schema=None) as batch_op:
        batch_op.drop_index(
            "ux_address_join",
            sqlite_where=sa.text("proved_at IS NOT NULL AND undone_at IS NULL"),
            postgresql_where=sa.text("proved_at IS NOT NULL AND undone_at IS NULL"),
        )
        batch_op.drop_index("ix_address_join_into")
        batch_op.drop_index("ix_address_join_from")

    op.drop_table("address_join")
    op.drop_table("tally")
    op.drop_table("mail_text")
    with op.batch_alter_table("endpoint", schema=None) as batch_op:
        batch_op.drop_index("ix_endpoint_portal")

    op.drop_table("endpoint")
    with op.batch_alter_table("domain_claim", schema=None) as batch_op:
        batch_op.drop_index("ix_domain_claim_next")
        batch_op.drop_index("ix_domain_claim_name")

    op.drop_table("domain_claim")
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.drop_index("ix_api_key_portal")

    op.drop_table("api_key")
    with op.batch_alter_table("passkey", schema=None) as batch_op:
        batch_op.drop_index("ix_passkey_user")

    op.drop_table("passkey")
    with op.batch_alter_table("merchant_session", schema=None) as batch_op:
        batch_op.drop_index("ix_merchant_session_user")

    op.drop_table("merchant_session")
    with op.batch_alter_table("merchant_member", schema=None) as batch_op:
        batch_op.drop_index("ix_merchant_member_user")

    op.drop_table("merchant_member")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_list")

    op.drop_table("audit")
    op.drop_table("merchant_user")
    with op.batch_alter_table("merchant_invitation", schema=None) as batch_op:
        batch_op.drop_index("ix_merchant_invitation_merchant")

    op.drop_table("merchant_invitation")
