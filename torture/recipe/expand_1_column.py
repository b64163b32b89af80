"""add a display name, which no code knows yet: expand

Revises: 0003
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "expand_1"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("users", sa.Column("display_name", sa.String(200), nullable=True))
    op.create_check_constraint(
        "display_name", "users", "display_name <> ''", postgresql_not_valid=True
    )


def downgrade() -> None:
    op.drop_column("users", "display_name")
