"""Statements that run by themselves: in no session, and on PostgreSQL on no thread."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Float, bindparam, func, literal_column, select, text, update
from sqlmodel import Session, col

from app.core.identifiers import new_id
from app.core.refusals import Reason, Refusal
from app.db import postgres
from app.db.session import Database
from app.db.statement import Statement, columns_of, load
from app.models import User
from tests.conftest import make_settings
from tests.people import ADA
from tests.rows import all_users

POOL = 2

BY_NAME = Statement(
    "by_name", select(*columns_of(User)).where(col(User.full_name) == bindparam("name"))
)
RENAME = Statement(
    "rename",
    update(User).values(full_name=bindparam("new")).returning(col(User.full_name)),
)
NAP = Statement(
    "nap",
    select(literal_column("1")).where(
        func.pg_sleep(bindparam("seconds", type_=Float)).is_not(None)
    ),
)
ECHO = Statement("echo", select(bindparam("word", type_=User.__table__.c.email.type)))  # type: ignore[attr-defined]
WHO = Statement("who", select(func.pg_backend_pid()))
END = Statement("end_it", select(func.pg_terminate_backend(func.pg_backend_pid())))
MISSING = Statement("missing", select(literal_column("not_yet")))


@pytest.fixture
def small(database_url: str) -> Iterator[Database]:
    """A database with room for two at a time."""
    database = Database(make_settings(database_url, database_pool_size=POOL))
    yield database
    database.close()


@pytest.fixture
def on_loop(postgresql_url: str) -> Iterator[Database]:
    database = Database(make_settings(postgresql_url, database_pool_size=POOL))
    yield database
    database.close()


def add_ada(session: Session) -> None:
    session.add(User(email=ADA["email"], full_name="Ada", hashed_password="!", id=new_id()))


def reason_of(outcome: Callable[[], Awaitable[Any]]) -> Reason:
    with pytest.raises(Refusal) as refused:
        asyncio.run(outcome())  # type: ignore[arg-type]
    return refused.value.reason


def kill(database: Database, pids: set[int]) -> None:
    def terminate(session: Session) -> None:
        for pid in pids:
            session.connection().execute(
                text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}
            )

    database.run_write(terminate)


async def pids_of(database: Database, number: int) -> set[int]:
    """The processes behind as many connections, which stay open."""
    naps = [database.first(NAP, seconds=0.05) for _ in range(number)]
    await asyncio.gather(*naps)
    held = [connection.info.backend_pid for connection in database._runner._idle]  # type: ignore[attr-defined]
    return set(held)


def test_what_it_finds_is_what_the_orm_would_find(small: Database) -> None:
    small.run_write(add_ada)
    row = asyncio.run(small.first(BY_NAME, name="Ada"))
    assert row is not None
    (stored,) = all_users(small)
    assert load(User, row).model_dump() == stored.model_dump()


def test_where_nothing_is_found_there_is_no_row(small: Database) -> None:
    assert asyncio.run(small.first(BY_NAME, name="Nobody")) is None


def test_what_it_changes_is_committed(small: Database) -> None:
    small.run_write(add_ada)
    assert asyncio.run(small.first(RENAME, new="Countess")) == ["Countess"]
    (stored,) = all_users(small)
    assert stored.full_name == "Countess"


@pytest.mark.parametrize("name", ["%(name)s", "$1", "'; DROP TABLE users; --", "\\", "é\u2028"])
def test_a_value_is_never_read_as_sql(small: Database, name: str) -> None:
    small.run_write(add_ada)
    assert asyncio.run(small.first(RENAME, new=name)) == [name]


def test_one_that_writes_tells_the_upkeep(small: Database) -> None:
    told: list[bool] = []
    small.after_write = lambda: told.append(True)
    asyncio.run(small.first(BY_NAME, name="Ada"))
    assert told == []
    asyncio.run(small.first(RENAME, new="Ada"))
    assert told == [True]


def test_a_column_that_is_not_there_yet_is_a_missing_migration(small: Database) -> None:
    assert reason_of(lambda: small.first(MISSING)) is Reason.NOT_READY


def test_on_postgresql_no_thread_has_a_part(on_loop: Database) -> None:
    async def after_it_is_open() -> None:
        await on_loop.first(ECHO, word="first")
        on_loop._threads.shutdown()
        assert await on_loop.first(ECHO, word="second") == ["second"]

    asyncio.run(after_it_is_open())


@pytest.mark.proves("13.2.6")
def test_connections_that_broke_while_idle_are_not_noticed(on_loop: Database) -> None:
    async def twice() -> None:
        before = await pids_of(on_loop, POOL)
        assert len(before) == POOL
        kill(on_loop, before)
        after = await asyncio.gather(*(on_loop.first(WHO) for _ in range(POOL)))
        assert not before & {row[0] for row in after if row}

    asyncio.run(twice())


@pytest.mark.proves("13.2.6", "16.5.3")
def test_one_that_breaks_in_the_middle_is_refused_and_leaves_room(on_loop: Database) -> None:
    async def several() -> None:
        for _ in range(POOL * 3):
            with pytest.raises(Refusal) as refused:
                await on_loop.first(END)
            assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
        assert await on_loop.first(ECHO, word="alive") == ["alive"]

    asyncio.run(several())


@pytest.mark.proves("13.1.2")
def test_no_more_connections_than_there_may_be(on_loop: Database) -> None:
    assert len(asyncio.run(pids_of(on_loop, POOL * 5))) == POOL


@pytest.mark.proves("13.1.3", "13.2.6")
def test_whoever_finds_no_connection_for_a_while_is_refused(
    on_loop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PATIENCE", 0.1)

    async def crowd() -> list[Any]:
        naps = [on_loop.first(NAP, seconds=0.5) for _ in range(POOL + 1)]
        return await asyncio.gather(*naps, return_exceptions=True)

    outcomes = asyncio.run(crowd())
    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert refused.reason is Reason.BUSY


@pytest.mark.proves("13.1.3", "13.2.6")
def test_nobody_waits_for_ever_for_a_statement(
    on_loop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nap() -> None:
        await on_loop.first(NAP, seconds=0)
        monkeypatch.setattr(postgres, "PATIENCE", 0.1)
        monkeypatch.setattr(postgres, "SLOWEST_STATEMENT", 0.1)
        await on_loop.first(NAP, seconds=5)

    assert reason_of(nap) is Reason.DATABASE_UNAVAILABLE


@pytest.mark.proves("2.3.3")
def test_whoever_goes_away_leaves_their_answer_to_nobody_else(on_loop: Database) -> None:
    async def leave() -> None:
        for _ in range(POOL * 2):
            task = asyncio.create_task(on_loop.first(ECHO, word="mine"))
            await asyncio.sleep(0.0005)
            task.cancel()
            assert await on_loop.first(ECHO, word="yours") == ["yours"]

    asyncio.run(leave())


def test_it_does_not_matter_which_event_loop_asks(on_loop: Database) -> None:
    assert asyncio.run(on_loop.first(WHO)) == asyncio.run(on_loop.first(WHO))


@pytest.mark.proves("16.5.3")
def test_a_server_that_is_not_there_is_refused() -> None:
    database = Database(make_settings("postgresql+psycopg2://a:b@127.0.0.1:1/nothing"))
    assert reason_of(lambda: database.first(WHO)) is Reason.DATABASE_UNAVAILABLE
    database.close()
