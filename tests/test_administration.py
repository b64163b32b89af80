"""Administrators look after accounts, and nobody else does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import Session

from app.core.client import HERE
from app.core.hashing import NO_PASSWORD
from app.core.refusals import Reason, Refusal
from app.models.mail import Purpose
from app.models.user import User, UserUpdateByAdmin
from app.services import accounts, administration
from tests.admins import (
    USERS,
    add_users,
    change,
    id_of,
    invite,
    log_in_elsewhere,
    new_events,
    sign_up_admin,
    sign_up_other,
    trail,
    url_of,
)
from tests.answers import differences, refused_as
from tests.conftest import ClientFactory
from tests.jars import access_token, copied_jar, other_browser, refresh_token
from tests.links import all_tokens, database_of, forgot, mint, outbox, reset
from tests.operations import OPERATIONS, Operation
from tests.people import (
    ADA,
    BOB,
    bearer,
    get_tokens,
    log_in,
    refresh,
    register,
    sign_up_and_in,
    who_am_i,
)
from tests.rows import all_users, change_user, statements, the_user

NEW = "seven loud geese on ice"
CLEO = {"email": "cleo@example.com", "password": "an otter counts the rivers"}
MANY = 20

ADMIN_OPERATIONS = [
    one for one in OPERATIONS if one.needs_login and not one.path.startswith("/api/v1/users/me")
]
NAMES = {one.name for one in ADMIN_OPERATIONS}


@pytest.fixture
def ada(mailing_client: TestClient) -> TestClient:
    """The administrator's browser, logged in. A mail server is set, and no mail is sent yet."""
    return sign_up_admin(mailing_client)


@pytest.fixture
def bob(ada: TestClient) -> TestClient:
    return sign_up_other(ada)


def ask(client: TestClient, operation: Operation, **more: Any) -> Response:
    body = {"json": operation.example} if operation.media_type else {}
    return client.request(operation.method, operation.url, **body, **more)


# Who may


def answers(client: TestClient, **more: Any) -> dict[str, tuple[int, str]]:
    """What each operation for administrators answers to this client."""
    return {one.name: refused_as(ask(client, one, **more)) for one in ADMIN_OPERATIONS}


def all_refused(status: int, code: str) -> dict[str, tuple[int, str]]:
    return dict.fromkeys(NAMES, (status, code))


@pytest.mark.proves("8.2.1")
def test_everything_that_is_not_about_oneself_is_for_administrators() -> None:
    assert {
        "list_users",
        "invite_user",
        "read_user",
        "change_user",
        "delete_user",
        "start_password_reset",
        "end_user_sessions",
        "list_audit_events",
    } <= NAMES
    for operation in ADMIN_OPERATIONS:
        [media] = operation.documented["responses"]["403"]["content"].values()
        assert Reason.FORBIDDEN in media["examples"], operation.name


@pytest.mark.proves("AZ-01", "8.2.1", "8.4.2")
@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "::1"}])
def test_without_a_log_in_it_is_refused(ada: TestClient, headers: dict[str, str]) -> None:
    before = trail(ada)
    found = answers(other_browser(ada), headers=headers)
    assert found == all_refused(401, "not_authenticated")
    assert trail(ada) == before


