"""What has expired goes by itself, in small batches, and nothing else does."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import time_machine
from fastapi.testclient import TestClient
from sqlalchemy import event, insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, col, func, select, text

from app.cli import main
from app.core.identifiers import lowest_id, new_id, uuid7
from app.core.moments import MICROSECOND, to_microseconds
from app.core.refusals import Reason, Refusal
from app.db.session import Database
from app.models.audit import AuditEvent
from app.models.budget import Budget
from app.models.login import Login
from app.models.mail import Mail, OneTimeToken, Purpose, Template
from app.services import courier, upkeep
from app.services.upkeep import BATCH, Upkeep, expired, purge, purge_batch
from tests.conftest import ClientFactory, make_settings
from tests.people import refresh, sign_up_and_in, who_am_i
from tests.rows import execute, statements, the_user

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
KINDS = ["logins", "one_time_tokens", "budgets", "mails", "audit_events"]
# Of each kind: the moment of the youngest row that goes, and of the oldest that stays.
DAY, MILLISECOND = timedelta(days=1), timedelta(milliseconds=1)
BOUNDARIES = {
    "logins": (NOW, NOW + MICROSECOND),
    "one_time_tokens": (NOW, NOW + MICROSECOND),
    "budgets": (NOW - 30 * DAY, NOW - 30 * DAY + MICROSECOND),
    "mails": (NOW - 4 * DAY - MILLISECOND, NOW - 4 * DAY),
    "audit_events": (
        NOW - 365 * DAY - timedelta(hours=1) - MILLISECOND,
        NOW - 365 * DAY - timedelta(hours=1),
    ),
}


@pytest.fixture
def user_id(client: TestClient, database: Database) -> UUID:
    sign_up_and_in(client)
    return the_user(database, "ada@example.com").id


def id_of(moment: datetime) -> UUID:
    return uuid7(to_microseconds(moment) // 1000, secrets.randbits(80))


def row(kind: str, moment: datetime, user_id: UUID) -> dict[str, Any]:
    """One that has to do with this moment: its end, or its beginning where nothing ends it."""
    rows: dict[str, dict[str, Any]] = {
        "logins": {
            "id": new_id(),
            "user_id": user_id,
            "client_id": "browser",
            "user_agent": "",
            "ip_address": "",
            "created_at": moment - 30 * DAY,
            "expires_at": moment,
            "last": to_microseconds(NOW),
        },
        "one_time_tokens": {
            "token_hash": secrets.token_hex(32),
            "user_id": user_id,
            "purpose": Purpose.RESET_PASSWORD,
            "email": "ada@example.com",
            "created_at": moment - DAY,
            "expires_at": moment,
        },
        "budgets": {
            "key": secrets.token_hex(16),
            "drained_at": to_microseconds(moment),
            "attempts": 3,
        },
        "mails": {
            "id": id_of(moment),
            "template": Template.NEW_DEVICE,
            "recipient": "ada@example.com",
            "context": {},
            "created_at": moment,
            "due_at": NOW + DAY,
            "attempts": 9,
        },
        "audit_events": {
            "id": id_of(moment),
            "at": moment,
            "event": "login_failed",
            "result": "failure",
            "ip_address": "192.0.2.1",
            "user_agent": "",
            "request_id": "",
            "details": {},
        },
    }
    return rows[kind]


TABLES: dict[str, type[SQLModel]] = {
    "logins": Login,
    "one_time_tokens": OneTimeToken,
    "budgets": Budget,
    "mails": Mail,
    "audit_events": AuditEvent,
}
AGES = {  # a column by which those of a test are told from what the client's own requests left
    "logins": Login.expires_at,
    "one_time_tokens": OneTimeToken.expires_at,
    "budgets": Budget.drained_at,
    "mails": Mail.created_at,
    "audit_events": AuditEvent.at,
}


def add(database: Database, kind: str, *moments: datetime, user_id: UUID) -> None:
    rows = [row(kind, moment, user_id) for moment in moments]
    database.run_write(lambda s: s.connection().execute(insert(TABLES[kind]), rows))


def moments(database: Database, kind: str) -> list[datetime | int]:
    column = col(AGES[kind])  # type: ignore[call-overload]
    return database.run_read(lambda session: list(session.exec(select(column).order_by(column))))


def count(database: Database, kind: str) -> int:
    statement = select(func.count()).select_from(TABLES[kind])
    return database.run_read(lambda session: session.exec(statement).one())


def without_audit_trigger(database: Database) -> None:
    """The clock of the database is today's, and the rows of these tests are from years to come."""
    on_postgresql = database.engine.dialect.name == "postgresql"
    statement = "ALTER TABLE audit_events DISABLE TRIGGER USER"
    if not on_postgresql:
        statement = "DROP TRIGGER audit_events_kept"
    database.run_write(execute, text(statement))


