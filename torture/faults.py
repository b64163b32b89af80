"""What can befall a database, and end again."""

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg2

from torture.postgres import Postgres, filled, remount
from torture.service import Service
from torture.trial import TOLD_TO_COME_BACK
from torture.wire import Wire

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastapi-auth'"
)
BE_SLOW = (
    "CREATE OR REPLACE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN PERFORM pg_sleep({}); RETURN NEW; END'"
)
ON_UPDATE = "CREATE TRIGGER be_slow BEFORE UPDATE ON logins FOR EACH ROW EXECUTE FUNCTION be_slow()"

NO_LONGER = "DROP TRIGGER be_slow ON logins"

Notes = Counter[str]  # what a fault did, for the table
GAVE_UP = "connections that it broke off or refused"
CONFLICTS = "transactions rolled back"
CANNOT_CONNECT_NOW = "57P03"


class Fault(NamedTuple):
    """name: the beginning of a sentence. ready, signs: as in Trial.

    seconds: how long it lasts. beforehand: it is there before anybody comes.
    """

    name: str
    happens: Callable[[Notes], AbstractAsyncContextManager[None]]
    ready: bool | None = None
    signs: Sequence[str] = (TOLD_TO_COME_BACK,)
    seconds: float = 10
    beforehand: bool = False


# Faults of PostgreSQL


def postgresql_faults(server: Postgres, wire: Wire, disk: Path | None) -> list[Fault]:
    faults = [
        Fault(
            "PostgreSQL is stopped at once", partial(stopped, server, signal.SIGQUIT), ready=False
        ),
        Fault(
            "PostgreSQL is stopped in order", partial(stopped, server, signal.SIGINT), ready=False
        ),
        Fault("PostgreSQL freezes", partial(frozen, server), seconds=30, ready=False),
        Fault(
            "all connections are cut, again and again", partial(terminated, server), signs=("cut",)
        ),
        Fault(
            "the wire is cut in the middle of statements and commits",
            partial(cut, wire),
            signs=("commit lost", "commit answer lost"),
        ),
        Fault("another session holds all tables", partial(locked, server)),
        Fault("all connections of PostgreSQL are taken", partial(taken, server), ready=False),
        Fault("statements are too slow", partial(slow, server), seconds=30),
        Fault("the database only reads", partial(only_reads, server), ready=False),
        Fault(
            "every transaction is serializable",
            partial(serializable, server),
            ready=True,
            signs=(CONFLICTS,),  # they are done again, and nobody is told
        ),
    ]
    if disk:
        faults += [
            Fault("the disk is full", partial(full, server, disk, False), ready=True),
            Fault(
                "the disk is full, and PostgreSQL gives up",
                partial(full, server, disk, True),
                signs=(TOLD_TO_COME_BACK, GAVE_UP),
            ),
        ]
    return faults


@asynccontextmanager
async def stopped(server: Postgres, by: signal.Signals, notes: Notes) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop, by)
    try:
        yield
    finally:
        server.start()
        await asyncio.to_thread(server.wait_until_it_answers)