@pytest.mark.proves("AZ-01", "8.2.1", "16.3.2")
def test_an_ordinary_user_is_refused_and_the_log_says_who_and_where(
    ada: TestClient, bob: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = trail(ada)
    with caplog.at_level("INFO", "app"):
        assert answers(bob) == all_refused(403, "forbidden")
    assert trail(ada) == before
    lines = [one.__dict__["fields"] for one in caplog.records if one.msg == "request"]
    assert [line["path"] for line in lines] == [one.url for one in ADMIN_OPERATIONS]
    assert {line["code"] for line in lines} == {"forbidden"}
    assert {line["user_id"] for line in lines} == {id_of(ada, BOB)}


@pytest.mark.proves("AZ-01", "8.3.1")
def test_what_a_user_claims_to_be_changes_nothing(bob: TestClient) -> None:
    claims = {"X-Role": "admin", "X-Is-Admin": "true", "X-Original-User": str(uuid4())}
    for name in ("is_admin", "role", "admin"):
        bob.cookies.set(name, "true")
    assert answers(bob, headers=claims) == all_refused(403, "forbidden")


@pytest.mark.proves("AZ-01", "7.4.2")
def test_a_disabled_administrator_is_refused(ada: TestClient) -> None:
    change_user(database_of(ada), ADA["email"], is_active=False)
    assert answers(ada) == all_refused(401, "session_revoked")


@pytest.mark.proves("AZ-01")
def test_an_administrator_s_refresh_token_opens_nothing(ada: TestClient) -> None:
    for token in (refresh_token(ada), get_tokens(ada)["refresh_token"]):
        found = answers(other_browser(ada), headers=bearer(token))
        assert found == all_refused(401, "not_authenticated")


@pytest.mark.proves("AZ-01")
def test_an_administrator_who_must_change_the_password_does_that_first(ada: TestClient) -> None:
    change_user(database_of(ada), ADA["email"], must_change_password=True)
    assert answers(ada) == all_refused(403, "password_change_required")


@pytest.mark.proves("AC-03", "8.3.2", "AZ-01")
def test_a_demoted_administrator_is_out_at_the_next_request(
    ada: TestClient, bob: TestClient
) -> None:
    assert change(ada, BOB, is_admin=True).status_code == 200
    assert bob.get(USERS).status_code == 200
    assert change(ada, BOB, is_admin=False).status_code == 200
    assert answers(bob) == all_refused(403, "forbidden")


def test_an_administrator_is_let_in(ada: TestClient) -> None:
    """Or else the refusals above would show nothing."""
    for headers in ({}, bearer(access_token(ada))):
        statuses = {
            one.name: ask(ada, one, headers=headers).status_code for one in ADMIN_OPERATIONS
        }
        assert statuses == dict.fromkeys(NAMES, 404) | {
            "list_users": 200,
            "list_audit_events": 200,
            "invite_user": 409,  # the address of the example is hers
        }


@pytest.mark.proves("AC-05")
def test_a_new_database_has_no_administrator_and_nobody_becomes_one_by_being_first(
    mailing_client: TestClient,
) -> None:
    assert all_users(database_of(mailing_client)) == []
    assert sign_up_and_in(mailing_client)["user"]["is_admin"] is False
    for path in ("/setup", "/bootstrap", "/api/v1/setup", "/api/v1/admin", "/install"):
        assert mailing_client.post(path, json={}).status_code == 404


# Looking for somebody


def listed(client: TestClient, **query: Any) -> list[str]:
    answer = client.get(USERS, params=query)
    assert answer.status_code == 200, answer.text
    return [user["email"] for user in answer.json()["items"]]


def test_the_newest_come_first(ada: TestClient) -> None:
    add_users(ada, "first@example.com", "second@example.com")
    assert listed(ada) == ["second@example.com", "first@example.com", ADA["email"]]


@pytest.mark.proves("15.3.1", "MA-03")
def test_a_list_tells_what_an_account_is_and_no_secret(ada: TestClient) -> None:
    [user] = ada.get(USERS).json()["items"]
    assert set(user) == {
        "id",
        "email",
        "full_name",
        "email_verified",
        "is_active",
        "is_admin",
        "must_change_password",
        "created_at",
        "password_changed_at",
        "last_login_at",
    }


def test_pages_show_everybody_once_whoever_signs_up_or_leaves_meanwhile(ada: TestClient) -> None:
    ids = add_users(ada, *(f"user{number}@example.com" for number in range(7)))
    seen, after = [], None
    while True:
        query = {"limit": 3} | ({"after": after} if after else {})
        page = ada.get(USERS, params=query).json()
        seen += [user["email"] for user in page["items"]]
        after = page["next"]
        if after is None:
            break
        assert len(page["items"]) == 3
        assert after == page["items"][-1]["id"]
        if len(seen) == 3:
            add_users(ada, "newcomer@example.com")
            assert ada.delete(f"{USERS}/{after}").status_code == 204
    assert seen == [*(f"user{number}@example.com" for number in reversed(range(7))), ADA["email"]]
    assert str(ids[4]) not in ada.get(USERS).text  # the one that the first page ended with


def test_a_page_that_is_just_full_is_the_last_one(ada: TestClient) -> None:
    add_users(ada, "other@example.com")
    assert ada.get(USERS, params={"limit": 2}).json()["next"] is None
    assert ada.get(USERS, params={"limit": 1}).json()["next"] is not None


def test_after_an_id_of_nobody_the_list_goes_on_where_it_would_be(ada: TestClient) -> None:
    assert listed(ada, after="00000000-0000-0000-0000-000000000000") == []
    assert listed(ada, after="ffffffff-ffff-ffff-ffff-ffffffffffff") == [ADA["email"]]


def test_a_page_is_one_statement_that_counts_and_skips_nothing(ada: TestClient) -> None:
    ids = add_users(ada, *(f"user{number}@example.com" for number in range(5)))
    with statements(database_of(ada)) as sent:
        ada.get(USERS, params={"limit": 2, "search": "user", "after": str(ids[3])})
    [statement] = [one for one in sent if "FROM users \nWHERE" in one and "JOIN" not in one]
    assert len(sent) == 2  # the other one finds out who asks
    assert "ORDER BY users.id DESC" in statement
    assert "LIMIT" in statement
    assert "users.id <" in statement
    assert "count(" not in statement


def test_a_part_of_the_address_or_of_the_name_is_found_in_either_case(ada: TestClient) -> None:
    people = {
        "ada@example.org": "Ada Lovelace",
        "percent@example.org": None,
        "under@example.org": None,
        "elodie@example.net": "Élodie Ça",
    }
    for email, full_name in people.items():
        add_users(ada, email, full_name=full_name)
    expected: dict[str, set[str]] = {
        "lovelace": {"ada@example.org"},
        "ADA LOVE": {"ada@example.org"},
        "a@example": {"ada@example.org", ADA["email"]},
        "EXAMPLE.ORG": {"ada@example.org", "percent@example.org", "under@example.org"},
        "lodie": {"elodie@example.net"},
        "elodie ça": set(),  # an accent is not a case
        "élodie": {"elodie@example.net"},
        "ÉLODIE ÇA": {"elodie@example.net"},
        "  lovelace  ": {"ada@example.org"},
        "no such text": set(),
    }
    assert {search: set(listed(ada, search=search)) for search in expected} == expected


@pytest.mark.proves("SQ-02", "1.2.4")
def test_wildcards_and_quotes_are_letters_like_others(ada: TestClient) -> None:
    names = {
        "percent@example.com": "100% wool",
        "under_score@example.com": None,
        "slash@example.com": "either/or \\ both",
        "quote@example.com": "d'Artagnan",
        "plain@example.com": "100 sheep",
    }
    for email, full_name in names.items():
        add_users(ada, email, full_name=full_name)
    expected: dict[str, set[str]] = {
        "100%": {"percent@example.com"},
        "%": {"percent@example.com"},
        "_": {"under_score@example.com"},
        "r_s": {"under_score@example.com"},
        "/": {"slash@example.com"},
        "\\": {"slash@example.com"},
        "'": {"quote@example.com"},
        "' OR 1=1 --": set(),
        "100x": set(),
    }
    assert {search: set(listed(ada, search=search)) for search in expected} == expected


def test_filters_are_combined(ada: TestClient) -> None:
    add_users(ada, "off@example.com", is_active=False)
    add_users(ada, "off-admin@example.com", is_active=False, is_admin=True)
    add_users(ada, "verified@example.com", email_verified=True)
    assert listed(ada, is_active="false") == ["off-admin@example.com", "off@example.com"]
    assert listed(ada, is_admin="true") == ["off-admin@example.com", ADA["email"]]
    assert listed(ada, is_admin="true", is_active="true") == [ADA["email"]]
    assert listed(ada, email_verified="true") == ["verified@example.com"]
    assert listed(ada, search="off", is_admin="false") == ["off@example.com"]


NO_QUERIES = [
    {"limit": "0"},
    {"limit": "-1"},
    {"limit": "101"},
    {"limit": "9" * 400},
    {"limit": "9" * 5000},
    {"limit": "1e2"},
    {"limit": "1.5"},
    {"limit": "NaN"},
    {"limit": "Infinity"},
    {"limit": ""},
    {"after": "1"},
    {"after": "-1"},
    {"after": ""},
    {"after": "0197a3f0-0000-7000-8000-00000000000g"},
    {"is_active": "maybe"},
    {"is_admin": ""},
    {"search": "a" * 255},
    {"search": "a\x00b"},
    {"search": "a\nb"},
    {"offset": "10"},
    {"hashed_password": "$argon2"},
]


@pytest.mark.proves("IN-05", "2.2.1")
def test_a_query_that_is_none_is_refused(ada: TestClient) -> None:
    for query in NO_QUERIES:
        answer = ada.get(USERS, params=query)
        assert refused_as(answer) == (422, "validation_failed"), query


@pytest.mark.proves("IN-09", "15.3.7")
def test_a_doubled_filter_is_refused(ada: TestClient) -> None:
    for query in ("limit=1&limit=2", "search=a&search=b", "is_admin=false&is_admin=true"):
        assert refused_as(ada.get(f"{USERS}?{query}")) == (400, "bad_request"), query


# Looking at somebody


def test_one_account_is_shown(ada: TestClient, bob: TestClient) -> None:
    assert ada.get(url_of(ada, BOB)).json() == who_am_i(bob).json()


@pytest.mark.proves("8.2.2")
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_id_of_nobody_is_not_found(ada: TestClient, method: str) -> None:
    body = {"json": {}} if method == "PATCH" else {}
    for user_id in (uuid4(), UUID(int=0), UUID(int=2**128 - 1)):
        answer = ada.request(method, f"{USERS}/{user_id}", **body)
        assert refused_as(answer) == (404, "not_found")


@pytest.mark.parametrize(("method", "act"), [("POST", "password-reset"), ("DELETE", "sessions")])
def test_nothing_is_done_to_an_id_of_nobody(ada: TestClient, method: str, act: str) -> None:
    before = trail(ada)
    assert refused_as(ada.request(method, f"{USERS}/{uuid4()}/{act}")) == (404, "not_found")
    assert trail(ada) == before


@pytest.mark.proves("IN-05")
@pytest.mark.parametrize(
    "user_id", ["1", "-1", "1.5", "9" * 400, "NaN", "%2531", "ada@example.com"]
)
def test_an_id_that_is_none_is_refused(ada: TestClient, user_id: str) -> None:
    assert refused_as(ada.get(f"{USERS}/{user_id}")) == (422, "validation_failed")


@pytest.mark.proves("8.2.2", "LO-08")
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_ordinary_user_does_not_learn_which_ids_exist(
    ada: TestClient, bob: TestClient, method: str
) -> None:
    body = {"json": {}} if method == "PATCH" else {}
    somebody = bob.request(method, url_of(ada, ADA), **body)
    nobody = bob.request(method, f"{USERS}/{uuid4()}", **body)
    no_id = bob.request(method, f"{USERS}/1", **body)
    assert somebody.status_code == 403
    assert differences(somebody, nobody) == set()
    assert differences(somebody, no_id) == set()


def test_me_is_nobody_s_id(ada: TestClient) -> None:
    answer = ada.delete(f"{USERS}/me")
    assert refused_as(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, PATCH"
    assert refused_as(ada.post(f"{USERS}/me/password-reset")) == (404, "not_found")
    assert ada.get(f"{USERS}/me2").status_code == 422
    assert who_am_i(ada).status_code == 200


# Inviting somebody


@pytest.mark.proves("6.4.6", "6.4.1")
def test_an_invitation_is_an_account_without_a_password_and_a_mail(ada: TestClient) -> None:
    before = outbox(ada)
    answer = invite(ada, " Cleo@Example.com", full_name="Cleo")
    assert answer.status_code == 201
    assert answer.json()["email"] == CLEO["email"]
    assert answer.json()["full_name"] == "Cleo"
    assert answer.json()["is_admin"] is False
    assert answer.json()["email_verified"] is False
    cleo = the_user(database_of(ada), CLEO["email"])
    assert cleo.hashed_password == NO_PASSWORD
    assert str(cleo.id) == answer.json()["id"]
    assert outbox(ada) == [*before, ("invitation", CLEO["email"])]


def test_an_administrator_can_be_invited(ada: TestClient) -> None:
    assert invite(ada, CLEO["email"], is_admin=True).json()["is_admin"] is True
    [event] = [
        one for one in trail(ada) if one.actor_id == id_of(ada, ADA) and one.user_id != one.actor_id
    ]
    assert event.details == {"is_admin": True}


@pytest.mark.proves("6.4.1")
def test_before_the_first_password_is_chosen_none_fits(ada: TestClient) -> None:
    invite(ada, CLEO["email"])
    for password in (NO_PASSWORD, "", " ", CLEO["password"], CLEO["email"]):
        answer = log_in(other_browser(ada), CLEO | {"password": password})
        assert answer.status_code in (401, 422)
    assert refused_as(log_in(other_browser(ada), CLEO)) == (401, "invalid_credentials")


@pytest.mark.proves("6.4.1", "6.4.6")
def test_the_link_sets_the_first_password_once(ada: TestClient) -> None:
    invite(ada, CLEO["email"])
    cleo = other_browser(ada)
    token = mint(ada, Purpose.RESET_PASSWORD, CLEO["email"])
    assert reset(cleo, token, CLEO["password"]).status_code == 204
    assert log_in(cleo, CLEO).status_code == 200
    assert who_am_i(cleo).json()["email_verified"] is True
    assert refused_as(reset(cleo, token, NEW)) == (400, "invalid_one_time_token")


def test_signing_up_does_not_take_an_invited_address(ada: TestClient) -> None:
    invite(ada, CLEO["email"])
    assert refused_as(register(other_browser(ada), CLEO)) == (409, "email_taken")
    assert the_user(database_of(ada), CLEO["email"]).hashed_password == NO_PASSWORD


def test_an_address_that_has_an_account_is_not_invited(ada: TestClient, bob: TestClient) -> None:
    before, mails = trail(ada), outbox(ada)
    assert refused_as(invite(ada, "BOB@example.com")) == (409, "email_taken")
    assert trail(ada) == before
    assert outbox(ada) == mails
    assert log_in(bob, BOB).status_code == 200


def test_of_two_invitations_at_the_same_time_one_is_made(ada: TestClient) -> None:
    start = Barrier(8)

    def attempt(_: int) -> int:
        browser = copied_jar(ada)
        start.wait()
        return invite(browser, CLEO["email"]).status_code

    with ThreadPoolExecutor(8) as threads:
        answers = sorted(threads.map(attempt, range(8)))
    assert answers == [201] + [409] * 7
    assert [one for one in outbox(ada) if one[1] == CLEO["email"]] == [
        ("invitation", CLEO["email"])
    ]


def test_without_a_mail_server_nobody_is_invited(client: TestClient) -> None:
    sign_up_admin(client)
    assert refused_as(invite(client, CLEO["email"])) == (409, "mail_not_configured")
    answer = client.post(f"{url_of(client, ADA)}/password-reset")
    assert refused_as(answer) == (409, "mail_not_configured")
    assert [user.email for user in all_users(database_of(client))] == [ADA["email"]]
    assert [one.event for one in trail(client)] == ["user_created", "login_started"]


@pytest.mark.proves("15.3.3", "8.2.3", "AZ-04", "6.4.6", "MA-01")
@pytest.mark.parametrize(
    "more",
    [
        {"password": NEW},
        {"hashed_password": NO_PASSWORD},
        {"is_active": True},
        {"email_verified": True},
        {"id": "0197a3f0-0000-7000-8000-000000000001"},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"isAdmin": True},
    ],
    ids=str,
)
def test_an_invitation_with_more_than_it_may_say_is_refused(
    ada: TestClient, more: dict[str, Any]
) -> None:
    assert refused_as(invite(ada, CLEO["email"], **more)) == (422, "validation_failed")
    assert len(all_users(database_of(ada))) == 1


# Changing somebody


def test_only_what_is_given_is_changed(ada: TestClient, bob: TestClient) -> None:
    before = who_am_i(bob).json()
    answer = change(ada, BOB, full_name="Robert")
    assert answer.status_code == 200
    assert answer.json() == before | {"full_name": "Robert"}
    assert who_am_i(bob).json() == answer.json()
    assert change(ada, BOB).json() == answer.json()


def test_a_name_can_be_taken_away(ada: TestClient, bob: TestClient) -> None:
    change(ada, BOB, full_name="Robert")
    assert change(ada, BOB, full_name=None).json()["full_name"] is None


@pytest.mark.proves("15.3.3", "8.2.3", "15.3.5", "AZ-04", "6.4.6")
@pytest.mark.parametrize(
    "changes",
    [
        {"password": NEW},
        {"new_password": NEW},
        {"hashed_password": NO_PASSWORD},
        {"email": "mine@example.com"},
        {"email_verified": True},
        {"id": "0197a3f0-0000-7000-8000-000000000001"},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"last_login_at": None},
        {"is_superuser": True},
        {"isAdmin": True},
        {"is_active": None},
        {"is_admin": None},
        {"must_change_password": None},
        {"is_active": "false"},
        {"is_admin": 1},
        {"is_admin": ["true"]},
        {"is_admin": {"$ne": None}},
        {"full_name": 5},
        {"full_name": "a\nb"},
        {"full_name": "a" * 201},
    ],
    ids=str,
)
def test_what_no_administrator_may_set_is_refused(
    ada: TestClient, bob: TestClient, changes: dict[str, Any]
) -> None:
    before = the_user(database_of(ada), BOB["email"])
    answer = change(ada, BOB, **{"is_active": False} | changes)
    assert refused_as(answer) == (422, "validation_failed")
    assert the_user(database_of(ada), BOB["email"]) == before
    assert NEW not in answer.text


