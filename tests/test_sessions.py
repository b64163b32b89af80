"""The list of one's logins, and ending them. What ends is out at its next request."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import delete

from app.core.moments import to_microseconds
from app.core.tokens import ClientId
from app.db.session import Database
from app.models import Login, User
from app.models.audit import Event
from app.models.login import LONGEST_USER_AGENT
from app.services import logins, upkeep
from tests.answers import differences, refused_as
from tests.conftest import ClientFactory
from tests.jars import (
    ACCESS_COOKIE,
    DEVICE_COOKIE,
    REFRESH_COOKIE,
    access_token,
    claims,
    names_held,
    other_browser,
    present,
    refresh_token,
)
from tests.links import database_of
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
    who_am_i,
)
from tests.rows import (
    all_logins,
    audited,
    change_login,
    change_user,
    execute,
    statements,
    the_login,
)

SESSIONS = "/api/v1/users/me/sessions"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def list_sessions(client: TestClient) -> list[dict[str, Any]]:
    answer = client.get(SESSIONS)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()
    return found


def end_session(client: TestClient, session_id: object) -> Response:
    return client.delete(f"{SESSIONS}/{session_id}")


def another_login(client: TestClient, person: dict[str, str] = ADA) -> TestClient:
    """On another device."""
    device = other_browser(client)
    assert log_in(device, person).status_code == 200
    return device


# The list


@pytest.mark.proves("7.5.2")
def test_a_session_is_listed_with_its_device_address_and_times(make_client: ClientFactory) -> None:
    client = make_client()
    with time_machine.travel(NOON, tick=False) as clock:
        client.headers["User-Agent"] = "Curl of Ada/1.0"
        session_id = sign_up_and_in(client)["session"]["id"]
        clock.shift(timedelta(hours=1))
        refresh(client)
        assert list_sessions(client) == [
            {
                "id": session_id,
                "current": True,
                "client_id": "browser",
                "user_agent": "Curl of Ada/1.0",
                "ip_address": "testclient",
                "created_at": "2026-11-23T12:00:00Z",
                "last_used_at": "2026-11-23T13:00:00Z",
                "expires_at": "2026-12-23T12:00:00Z",
            }
        ]


def test_the_session_that_asks_is_marked_as_current(client: TestClient) -> None:
    here = sign_up_and_in(client)["session"]["id"]
    phone = another_login(client)
    there = claims(refresh_token(phone))["sid"]
    assert {s["id"]: s["current"] for s in list_sessions(client)} == {here: True, there: False}
    assert {s["id"]: s["current"] for s in list_sessions(phone)} == {here: False, there: True}


def test_a_programs_login_is_listed_as_one(client: TestClient) -> None:
    sign_up_and_in(client)
    get_tokens(client)
    assert {s["client_id"]: s["current"] for s in list_sessions(client)} == {
        "browser": True,
        "program": False,
    }


def test_the_most_recently_used_session_comes_first(client: TestClient) -> None:
    sign_up_and_in(client)
    devices = [client, another_login(client), another_login(client)]
    refresh(devices[1])
    refresh(devices[0])
    expected = [claims(refresh_token(devices[i]))["sid"] for i in (0, 1, 2)]
    assert [s["id"] for s in list_sessions(client)] == expected


@pytest.mark.proves("8.2.2")
def test_nobody_sees_the_sessions_of_others(client: TestClient) -> None:
    adas = sign_up_and_in(client)["session"]["id"]
    bobs_browser = other_browser(client)
    bobs = sign_up_and_in(bobs_browser, BOB)["session"]["id"]
    assert [s["id"] for s in list_sessions(client)] == [adas]
    assert [s["id"] for s in list_sessions(bobs_browser)] == [bobs]


@pytest.mark.parametrize(
    ("days_after_log_in", "listed"), [(6, 2), (8, 1)], ids=["in use", "idle for too long"]
)
def test_sessions_that_have_expired_are_not_listed(
    client: TestClient, days_after_log_in: int, listed: int
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        sign_up_and_in(client)
        clock.shift(timedelta(days=days_after_log_in))
        phone = another_login(client)
        assert len(list_sessions(phone)) == listed


def test_sessions_at_their_absolute_end_are_not_listed(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    change_login(database, expires_at=datetime.now(UTC))
    assert len(list_sessions(another_login(client))) == 1


def test_at_most_a_hundred_sessions_are_listed(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    mine = the_login(database)
    more = [
        mine.model_dump() | {"id": uuid4(), "last": mine.last - minutes * 60_000_000}
        for minutes in range(1, 121)
    ]
    database.run_write(lambda session: session.add_all(Login(**values) for values in more))
    listed = list_sessions(client)
    assert len(listed) == logins.LONGEST_LIST == 100
    assert listed[0]["current"]


def test_a_very_long_user_agent_is_cut(client: TestClient) -> None:
    client.headers["User-Agent"] = "A" * 5000
    sign_up_and_in(client)
    assert list_sessions(client)[0]["user_agent"] == "A" * LONGEST_USER_AGENT


def test_no_user_agent_is_no_trouble(client: TestClient) -> None:
    client.headers["User-Agent"] = ""
    sign_up_and_in(client)
    assert list_sessions(client)[0]["user_agent"] == ""


@pytest.mark.proves("SQ-03")
@pytest.mark.parametrize(
    "sent", ["<script>alert(1)</script>", "{{7*7}} ${jndi:ldap://x} %s%n {0.__class__}"]
)
def test_a_user_agent_is_shown_literally(client: TestClient, sent: str) -> None:
    register(client)
    client.post("/api/v1/auth/login", json=ADA, headers={"User-Agent": sent})
    assert list_sessions(client)[0]["user_agent"] == sent


@pytest.mark.proves("15.3.4")
def test_what_an_untrusted_peer_says_about_its_address_is_not_shown(client: TestClient) -> None:
    for header in ("X-Forwarded-For", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP"):
        client.headers[header] = "198.51.100.7"
    client.headers["Forwarded"] = "for=198.51.100.7"
    sign_up_and_in(client)
    assert list_sessions(client)[0]["ip_address"] == "testclient"


def peer(client: TestClient, address: str) -> TestClient:
    return TestClient(client.app, base_url="https://testserver", client=(address, 50000))


def test_a_trusted_proxy_is_believed_up_to_the_first_untrusted_hop(
    make_client: ClientFactory,
) -> None:
    client = make_client(trusted_proxies="10.0.0.0/8, 127.0.0.1")
    register(client)
    proxy = peer(client, "10.1.2.3")
    proxy.headers["X-Forwarded-For"] = "1.2.3.4, 198.51.100.7, 10.9.9.9"
    log_in(proxy)
    assert list_sessions(proxy)[0]["ip_address"] == "198.51.100.7"


def test_a_peer_outside_the_trusted_networks_is_shown_itself(make_client: ClientFactory) -> None:
    client = make_client(trusted_proxies="10.0.0.0/8")
    register(client)
    visitor = peer(client, "203.0.113.5")
    visitor.headers["X-Forwarded-For"] = "10.1.2.3"
    log_in(visitor)
    assert list_sessions(visitor)[0]["ip_address"] == "203.0.113.5"


# Ending one


def test_a_session_on_another_device_can_be_ended(client: TestClient) -> None:
    sign_up_and_in(client)
    phone = another_login(client)
    answer = end_session(client, claims(refresh_token(phone))["sid"])
    assert (answer.status_code, answer.content) == (204, b"")
    assert "set-cookie" not in answer.headers
    assert len(list_sessions(client)) == 1


@pytest.mark.proves("7.4.1", "10.4.9")
def test_an_ended_session_is_out_at_its_next_request(client: TestClient) -> None:
    sign_up_and_in(client)
    phone = another_login(client)
    assert who_am_i(phone).status_code == 200
    end_session(client, claims(refresh_token(phone))["sid"])
    assert refused_as(who_am_i(phone)) == (401, "session_revoked")
    assert refused_as(refresh(phone)) == (401, "session_revoked")


def test_the_current_session_can_be_ended_and_takes_its_cookies_along(client: TestClient) -> None:
    session_id = sign_up_and_in(client)["session"]["id"]
    kept = access_token(client)
    answer = end_session(client, session_id)
    assert answer.status_code == 204
    assert names_held(client) == {DEVICE_COOKIE}
    answer = client.get("/api/v1/users/me", headers=bearer(kept))
    assert refused_as(answer) == (401, "session_revoked")


@pytest.mark.proves("8.2.2", "LO-08")
def test_another_users_session_is_not_found_just_like_an_unknown_one(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    bobs_browser = other_browser(client)
    bobs = sign_up_and_in(bobs_browser, BOB)["session"]["id"]
    answers = [end_session(client, session_id) for session_id in (bobs, uuid4())]
    assert [refused_as(answer) for answer in answers] == [(404, "not_found")] * 2
    assert differences(*answers) == set()
    assert who_am_i(bobs_browser).status_code == 200
    assert len(all_logins(database)) == 2


def test_ending_a_session_twice_finds_nothing_the_second_time(client: TestClient) -> None:
    sign_up_and_in(client)
    there = claims(refresh_token(another_login(client)))["sid"]
    assert end_session(client, there).status_code == 204
    assert refused_as(end_session(client, there)) == (404, "not_found")


def test_what_is_no_session_id_is_refused(client: TestClient) -> None:
    sign_up_and_in(client)
    phone = another_login(client)
    for session_id in ("current", "all", "1", "0" * 31, "me'--", "a" * 500):
        answer = end_session(client, session_id)
        assert refused_as(answer) == (422, "validation_failed"), session_id
    assert who_am_i(phone).status_code == 200


def test_a_program_may_end_sessions_too(client: TestClient) -> None:
    sign_up_and_in(client)
    program = other_browser(client)
    tokens = get_tokens(program)
    session_id = claims(refresh_token(client))["sid"]
    answer = program.delete(f"{SESSIONS}/{session_id}", headers=bearer(tokens["access_token"]))
    assert answer.status_code == 204
    assert refused_as(who_am_i(client)) == (401, "session_revoked")


def test_a_program_logs_out_with_its_access_token(client: TestClient, database: Database) -> None:
    register(client)
    tokens = get_tokens(client)
    answer = client.post("/api/v1/auth/logout", headers=bearer(tokens["access_token"]))
    assert answer.status_code == 204
    assert all_logins(database) == []


# Ending all


@pytest.mark.proves("7.5.2", "10.4.9")
def test_all_other_sessions_end_and_this_one_stays(client: TestClient) -> None:
    sign_up_and_in(client)
    others = [another_login(client) for _ in range(3)]
    answer = client.delete(SESSIONS)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "set-cookie" not in answer.headers
    assert [s["current"] for s in list_sessions(client)] == [True]
    for device in others:
        assert refused_as(who_am_i(device)) == (401, "session_revoked")
        assert refused_as(refresh(device)) == (401, "session_revoked")


def test_include_current_ends_this_one_too(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    phone = another_login(client)
    kept = access_token(client)
    assert client.delete(SESSIONS, params={"include_current": "true"}).status_code == 204
    assert names_held(client) == {DEVICE_COOKIE}
    assert all_logins(database) == []
    assert refused_as(who_am_i(phone)) == (401, "session_revoked")
    answer = client.get("/api/v1/users/me", headers=bearer(kept))
    assert refused_as(answer) == (401, "session_revoked")


@pytest.mark.parametrize("include_current", ["true", "false"])
def test_ending_all_sessions_leaves_those_of_others_alone(
    client: TestClient, include_current: str
) -> None:
    sign_up_and_in(client)
    bobs_browser = other_browser(client)
    sign_up_and_in(bobs_browser, BOB)
    client.delete(SESSIONS, params={"include_current": include_current})
    assert who_am_i(bobs_browser).status_code == 200
    assert refresh(bobs_browser).status_code == 200


def test_an_unclear_wish_ends_nothing(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    another_login(client)
    answer = client.delete(SESSIONS, params={"include_current": "perhaps"})
    assert refused_as(answer) == (422, "validation_failed")
    assert len(all_logins(database)) == 2


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("DELETE", "/current")])
def test_without_a_login_there_are_no_sessions(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, SESSIONS + path)
    assert refused_as(answer) == (401, "not_authenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


# A login always starts a new session


@pytest.mark.proves("7.2.4")
def test_a_log_in_ends_the_login_that_it_brought_along(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    before = access_token(client), the_login(database).id
    assert log_in(client).status_code == 200
    assert the_login(database).id != before[1]
    answer = other_browser(client).get("/api/v1/users/me", headers=bearer(before[0]))
    assert refused_as(answer) == (401, "session_revoked")


def test_a_log_in_as_somebody_else_in_the_same_browser_ends_the_first(client: TestClient) -> None:
    sign_up_and_in(client)
    adas = refresh_token(client)
    register(other_browser(client), BOB)
    log_in(client, BOB)
    assert who_am_i(client).json()["email"] == BOB["email"]
    assert refused_as(present(client, adas)) == (401, "session_revoked")


def test_a_log_in_ends_the_login_of_either_cookie(client: TestClient, database: Database) -> None:
    """The two belong together; where they do not, neither may survive."""
    sign_up_and_in(client)
    phone = another_login(client)
    mixed = f"{ACCESS_COOKIE}={access_token(client)}; {REFRESH_COOKIE}={refresh_token(phone)}"
    answer = other_browser(client).post("/api/v1/auth/login", json=ADA, headers={"Cookie": mixed})
    assert answer.status_code == 200
    assert str(the_login(database).id) == answer.json()["session"]["id"]


def test_a_log_in_ends_the_login_of_an_expired_access_cookie(
    client: TestClient, database: Database
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        sign_up_and_in(client)
        expired = {"Cookie": f"{ACCESS_COOKIE}={access_token(client)}"}
        clock.shift(timedelta(hours=1))
        other_browser(client).post("/api/v1/auth/login", json=ADA, headers=expired)
        assert len(all_logins(database)) == 1


def test_a_failed_log_in_ends_nothing(client: TestClient) -> None:
    sign_up_and_in(client)
    assert log_in(client, ADA | {"password": "not the right one"}).status_code == 401
    assert who_am_i(client).status_code == 200
    assert refresh(client).status_code == 200


@pytest.mark.proves("SF-02")
def test_a_login_never_takes_over_an_id_that_somebody_planted(client: TestClient) -> None:
    """Session fixation (ASVS 7.2.4)."""
    register(client)
    register(client, BOB)
    bobs = another_login(client, BOB)
    planted = claims(refresh_token(bobs))["sid"]
    for cookie in bobs.cookies.jar:
        client.cookies.jar.set_cookie(cookie)
    assert log_in(client).json()["session"]["id"] != planted
    assert refused_as(who_am_i(bobs)) == (401, "session_revoked")


def test_logging_out_on_one_device_leaves_the_others_alone(client: TestClient) -> None:
    sign_up_and_in(client)
    phone = another_login(client)
    log_out(client)
    assert who_am_i(phone).status_code == 200


# Who may not be logged in is out at once


@pytest.mark.proves("7.4.2", "8.3.2")
def test_a_disabled_user_is_out_at_the_next_request(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    change_user(database, ADA["email"], is_active=False)
    assert refused_as(who_am_i(client)) == (401, "session_revoked")
    assert refused_as(client.get(SESSIONS)) == (401, "session_revoked")
    assert refused_as(client.delete(SESSIONS)) == (401, "session_revoked")


@pytest.mark.proves("7.4.2")
def test_a_deleted_user_is_out_at_the_next_request(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    database.run_write(lambda session: execute(session, delete(User)))
    assert refused_as(who_am_i(client)) == (401, "session_revoked")
    assert all_logins(database) == []


@pytest.mark.parametrize("end", [{"expires_at": NOON}, {"last": to_microseconds(NOON)}], ids=str)
def test_a_session_that_is_over_is_out_before_its_access_token_expires(
    client: TestClient, database: Database, end: dict[str, Any]
) -> None:
    """As where an operator ends it early, or shortens the idle limit."""
    with time_machine.travel(NOON + timedelta(days=8)):
        sign_up_and_in(client)
        change_login(database, **end)
        assert refused_as(who_am_i(client)) == (401, "session_expired")


def test_a_token_that_names_another_users_login_is_nobodys(client: TestClient) -> None:
    sign_up_and_in(client)
    bobs = sign_up_and_in(other_browser(client), BOB)
    adas_login = UUID(claims(refresh_token(client))["sid"])
    tokens = client.app.state.backend.tokens  # type: ignore[attr-defined]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    mixed, _ = tokens.issue_access(UUID(bobs["user"]["id"]), adas_login, ClientId.BROWSER, tomorrow)
    answer = other_browser(client).get("/api/v1/users/me", headers=bearer(mixed))
    assert refused_as(answer) == (401, "session_revoked")


# What a request costs


def test_an_authenticated_request_costs_one_query(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    with statements(database) as sent:
        assert who_am_i(client).status_code == 200
    assert len(sent) == 1


def test_the_list_costs_one_query_more(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    another_login(client)
    with statements(database) as sent:
        list_sessions(client)
    assert len(sent) == 2


@pytest.mark.parametrize("token", ["", "garbage", "a.b.c", "\x80"])
def test_what_is_no_token_of_ours_costs_no_query(
    client: TestClient, database: Database, token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}".encode("latin-1")}
    with statements(database) as sent:
        assert client.get("/api/v1/users/me", headers=headers).status_code == 401
    assert sent == []


def test_a_log_in_costs_three_statements(client: TestClient, database: Database) -> None:
    """Two to begin an attempt: the account, the budgets. The rest when the password was right: the
    account once more, locked; the logins above the limit; the new one; the audit; the budgets.

    On PostgreSQL that is one statement. On SQLite, where none goes over a network, there are five.
    """
    register(client)
    with statements(database) as sent:
        assert log_in(client).status_code == 200
    rest = {"postgresql": ["WITH"], "sqlite": ["UPDATE", "DELETE", "INSERT", "INSERT", "INSERT"]}
    kinds = [statement.split()[0] for statement in sent]
    assert kinds == ["SELECT", "INSERT", *rest[database.dialect]]


def test_a_refresh_costs_one_statement(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    later = datetime.now(UTC) + timedelta(minutes=15)
    with time_machine.travel(later), statements(database) as sent:
        assert refresh(client).status_code == 200
    assert [statement.split()[0] for statement in sent] == ["UPDATE"]


def test_a_refresh_within_the_grace_period_costs_two(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    with statements(database) as sent:
        assert refresh(client).status_code == 200
    assert [statement.split()[0] for statement in sent] == ["SELECT", "UPDATE"]


def test_a_log_out_costs_two_statements(client: TestClient, database: Database) -> None:
    """The login goes, and the audit trail says so."""
    sign_up_and_in(client)
    with statements(database) as sent:
        assert log_out(client).status_code == 204
    assert [statement.split()[0] for statement in sent] == ["DELETE", "INSERT"]


def test_a_log_out_of_nothing_costs_none(client: TestClient, database: Database) -> None:
    cookie = {"Cookie": f"{REFRESH_COOKIE}=garbage"}
    with statements(database) as sent:
        assert client.post("/api/v1/auth/logout", headers=cookie).status_code == 204
    assert sent == []


# How many one may have


@pytest.mark.proves("7.1.2", "LO-10", "2.3.2")
def test_above_the_limit_the_least_recently_used_session_ends(make_client: ClientFactory) -> None:
    first = make_client(sessions_per_user=3)
    register(first)
    second, third, fourth = (other_browser(first) for _ in range(3))
    for browser in (first, second, third):
        log_in(browser)
    refresh(first)
    log_in(fourth)
    statuses = [who_am_i(browser).status_code for browser in (first, second, third, fourth)]
    assert statuses == [200, 401, 200, 200]
    assert refused_as(refresh(second)) == (401, "session_revoked")
    (ended,) = audited(database_of(first), Event.LOGIN_ENDED)
    assert ended.login_id == UUID(claims(access_token(second))["sid"])


def test_at_the_limit_a_session_that_is_replaced_costs_no_other_one(
    make_client: ClientFactory,
) -> None:
    first = make_client(sessions_per_user=2)
    register(first)
    second = other_browser(first)
    log_in(first)
    for _ in range(3):
        assert log_in(second).status_code == 200
    assert who_am_i(first).status_code == 200
    assert len(all_logins(database_of(first))) == 2


def test_the_limit_is_of_each_user_by_themselves(make_client: ClientFactory) -> None:
    adas = make_client(sessions_per_user=1)
    bobs = other_browser(adas)
    sign_up_and_in(adas)
    sign_up_and_in(bobs, BOB)
    get_tokens(other_browser(adas), BOB)
    assert who_am_i(adas).status_code == 200
    assert who_am_i(bobs).status_code == 401


# Expired rows are purged


@pytest.mark.proves("14.2.7")
def test_the_purge_deletes_what_can_never_be_used_again(
    client: TestClient, database: Database
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        sign_up_and_in(client)
        clock.shift(timedelta(days=7))
        phone = another_login(client)
        settings = client.app.state.backend.settings  # type: ignore[attr-defined]
        assert upkeep.purge(database, settings)["logins"] == 1
        assert upkeep.purge(database, settings)["logins"] == 0
        assert who_am_i(phone).status_code == 200
