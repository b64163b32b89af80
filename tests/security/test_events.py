"""The inventory of logs and events, and that each happens where it says."""

import ast
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from sqlmodel import col, select

from app.core.refusals import Reason
from app.db.session import Database
from app.models import AuditEvent
from app.models.audit import Event
from app.models.mail import Purpose
from tests.conftest import ClientFactory
from tests.links import MAIL, database_of, forgot, mint, reset, verify
from tests.people import (
    ADA,
    BOB,
    bearer,
    get_tokens,
    log_in,
    log_out,
    refresh,
    register,
    sign_up_and_in,
)
from tests.proof import ROOT
from tests.rows import execute
from tests.security.document import sections, table

Act = Callable[[TestClient], object]


@pytest.mark.proves("16.1.1")
def test_the_inventory_lists_every_event_and_no_other() -> None:
    assert [row["event"] for row in table("Logs and events")] == [*Event]


@pytest.mark.proves("16.1.1")
def test_the_inventory_lists_every_other_line_and_no_other() -> None:
    told = {name for row in table("Logs and events", 1) for name in row["line"].split(", ")}
    assert told - {*Reason} == {*lines_of_the_source()}
    assert told & {*Reason}  # written where their cause is the service's or a session's end


def lines_of_the_source() -> Iterator[str]:
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "log_event":
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    yield name.value
                elif ast.unparse(name) == "f'mail_{result}'":
                    yield from ("mail_sent", "mail_retried", "mail_abandoned")
                else:
                    assert ast.unparse(name) in (
                        "recorded.event",
                        "outcome.reason",
                        "refusal.reason",
                    )


@pytest.mark.proves("16.1.1")
def test_the_inventory_says_where_lines_go_who_reads_them_and_for_how_long() -> None:
    said = sections()["Logs and events"]
    for words in ("standard output", "UTC", "kept as long as", "Administrators read them"):
        assert words in said


def events(database: Database) -> list[AuditEvent]:
    oldest_first = select(AuditEvent).order_by(col(AuditEvent.id))
    return database.run_read(lambda session: list(session.exec(oldest_first)))


NEW = {"current_password": ADA["password"], "new_password": "eleven quiet otters swimming"}
WRONG = {"current_password": "not hers, and long enough", "new_password": NEW["new_password"]}
STORIES: dict[str, Act] = {
    "login_started": lambda client: (client.cookies.clear(), log_in(client)),
    "login_failed": lambda client: log_in(client, BOB),
    "login_ended": log_out,
    "logins_ended": lambda client: client.delete("/api/v1/users/me/sessions?include_current=true"),
    "password_changed": lambda client: client.put("/api/v1/users/me/password", json=NEW),
    "password_refused": lambda client: client.put("/api/v1/users/me/password", json=WRONG),
    "password_reset_requested": forgot,
    "password_reset": lambda client: reset(
        client, mint(client, Purpose.RESET_PASSWORD), NEW["new_password"]
    ),
    "email_verified": lambda client: verify(client, mint(client, Purpose.VERIFY_EMAIL)),
    "user_updated": lambda client: client.patch("/api/v1/users/me", json={"full_name": "Ada"}),
    "user_deleted": lambda client: client.post(
        "/api/v1/users/me/delete", json={"password": ADA["password"]}
    ),
    "data_exported": lambda client: client.get("/api/v1/users/me/export"),
}


@pytest.mark.proves("14.2.4", "16.2.1", "16.3.1")
@pytest.mark.parametrize("name", STORIES)
def test_what_happens_leaves_exactly_one_event_with_who_when_and_where(
    make_client: ClientFactory, name: str
) -> None:
    client = make_client(**MAIL)
    client.headers["User-Agent"] = "Browser/1"
    sign_up_and_in(client)
    before = len(events(database_of(client)))
    STORIES[name](client)
    [event] = events(database_of(client))[before:]
    assert event.event == name
    assert event.at.utcoffset() is not None
    assert (event.ip_address, event.user_agent) == ("testclient", "Browser/1")
    assert re.fullmatch("[0-9a-f]{16}", event.request_id)
    nobody_knows_whose = name in ("login_failed", "password_reset_requested")
    assert (event.user_id is None) == nobody_knows_whose
    # It outlives the account, and says ids only.
    assert not [word for word in (*ADA.values(), *BOB.values()) if word in str(event.model_dump())]