@pytest.mark.parametrize(
    ("changes", "events"),
    [
        ({"full_name": "Robert"}, ["user_updated"]),
        ({"is_active": False}, ["user_disabled"]),
        ({"is_admin": True}, ["admin_granted"]),
        ({"must_change_password": True}, ["password_change_required"]),
        ({"is_active": True, "is_admin": False, "must_change_password": False}, []),
        ({"full_name": None}, []),
        ({}, []),
        (
            {"full_name": "Robert", "is_admin": True, "must_change_password": True},
            ["user_updated", "admin_granted", "password_change_required"],
        ),
    ],
    ids=str,
)
def test_each_change_leaves_an_event_and_what_stays_the_same_leaves_none(
    ada: TestClient, bob: TestClient, changes: dict[str, Any], events: list[str]
) -> None:
    before = trail(ada)
    assert change(ada, BOB, **changes).status_code == 200
    found = new_events(ada, before)
    assert sorted(one.event for one in found) == sorted(events)
    assert {(one.user_id, one.actor_id) for one in found} <= {(id_of(ada, BOB), id_of(ada, ADA))}
    again = trail(ada)
    assert change(ada, BOB, **changes).status_code == 200
    assert trail(ada) == again


def test_taking_it_back_leaves_its_own_event(ada: TestClient, bob: TestClient) -> None:
    change(ada, BOB, is_active=False, is_admin=True, must_change_password=True)
    before = trail(ada)
    change(ada, BOB, is_active=True, is_admin=False, must_change_password=False)
    found = {one.event: one.details for one in new_events(ada, before)}
    assert found == {
        "user_enabled": {},
        "admin_revoked": {},
        "user_updated": {"fields": ["must_change_password"]},
    }


