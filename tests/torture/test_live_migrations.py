"""A migration beside a service that works: what it waits for, and who waits for it."""

import threading
import time
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from app.db.engine import create_database_engine
from app.db.migrations import alembic_config
from tests.conftest import make_settings
from tests.postgres import libpq
from torture.laboratory import ROOT
from torture.migrations import FILL, WRITTEN, Watch, alembic

pytestmark = pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = create_database_engine(make_settings(empty_url), pool_size=4)
    yield engine
    engine.dispose()


@pytest.fixture
def config(engine: Engine) -> Config:
    config = alembic_config()
    config.attributes["engine"] = engine
    return config


@pytest.fixture
def holder(engine: Engine) -> Iterator[Connection]:
    """Somebody whose transaction takes long."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def test_nobody_waits_long_behind_a_migration_that_waits_for_a_lock(
    config: Config, engine: Engine, holder: Connection
) -> None:
    command.upgrade(config, "0002")
    holder.execute(text("SELECT FROM users"))  # as a backup reads them
    migration = threading.Thread(target=command.downgrade, args=(config, "0001"))
    migration.start()
    wait_until(engine, WAITS)
    start = time.monotonic()
    with engine.connect() as reader:
        reader.execute(text("SELECT FROM users"))
    assert time.monotonic() - start < 4  # a second, and what a busy machine takes
    assert version(engine) == "0002"
    holder.rollback()
    migration.join()
    assert version(engine) == "0001"


def test_a_migration_that_waits_keeps_no_lock_of_the_one_before(
    config: Config, engine: Engine, holder: Connection
) -> None:
    command.upgrade(config, "0001")
    holder.execute(text("LOCK TABLE logins IN SHARE MODE"))  # in the way of 0003, not of 0002
    migration = threading.Thread(target=command.upgrade, args=(config, "head"))
    migration.start()
    wait_until(engine, WAITS)
    assert version(engine) == "0002"
    holder.rollback()
    migration.join()
    assert version(engine) == "0003"


WAITS = "SELECT FROM pg_locks WHERE NOT granted"


def wait_until(engine: Engine, query: str) -> None:
    deadline = time.monotonic() + 30
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.execute(text(query)).all():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def version(engine: Engine) -> str:
    with engine.connect() as connection:
        found: str = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return found


def test_what_the_manual_recommends_can_be_done_and_undone(
    config: Config, engine: Engine, empty_url: str
) -> None:
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert " ".join(FILL.split()) in " ".join(manual.split())
    command.upgrade(config, "head")
    *forward, back = WRITTEN
    for revision in forward:
        alembic(empty_url, "upgrade", revision)
    assert version(engine) == forward[-1]
    with engine.begin() as connection:
        connection.execute(text(FILL))
    alembic(empty_url, "downgrade", back)
    alembic(empty_url, "upgrade", forward[-1])  # in one go, too
    alembic(empty_url, "downgrade", back)
    assert version(engine) == "0003"


def test_the_experiment_sees_a_lock_that_others_mind(
    config: Config, engine: Engine, holder: Connection, empty_url: str
) -> None:
    command.upgrade(config, "head")
    with Watch(libpq(empty_url)) as watch:
        holder.execute(text("LOCK TABLE users IN ACCESS SHARE MODE"))
        holder.execute(text("LOCK TABLE logins IN ACCESS EXCLUSIVE MODE"))
        deadline = time.monotonic() + 30
        while "logins" not in str(watch) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "AccessExclusive on logins" in str(watch)
    assert "users" not in str(watch)
