"""find users by their display name

Revises: expand_1
"""

from collections.abc import Sequence

from alembic import op

revision: str = "expand_2"
down_revision: str | Sequence[str] | None = "expand_1"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET lock_timeout = 0")  # until the end of this migration
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_users_display_name", "users", ["display_name"], postgresql_concurrently=True
        )


def downgrade() -> None:
    op.execute("SET lock_timeout = 0")
    with op.get_context().autocommit_block():
        op.drop_index("ix_users_display_name", postgresql_concurrently=True)
