"""Runs migrations on the application's database; tests hand over an engine of their own."""

import sys
import time

from alembic import context
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

import app.models  # noqa: F401  (fills the metadata)
from app.core.config import load_settings
from app.db.engine import create_database_engine

LOCK_TIMEOUT = "1s"  # who comes after a migration that waits for a lock waits as long
ATTEMPTS = 10
PAUSE = 3  # seconds, for those who have waited meanwhile


def run_offline() -> None:
    """`alembic upgrade head --sql` prints the statements."""
    url = load_settings().database
    context.configure(
        url=url,
        target_metadata=SQLModel.metadata,
        literal_binds=True,
        on_version_apply=give_up_soon,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    given: Engine | None = context.config.attributes.get("engine")
    engine = given or create_database_engine(load_settings())
    try:
        migrate_patiently(engine)
    except OperationalError as error:
        if given:
            raise
        what = "A lock is not to be had" if is_locked(error) else "The database does not answer"
        sys.exit(f"{what}: {str(error.orig).strip()}")
    if given is None:
        engine.dispose()


def migrate_patiently(engine: Engine) -> None:
    """Somebody may hold a lock for long, as a backup does. What was done before stays done."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with engine.connect() as connection:
                migrate(connection)
            return
        except OperationalError as error:
            if attempt == ATTEMPTS or not is_locked(error):
                raise
        time.sleep(PAUSE)


def is_locked(error: OperationalError) -> bool:
    """Or PostgreSQL chose this migration to end a deadlock with."""
    return getattr(error.orig, "pgcode", None) in ("55P03", "40P01")


def migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # A migration may take its time; it still gives up soon on a lock, and never blocks all.
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        connection.connection.driver_connection.patience = None
        connection.commit()
    if connection.dialect.name == "sqlite":
        # It alters a table by copying it and dropping the old one, and a drop would cascade.
        enforce_foreign_keys(connection, "OFF")
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # it alters tables by copying them
        compare_server_default=True,
        transaction_per_migration=True,  # none holds its locks until the next one is done
        on_version_apply=give_up_soon,
    )
    with context.begin_transaction():
        context.run_migrations()
    if connection.dialect.name == "sqlite":
        enforce_foreign_keys(connection, "ON")


def give_up_soon(ctx: MigrationContext, **_: object) -> None:
    """On locks. A migration may wait as long as it takes; the next one does not."""
    if ctx.dialect.name == "postgresql":
        ctx.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")


def enforce_foreign_keys(connection: Connection, switch: str) -> None:
    """On the driver's own connection: within a transaction the switch would do nothing."""
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.execute(f"PRAGMA foreign_keys={switch}").close()  # type: ignore[attr-defined]


if context.is_offline_mode():
    run_offline()
else:
    run_online()
