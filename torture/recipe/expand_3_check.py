"""no display name is empty: look at those that are there

Revises: expand_2
"""

from collections.abc import Sequence

from alembic import op

revision: str = "expand_3"
down_revision: str | Sequence[str] | None = "expand_2"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE users VALIDATE CONSTRAINT ck_users_display_name")


def downgrade() -> None:
    pass