@pytest.fixture
def future(user_id: UUID, database: Database) -> Iterator[UUID]:
    without_audit_trigger(database)
    with time_machine.travel(NOW, tick=False):
        yield user_id
    if database.engine.dialect.name == "postgresql":
        database.run_write(execute, text("ALTER TABLE audit_events ENABLE TRIGGER USER"))


def settings_of(client: TestClient) -> Any:
    return client.app.state.backend.settings  # type: ignore[attr-defined]


# What goes, and what stays


@pytest.mark.proves("14.2.7")
@pytest.mark.parametrize("kind", KINDS)
def test_what_has_expired_goes_and_what_has_not_stays_to_the_moment(
    client: TestClient, database: Database, future: UUID, kind: str
) -> None:
    goes, stays = BOUNDARIES[kind]
    add(database, kind, goes, stays, user_id=future)
    assert purge(database, settings_of(client))[kind] >= 1
    left = moments(database, kind)
    as_stored = (lambda m: m) if kind != "budgets" else to_microseconds
    assert as_stored(stays) in left
    assert as_stored(goes) not in left


@pytest.mark.proves("14.2.7")
def test_audit_events_are_kept_as_long_as_is_configured(
    make_client: ClientFactory, database: Database, future: UUID
) -> None:
    young, old = NOW - 59 * DAY, NOW - 61 * DAY
    add(database, "audit_events", young, old, user_id=future)
    purge(database, settings_of(make_client(audit_retention_days=60)))
    left = moments(database, "audit_events")
    assert young in left
    assert old not in left


@pytest.mark.proves("16.4.2")
@pytest.mark.usefixtures("user_id")
def test_no_audit_event_of_these_30_days_can_be_deleted(database: Database) -> None:
    """Whatever the service believes about the time."""
    settings = make_settings("sqlite:///unused.db", audit_retention_days=30)
    before = count(database, "audit_events")
    assert before
    with time_machine.travel(datetime.now(UTC) + 90 * DAY, tick=False):
        events = [rows for rows in expired(settings, datetime.now(UTC)) if not rows.lockable]
    (rows,) = events
    with pytest.raises((Refusal, IntegrityError)) as error:
        database.run_write(purge_batch, rows)
    assert "audit events are" in str(error.value.__cause__ or error.value)
    assert count(database, "audit_events") == before


