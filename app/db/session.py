"""The database: a unit of work is a plain function whose first argument is a Session.

`read` and `write` run it on a database thread. So the event loop never waits for a query, and
no connection is held while a password is hashed. It may be run twice (its connection broke
before it could commit), so it touches nothing but its session. What nearly every request asks is
a statement by itself: `first`.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from app.core.config import Settings
from app.core.refusals import Reason, Refusal
from app.db.engine import create_database_engine
from app.db.faults import OutcomeUnknown, is_conflict, retried, warnings_of
from app.db.hosts import PATIENCE, SLOWEST_STATEMENT, Hosts
from app.db.postgres import OnLoop
from app.db.statement import Row, Runner, Statement
from app.db.threads import OnThreads

READERS = 2  # connections to PostgreSQL for reading by sessions: lists, and little else

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Session, P], T]


class Database:
    """A thread uses one connection at a time. Passing faults are Refusal(DATABASE_UNAVAILABLE)."""

    def __init__(self, settings: Settings) -> None:
        # Two engines, because switching one connection between autocommit and transactions costs
        # time, and loses its place in the pool when the connection breaks just then.
        hosts = Hosts(settings.database)
        self.engine = create_database_engine(settings, hosts)
        self.dialect = self.engine.dialect.name
        on_loop = self.dialect == "postgresql" and sys.platform != "win32"
        readers = READERS if on_loop else settings.database_pool_size
        self._read_engine = create_database_engine(
            settings,
            hosts,
            isolation_level="AUTOCOMMIT",
            pool_size=readers,
            pool_reset_on_return=None,  # there is nothing to roll back
            skip_autocommit_rollback=True,
        )
        self._threads = ThreadPoolExecutor(settings.database_pool_size, "database")
        # SQLite has one writer, and its way of waiting is to sleep and look again.
        self._writer = Lock() if self.dialect == "sqlite" else None
        self._runner: Runner
        if on_loop:
            self._runner = OnLoop(self.engine, hosts, settings.database_pool_size, self._on_thread)
        else:
            self._runner = OnThreads(self._read_engine, self._on_thread, self._turn_to_write)
        self.after_write: Callable[[], object] = lambda: None  # on the event loop: must not wait

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Without a transaction: each statement sees what is committed when it starts."""
        return await self._on_thread(self.run_read, work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In one transaction: committed when the work returns, rolled back when it raises."""
        result: T = await self._on_thread(self.run_write, work, *args, **kwargs)
        self.after_write()
        return result

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The row that it finds or changes, if any. Committed, and in no session."""
        return next(iter(await self.rows(statement, values)), None)

    async def rows(self, statement: Statement, values: dict[str, Any]) -> list[Row]:
        rows = await self._runner.rows(statement, values)
        if statement.writes:
            self.after_write()
        return rows

    def submit(self, job: Callable[[], object]) -> None:
        """For a database thread, and nobody waits: it handles its own errors."""
        self._threads.submit(job)

    def run_read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def attempt() -> T:
            with Session(self._read_engine, expire_on_commit=False) as session:
                return work(session, *args, **kwargs)

        return retried(attempt)

    def run_write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def attempt() -> T:
            with self._turn_to_write(), Session(self.engine, expire_on_commit=False) as session:
                try:
                    result = work(session, *args, **kwargs)
                    session.flush()
                    commit(session)
                except BaseException:
                    undo(session)
                    raise
                return result

        return retried(attempt)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._runner.close()
        self._read_engine.dispose()
        self.engine.dispose()

    async def _on_thread(self, run: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """A database that has frozen keeps its threads, and nobody waits for them for ever."""
        job = self._threads.submit(run, *args, **kwargs)
        future = asyncio.wrap_future(job)
        try:
            done, _ = await asyncio.wait((future,), timeout=PATIENCE)
            if not done and job.cancel():  # no thread had begun it
                raise Refusal(Reason.BUSY)
            if not done:
                done, _ = await asyncio.wait((future,), timeout=SLOWEST_STATEMENT)
        except asyncio.CancelledError:
            job.cancel()  # or what nobody waits for any more would be done before what others want
            raise
        if not done:  # it may yet happen, as when an answer is lost on the way
            raise Refusal(Reason.DATABASE_UNAVAILABLE)
        return future.result()

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=PATIENCE):
            raise Refusal(Reason.BUSY)
        try:
            yield
        finally:
            self._writer.release()


def undo(session: Session) -> None:
    """What the work was given and has added is new again. Merely closed, the session would take it
    for stored, and the next attempt would leave it out.
    """
    with suppress(Exception):  # the connection may be broken; what matters is why it is undone
        session.rollback()


def commit(session: Session) -> None:
    """Raises OutcomeUnknown; or DBAPIError where it is known that nothing has been done."""
    warnings = warnings_of(session.connection().connection.dbapi_connection)
    warnings.clear()
    try:
        session.commit()
    except DBAPIError as error:
        if is_conflict(error):
            raise
        raise OutcomeUnknown from error
    if warnings:
        raise OutcomeUnknown


def takes_changes(session: Session) -> bool:
    """Not a standby, nor what was told to read only, as some do whose disk is nearly full."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    return session.connection().exec_driver_sql("SHOW transaction_read_only").scalar() == "off"
