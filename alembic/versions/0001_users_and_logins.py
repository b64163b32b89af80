"""users and logins

Revises:
"""

from collections.abc import Sequence

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("full_name", sa.String(200), nullable=True),
        sa.Column("hashed_password", sa.String(500), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "logins",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.String(7), nullable=False),
        sa.Column("user_agent", sa.String(200), nullable=False),
        sa.Column("ip_address", sa.String(45), nullable=False),
        sa.Column("created_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("expires_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("witness_n", sa.BigInteger(), nullable=True),
        sa.Column("witness_at", sa.BigInteger(), nullable=True),
        sa.Column("candidate_n", sa.BigInteger(), nullable=True),
        sa.Column("candidate_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_logins"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_logins_user_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("client_id IN ('browser', 'program')", name=op.f("ck_logins_client_id")),
        sa.CheckConstraint(
            "(witness_n IS NULL) = (witness_at IS NULL)", name=op.f("ck_logins_witness")
        ),
        sa.CheckConstraint(
            "(candidate_n IS NULL) = (candidate_at IS NULL)", name=op.f("ck_logins_candidate")
        ),
    )
    op.create_index("ix_logins_user_id", "logins", ["user_id"])


def downgrade() -> None:
    op.drop_table("logins")
    op.drop_table("users")