def test_nobody_who_uses_the_service_loses_anything(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    before = {kind: count(database, kind) for kind in KINDS}
    assert not any(purge(database, settings_of(client)).values())
    assert {kind: count(database, kind) for kind in KINDS} == before
    assert refresh(client).status_code == 200
    assert who_am_i(client).status_code == 200


@pytest.mark.usefixtures("user_id")
def test_a_login_that_idled_too_long_goes_with_a_purge(
    client: TestClient, database: Database
) -> None:
    with time_machine.travel(datetime.now(UTC) + timedelta(days=7, seconds=1), tick=False):
        assert purge(database, settings_of(client))["logins"] == 1


def test_mails_are_the_couriers_as_long_as_it_tries() -> None:
    assert courier.GIVE_UP + upkeep.COURIER_LATE == 4 * DAY


# Batches


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_bounded_in_rows_and_statements(
    client: TestClient, database: Database, future: UUID, kind: str
) -> None:
    goes, _ = BOUNDARIES[kind]
    add(database, kind, *(goes - n * MILLISECOND for n in range(BATCH + 7)), user_id=future)
    (rows,) = [rows for rows in expired(settings_of(client), NOW) if rows.kind == kind]
    before = count(database, kind)
    with statements(database) as sent:
        assert database.run_write(purge_batch, rows) == BATCH
    assert len(sent) == 2
    assert count(database, kind) == before - BATCH
    with statements(database) as sent:
        assert 7 <= database.run_write(purge_batch, rows) < BATCH
        assert database.run_write(purge_batch, rows) == 0
    assert len(sent) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_what_goes(
    client: TestClient, database: Database, future: UUID, kind: str
) -> None:
    """No look at what stays, however few that are."""
    goes, stays = BOUNDARIES[kind]
    add(database, kind, *(stays + timedelta(seconds=n) for n in range(20)), user_id=future)
    add(database, kind, *(goes - n * MILLISECOND for n in range(20)), user_id=future)
    name = TABLES[kind].__tablename__
    (rows,) = [rows for rows in expired(settings_of(client), NOW) if rows.kind == kind]
    for plan in plans(database, rows):
        assert "Seq Scan" not in plan
        assert f"SCAN {name}" not in plan.replace(f"SCAN {name} USING", "")
        assert "Index" in plan or "INDEX" in plan


def plans(database: Database, rows: upkeep.Expired) -> list[str]:
    """Of each statement of a batch."""
    explain = "EXPLAIN QUERY PLAN "
    if database.engine.dialect.name == "postgresql":
        explain = "SET LOCAL enable_seqscan = off; EXPLAIN "
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "DELETE")):
            with_plan = connection.connection.cursor()
            with_plan.execute(explain + statement, parameters)
            found.append("\n".join(str(line) for line in with_plan.fetchall()))
            with_plan.close()

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        assert 20 <= database.run_write(purge_batch, rows) < 30
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert len(found) == 2
    return found


