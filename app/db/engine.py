"""How connections are made: time-outs, privacy, and SQLite's ways."""

import os
from contextlib import suppress
from typing import Any, cast

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DisconnectionError

from app.core.config import Settings
from app.db.faults import is_read_only
from app.db.hosts import PATIENCE, Hosts


def create_database_engine(settings: Settings, hosts: Hosts | None = None, **more: Any) -> Engine:
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
    engine = create_engine(url, **options)
    connect_to(engine, hosts or Hosts(url))
    return engine


def connect_to(engine: Engine, hosts: Hosts) -> None:
    def connect(*_: object) -> object:
        return hosts.connect()

    def check_out(connection: Any, *_: object) -> None:
        is_new, connection.is_new = connection.is_new, False
        if not (is_new or hosts.keeps(connection)):  # the pool gives up where a new one is refused
            raise DisconnectionError

    def handle_error(context: ExceptionContext) -> None:
        if context.connection is None or context.connection.invalidated:
            return
        # The primary may be elsewhere by now. Connections to one that only reads live on.
        context.is_disconnect |= is_read_only(context.original_exception)
        if context.is_disconnect:
            hosts.leave(cast(Any, context.connection.connection.dbapi_connection))

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", check_out)
    event.listen(engine, "handle_error", handle_error)


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
