"""The database: a unit of work is a plain function whose first argument is a Session.

`read` and `write` run it on a database thread. So the event loop never waits for a query, and
no connection is held while a password is hashed. It may be run twice (its connection broke
before it could commit), so it touches nothing but its session.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from app.core.config import Settings
from app.core.refusals import Reason, Refusal

PATIENCE = 5  # seconds to wait for a thread, a connection or a lock before answering 503
SLOWEST_STATEMENT = 15  # seconds

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Session, P], T]


class Database:
    """A thread uses one connection at a time. Passing faults are Refusal(DATABASE_UNAVAILABLE)."""

    def __init__(self, settings: Settings) -> None:
        # Two engines, because switching one connection between autocommit and transactions costs
        # time, and loses its place in the pool when the connection breaks just then.
        self.engine = create_database_engine(settings)
        self._read_engine = create_database_engine(settings, isolation_level="AUTOCOMMIT")
        self._threads = ThreadPoolExecutor(settings.database_pool_size, "database")
        # SQLite has one writer, and its way of waiting is to sleep and look again.
        self._writer = Lock() if self.engine.dialect.name == "sqlite" else None
        self.after_write: Callable[[], object] = lambda: None  # on the event loop: must not wait

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Without a transaction: each statement sees what is committed when it starts."""
        return await self._on_thread(self.run_read, work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In one transaction: committed when the work returns, rolled back when it raises."""
        result: T = await self._on_thread(self.run_write, work, *args, **kwargs)
        self.after_write()
        return result

    def submit(self, job: Callable[[], object]) -> None:
        """For a database thread, and nobody waits: it handles its own errors."""
        self._threads.submit(job)

    def run_read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def attempt() -> T:
            with Session(self._read_engine, expire_on_commit=False) as session:
                return work(session, *args, **kwargs)

        return retried_once(attempt)

    def run_write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def attempt() -> T:
            with self._turn_to_write(), Session(self.engine, expire_on_commit=False) as session:
                result = work(session, *args, **kwargs)
                session.flush()
                commit(session)
                return result

        return retried_once(attempt)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._read_engine.dispose()
        self.engine.dispose()

    async def _on_thread(self, run: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """A database that has frozen keeps its threads, and nobody waits for them for ever."""
        job = self._threads.submit(run, *args, **kwargs)
        future = asyncio.wrap_future(job)
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(future)
        except TimeoutError:
            if job.cancel():  # no thread had begun it
                raise Refusal(Reason.BUSY) from None
        try:
            return await asyncio.wait_for(future, SLOWEST_STATEMENT)
        except TimeoutError as error:  # it may yet happen, as when an answer is lost on the way
            raise Refusal(Reason.DATABASE_UNAVAILABLE) from error

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


class OutcomeUnknown(Exception):
    """The connection broke during COMMIT: it may have happened, so it is not tried again."""


def commit(session: Session) -> None:
    try:
        session.commit()
    except DBAPIError as error:
        raise OutcomeUnknown from error


def retried_once(attempt: Callable[[], T]) -> T:
    """A connection that broke while it was idle is found out by its next user; that one retries."""
    try:
        try:
            return attempt()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return attempt()
    except DBAPIError as error:
        if lacks_migration(error):
            raise Refusal(Reason.NOT_READY) from error
        passing = isinstance(error, OperationalError | InterfaceError | InternalError)
        if passing or type(error) is DatabaseError:  # SQLite: the file is damaged
            raise Refusal(Reason.DATABASE_UNAVAILABLE) from error
        raise
    except (PoolTimeout, OutcomeUnknown) as error:
        raise Refusal(Reason.DATABASE_UNAVAILABLE) from error


def lacks_migration(error: DBAPIError) -> bool:
    """A table or a column that this code knows is not there yet."""
    undefined = getattr(error.orig, "pgcode", None) in ("42P01", "42703")
    return undefined or str(error.orig).startswith(("no such table", "no such column"))


def create_database_engine(settings: Settings, **more: Any) -> Engine:
    options: dict[str, Any] = {
        **more,
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "pool_timeout": PATIENCE,
        "hide_parameters": True,  # a failed INSERT would log the address and the hash
    }
    url = settings.database
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": PATIENCE}, **options)
        event.listen(engine, "do_connect", create_private_file)
        event.listen(engine, "connect", prepare_sqlite)
        if "isolation_level" not in more:
            event.listen(engine, "begin", begin_immediate)
        return engine
    return create_engine(
        url,
        connect_args={
            "connect_timeout": PATIENCE,
            "application_name": "fastapi-auth",
            # A connection whose other end is gone is found out within seconds.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,  # milliseconds
            "options": f"-c lock_timeout={PATIENCE}s -c statement_timeout={SLOWEST_STATEMENT}s"
            f" -c idle_in_transaction_session_timeout={SLOWEST_STATEMENT}s -c timezone=UTC",
        },
        **options,
    )


def create_private_file(_dialect: object, _record: object, arguments: Any, _: object) -> None:
    """The file holds addresses and password hashes; SQLite would let every user read it."""
    with suppress(OSError):  # it is there, or SQLite itself says what is wrong with the path
        os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL, 0o600))


def prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def begin_immediate(connection: Connection) -> None:
    """Deferred, a transaction that reads and then writes fails as soon as two do so at once."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
