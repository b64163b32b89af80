"""Whether the database has every migration that this code needs."""

from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from sqlmodel import Session, text

ROOT = Path(__file__).parents[2]


def alembic_config() -> Config:
    """Alembic's configuration, wherever the process was started."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "alembic").replace("%", "%%"))
    return config


@cache
def known_revisions() -> tuple[str, ...]:
    """Newest first."""
    script = ScriptDirectory.from_config(alembic_config())
    return tuple(revision.revision for revision in script.walk_revisions())


def is_migrated(session: Session) -> bool:
    """A revision that this code does not know is a newer one: a rolling deployment goes on."""
    if not inspect(session.connection()).has_table("alembic_version"):
        return False
    current = session.connection().execute(text("SELECT version_num FROM alembic_version")).scalar()
    return current is not None and (
        current == known_revisions()[0] or current not in known_revisions()
    )