@pytest.mark.proves("16.3.1", "16.3.2")
def test_a_failed_log_in_names_the_account_where_there_is_one(
    client: TestClient, database: Database
) -> None:
    register(client)
    log_in(client, ADA | {"password": "not the password of ada"})
    [created, failed] = events(database)
    assert (failed.event, failed.result) == ("login_failed", "failure")
    assert failed.user_id == created.user_id


@pytest.mark.proves("16.3.3", "RT-05")
def test_a_stolen_refresh_token_leaves_an_event(make_client: ClientFactory) -> None:
    client = make_client(refresh_grace_seconds=0)
    sign_up_and_in(client)
    stolen = client.cookies["__Host-refresh"]
    refresh(client)
    client.cookies.clear()
    client.post("/api/v1/auth/refresh", headers={"Cookie": f"__Host-refresh={stolen}"})
    last = events(database_of(client))[-1]
    assert (last.event, last.result) == ("token_reused", "failure")


@pytest.mark.proves("16.4.2")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET result = 'success'",
        "UPDATE audit_events SET user_id = NULL",
        "DELETE FROM audit_events",
    ],
)
def test_the_database_lets_nobody_change_an_event(
    client: TestClient, database: Database, statement: str
) -> None:
    log_in(client)
    before = [event.model_dump() for event in events(database)]
    with pytest.raises(Exception, match=r"audit events are|database_unavailable") as refused:
        database.run_write(execute, text(statement))
    errors = (refused.value, refused.value.__cause__)
    assert any(isinstance(error, DatabaseError) for error in errors)
    assert [event.model_dump() for event in events(database)] == before


@pytest.mark.proves("16.4.2", "8.2.2")
def test_users_read_their_own_events_and_nobody_elses(client: TestClient) -> None:
    people = {}
    for person in (ADA, BOB):
        register(client, person)
        people[person["email"]] = bearer(get_tokens(client, person)["access_token"])
    for headers in people.values():
        me = client.get("/api/v1/users/me", headers=headers).json()["id"]
        mine = client.get("/api/v1/users/me/activity", headers=headers).json()["items"]
        assert [event["event"] for event in mine] == ["login_started", "user_created"]
        assert me
        every = client.get("/api/v1/audit-events", headers=headers)
        assert (every.status_code, every.json()["code"]) == (403, "forbidden")


WRITES = (
    r"FileHandler|SysLogHandler|SocketHandler|\.write_(text|bytes)\(",
    r"^(print|open)\(|\.open\(.*['\"][wax]",
)


@pytest.mark.proves("16.2.3")
def test_only_the_log_writes_and_only_to_standard_output() -> None:
    """No file is opened for writing, and nothing prints but the commands, which speak to people."""
    to_people = {"cli.py", "doctor.py", "developer.py", "server.py"}
    found = set()
    for path in (ROOT / "app").rglob("*.py"):
        if path.name in to_people:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                if re.search(
                    r"FileHandler|SysLogHandler|SocketHandler|\.write_(text|bytes)\(", call
                ):
                    found.add(f"{path.name}: {call}")
                if re.match(r"(print|open)\(|.*\.open\(.*['\"][wax]", call):
                    found.add(f"{path.name}: {call}")
    assert found == set()


@pytest.mark.proves("16.2.2")
def test_no_time_is_without_a_zone() -> None:
    naive = re.compile(r"utcnow|datetime\.now\(\)|utcfromtimestamp|fromtimestamp\([^,]+\)$")
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert not naive.search(ast.unparse(node)), path


@pytest.mark.proves("16.2.2", "TM-02")
def test_every_time_in_an_answer_has_its_offset(client: TestClient) -> None:
    body: dict[str, Any] = sign_up_and_in(client)
    times = [value for part in body.values() for name, value in part.items() if "_at" in name]
    assert len(times) >= 5
    for value in filter(None, times):
        assert datetime.fromisoformat(value).utcoffset() is not None
