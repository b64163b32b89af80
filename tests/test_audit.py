"""The audit trail: every security event once, as a row that nobody changes and as a line."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, update
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session, col

from app.core.client import HERE
from app.core.logs import JsonFormatter, logger
from app.models import AuditEvent
from app.models.audit import Event
from app.services import audit
from tests.actions import ACTIONS, CLEO, ME, NEW, Stage, set_up
from tests.admins import (
    change,
    id_of,
    new_events,
    sign_up_admin,
    trail,
)
from tests.answers import refused_as
from tests.conftest import ClientFactory
from tests.links import database_of
from tests.people import (
    ADA,
    BOB,
    log_in,
    register,
)
from tests.rows import all_users, audited

AUDIT = "/api/v1/audit-events"


@pytest.fixture
def stage(make_mailing_client: ClientFactory) -> Stage:
    return set_up(make_mailing_client)


class Lines:
    """The log's lines about security events."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def written(self) -> list[dict[str, Any]]:
        lines = map(json.loads, self.stream.getvalue().splitlines())
        return [line for line in lines if line.get("event") in [*Event]]

    def clear(self) -> None:
        self.stream.seek(0)
        self.stream.truncate()


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    handler = logging.StreamHandler(found.stream)
    handler.setFormatter(JsonFormatter())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


# One event for each thing that happens


def test_everything_that_can_happen_is_tried() -> None:
    """But for what the courier does: tests/test_mail.py."""
    assert {action.event for action in ACTIONS.values()} == {*Event} - {Event.LINK_SENT}


def ids(on: Stage, before: dict[str, UUID]) -> dict[str, UUID]:
    """Of everybody, also of who has left or renamed themselves since."""
    return {user.email: user.id for user in all_users(database_of(on.ada))} | before


@pytest.mark.proves("16.2.1", "16.2.4", "16.2.5", "16.3.1", "16.3.3")
@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_leaves_one_row_and_one_line_of_who_what_when_where_and_how_it_ended(
    stage: Stage, lines: Lines, name: str
) -> None:
    action = ACTIONS[name]
    action.prepare(stage)
    earlier, known = trail(stage.ada), ids(stage, {})
    lines.clear()
    began = datetime.now(UTC)
    answer = action.act(stage)
    assert answer.status_code == action.status, answer.text
    known = ids(stage, known)

    found = new_events(stage.ada, earlier)
    assert sorted(one.event for one in found) == sorted(
        filter(None, (action.event, action.besides))
    )
    [row] = [one for one in found if one.event == action.event]
    assert row.result == ("failure" if action.failure else "success")
    assert row.user_id == (known[action.whose["email"]] if action.whose else None)
    assert row.actor_id == (known[action.by["email"]] if action.by else None)
    assert began <= row.at <= datetime.now(UTC)
    assert row.request_id == answer.headers["x-request-id"]
    assert (row.ip_address, row.user_agent) == ("testclient", "testclient")

    [line] = [one for one in lines.written() if one["event"] == action.event]
    who = {"user_id": row.user_id, "actor_id": row.actor_id, "login_id": row.login_id}
    assert line == {
        "time": line["time"],
        "level": "warning" if action.event in audit.SERIOUS else "info",
        "request_id": row.request_id,
        "event": row.event,
        "result": row.result,
        "ip_address": row.ip_address,
        "user_agent": row.user_agent,
        **{key: str(value) for key, value in who.items() if value},
        **row.details,
    }
    when = datetime.fromisoformat(line["time"])
    assert when.utcoffset() == timedelta(0)
    assert abs(when - row.at) < timedelta(seconds=30)
    assert_tells_no_secret(stage, json.dumps([row.model_dump(mode="json"), line]))


def test_the_end_of_all_sessions_says_how_many_there_were(stage: Stage) -> None:
    log_in(stage.stranger, BOB)
    stage.bob.delete(f"{ME}/sessions?include_current=true")
    (row,) = audited(database_of(stage.ada), Event.LOGINS_ENDED)
    assert row.details == {"count": 2}


