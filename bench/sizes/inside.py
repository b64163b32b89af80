"""The part that runs in the service's own environment, beside the service, on one database.

`python -m bench.sizes.inside` reads a question a line and answers it, both in JSON; service.py
asks.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, Select, create_engine, event, func
from sqlalchemy.dialects import postgresql
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.config import load_settings
from app.core.hashing import context
from app.core.tokens import AccessToken, ClientId, RefreshToken
from app.db.postgres import Spelled
from app.db.statement import Statement
from app.models.login import Login
from app.services import authentication, logins, new_logins, upkeep
from app.services.backend import Backend
from bench.contender import PASSWORD
from bench.conversation import answer

CLIENT = Client("192.0.2.1", "bench")
BROWSER = ClientId.BROWSER
PORTION = 1000  # ids in a query

Plan = tuple[str, list[str]]  # a statement, and the lines that say how its rows are found


class Inside:
    """What can be asked, by the names of its public methods."""

    def __init__(self) -> None:
        self._backend = Backend.open(load_settings())
        self._pool: list[Row[Any]] = []
        self._next = 0

    def hash_password(self) -> str:
        return context().hash(PASSWORD)

    def draw(self, count: int) -> int:
        """Choose logins by lot, for states(); says how many there are."""
        url = self._backend.database.engine.url
        # By a connection of our own: all logins are read for it, and the service gives up sooner.
        engine = create_engine(url)
        with engine.connect() as connection:
            self._pool = list(connection.execute(drawn(count)))
        engine.dispose()
        return len(self._pool)

    def states(self, count: int, token: str) -> list[dict[str, str]]:
        """Access or refresh tokens of the next ones.

        Once all have been given, their rows are read again, because they have been refreshed. Not
        before: that would bring them into the database's memory.
        """
        count = min(count, len(self._pool))
        given, self._next = self._next, self._next + count
        chosen = [self._pool[number % len(self._pool)] for number in range(given, self._next)]
        if self._next > len(self._pool):
            chosen = self._backend.database.run_read(read_again, [login.id for login in chosen])
        issue = {"access": self._access, "refresh": self._refresh}[token]
        return [{token: issue(login)} for login in chosen]

    def _access(self, login: Row[Any]) -> str:
        tokens = self._backend.tokens
        return tokens.issue_access(login.user_id, login.id, BROWSER, login.expires_at)[0]

    def _refresh(self, login: Row[Any]) -> str:
        tokens = self._backend.tokens
        return tokens.issue_refresh(login.id, BROWSER, login.last, login.expires_at)

    def purge(self) -> tuple[int, float]:
        """One batch of expired logins: how many they were, and how many milliseconds it took."""
        expired = next(upkeep.expired(self._backend.settings, datetime.now(UTC)))
        assert expired.kind == "logins"
        start = time.perf_counter()
        count = self._backend.database.run_write(upkeep.purge_batch, expired)
        return count, (time.perf_counter() - start) * 1000

    def rotation(self, **names: str) -> str:
        """The statement that refreshes a login, with other names for its values."""
        compiled: Any = logins.ROTATE.clause.compile(dialect=postgresql.dialect())
        return str(compiled.string % {name: names[name] for name in compiled.params})

    def plans(self, email: str) -> list[Plan]:
        """How the database finds what log in, me, refresh, list, log out and purge ask for."""
        return asyncio.run(explain(self._backend, email))


DRAWN = select(col(Login.id), col(Login.user_id), col(Login.expires_at), col(Login.last))


def drawn(count: int) -> Select[Any]:
    alive = DRAWN.where(col(Login.expires_at) > datetime.now(UTC))
    return alive.order_by(func.random()).limit(count)


def read_again(session: Session, ids: list[UUID]) -> list[Row[Any]]:
    portions = [ids[first : first + PORTION] for first in range(0, len(ids), PORTION)]
    return [
        row
        for portion in portions
        for row in session.connection().execute(DRAWN.where(col(Login.id).in_(portion)))
    ]


# Plans: the service does its work, and what it asks of the database is explained.


@dataclass(frozen=True)
class Asked:
    """texts: with the values of the first time. statements: those that are prepared, by name."""

    texts: dict[str, Any] = field(default_factory=dict)
    statements: dict[str, Statement] = field(default_factory=dict)


async def explain(backend: Backend, email: str) -> list[Plan]:
    sqlite = backend.database.dialect == "sqlite"
    words = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN (COSTS OFF)"
    with noted(backend) as asked:
        await do_everything(backend, email)
    explained: list[Plan] = []
    with backend.database.engine.connect() as connection:
        cursor = connection.connection.cursor()
        for text, values in asked.texts.items():
            cursor.execute(f"{words} {text}", values)
            explained.append((text, [row[-1] for row in cursor.fetchall()]))
        if not sqlite:  # a prepared statement is planned once for all values
            cursor.execute("SET plan_cache_mode = force_generic_plan")
            for statement in asked.statements.values():
                spelled = Spelled.of(statement, connection.dialect)
                cursor.execute(spelled.prepare)
                cursor.execute(f"{words} {spelled.execute}", [None] * len(spelled.values))
                explained.append((spelled.prepare, [row[-1] for row in cursor.fetchall()]))
    return explained


@contextmanager
def noted(backend: Backend) -> Iterator[Asked]:
    """What is asked meanwhile, but for plain INSERTs."""
    asked, rows = Asked(), backend.database.rows

    def note(_c: object, _k: object, text: str, values: Any, _x: object, many: bool) -> None:
        if not many and not text.startswith(("INSERT", "BEGIN")):
            asked.texts.setdefault(text, values)

    async def note_prepared(statement: Statement, values: dict[str, Any]) -> Any:
        asked.statements.setdefault(statement.name, statement)
        return await rows(statement, values)

    event.listen(Engine, "before_cursor_execute", note)
    backend.database.rows = note_prepared  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def do_everything(backend: Backend, email: str) -> None:
    authenticated = await authentication.authenticate(backend, email, PASSWORD, CLIENT)
    login = await new_logins.start(backend, authenticated, CLIENT, BROWSER)
    # Once more, as a browser that is logged in already.
    again = new_logins.new_login(authenticated.user, CLIENT, BROWSER, backend.settings)
    replaced = [login.id]
    await backend.database.write(
        new_logins.insert_login, backend, again, authenticated, CLIENT, replaced
    )
    await logins.identify(backend, AccessToken(again.user_id, again.id))
    token = RefreshToken(again.id, BROWSER, again.last)
    now = time.monotonic()
    locked = await backend.database.write(logins.rotate, token, backend, CLIENT, now)
    assert isinstance(locked, Login)
    token = RefreshToken(locked.id, BROWSER, locked.last)
    young = await logins.refresh(backend, token, BROWSER, CLIENT, time.monotonic())
    await asyncio.sleep(2 * backend.settings.grace.total_seconds())
    token = RefreshToken(young.id, BROWSER, young.last)
    await logins.refresh(backend, token, BROWSER, CLIENT, time.monotonic())
    await logins.list_alive(backend, authenticated.user)
    await logins.end(backend, [again.id], CLIENT)
    for expired in upkeep.expired(backend.settings, datetime.now(UTC)):
        await backend.database.write(upkeep.purge_batch, expired)


if __name__ == "__main__":
    inside = Inside()
    answer(lambda name: getattr(inside, name))
