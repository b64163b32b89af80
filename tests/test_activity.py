"""What has happened to my account? And to nobody else's."""

from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from app.models import AuditEvent
from tests.admins import USERS, change, id_of, sign_up_admin, sign_up_other, trail, url_of
from tests.answers import refused_as
from tests.jars import other_browser
from tests.links import database_of
from tests.people import ADA, BOB, bearer, get_tokens, log_in, log_out, sign_up_and_in
from tests.rows import change_user, statements

ACTIVITY = f"{USERS}/me/activity"


@pytest.fixture
def ada(mailing_client: TestClient) -> TestClient:
    """An administrator's browser, logged in."""
    return sign_up_admin(mailing_client)


@pytest.fixture
def bob(ada: TestClient) -> TestClient:
    return sign_up_other(ada)


def listed(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(ACTIVITY, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_i_see_what_happened_to_my_account_the_newest_first(bob: TestClient) -> None:
    log_in(other_browser(bob), BOB | {"password": "not this one at all"})
    bob.patch(f"{USERS}/me", json={"full_name": "Robert"})
    assert [(one["event"], one["result"]) for one in listed(bob)] == [
        ("user_updated", "success"),
        ("login_failed", "failure"),
        ("login_started", "success"),
        ("user_created", "success"),
    ]


def test_i_see_when_by_which_session_and_from_where(bob: TestClient) -> None:
    [session] = bob.get(f"{USERS}/me/sessions").json()
    newest = listed(bob)[0]
    assert newest["at"] >= session["created_at"]
    assert newest["login_id"] == session["id"]
    assert (newest["ip_address"], newest["user_agent"]) == ("testclient", "testclient")
    assert set(newest) == {
        "id",
        "at",
        "event",
        "result",
        "login_id",
        "ip_address",
        "user_agent",
        "details",
    }


@pytest.mark.proves("8.2.2", "16.4.2")
def test_nobody_else_s_events_are_there_whatever_is_asked(ada: TestClient, bob: TestClient) -> None:
    change(ada, ADA, full_name="Ada")
    log_in(other_browser(ada), ADA | {"password": "not this one at all"})
    log_in(other_browser(ada), {"email": "cleo@example.com", "password": "nobody knows this"})
    mine = {str(one.id) for one in trail(ada) if one.user_id == id_of(ada, BOB)}
    adas = [one for one in trail(ada) if one.user_id == id_of(ada, ADA)]
    assert {one["id"] for one in listed(bob)} == mine
    for after in ("f" * 8 + "-ffff-ffff-ffff-" + "f" * 12, str(adas[-1].id)):
        assert {one["id"] for one in listed(bob, after=after)} <= mine
    for foreign in ("user_id", "actor_id"):
        answer = bob.get(ACTIVITY, params={foreign: str(id_of(ada, ADA))})
        assert refused_as(answer) == (422, "validation_failed")


@pytest.mark.proves("8.2.2")
def test_an_administrator_sees_their_own_here_too(ada: TestClient, bob: TestClient) -> None:
    change(ada, BOB, full_name="Robert")
    assert [one["event"] for one in listed(ada)] == ["login_started", "user_created"]


@pytest.mark.proves("8.2.2", "15.3.1")
def test_i_see_what_an_administrator_did_and_not_from_where(
    ada: TestClient, bob: TestClient
) -> None:
    """That address is the administrator's."""
    change(ada, BOB, full_name="Robert")
    ada.post(f"{url_of(ada, BOB)}/password-reset")
    for one in listed(bob)[:2]:
        assert (one["ip_address"], one["user_agent"]) == ("", "")
        assert str(id_of(ada, ADA)) not in str(one)
    assert [one["event"] for one in listed(bob)[:2]] == ["password_reset_requested", "user_updated"]
    assert listed(bob)[2]["ip_address"] == "testclient"
    exported = bob.get(f"{USERS}/me/export").json()["activity"]
    shown = {one["event"]: one["ip_address"] for one in exported}
    assert (shown["user_updated"], shown["login_started"]) == ("", "testclient")


def test_pages_show_every_event_once(bob: TestClient) -> None:
    for number in range(4):
        bob.patch(f"{USERS}/me", json={"full_name": f"Bob {number}"})
    everything = [one["id"] for one in listed(bob)]
    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in range(len(everything) // 2):
        page = bob.get(ACTIVITY, params={"limit": 2} | after).json()
        seen += [one["id"] for one in page["items"]]
        after = {"after": page["next"]}
    assert seen == everything
    assert after == {"after": None}


def test_a_page_is_one_statement(bob: TestClient) -> None:
    with statements(database_of(bob)) as sent:
        listed(bob, limit=1)
    [statement] = [one for one in sent if "FROM audit_events" in one]
    assert len(sent) == 2  # the other one finds out who asks
    assert "audit_events.user_id = " in statement
    assert "ORDER BY audit_events.id DESC" in statement


def test_programs_see_it_too(bob: TestClient) -> None:
    tokens = get_tokens(other_browser(bob), BOB)
    answer = other_browser(bob).get(ACTIVITY, headers=bearer(tokens["access_token"]))
    assert answer.json()["items"][0]["details"]["client_id"] == "program"


def test_without_a_log_in_there_is_none(bob: TestClient) -> None:
    assert refused_as(other_browser(bob).get(ACTIVITY)) == (401, "not_authenticated")
    log_out(bob)
    assert refused_as(bob.get(ACTIVITY)) == (401, "not_authenticated")


def test_whoever_must_change_the_password_does_that_first(bob: TestClient) -> None:
    change_user(database_of(bob), BOB["email"], must_change_password=True)
    assert refused_as(bob.get(ACTIVITY)) == (403, "password_change_required")


@pytest.mark.proves("IN-05", "IN-09")
def test_a_query_that_is_none_is_refused(bob: TestClient) -> None:
    for query in (
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-5"},
        {"limit": "9" * 400},
        {"limit": "Infinity"},
        {"after": "0"},
        {"after": "x" * 1000},
        {"event": "login_started"},
        {"offset": "1"},
    ):
        answer = bob.get(ACTIVITY, params=query)
        assert refused_as(answer) == (422, "validation_failed"), query
    assert refused_as(bob.get(f"{ACTIVITY}?limit=1&limit=2")) == (400, "bad_request")


@pytest.mark.proves("AC-02")
def test_a_deleted_account_leaves_nothing_to_see_to_who_has_the_address_next(
    ada: TestClient, bob: TestClient
) -> None:
    former: UUID = id_of(ada, BOB)
    assert bob.post(f"{USERS}/me/delete", json={"password": BOB["password"]}).status_code == 204
    newcomer = other_browser(ada)
    sign_up_and_in(newcomer, BOB)
    assert [one["event"] for one in listed(newcomer)] == ["login_started", "user_created"]
    kept: list[AuditEvent] = [one for one in trail(ada) if one.user_id == former]
    assert [one.event for one in kept][-1] == "user_deleted"