@pytest.mark.proves("7.4.2")
def test_disabling_ends_every_session_and_enabling_revives_none(
    ada: TestClient, bob: TestClient
) -> None:
    phone = log_in_elsewhere(ada, BOB)
    tokens = get_tokens(ada, BOB)
    before = trail(ada)
    assert change(ada, BOB, is_active=False).json()["is_active"] is False
    [event] = new_events(ada, before)
    assert event.details == {"count": 3}
    for _ in range(2):
        for browser in (bob, phone):
            assert refused_as(who_am_i(browser)) == (401, "session_revoked")
            assert refused_as(refresh(browser)) == (401, "session_revoked")
        answer = other_browser(ada).get(f"{USERS}/me", headers=bearer(tokens["access_token"]))
        assert refused_as(answer) == (401, "session_revoked")
        change(ada, BOB, is_active=True)
    assert log_in(bob, BOB).status_code == 200


@pytest.mark.proves("7.4.2")
def test_a_disabled_user_does_not_log_in(ada: TestClient, bob: TestClient) -> None:
    change(ada, BOB, is_active=False)
    assert refused_as(log_in(bob, BOB)) == (401, "invalid_credentials")


@pytest.mark.parametrize("purpose", list(Purpose))
def test_disabling_makes_mailed_links_void_for_good(
    ada: TestClient, bob: TestClient, purpose: Purpose
) -> None:
    token = mint(ada, purpose, BOB["email"])
    change(ada, BOB, is_active=False)
    assert all_tokens(ada) == []
    change(ada, BOB, is_active=True)
    paths = {
        Purpose.VERIFY_EMAIL: "/api/v1/auth/verify-email",
        Purpose.RESET_PASSWORD: "/api/v1/auth/reset-password",
        Purpose.CONFIRM_EMAIL: "/api/v1/users/me/email/confirm",
    }
    body = {"token": token} | ({"password": NEW} if purpose is Purpose.RESET_PASSWORD else {})
    answer = bob.post(paths[purpose], json=body)
    assert refused_as(answer) == (400, "invalid_one_time_token")


