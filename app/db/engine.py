"""How connections are made: time-outs, privacy, and SQLite's ways."""

import os
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from app.core.config import Settings

PATIENCE = 5  # seconds to wait for a thread, a connection or a lock before answering 503
SLOWEST_STATEMENT = 15  # seconds

# What libpq is told of every connection to PostgreSQL.
CONNECT_ARGUMENTS = {
    "connect_timeout": PATIENCE,
    "application_name": "fastapi-auth",
    # A connection whose other end is gone is found out within seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
    "options": f"-c lock_timeout={PATIENCE}s -c statement_timeout={SLOWEST_STATEMENT}s"
    f" -c idle_in_transaction_session_timeout={SLOWEST_STATEMENT}s -c timezone=UTC",
}


def create_database_engine(settings: Settings, **more: Any) -> Engine:
    options: dict[str, Any] = {
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "pool_timeout": PATIENCE,
        "hide_parameters": True,  # a failed INSERT would log the address and the hash
        **more,
    }
    url = settings.database
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": PATIENCE}, **options)
        event.listen(engine, "do_connect", create_private_file)
        event.listen(engine, "connect", prepare_sqlite)
        if "isolation_level" not in more:
            event.listen(engine, "begin", begin_immediate)
        return engine
    return create_engine(url, connect_args=CONNECT_ARGUMENTS, **options)


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