def test_an_id_says_whether_it_is_from_before_a_moment() -> None:
    moment = datetime(2031, 5, 4, 12, 0, 0, 123_999, tzinfo=UTC)
    lowest = lowest_id(moment)
    assert lowest == uuid7(to_microseconds(moment) // 1000, 0)
    with time_machine.travel(moment, tick=False):
        assert all(new_id() >= lowest for _ in range(1000))
    with time_machine.travel(moment - MILLISECOND, tick=False):
        assert all(new_id() < lowest for _ in range(1000))
    assert lowest.version == 7
    assert lowest.variant == "specified in RFC 4122"


# Two at once


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_the_work(
    client: TestClient, database: Database, future: UUID, kind: str, database_url: str
) -> None:
    goes, stays = BOUNDARIES[kind]
    add(database, kind, *(goes - n * MILLISECOND for n in range(1500)), stays, user_id=future)
    before = count(database, kind)
    settings = settings_of(client)
    others = [Database(make_settings(database_url)) for _ in range(2)]
    start = threading.Barrier(2)

    def work(other: Database) -> int:
        start.wait()
        return purge(other, settings)[kind]

    with ThreadPoolExecutor(2) as threads:
        deleted = list(threads.map(work, others))
    for other in others:
        other.close()
    rest = purge(database, settings)[kind]  # what each of them left to the other
    assert sum(deleted) + rest == before - count(database, kind)
    assert sum(deleted) + rest >= 1500
    assert len(moments(database, kind)) >= 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", KINDS[:4])
def test_rows_that_somebody_holds_are_left_out_without_waiting(
    client: TestClient, database: Database, future: UUID, kind: str
) -> None:
    goes, _ = BOUNDARIES[kind]
    add(database, kind, goes, goes - MILLISECOND, user_id=future)
    (rows,) = [rows for rows in expired(settings_of(client), NOW) if rows.kind == kind]
    oldest = select(rows.table).where(rows.which).order_by(rows.order).limit(1)
    with Session(database.engine) as session:
        session.exec(oldest.with_for_update()).one()
        before = count(database, kind)
        deleted = database.run_write(purge_batch, rows)
        assert count(database, kind) == before - deleted
        assert deleted >= 1
    assert database.run_write(purge_batch, rows) == 1


# By itself


class Watched:
    """The upkeep of a client's application, and what happens to its jobs."""

    def __init__(self, database: Database) -> None:
        self.ended = threading.Semaphore(0)
        submit = database.submit

        def submit_watched(job: Callable[[], object]) -> None:
            def watched() -> None:
                try:
                    job()
                finally:
                    self.ended.release()

            submit(watched)

        database.submit = submit_watched  # type: ignore[method-assign]

    def wait(self) -> None:
        assert self.ended.acquire(timeout=30)

    def rests(self) -> bool:
        return not self.ended.acquire(timeout=0.2)


@pytest.mark.proves("14.2.7")
def test_expired_rows_go_by_themselves_while_people_use_the_service(
    make_client: ClientFactory, database_url: str
) -> None:
    client = make_client()
    database = client.app.state.backend.database  # type: ignore[attr-defined]
    sign_up_and_in(client)
    user_id = the_user(database, "ada@example.com").id
    now = datetime.now(UTC)
    for kind, (goes, _) in BOUNDARIES.items():
        add(database, kind, goes - NOW + now - DAY, user_id=user_id)
    before = {kind: count(database, kind) for kind in KINDS}
    watched = Watched(database)
    keeper: Upkeep = database.after_write.__self__
    keeper._due -= upkeep.PAUSE  # a minute later
    assert who_am_i(client).status_code == 200
    assert watched.rests()  # nothing was written
    assert refresh(client).status_code == 200
    watched.wait()
    after = {kind: count(database, kind) for kind in KINDS}
    assert after == {kind: before[kind] - 1 for kind in KINDS}
    assert refresh(client).status_code == 200


def test_it_rests_for_a_minute(client: TestClient, database: Database) -> None:
    keeper = Upkeep(database, settings_of(client))
    database.after_write = keeper.after_write
    watched = Watched(database)
    sign_up_and_in(client)
    assert watched.rests()
    keeper._due -= upkeep.PAUSE  # a minute later
    assert refresh(client).status_code == 200
    watched.wait()
    assert refresh(client).status_code == 200
    assert watched.rests()


def test_a_full_batch_is_followed_by_another_soon(
    client: TestClient, database: Database, user_id: UUID
) -> None:
    goes = datetime.now(UTC) - 40 * DAY
    add(database, "budgets", *(goes - n * MILLISECOND for n in range(BATCH + 1)), user_id=user_id)
    before = count(database, "budgets")
    keeper = Upkeep(database, settings_of(client))
    database.after_write = keeper.after_write
    watched = Watched(database)
    keeper._due -= upkeep.PAUSE
    assert refresh(client).status_code == 200
    watched.wait()
    assert count(database, "budgets") == before - BATCH
    keeper._due -= upkeep.SOON
    assert refresh(client).status_code == 200
    watched.wait()
    assert count(database, "budgets") == before - BATCH - 1


@pytest.mark.parametrize(
    "fault", [Refusal(Reason.DATABASE_UNAVAILABLE), RuntimeError("no disk, no memory")]
)
def test_a_failure_is_logged_and_harms_neither_requests_nor_the_rest(
    client: TestClient,
    database: Database,
    user_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
) -> None:
    def fail(session: Session, rows: upkeep.Expired) -> int:
        if rows.kind == "logins":
            raise fault
        return purge_batch(session, rows)

    monkeypatch.setattr(upkeep, "purge_batch", fail)
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])
    add(database, "budgets", datetime.now(UTC) - 40 * DAY, user_id=user_id)
    keeper = Upkeep(database, settings_of(client))
    database.after_write = keeper.after_write
    watched = Watched(database)
    for _ in range(2):
        keeper._due -= upkeep.PAUSE
        assert refresh(client).status_code == 200
        watched.wait()
    messages = [record.getMessage() for record in caplog.records]
    assert sum("upkeep" in message for message in messages) == 2
    purged = [record for record in caplog.records if record.getMessage() == "purged"]
    assert [vars(record)["fields"] for record in purged] == [{"budgets": 1}]


# By hand


@pytest.mark.proves("14.2.7")
def test_make_purge_deletes_all_and_says_how_much_of_each_kind(
    client: TestClient,
    database: Database,
    database_url: str,
    user_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = datetime.now(UTC)
    for kind, (goes, _) in BOUNDARIES.items():
        old = goes - NOW + now - DAY
        add(database, kind, *(old - n * MILLISECOND for n in range(BATCH + 1)), user_id=user_id)
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["purge"]) == 0
    said = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert said == [[str(BATCH + 1), kind.replace("_", " ")] for kind in KINDS]
    assert who_am_i(client).status_code == 200