def test_disabling_stops_links_that_are_not_sent_yet(ada: TestClient, bob: TestClient) -> None:
    """Those on their way to a new address, too; and nobody else's."""
    forgot(other_browser(ada), BOB["email"])
    body = {"email": "new@example.com", "password": BOB["password"]}
    assert bob.put(f"{USERS}/me/email", json=body).status_code == 202
    forgot(other_browser(ada), ADA["email"])
    waiting = outbox(ada)
    assert ("reset_password", BOB["email"]) in waiting
    assert ("confirm_email", "new@example.com") in waiting
    change(ada, BOB, is_active=False)
    assert {recipient for _, recipient in outbox(ada)} == {ADA["email"]}
    assert ("reset_password", ADA["email"]) in outbox(ada)


def test_a_log_in_that_is_under_way_does_not_outlive_disabling(
    ada: TestClient, bob: TestClient
) -> None:
    start = Barrier(9)

    def try_to_log_in(_: int) -> TestClient:
        browser = other_browser(ada)
        start.wait()
        log_in(browser, BOB)
        return browser

    def disable() -> None:
        start.wait()
        assert change(ada, BOB, is_active=False).status_code == 200

    with ThreadPoolExecutor(9) as threads:
        disabling = threads.submit(disable)
        browsers = list(threads.map(try_to_log_in, range(8)))
        disabling.result()
    change(ada, BOB, is_active=True)
    assert {who_am_i(browser).status_code for browser in [bob, *browsers]} == {401}


