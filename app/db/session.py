"""The database: a unit of work is a plain function whose first argument is a Session.

`read` and `write` run it on a database thread. So the event loop never waits for a query, and
no connection is held while a password is hashed. It may be run twice (its connection broke
before it could commit), so it touches nothing but its session.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
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
    """One connection a thread. Raises Refusal(DATABASE_UNAVAILABLE) for every passing fault."""

    def __init__(self, settings: Settings) -> None:
        self.engine = create_database_engine(settings)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._threads = ThreadPoolExecutor(settings.database_pool_size, "database")
        # SQLite has one writer, and its way of waiting is to sleep and look again.
        self._writer = Lock() if self.engine.dialect.name == "sqlite" else None

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Without a transaction: each statement sees what is committed when it starts."""
        return await self._on_thread(self.run_read, work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In one transaction: committed when the work returns, rolled back when it raises."""
        return await self._on_thread(self.run_write, work, *args, **kwargs)

    def run_read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def attempt() -> T:
            with Session(self._autocommit, expire_on_commit=False) as session:
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
        self._threads.shutdown()
        self.engine.dispose()

    async def _on_thread(self, run: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        deadline = time.monotonic() + PATIENCE

        def when_a_thread_is_free() -> T:
            if time.monotonic() > deadline:
                raise Refusal(Reason.BUSY)
            return run(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(
            self._threads, when_a_thread_is_free
        )

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
        if isinstance(error, OperationalError | InterfaceError | InternalError):
            raise Refusal(Reason.DATABASE_UNAVAILABLE) from error
        raise
    except (PoolTimeout, OutcomeUnknown) as error:
        raise Refusal(Reason.DATABASE_UNAVAILABLE) from error


def lacks_migration(error: DBAPIError) -> bool:
    """A table or a column that this code knows is not there yet."""
    undefined = getattr(error.orig, "pgcode", None) in ("42P01", "42703")
    return undefined or str(error.orig).startswith(("no such table", "no such column"))


def create_database_engine(settings: Settings) -> Engine:
    options: dict[str, Any] = {
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "pool_timeout": PATIENCE,
        "hide_parameters": True,  # a failed INSERT would log the address and the hash
    }
    url = settings.database
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": PATIENCE}, **options)
        event.listen(engine, "connect", prepare_sqlite)
        event.listen(engine, "begin", begin_immediate)
        return engine
    return create_engine(
        url,
        connect_args={
            "connect_timeout": PATIENCE,
            "application_name": "fastapi-auth",
            "options": f"-c lock_timeout={PATIENCE}s -c statement_timeout={SLOWEST_STATEMENT}s"
            f" -c idle_in_transaction_session_timeout={SLOWEST_STATEMENT}s -c timezone=UTC",
        },
        **options,
    )


def prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def begin_immediate(connection: Connection) -> None:
    """Deferred, a transaction that reads and then writes fails as soon as two do so at once."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
