"""Whether the database has every migration that this code needs.

Alembic itself is not asked: to import it takes a fifth of a second and 9 MB, in every process.
"""

import ast
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import inspect
from sqlmodel import Session, text

if TYPE_CHECKING:
    from alembic.config import Config

ROOT = Path(__file__).parents[2]


class Revisions(NamedTuple):
    """newest: which no other follows. More than one only where branches are yet to be merged."""

    known: frozenset[str]
    newest: frozenset[str]


def alembic_config() -> "Config":
    """Alembic's configuration, wherever the process was started."""
    from alembic.config import Config

    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "alembic").replace("%", "%%"))
    return config


def is_migrated(session: Session) -> bool:
    """A revision that this code does not know is a newer one: a rolling deployment goes on."""
    if not inspect(session.connection()).has_table("alembic_version"):
        return False
    current = session.connection().execute(text("SELECT version_num FROM alembic_version")).scalar()
    return current is not None and (current in REVISIONS.newest or current not in REVISIONS.known)


def read_revisions() -> Revisions:
    known: set[str] = set()
    followed: set[str] = set()
    for file in (ROOT / "alembic" / "versions").glob("*.py"):
        declared = constants(file)
        known.add(declared["revision"])
        before = declared["down_revision"] or ()  # of a merge, several
        followed.update([before] if isinstance(before, str) else before)
    return Revisions(frozenset(known), frozenset(known - followed))


def constants(file: Path) -> dict[str, Any]:
    """What the file sets to a literal, by name."""
    found = {}
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            with suppress(ValueError):
                found[ast.unparse(target)] = ast.literal_eval(node.value)
    return found


# Now, while there is one thread: Python 3.11 fails where two parse at once.
REVISIONS = read_revisions()
