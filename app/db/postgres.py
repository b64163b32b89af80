"""PostgreSQL without threads: prepared statements over psycopg2's asynchronous connections.

To hand the interpreter's lock from thread to thread takes longer than such a statement, and to
plan one takes PostgreSQL longer than to run it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ
from psycopg2.extras import register_uuid
from sqlalchemy import Dialect, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine

from app.core.refusals import Reason, Refusal
from app.db.faults import (
    ATTEMPTS,
    OutcomeUnknown,
    described,
    faults_refused,
    is_conflict,
    is_read_only,
    warnings_of,
)
from app.db.hosts import MARGIN, PATIENCE, SLOWEST_STATEMENT, Connection, Hosts
from app.db.statement import Row, Statement

Convert = Callable[[Any], Any]


class OnLoop:
    """At most `size` connections, opened when they are needed; the one used last is used next."""

    def __init__(
        self, engine: Engine, hosts: Hosts, size: int, on_thread: Callable[..., Awaitable[Any]]
    ) -> None:
        self._engine = engine
        self._hosts = hosts
        self._size = size
        self._on_thread = on_thread
        self._idle: list[Connection] = []
        # A service has one event loop; tests have one after the other.
        self._room: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
        self._room = WeakKeyDictionary()
        self._spelled: dict[str, Spelled] = {}

    async def rows(self, statement: Statement, values: dict[str, Any]) -> list[Row]:
        spelled = self._spell(statement)
        room = await self._enter()
        try:
            with faults_refused():
                rows = await self._retried(spelled, values)
        finally:
            room.release()
        return [spelled.row(row) for row in rows]

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _spell(self, statement: Statement) -> "Spelled":
        if statement.name not in self._spelled:
            self._spelled[statement.name] = Spelled.of(statement, self._engine.dialect)
        return self._spelled[statement.name]

    async def _retried(self, spelled: "Spelled", values: dict[str, Any]) -> Any:
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._execute(spelled, values)
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
        return await self._execute(spelled, values)

    async def _execute(self, spelled: "Spelled", values: dict[str, Any]) -> Any:
        """The rows as they come. Raises DBAPIError as SQLAlchemy does, or OutcomeUnknown."""
        connection = self._take() or await self._on_thread(self._open)
        try:
            rows = await execute(connection, spelled, values)
        except BaseException as error:  # also where nobody waits any more: an answer is on its way
            if connection.closed or isinstance(error, OutcomeUnknown) or is_read_only(error):
                self._hosts.leave(connection)
            connection.close()
            if isinstance(error, psycopg2.Error):
                raise described(error, self._engine.dialect) from error
            raise
        self._idle.append(connection)
        return rows

    def _take(self) -> Connection | None:
        """One that has not broken while it was idle."""
        while self._idle:
            connection = self._idle.pop()
            if not self._hosts.keeps(connection):
                connection.close()
                continue
            with suppress(psycopg2.Error):
                connection.poll()  # reads what the server has said meanwhile
                connection.poll()  # finds that it has hung up
                return connection
            connection.close()
        return None

    async def _enter(self) -> asyncio.Semaphore:
        """Raises Refusal(BUSY)."""
        loop = asyncio.get_running_loop()
        room = self._room.get(loop) or self._room.setdefault(loop, asyncio.Semaphore(self._size))
        try:
            if not room.locked():
                await room.acquire()
            else:
                async with asyncio.timeout(PATIENCE):
                    await room.acquire()
        except TimeoutError:
            raise Refusal(Reason.BUSY) from None
        return room

    def _open(self) -> Connection:
        """On a thread, because libpq waits for the answer to a host's name."""
        try:
            connection = self._hosts.connect(async_=True)
        except psycopg2.Error as error:
            raise described(error, self._engine.dialect) from error
        register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        return connection


class Spelled(NamedTuple):
    """A statement as PostgreSQL takes it, and what turns its values into ours and back."""

    name: str
    prepare: str
    execute: str
    values: Sequence[tuple[str, Any, Convert]]  # by name, or else a constant of the statement's
    columns: Sequence[Convert]

    @classmethod
    def of(cls, statement: Statement, dialect: Dialect) -> Self:
        compiled: Any = statement.clause.compile(dialect=dialect)
        names = list(compiled.params)
        kinds = [compiled.binds[name].type for name in names]
        numbered = {name: f"${number}" for number, name in enumerate(names, 1)}
        return cls(
            statement.name,
            f"PREPARE {statement.name}{in_brackets(type_name(kind, dialect) for kind in kinds)}"
            f" AS {compiled.string % numbered}",
            f"EXECUTE {statement.name}{in_brackets('%s' for _ in names)}",
            [
                (name, compiled.params[name], to_driver(kind, dialect))
                for name, kind in zip(names, kinds, strict=True)
            ],
            [from_driver(column.type, dialect) for column in statement.columns],
        )

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        return [convert(values.get(name, constant)) for name, constant, convert in self.values]

    def row(self, values: Sequence[Any]) -> Row:
        return [convert(value) for convert, value in zip(self.columns, values, strict=True)]


def in_brackets(parts: Iterable[str]) -> str:
    text = ", ".join(parts)
    return f" ({text})" if text else ""


def type_name(kind: TypeEngine[Any], dialect: Dialect) -> str:
    """So that PostgreSQL need not guess; where SQLAlchemy does not know, it has to."""
    if isinstance(kind, NullType):
        return "unknown"
    return dialect.type_compiler_instance.process(kind)


def to_driver(kind: TypeEngine[Any], dialect: Dialect) -> Convert:
    return kind.dialect_impl(dialect).bind_processor(dialect) or as_it_is


def from_driver(kind: TypeEngine[Any], dialect: Dialect) -> Convert:
    return kind.dialect_impl(dialect).result_processor(dialect, None) or as_it_is


def as_it_is(value: Any) -> Any:
    return value


async def execute(connection: Connection, spelled: Spelled, values: dict[str, Any]) -> Any:
    cursor = connection.cursor()
    if spelled.name not in connection.prepared:
        cursor.execute(spelled.prepare)
        await answer(connection)
        connection.prepared.add(spelled.name)
    warnings_of(connection).clear()
    cursor.execute(spelled.execute, spelled.arguments(values))
    await answer(connection)
    if warnings_of(connection):
        raise OutcomeUnknown
    return cursor.fetchall()


async def answer(connection: Connection) -> None:
    """Raises OutcomeUnknown where nothing comes: a server that lives ends what takes so long."""
    loop = asyncio.get_running_loop()
    while (state := connection.poll()) != POLL_OK:
        ready = loop.create_future()
        timer = loop.call_later(SLOWEST_STATEMENT + MARGIN, fail, ready)
        descriptor, reads = connection.fileno(), state == POLL_READ
        (loop.add_reader if reads else loop.add_writer)(descriptor, succeed, ready)
        try:
            await ready
        finally:
            timer.cancel()
            (loop.remove_reader if reads else loop.remove_writer)(descriptor)


def succeed(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def fail(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_exception(OutcomeUnknown())
