"""A PostgreSQL that fails over, from the service's side: hosts, errors and commits."""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from sqlalchemy import func, make_url, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col

from app.core.identifiers import new_id
from app.core.refusals import Reason, Refusal
from app.db import hosts
from app.db import session as session_module
from app.db.hosts import Hosts
from app.db.session import Database
from app.db.statement import Statement
from app.models import User
from tests.conftest import make_settings
from tests.people import ADA, BOB, log_in, refresh, register, sign_up_and_in, who_am_i
from tests.rows import all_users

RENAME = Statement("rename", update(User).values(full_name="Countess").returning(col(User.id)))
MAKE_READ_ONLY = func.set_config("default_transaction_read_only", "on", False)
WHO = Statement("who", select(func.pg_backend_pid()))
END = Statement("end_it", select(func.pg_terminate_backend(func.pg_backend_pid())))
DEMOTE = Statement("demote", select(MAKE_READ_ONLY))

# What PostgreSQL says at a commit comes from a trigger here. A sequence remembers how often.
AT_COMMIT = """
CREATE SEQUENCE commits;
CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION say()
"""
AS_BEFORE = "DROP FUNCTION IF EXISTS say CASCADE; DROP SEQUENCE IF EXISTS commits"
CANCELLED = "RAISE WARNING 'canceling wait for synchronous replication due to user request'"
NOTICED = "RAISE NOTICE 'of no importance'"
CONFLICT = "IF nextval('commits') < 3 THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF"


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    database = Database(make_settings(postgresql_url, database_pool_size=1))
    database.run_write(add_ada)
    yield database
    database.run_write(execute, AS_BEFORE)
    database.close()


def add_ada(session: Session) -> None:
    session.add(User(email=ADA["email"], full_name="Ada", hashed_password="!", id=new_id()))


def rename(session: Session) -> None:
    session.connection().execute(RENAME.clause)


def in_a_session(database: Database) -> None:
    database.run_write(rename)


def by_itself(database: Database) -> None:
    asyncio.run(database.first(RENAME))


in_both_ways = pytest.mark.parametrize("write", [in_a_session, by_itself])


def at_commit(database: Database, what: str) -> None:
    database.run_write(execute, AT_COMMIT.format(what=what))


def execute(session: Session, statements: str) -> None:
    session.connection().exec_driver_sql(statements)


def refused(write: Callable[[Database], None], database: Database) -> Reason:
    with pytest.raises(Refusal) as refusal:
        write(database)
    return refusal.value.reason


def name_of_ada(database: Database) -> str | None:
    (ada,) = all_users(database)
    return ada.full_name


# Which host


def hosts_of(url: str, *before: str) -> str:
    """The database's URL with other hosts before its own, as libpq takes them."""
    own = make_url(url)
    several = [*before, f"{own.host}:{own.port}"]
    return (
        own.set(host=None, port=None)
        .update_query_dict({"host": several})
        .render_as_string(hide_password=False)
    )


@contextmanager
def silent_host() -> Iterator[tuple[str, socket.socket]]:
    """Its system takes connections, and nobody ever answers: a machine that is frozen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}", listener


@in_both_ways
def test_a_host_that_is_down_is_passed_over(
    database: Database, postgresql_url: str, write: Callable[[Database], None]
) -> None:
    several = Database(make_settings(hosts_of(postgresql_url, "127.0.0.1:1")))
    write(several)
    several.close()
    assert name_of_ada(database) == "Countess"


@in_both_ways
def test_a_host_that_is_frozen_is_passed_over(
    database: Database,
    postgresql_url: str,
    write: Callable[[Database], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts, "PATIENCE", 0.2)
    with silent_host() as (address, _):
        several = Database(make_settings(hosts_of(postgresql_url, address)))
        write(several)
        several.close()
    assert name_of_ada(database) == "Countess"


def test_the_host_that_answered_last_is_asked_first(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PATIENCE", 0.2)
    with silent_host() as (address, listener):
        several = Hosts(make_url(hosts_of(postgresql_url, address)))
        for _ in range(3):
            several.connect().close()
        listener.settimeout(0)
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_hosts_share_the_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PATIENCE", 0.4)
    with silent_host() as (one, _), silent_host() as (two, _):
        several = Hosts(make_url(f"postgresql+psycopg2://a:b@/c?host={one}&host={two}"))
        start = time.monotonic()
        with pytest.raises(psycopg2.OperationalError, match="does not answer"):
            several.connect()
    assert 0.4 <= time.monotonic() - start < 3


def test_a_standby_is_never_asked() -> None:
    (host,) = Hosts(make_url("postgresql+psycopg2://a:b@one/c"))._hosts
    assert host["target_session_attrs"] == "primary"


def test_the_url_may_ask_for_more_than_a_primary() -> None:
    (host,) = Hosts(
        make_url("postgresql+psycopg2://a:b@one/c?target_session_attrs=read-write")
    )._hosts
    assert host["target_session_attrs"] == "read-write"


# A primary that was frozen, and does not know that another one has taken its place


def two_hosts(url: str, monkeypatch: pytest.MonkeyPatch, *timelines: int) -> Hosts:
    """Both are the same server, and each connection finds the next of the timelines."""
    told = iter(timelines)
    monkeypatch.setattr(hosts, "timeline_of", lambda _: next(told))
    own = make_url(url)
    return Hosts(make_url(hosts_of(url, f"{own.host}:{own.port}")))


def test_a_former_primary_is_passed_over(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = two_hosts(postgresql_url, monkeypatch, 2, 1, 2)
    several.connect().close()
    first = several._hosts[0]
    several.connect().close()
    assert several._hosts[0] is not first


def test_where_all_are_former_primaries_there_is_none(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = two_hosts(postgresql_url, monkeypatch, 3, 2, 1)
    several.connect().close()
    with pytest.raises(
        hosts.FormerPrimary, match=r"127\.0\.0\.1 was the primary on timeline 2, .* 3"
    ):
        several.connect()


def test_a_former_primary_is_told_of_although_another_host_is_down(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has restored a backup learns what to do."""
    told = iter([2, 1])
    monkeypatch.setattr(hosts, "timeline_of", lambda _: next(told))
    several = Hosts(make_url(hosts_of(postgresql_url, "127.0.0.1:1")))
    several.connect().close()
    with pytest.raises(hosts.FormerPrimary, match="restart this process"):
        several.connect()