@pytest.mark.proves("8.3.2")
def test_whoever_must_change_the_password_can_do_nothing_else(
    ada: TestClient, bob: TestClient
) -> None:
    change(ada, BOB, must_change_password=True)
    assert refused_as(bob.get(f"{USERS}/me/sessions")) == (403, "password_change_required")
    body = {"current_password": BOB["password"], "new_password": NEW}
    assert bob.put(f"{USERS}/me/password", json=body).status_code == 200
    assert bob.get(f"{USERS}/me/sessions").status_code == 200
    assert who_am_i(bob).json()["must_change_password"] is False


# A new password, ended sessions, the end


@pytest.mark.proves("6.4.6", "AZ-04")
def test_a_reset_goes_to_the_user_and_to_nobody_else(ada: TestClient, bob: TestClient) -> None:
    before, mails = trail(ada), outbox(ada)
    answer = ada.post(f"{url_of(ada, BOB)}/password-reset")
    assert answer.status_code == 202
    assert set(answer.json()) == {"detail"}
    assert outbox(ada)[len(mails) :] == [("reset_password", BOB["email"])]
    [event] = new_events(ada, before)
    assert event.event == "password_reset_requested"
    assert (event.user_id, event.actor_id) == (id_of(ada, BOB), id_of(ada, ADA))
    assert event.details == {}
    assert who_am_i(bob).status_code == 200  # until they have chosen another one


