"""Databases of every size, filled, and what is seen of them before anybody uses them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.conversation import Conversation
from bench.load import BenchmarkError
from bench.postgres import database
from bench.progress import Progress
from bench.sizes import storage
from bench.sizes.fill import Content, copy_to_sqlite, fill_postgres
from bench.sizes.service import inside, migrate

MOST_ON_SQLITE = 100_000
INDEXES_FIRST = 100_000  # up to so many logins, they grow as in life
BATCHES = 7  # purges, of 500 logins each


@dataclass
class Filled:
    """bytes: of a login, with indexes. purges: milliseconds of each."""

    database: str
    url: str
    content: Content
    inside: Conversation
    bytes: float
    purges: list[float] = field(default_factory=list)


def fill_all(
    stack: ExitStack, server: str, sizes: Sequence[int], folder: Path, progress: Progress
) -> list[Filled]:
    """Each size on PostgreSQL, and the smaller ones on SQLite too."""
    filled: list[Filled] = []
    hashed = ""
    for size in sizes:
        progress.doing(f"Filling PostgreSQL with {size:,} logins ...")
        url = stack.enter_context(database(server, f"logins_{size}"))
        migrate(url, folder)
        asked = stack.enter_context(inside(url, folder, folder / f"inside_{size}.log"))
        hashed = hashed or asked.ask("hash_password")
        content = Content(size, hashed, expired=BATCHES * 500)
        fill_postgres(url, content, indexes_last=size > INDEXES_FIRST)
        each = storage.look(url, content.rows).total
        filled.append(Filled("PostgreSQL", url, content, asked, each))
    small = [found for found in filled if found.content.logins <= MOST_ON_SQLITE]
    return filled + [copied(stack, found, folder) for found in small]


def copied(stack: ExitStack, source: Filled, folder: Path) -> Filled:
    """The same rows in a file of SQLite."""
    name = f"logins_{source.content.logins}"
    file = folder / f"{name}.db"
    url = f"sqlite:///{file.as_posix()}"
    migrate(url, folder)
    each = copy_to_sqlite(source.url, file)
    asked = stack.enter_context(inside(url, folder, folder / f"{name}.log"))
    return Filled("SQLite", url, source.content, asked, each)


def explain(filled: Sequence[Filled]) -> Iterator[tuple[str, str, list[str]]]:
    """How the largest database of each kind finds what it is asked for: kind, statement, plan."""
    largest = {found.database: found for found in filled}  # they are in the order of their size
    for kind, found in largest.items():
        for statement, plan in found.inside.ask("plans", email="user0@example.com"):
            yield kind, statement, plan


def purge(filled: Sequence[Filled]) -> None:
    """All that has expired, in turn. Raises BenchmarkError where something stays."""
    waiting = list(filled)
    while waiting:
        for found in list(waiting):
            count, milliseconds = found.inside.ask("purge")
            if count == 500:
                found.purges.append(milliseconds)
            elif count == 0:
                waiting.remove(found)
            else:
                raise BenchmarkError(f"{found.database}: a purge found {count} logins.")