def test_a_connection_is_as_old_as_before_it_was_opened(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that others lose meanwhile may be its own."""
    several = two_hosts(postgresql_url, monkeypatch, 1, 1)
    before = several.connect()

    def lose_others(_: object) -> int:
        several.leave(before)
        return 1

    monkeypatch.setattr(hosts, "timeline_of", lose_others)
    meanwhile = several.connect()
    assert not several.keeps(meanwhile)
    before.close()
    meanwhile.close()


def test_where_a_standby_will_do_timelines_are_not_compared(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = two_hosts(postgresql_url + "?target_session_attrs=any", monkeypatch)
    several.connect().close()


def test_a_connection_to_a_former_primary_is_closed(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def connect(*arguments: Any, **more: Any) -> Any:
        opened.append(open_connection(*arguments, **more))
        return opened[-1]

    open_connection = hosts.connect
    monkeypatch.setattr(hosts, "connect", connect)
    several = two_hosts(postgresql_url, monkeypatch, 2, 1, 2)
    several.connect().close()
    connection = several.connect()
    assert [each.closed for each in opened] == [1, 1, 0]
    connection.close()


def test_when_there_is_a_new_primary_all_connections_to_the_former_one_are_left(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = two_hosts(postgresql_url, monkeypatch, 1, 1, 2, 2)
    old, old_too, new, new_too = (several.connect() for _ in range(4))
    assert [several.keeps(each) for each in (old, old_too, new, new_too)] == [False] * 2 + [
        True
    ] * 2
    for each in (old, old_too, new, new_too):
        each.close()


def test_a_server_that_is_alone_is_asked_for_no_timeline(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(hosts, "timeline_of")
    Hosts(make_url(postgresql_url)).connect().close()


@pytest.mark.parametrize("more", [{}, {"async_": True}], ids=["blocking", "asynchronous"])
def test_the_timeline_is_read_and_leaves_no_trace(
    postgresql_url: str, more: dict[str, Any]
) -> None:
    connection = Hosts(make_url(postgresql_url)).connect(**more)
    assert hosts.timeline_of(connection) == 1
    assert connection.autocommit is bool(more)
    assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    connection.close()


@pytest.mark.parametrize("more", [{}, {"async_": True}], ids=["blocking", "asynchronous"])
def test_a_server_that_knows_no_timelines_is_taken(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setattr(hosts, "WAL_FILE", "SELECT no_such_function()")
    connection = Hosts(make_url(hosts_of(postgresql_url, "127.0.0.1:1"))).connect(**more)
    assert not connection.closed
    assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    connection.close()


# A pooler in between


@pytest.mark.parametrize("prepared", [True, False], ids=["not yet", "already"])
def test_who_pools_transactions_is_told_so(database: Database, prepared: bool) -> None:
    """What this process has prepared is known to the server of another one, or the reverse."""
    asyncio.run(database.first(WHO if prepared else RENAME))
    (connection,) = database._runner._idle
    connection.prepared ^= {RENAME.name}
    with pytest.raises(Refusal) as refusal:
        by_itself(database)
    assert refusal.value.reason is Reason.DATABASE_UNAVAILABLE
    assert "Let it pool sessions" in str(refusal.value.__cause__)


# A server that only reads, although it did not before


def test_a_transaction_leaves_a_server_that_only_reads(database: Database) -> None:
    database.run_write(lambda session: session.connection().execute(select(MAKE_READ_ONLY)))
    in_a_session(database)
    assert name_of_ada(database) == "Countess"


def test_a_statement_leaves_a_server_that_only_reads(postgresql_url: str) -> None:
    """With all connections to it, whether they write or read."""
    several = Database(make_settings(postgresql_url, database_pool_size=3))
    several.run_write(add_ada)

    async def fail_once() -> None:
        await asyncio.gather(*(several.first(DEMOTE) for _ in range(3)))
        with pytest.raises(Refusal) as refusal:
            await several.first(RENAME)
        assert refusal.value.reason is Reason.DATABASE_UNAVAILABLE
        await asyncio.gather(*(several.first(RENAME) for _ in range(3)))

    asyncio.run(fail_once())
    several.close()


# A server that is lost


def pids_of(database: Database) -> set[int]:
    """Of all its connections: for transactions, for lists, and for single statements."""
    by_itself = asyncio.run(database.first(WHO))
    assert by_itself
    return {database.run_write(pid), database.run_read(pid), by_itself[0]}


def pid(session: Session) -> int:
    return int(session.connection().execute(WHO.clause).scalar_one())


def lose_in_a_session(database: Database) -> None:
    database.run_write(lambda session: session.connection().execute(END.clause))


def lose_by_itself(database: Database) -> None:
    asyncio.run(database.first(END))


def test_all_connections_are_kept_while_nothing_happens(database: Database) -> None:
    assert pids_of(database) == pids_of(database)


@pytest.mark.parametrize("lose", [lose_in_a_session, lose_by_itself])
def test_when_one_connection_is_lost_all_are_left(
    database: Database, lose: Callable[[Database], None]
) -> None:
    before = pids_of(database)
    with suppress(Refusal):
        lose(database)
    assert not before & pids_of(database)


def test_when_one_connection_is_lost_another_host_is_asked_first(postgresql_url: str) -> None:
    several = Hosts(make_url(hosts_of(postgresql_url, "127.0.0.1:1")))
    first = several.connect()
    several.leave(first)
    several.leave(first)  # which is known
    assert [host["port"] for host in several._hosts] == ["1", str(first.info.port)]
    first.close()


def test_a_new_connection_is_taken_although_others_are_lost_meanwhile(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Hosts.connect

    def lose_others(several: Hosts, **more: Any) -> Any:
        connection = connect(several, **more)
        several.leave(connection)
        return connection

    monkeypatch.setattr(Hosts, "connect", lose_others)
    database = Database(make_settings(postgresql_url, database_pool_size=1))
    for _ in range(3):
        assert len(pids_of(database)) == 3
    database.close()


# A server that is frozen


def test_a_thread_does_not_wait_for_ever_for_a_frozen_server(database: Database) -> None:
    begun = []

    def sleep(session: Session) -> None:
        begun.append(session)
        connection: Any = session.connection().connection.driver_connection
        connection.patience = 0.1
        session.connection().execute(text("SELECT pg_sleep(5)"))

    start = time.monotonic()
    assert refused(lambda database: database.run_write(sleep), database) is (
        Reason.DATABASE_UNAVAILABLE
    )
    assert time.monotonic() - start < 3
    assert len(begun) == 1  # its time is up
    in_a_session(database)


# Commits


@in_both_ways
def test_a_commit_that_may_be_lost_with_the_primary_is_not_acknowledged(
    database: Database, write: Callable[[Database], None]
) -> None:
    at_commit(database, CANCELLED)
    assert refused(write, database) is Reason.DATABASE_UNAVAILABLE


@in_both_ways
def test_a_notice_is_no_warning(database: Database, write: Callable[[Database], None]) -> None:
    at_commit(database, NOTICED)
    write(database)
    assert name_of_ada(database) == "Countess"


@in_both_ways
@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_who_was_in_another_transactions_way_tries_again(
    database: Database, write: Callable[[Database], None], code: str
) -> None:
    at_commit(database, CONFLICT.format(code=code))
    write(database)
    assert name_of_ada(database) == "Countess"


def sign_up(client: TestClient) -> Response:
    return register(client, BOB)


def log_in_again(client: TestClient) -> Response:
    """So that the former login ends: in a transaction."""
    return log_in(client)


def change_password(client: TestClient) -> Response:
    passwords = {"current_password": ADA["password"], "new_password": BOB["password"]}
    return client.put("/api/v1/users/me/password", json=passwords)


@pytest.mark.parametrize("act", [sign_up, log_in_again, change_password])
def test_what_is_done_again_is_done_wholly(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, act: Callable[[TestClient], Response]
) -> None:
    """Also what was made before the transaction, and stored in the first attempt."""
    sign_up_and_in(client)
    with monkeypatch.context() as patch:
        patch.setattr("app.db.session.commit", conflict_first(session_module.commit))
        assert act(client).is_success
    if act is sign_up:
        assert log_in(client, BOB).status_code == 200
    assert who_am_i(client).status_code == 200
    assert refresh(client).status_code == 200


def conflict_first(commit: Callable[[Session], None]) -> Callable[[Session], None]:
    """In each transaction that is not an attempt to repeat one."""
    conflicts = itertools.cycle([True, False])

    def commit_or_not(session: Session) -> None:
        if next(conflicts):
            raise DBAPIError(None, None, Conflict())
        commit(session)

    return commit_or_not


class Conflict(Exception):
    pgcode = "40001"