def test_whoever_has_not_come_yet_is_invited_again(ada: TestClient) -> None:
    invite(ada, CLEO["email"])
    assert ada.post(f"{url_of(ada, CLEO)}/password-reset").status_code == 202
    assert outbox(ada)[-2:] == [("invitation", CLEO["email"])] * 2


def test_administrators_flood_nobody_s_mailbox(make_mailing_client: ClientFactory) -> None:
    ada = sign_up_admin(make_mailing_client(mails_per_address=3))
    sign_up_other(ada)
    path = f"{url_of(ada, BOB)}/password-reset"
    assert [ada.post(path).status_code for _ in range(4)] == [202, 202, 202, 429]
    answer = ada.post(path)
    assert refused_as(answer) == (429, "too_many_attempts")
    assert int(answer.headers["retry-after"]) > 0
    assert outbox(ada).count(("reset_password", BOB["email"])) == 3
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=21)):
        assert refresh(ada).status_code == 200
        assert ada.post(path).status_code == 202


def test_a_stranger_s_requests_do_not_keep_an_administrator_from_helping(
    make_mailing_client: ClientFactory,
) -> None:
    ada = sign_up_admin(make_mailing_client(mails_per_address=3))
    sign_up_other(ada)
    assert [forgot(other_browser(ada), BOB["email"]).status_code for _ in range(4)][-1] == 429
    assert ada.post(f"{url_of(ada, BOB)}/password-reset").status_code == 202


@pytest.mark.proves("7.4.5")
def test_an_administrator_ends_all_sessions_of_somebody(ada: TestClient, bob: TestClient) -> None:
    phone = log_in_elsewhere(ada, BOB)
    before = trail(ada)
    assert ada.delete(f"{url_of(ada, BOB)}/sessions").status_code == 204
    for browser in (bob, phone):
        assert refused_as(who_am_i(browser)) == (401, "session_revoked")
        assert refused_as(refresh(browser)) == (401, "session_revoked")
    assert who_am_i(ada).status_code == 200
    [event] = new_events(ada, before)
    assert (event.event, event.details) == ("logins_ended", {"count": 2})
    assert (event.user_id, event.actor_id) == (id_of(ada, BOB), id_of(ada, ADA))


@pytest.mark.proves("7.4.2", "AC-02")
def test_a_deleted_account_is_gone_with_everything(ada: TestClient, bob: TestClient) -> None:
    phone = log_in_elsewhere(ada, BOB)
    bobs_id = id_of(ada, BOB)
    mint(ada, Purpose.RESET_PASSWORD, BOB["email"])
    forgot(other_browser(ada), BOB["email"])
    before = trail(ada)
    assert ada.delete(url_of(ada, BOB)).status_code == 204
    [event] = new_events(ada, before)
    assert (event.event, event.user_id, event.actor_id) == (
        "user_deleted",
        bobs_id,
        id_of(ada, ADA),
    )
    assert outbox(ada)[-1] == ("account_deleted", BOB["email"])
    assert all_tokens(ada) == []
    for browser in (bob, phone):
        assert refused_as(who_am_i(browser)) == (401, "session_revoked")
        assert refused_as(refresh(browser)) == (401, "session_revoked")
    assert refused_as(log_in(bob, BOB)) == (401, "invalid_credentials")
    assert refused_as(ada.get(f"{USERS}/{bobs_id}")) == (404, "not_found")
    # The address can sign up again, as somebody else.
    assert register(bob, BOB).status_code == 201
    assert id_of(ada, BOB) != bobs_id
    assert refused_as(who_am_i(phone)) == (401, "session_revoked")


@pytest.mark.proves("7.5.1", "AZ-03")
def test_ones_own_account_goes_with_the_password_only(ada: TestClient, bob: TestClient) -> None:
    change(ada, BOB, is_admin=True)
    assert refused_as(ada.delete(url_of(ada, ADA))) == (409, "own_account")
    assert who_am_i(ada).status_code == 200
    assert leave(ada, ADA).status_code == 204


# The last administrator


def demote(client: TestClient, person: dict[str, str]) -> Response:
    return change(client, person, is_admin=False)


def disable(client: TestClient, person: dict[str, str]) -> Response:
    return change(client, person, is_active=False)


def leave(client: TestClient, person: dict[str, str]) -> Response:
    return client.post(f"{USERS}/me/delete", json={"password": person["password"]})


ENDS: list[Callable[[TestClient, dict[str, str]], Response]] = [demote, disable, leave]
for_every_end = pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)


@pytest.mark.proves("AZ-03")
@for_every_end
def test_the_last_administrator_stays(
    ada: TestClient,
    bob: TestClient,
    end: Callable[[TestClient, dict[str, str]], Response],
) -> None:
    before = trail(ada)
    assert refused_as(end(ada, ADA)) == (409, "last_admin")
    assert ada.get(USERS).status_code == 200
    assert trail(ada) == before