def assert_tells_no_secret(on: Stage, text: str) -> None:
    """No address, no name, no password, no token: ids only, so that it may outlive the account."""
    jars = [*on.ada.cookies.jar, *on.bob.cookies.jar]
    tokens = [cookie.value for cookie in jars if cookie.value]
    passwords = [person["password"] for person in (ADA, BOB, CLEO)]
    for secret in ("@", "example", "Robert", NEW, *passwords, *tokens):
        assert secret not in text


def test_a_refused_request_leaves_no_event(stage: Stage, lines: Lines) -> None:
    before = trail(stage.ada)
    lines.clear()
    assert stage.stranger.patch(ME, json={}).status_code == 401
    assert stage.bob.get(AUDIT).status_code == 403
    assert register(stage.stranger, BOB).status_code == 409
    assert change(stage.ada, ADA, is_admin=False).status_code == 409
    assert trail(stage.ada) == before
    assert lines.written() == []


@pytest.mark.proves("16.3.1")
def test_what_is_rolled_back_is_in_neither(stage: Stage, lines: Lines) -> None:
    before = trail(stage.ada)
    lines.clear()

    def work(session: Session) -> None:
        audit.record(session, Event.USER_UPDATED, HERE, user_id=uuid4())
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database_of(stage.ada).run_write(work)
    assert trail(stage.ada) == before
    assert lines.written() == []


# Append-only


def age(client: TestClient, **ago: int) -> AuditEvent:
    """An event from so long ago. The trigger keeps those that are there from being moved."""
    event = AuditEvent(
        at=datetime.now(UTC) - timedelta(**ago),
        event=Event.LOGIN_ENDED,
        result="success",
        ip_address="",
        user_agent="",
        request_id="",
    )
    database_of(client).run_write(lambda session: session.add(event))
    return event


def execute(client: TestClient, statement: Any) -> None:
    """As the service's own role in the database."""
    with database_of(client).engine.begin() as connection:
        connection.execute(statement)


@pytest.mark.proves("16.4.2")
@pytest.mark.parametrize("days", [0, 29, 400])
def test_the_database_changes_no_event(client: TestClient, days: int) -> None:
    event = age(client, days=days)
    changed = update(AuditEvent).where(col(AuditEvent.id) == event.id).values(result="failure")
    with pytest.raises(DatabaseError, match="never changed"):
        execute(client, changed)
    assert [one.result for one in trail(client)] == ["success"]


@pytest.mark.proves("16.4.2")
@pytest.mark.parametrize(
    ("ago", "left"), [({"days": 29, "hours": 23}, 1), ({"days": 30, "hours": 1}, 0)]
)
def test_the_database_deletes_no_event_of_the_last_30_days(
    client: TestClient, ago: dict[str, int], left: int
) -> None:
    event = age(client, **ago)
    deleted = delete(AuditEvent).where(col(AuditEvent.id) == event.id)
    if left:
        with pytest.raises(DatabaseError, match="30 days"):
            execute(client, deleted)
    else:
        execute(client, deleted)
    assert len(trail(client)) == left


