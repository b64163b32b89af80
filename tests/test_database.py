"""The database from the service's side: threads, connections, locks and their loss."""

import asyncio
import errno
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlmodel import Session

from app.core.refusals import Reason, Refusal
from app.db import session as database_module
from app.db.session import Database
from tests.conftest import make_settings

POOL = 2


def select_one(session: Session) -> int:
    return int(session.connection().execute(text("SELECT 1")).scalar_one())


def backend_pid(session: Session) -> int:
    return int(session.connection().execute(text("SELECT pg_backend_pid()")).scalar_one())


def terminate(session: Session, pid: int) -> None:
    session.connection().execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


@pytest.fixture
def small(database_url: str) -> Iterator[Database]:
    """A database with two threads."""
    database = Database(make_settings(database_url, database_pool_size=POOL))
    yield database
    database.close()


def test_a_read_does_not_wait_for_a_writer(small: Database) -> None:
    writing, done = threading.Event(), threading.Event()

    def write(session: Session) -> None:
        session.connection().execute(text("UPDATE users SET is_admin = is_admin"))
        writing.set()
        done.wait(10)

    with ThreadPoolExecutor(1) as other:
        writer = other.submit(small.run_write, write)
        assert writing.wait(10)
        assert small.run_read(select_one) == 1
        assert not writer.done()
        done.set()
        writer.result()


def test_a_read_on_sqlite_does_not_wait_for_another_process(sqlite_url: str) -> None:
    database = Database(make_settings(sqlite_url))
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert database.run_read(select_one) == 1
    other.close()
    database.close()


@pytest.mark.proves("13.2.6")
@pytest.mark.parametrize("run", ["run_read", "run_write"])
def test_broken_connections_never_use_up_the_pool(postgresql_url: str, run: str) -> None:
    """More break, in the middle of their work, than there is room for."""
    database = Database(make_settings(postgresql_url, database_pool_size=POOL))
    killer = Database(make_settings(postgresql_url))

    def die(session: Session) -> None:
        killer.run_read(terminate, backend_pid(session))
        select_one(session)

    for _ in range(POOL * 3):
        with pytest.raises(Refusal) as refused:
            getattr(database, run)(die)
        assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
    assert getattr(database, run)(select_one) == 1
    database.close()
    killer.close()


@pytest.mark.parametrize("run", ["run_read", "run_write"])
def test_a_connection_that_broke_while_idle_is_not_noticed(postgresql_url: str, run: str) -> None:
    database = Database(make_settings(postgresql_url, database_pool_size=1))
    killer = Database(make_settings(postgresql_url))
    killer.run_read(terminate, getattr(database, run)(backend_pid))
    assert getattr(database, run)(select_one) == 1
    database.close()
    killer.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_to_wait_for_postgresql_takes_no_file_descriptor_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be none left: that is no error of ours."""

    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for name in ("DefaultSelector", "EpollSelector", "KqueueSelector"):
        monkeypatch.setattr(f"selectors.{name}", none_left, raising=False)
    database = Database(make_settings(database_url))
    assert database.run_read(lambda session: session.connection().scalar(text("SELECT 1"))) == 1
    database.close()


@pytest.mark.proves("13.1.3")
def test_what_nobody_waits_for_any_more_is_not_done(small: Database) -> None:
    """As where a health check gives up: its questions must not queue before what others want."""
    done: list[str] = []
    let_go = threading.Event()

    async def give_up() -> None:
        busy = [asyncio.ensure_future(small.read(lambda _: let_go.wait(10))) for _ in range(POOL)]
        with suppress(TimeoutError):
            await asyncio.wait_for(small.read(lambda _: done.append("late")), 0.1)
        let_go.set()
        await asyncio.gather(*busy)
        await small.read(lambda _: done.append("next"))

    asyncio.run(give_up())
    assert done == ["next"]


@pytest.mark.proves("13.1.3", "13.2.6")
def test_nobody_waits_for_ever_for_a_frozen_database(
    small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "PATIENCE", 0.1)
    monkeypatch.setattr(database_module, "SLOWEST_STATEMENT", 0.2)
    thawed = threading.Event()

    def freeze(_: Session) -> None:
        thawed.wait(10)

    async def everybody() -> list[object]:
        waiting = [small.read(freeze) for _ in range(POOL + 1)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    with ThreadPoolExecutor(1) as loop_of_its_own:
        outcomes = loop_of_its_own.submit(asyncio.run, everybody()).result(10)
    thawed.set()
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)]
    # Those that had begun may yet take effect; the one that waited for a thread never will.
    assert sorted(reasons) == sorted([Reason.DATABASE_UNAVAILABLE] * POOL + [Reason.BUSY])