@asynccontextmanager
async def frozen(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    with server.frozen():
        yield


@asynccontextmanager
async def terminated(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    async def terminate() -> None:
        while True:
            rows = await asyncio.to_thread(server.execute, TERMINATE)
            notes["cut"] += len(rows)
            await asyncio.sleep(0.05)

    async with meanwhile(terminate()):
        yield


@asynccontextmanager
async def cut(wire: Wire, notes: Notes) -> AsyncIterator[None]:
    wire.cuts = (0.5, 0.05)
    wire.counts = notes
    try:
        yield
    finally:
        wire.cuts = (0, 0)


@asynccontextmanager
async def locked(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    connection = psycopg2.connect(server.plain_url)
    with closing(connection), connection.cursor() as cursor:
        await asyncio.to_thread(
            cursor.execute, "LOCK TABLE users, logins, budgets, audit_events IN EXCLUSIVE MODE"
        )
        yield


@asynccontextmanager
async def taken(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    """Every place that becomes free, and the service's own, too."""
    with ExitStack() as stack:
        holder = stack.enter_context(closing(psycopg2.connect(server.plain_url)))
        holder.autocommit = True

        def take() -> None:
            with suppress(psycopg2.OperationalError):
                while True:
                    stack.enter_context(closing(psycopg2.connect(server.plain_url)))
                    notes["connections taken"] += 1

        async def take_all() -> None:
            while True:
                await asyncio.to_thread(take)
                with holder.cursor() as cursor:
                    cursor.execute(TERMINATE)

        await asyncio.to_thread(take)
        async with meanwhile(take_all()):
            yield


@asynccontextmanager
async def slow(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    """Longer than a statement may take."""
    await asyncio.to_thread(server.execute, BE_SLOW.format(20), ON_UPDATE)
    try:
        yield
    finally:
        await asyncio.to_thread(server.execute, BE_SLOW.format(0), NO_LONGER)


@asynccontextmanager
async def only_reads(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    async with setting(server, "default_transaction_read_only", "on"):
        yield


@asynccontextmanager
async def serializable(server: Postgres, notes: Notes) -> AsyncIterator[None]:
    before = rolled_back(server)
    async with setting(server, "default_transaction_isolation", "serializable"):
        yield
    notes[CONFLICTS] += rolled_back(server) - before


def rolled_back(server: Postgres) -> int:
    """How many transactions, of those that a table of PostgreSQL's counts a second later or so."""
    ((number,),) = server.execute("SELECT sum(xact_rollback) FROM pg_stat_database")
    return int(number)


@asynccontextmanager
async def setting(server: Postgres, name: str, value: str) -> AsyncIterator[None]:
    """For sessions that are open, too."""
    server.execute(f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.execute(f"ALTER SYSTEM RESET {name}", "SELECT pg_reload_conf()")


@asynccontextmanager
async def full(server: Postgres, disk: Path, switches: bool, notes: Notes) -> AsyncIterator[None]:
    """switches: to new files of its log, for which there is no room: PostgreSQL ends itself then,
    and whoever frees the disk starts it again.
    """

    async def switch() -> None:
        while True:
            try:
                await asyncio.to_thread(server.execute, "SELECT pg_switch_wal()", "CHECKPOINT")
            except psycopg2.Error as error:
                notes[GAVE_UP] += error.pgcode in (None, CANNOT_CONNECT_NOW)
            await asyncio.sleep(0.2)

    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, filled(disk))
        if switches:
            async with meanwhile(switch()):
                yield
        else:
            yield
    server.start()
    await asyncio.to_thread(server.wait_until_it_answers)


@asynccontextmanager
async def meanwhile(what: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(what)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Faults of SQLite


def sqlite_faults(service: Service, path: Path, disk: Path | None) -> list[Fault]:
    faults = [Fault("SQLite: another program writes and does not end", partial(written, path))]
    if disk:
        faults += [
            Fault("SQLite: the disk is full", partial(no_room, disk)),
            Fault(
                "SQLite: the disk only reads, from the start on",
                partial(read_only, service, disk),
                ready=False,
                beforehand=True,
            ),
        ]
    return faults


@asynccontextmanager
async def written(path: Path, notes: Notes) -> AsyncIterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@asynccontextmanager
async def no_room(disk: Path, notes: Notes) -> AsyncIterator[None]:
    with filled(disk):
        yield


@asynccontextmanager
async def read_only(service: Service, disk: Path, notes: Notes) -> AsyncIterator[None]:
    """A file that is open cannot be made so: the service is started again."""
    await asyncio.to_thread(service.stop)
    remount(disk, "ro")
    try:
        service.start(wait=False)
        while await asyncio.to_thread(service.status, "/health/live") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        yield
    finally:
        remount(disk, "rw")