@pytest.mark.proves("16.4.2")
def test_no_route_changes_an_event(stage: Stage) -> None:
    for path in (AUDIT, f"{AUDIT}/{trail(stage.ada)[0].id}", f"{ME}/activity"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = stage.ada.request(method, path, json={})
            assert answer.status_code in (404, 405, 422), (method, path)


# Reading it


def listed(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(AUDIT, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_an_administrator_reads_all_of_it_the_newest_first(stage: Stage) -> None:
    change(stage.ada, BOB, full_name="Robert")
    events = trail(stage.ada)
    found = listed(stage.ada)
    assert [one["id"] for one in found] == [str(one.id) for one in reversed(events)]
    newest = events[-1]
    assert datetime.fromisoformat(found[0].pop("at")) == newest.at
    assert found[0] == {
        "id": str(newest.id),
        "event": "user_updated",
        "result": "success",
        "user_id": str(id_of(stage.ada, BOB)),
        "actor_id": str(id_of(stage.ada, ADA)),
        "login_id": None,
        "ip_address": "testclient",
        "user_agent": "testclient",
        "request_id": newest.request_id,
        "details": {"fields": ["full_name"]},
    }


def test_it_is_filtered_by_whom_it_is_about_by_whom_it_was_and_by_what_happened(
    stage: Stage,
) -> None:
    change(stage.ada, BOB, full_name="Robert")
    log_in(stage.stranger, BOB | {"password": NEW})
    ada, bob = str(id_of(stage.ada, ADA)), str(id_of(stage.ada, BOB))

    def events(**query: str) -> list[str]:
        return [one["event"] for one in listed(stage.ada, **query)]

    assert events(user_id=bob) == ["login_failed", "user_updated", "login_started", "user_created"]
    assert events(actor_id=ada) == ["user_updated", "login_started"]
    assert events(user_id=bob, actor_id=ada) == ["user_updated"]
    assert events(event="user_created") == ["user_created", "user_created"]
    assert events(event="user_created", user_id=bob) == ["user_created"]
    assert events(result="failure") == ["login_failed"]
    assert events(user_id=str(uuid4())) == []


def test_it_is_filtered_by_address_however_that_is_written(
    make_mailing_client: ClientFactory,
) -> None:
    proxied = make_mailing_client(trusted_proxies="192.0.2.1")
    ada = sign_up_admin(proxied)
    outside = TestClient(ada.app, base_url="https://testserver", client=("192.0.2.1", 1))
    for address in ("203.0.113.7", "2001:db8::7"):
        register_from = {"X-Forwarded-For": address}
        outside.post("/api/v1/auth/login", json=BOB, headers=register_from)
    for spelling in ("203.0.113.7", "::ffff:203.0.113.7", " 203.0.113.7 "):
        assert [one["ip_address"] for one in listed(ada, ip_address=spelling)] == ["203.0.113.7"]
    for spelling in ("2001:db8::7", "2001:0DB8:0:0:0:0:0:7"):
        assert [one["ip_address"] for one in listed(ada, ip_address=spelling)] == ["2001:db8::7"]
    assert listed(ada, ip_address="203.0.113.8") == []


def test_pages_show_every_event_once_whatever_happens_meanwhile(stage: Stage) -> None:
    for number in range(5):
        change(stage.ada, BOB, full_name=f"Bob {number}")
    events, seen = trail(stage.ada), []
    page = stage.ada.get(AUDIT, params={"limit": 2}).json()
    while True:
        seen += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        change(stage.ada, BOB, full_name=f"Bob {len(seen)} again")
        page = stage.ada.get(AUDIT, params={"limit": 2, "after": page["next"]}).json()
    assert seen == [str(one.id) for one in reversed(events)]


@pytest.mark.proves("IN-05", "IN-09")
def test_a_query_that_is_none_is_refused(stage: Stage) -> None:
    for query in (
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-1"},
        {"limit": "9" * 400},
        {"limit": "NaN"},
        {"after": "1"},
        {"after": "9" * 400},
        {"user_id": ADA["email"]},
        {"actor_id": ""},
        {"event": "no_such_event"},
        {"result": "maybe"},
        {"ip_address": "localhost"},
        {"ip_address": "1"},
        {"ip_address": "fe80::1%\x00"},
        {"ip_address": ""},
        {"at": "0000-00-00"},
        {"offset": "5"},
    ):
        answer = stage.ada.get(AUDIT, params=query)
        assert refused_as(answer) == (422, "validation_failed"), query
    answer = stage.ada.get(f"{AUDIT}?result=failure&result=success")
    assert refused_as(answer) == (400, "bad_request")


def test_an_event_of_a_later_version_is_shown_as_it_is(stage: Stage) -> None:
    """During a rolling deployment newer code writes what this code does not know."""
    event = AuditEvent(
        at=datetime.now(UTC),
        event="passkey_added",
        result="success",
        user_id=id_of(stage.ada, ADA),
        ip_address="",
        user_agent="",
        request_id="",
    )
    database_of(stage.ada).run_write(lambda session: session.add(event))
    assert listed(stage.ada)[0]["event"] == "passkey_added"
    assert stage.ada.get(f"{ME}/activity").json()["items"][0]["event"] == "passkey_added"
