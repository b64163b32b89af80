"""vacuum logins early

Revises: 0002
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Logins that end leave gaps, which new ones can use once PostgreSQL has vacuumed the table. By
    default it waits until a fifth of all is garbage, and the table is larger by that for ever.

    A fill factor, which keeps room on every page for updates, gains nothing: `make bench-growth
    args=--compare`. Nobody waits for this: it takes no lock that reading or writing minds.
    """
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE logins SET (autovacuum_vacuum_scale_factor = 0.05)")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE logins RESET (autovacuum_vacuum_scale_factor)")
