"""mail, one-time tokens, budgets, audit

Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

UTC_DATETIME = sqlmodel.sql.sqltypes.UTCDateTime


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", UTC_DATETIME(), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("result", sa.String(7), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("login_id", sa.Uuid(), nullable=True),
        sa.Column("ip_address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(200), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
        sa.CheckConstraint("result IN ('success', 'failure')", name=op.f("ck_audit_events_result")),
    )
    op.create_index("ix_audit_events_user_id_id", "audit_events", ["user_id", "id"])
    op.create_table(
        "budgets",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("drained_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_budgets"),
    )
    op.create_index("ix_budgets_drained_at", "budgets", ["drained_at"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("template", sa.String(20), nullable=False),
        sa.Column("recipient", sa.String(254), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("created_at", UTC_DATETIME(), nullable=False),
        sa.Column("due_at", UTC_DATETIME(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"])
    op.create_index("ix_outbox_recipient", "outbox", ["recipient"])
    op.create_table(
        "one_time_tokens",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.String(14), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("created_at", UTC_DATETIME(), nullable=False),
        sa.Column("expires_at", UTC_DATETIME(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_one_time_tokens"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_one_time_tokens_user_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint(
            "purpose IN ('verify_email', 'reset_password', 'confirm_email')",
            name=op.f("ck_one_time_tokens_purpose"),
        ),
    )
    op.create_index("ix_one_time_tokens_expires_at", "one_time_tokens", ["expires_at"])
    op.create_index("ix_one_time_tokens_user_id", "one_time_tokens", ["user_id"])
    add_to_users()
    op.create_index(
        "ix_users_admins",
        "users",
        ["id"],
        postgresql_where=sa.text("is_admin"),
        sqlite_where=sa.text("is_admin = 1"),
    )
    op.create_index("ix_logins_expires_at", "logins", ["expires_at"])
    protect_audit_events()


def add_to_users() -> None:
    """The defaults stay: during a rolling deployment, older code inserts users without these."""
    for name in ("email_verified", "must_change_password"):
        op.add_column(
            "users", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.add_column(
        "users",
        sa.Column(
            "password_changed_at",
            UTC_DATETIME(),
            nullable=False,
            server_default=sa.text("'1970-01-01 00:00:00'"),
        ),
    )
    op.add_column("users", sa.Column("last_login_at", UTC_DATETIME(), nullable=True))
    # When they last logged in is not known, but that they are in use: nobody may sign up again
    # in their place (services/accounts.py).
    op.execute("UPDATE users SET password_changed_at = created_at, last_login_at = created_at")


def protect_audit_events() -> None:
    """Append-only: what runs as the service cannot rewrite what it did, only let it age away."""
    if op.get_context().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER audit_events_unchanged BEFORE UPDATE ON audit_events "
            "BEGIN SELECT RAISE(ABORT, 'audit events are never changed'); END"
        )
        op.execute(
            "CREATE TRIGGER audit_events_kept BEFORE DELETE ON audit_events "
            "WHEN OLD.at > datetime('now', '-30 days') "
            "BEGIN SELECT RAISE(ABORT, 'audit events are kept for 30 days'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION protect_audit_events() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN "
        "IF TG_OP = 'DELETE' AND OLD.at <= now() - interval '30 days' THEN RETURN OLD; END IF; "
        "RAISE EXCEPTION 'audit events are never changed, and kept for 30 days'; "
        "END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_events_protected BEFORE UPDATE OR DELETE ON audit_events "
        "FOR EACH ROW EXECUTE FUNCTION protect_audit_events()"
    )


def downgrade() -> None:
    op.drop_index("ix_logins_expires_at", "logins")
    op.drop_index("ix_users_admins", "users")
    with op.batch_alter_table("users") as users:
        for name in (
            "last_login_at",
            "password_changed_at",
            "must_change_password",
            "email_verified",
        ):
            users.drop_column(name)
    for table in ("one_time_tokens", "outbox", "budgets", "audit_events"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION protect_audit_events()")