@pytest.mark.proves("AZ-03")
@for_every_end
def test_with_another_administrator_one_may_go(
    ada: TestClient,
    bob: TestClient,
    end: Callable[[TestClient, dict[str, str]], Response],
) -> None:
    change(ada, BOB, is_admin=True)
    assert end(ada, ADA).status_code in (200, 204)
    assert ada.get(USERS).status_code in (401, 403)
    assert bob.get(USERS).status_code == 200


@pytest.mark.proves("AZ-03")
@pytest.mark.parametrize("values", [{"is_active": False}, {"hashed_password": NO_PASSWORD}])
@for_every_end
def test_one_who_cannot_log_in_is_no_other_administrator(
    ada: TestClient,
    values: dict[str, Any],
    end: Callable[[TestClient, dict[str, str]], Response],
) -> None:
    add_users(ada, CLEO["email"], is_admin=True, **{"hashed_password": "$argon2id$x"} | values)
    assert refused_as(end(ada, ADA)) == (409, "last_admin")
    assert demote(ada, CLEO).status_code == 200


@pytest.mark.proves("AZ-03")
def test_one_who_is_not_verified_is_no_other_administrator_where_that_matters(
    make_mailing_client: ClientFactory,
) -> None:
    client = make_mailing_client(require_verified_email=True)
    able = {"is_admin": True, "hashed_password": "$argon2id$x"}
    [ada_id] = add_users(client, ADA["email"], email_verified=True, **able)
    add_users(client, CLEO["email"], **able)
    backend = client.app.state.backend  # type: ignore[attr-defined]
    ada = User(id=ada_id, email="", hashed_password="")
    with pytest.raises(Refusal) as refused:
        backend.database.run_write(accounts.keep_an_admin, backend, ada)
    assert refused.value.reason is Reason.LAST_ADMIN


@pytest.mark.proves("AZ-03")
def test_the_refused_change_leaves_the_rest_of_it_undone(ada: TestClient) -> None:
    answer = change(ada, ADA, full_name="Ada", is_admin=False)
    assert refused_as(answer) == (409, "last_admin")
    assert who_am_i(ada).json()["full_name"] is None


def test_an_ordinary_user_may_leave_beside_the_only_administrator(
    ada: TestClient, bob: TestClient
) -> None:
    assert leave(bob, BOB).status_code == 204
    assert demote(ada, ADA).status_code == 409


@pytest.mark.proves("AZ-03", "15.4.1")
@pytest.mark.parametrize("how", ["demote", "disable", "delete"])
def test_of_many_administrators_who_go_at_the_same_moment_one_stays(
    make_mailing_client: ClientFactory, how: str
) -> None:
    client = make_mailing_client(database_pool_size=MANY)
    emails = [f"admin{number}@example.com" for number in range(MANY)]
    ids = add_users(client, *emails, is_admin=True, hashed_password="$argon2id$x")
    backend = client.app.state.backend  # type: ignore[attr-defined]
    start = Barrier(MANY)

    def go(session: Session, user_id: UUID) -> None:
        if how == "delete":
            by = User(id=user_id, email="", hashed_password="")
            administration.delete_user(session, backend, user_id, HERE, by)
            return
        change = {"is_admin": False} if how == "demote" else {"is_active": False}
        by = User(id=user_id, email="", hashed_password="")
        administration.apply(session, backend, user_id, UserUpdateByAdmin(**change), HERE, by)

    def attempt(user_id: UUID) -> str:
        start.wait()
        try:
            backend.database.run_write(go, user_id)
        except Refusal as refusal:
            return refusal.reason
        return "gone"

    with ThreadPoolExecutor(MANY) as threads:
        outcomes = sorted(threads.map(attempt, ids))
    assert outcomes == ["gone"] * (MANY - 1) + [Reason.LAST_ADMIN]
    left = [user for user in all_users(backend.database) if user.is_admin and user.is_active]
    assert len(left) == 1


@pytest.mark.proves("AZ-03")
def test_two_who_demote_each_other_at_the_same_moment_do_not_both_succeed(
    ada: TestClient, bob: TestClient
) -> None:
    change(ada, BOB, is_admin=True)
    paths = {ADA["email"]: url_of(ada, BOB), BOB["email"]: url_of(ada, ADA)}
    browsers = [copied_jar(one) for one in (ada, bob) for _ in range(MANY // 2)]
    targets = [paths[ADA["email"]]] * (MANY // 2) + [paths[BOB["email"]]] * (MANY // 2)
    start = Barrier(MANY)

    def attempt(browser: TestClient, path: str) -> int:
        start.wait()
        return browser.patch(path, json={"is_admin": False}).status_code

    with ThreadPoolExecutor(MANY) as threads:
        answers = set(threads.map(attempt, browsers, targets))
    assert answers <= {200, 403, 409}
    admins = [user.email for user in all_users(database_of(ada)) if user.is_admin]
    assert len(admins) == 1
