"""The evidence rule over HTTP: what a refresh gives, whom it forgives, and whom it finds out.

The rule itself is tested in tests/rotation. Here it meets cookies, transactions and clocks; the
clock stands still unless a test moves it.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError
from sqlmodel import delete

from app.core.moments import to_microseconds
from app.core.tokens import ClientId
from app.db.engine import create_database_engine
from app.db.hosts import CONNECT_ARGUMENTS
from app.db.session import Database
from app.db.statement import Statement
from app.main import create_app
from app.models import Login, User
from app.services import logins
from tests.conftest import ClientFactory, make_settings
from tests.jars import (
    ACCESS_COOKIE,
    REFRESH_COOKIE,
    access_token,
    claims,
    copied_jar,
    other_browser,
    present,
    refresh_token,
)
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
from tests.rows import all_logins, change_login, change_user, execute, the_login

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
GRACE = 60 * SECOND
ACCESS_LIFETIME = 15 * MINUTE

Clock = time_machine.Traveller


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Stands at NOON; `clock.shift(MINUTE)` moves it."""
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def code(answer: Response) -> str:
    """The reason of a refusal that left the cookies alone.

    A late loser's answer would otherwise wipe out the winner's.
    """
    assert "set-cookie" not in answer.headers
    found: str = answer.json()["code"]
    return found


# What a refresh gives


@pytest.mark.proves("7.2.2")
def test_a_refresh_replaces_both_cookies(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    before = access_token(client), refresh_token(client)
    clock.shift(MINUTE)
    assert refresh(client).status_code == 200
    assert access_token(client) != before[0]
    assert refresh_token(client) != before[1]
    assert who_am_i(client).json()["email"] == ADA["email"]


def test_the_answer_holds_times_and_no_token(clock: Clock, client: TestClient) -> None:
    session_id = sign_up_and_in(client)["session"]["id"]
    clock.shift(HOUR)
    answer = refresh(client)
    now = NOON + HOUR
    assert answer.json() == {
        "session": {
            "id": session_id,
            "access_expires_at": iso(now + ACCESS_LIFETIME),
            "idle_expires_at": iso(now + 7 * DAY),
            "expires_at": iso(NOON + 30 * DAY),
        }
    }
    assert refresh_token(client) not in answer.text


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_a_refresh_keeps_the_same_login_and_user(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    before = claims(access_token(client))
    clock.shift(MINUTE)
    refresh(client)
    after = claims(access_token(client))
    same = ("iss", "aud", "sub", "sid", "client_id")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert after["jti"] != before["jti"]


@pytest.mark.proves("8.3.1", "RT-12")
def test_what_a_body_says_gives_no_other_rights(client: TestClient) -> None:
    started = sign_up_and_in(client)
    wishes = {"scope": "admin", "user_id": str(uuid4()), "is_superuser": True, "exp": 2**40}
    assert client.post("/api/v1/auth/refresh", json=wishes).status_code == 200
    assert who_am_i(client).json() == started["user"]
    assert claims(refresh_token(client)).keys() == {"iss", "aud", "client_id", "sid", "n", "exp"}


def test_the_row_remembers_the_newest_token_as_last(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    for _ in range(5):
        clock.shift(ACCESS_LIFETIME)
        refresh(client)
        n = claims(refresh_token(client))["n"]
        assert the_login(database).last == n == to_microseconds(datetime.now(UTC))


def test_the_row_remembers_the_last_old_token_that_was_presented(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    first = claims(refresh_token(client))["n"]
    clock.shift(ACCESS_LIFETIME)
    refresh(client)
    login = the_login(database)
    assert (login.witness_n, login.witness_at) == (first, login.last)
    assert (login.candidate_n, login.candidate_at) == (None, None)


def test_the_row_remembers_a_young_token_until_it_is_old(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    first = claims(refresh_token(client))["n"]
    clock.shift(10 * SECOND)
    refresh(client)
    login = the_login(database)
    assert (login.candidate_n, login.candidate_at) == (first, login.last)
    clock.shift(GRACE)
    refresh(client)
    login = the_login(database)
    assert login.witness_n == first
    assert login.witness_at == to_microseconds(NOON + 10 * SECOND)


def test_one_row_is_enough_however_often_a_login_refreshes(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    for _ in range(20):
        clock.shift(MINUTE)
        assert refresh(client).status_code == 200
    assert len(all_logins(database)) == 1


@pytest.mark.proves("14.2.4", "RT-14")
def test_no_column_holds_a_token_or_a_part_of_its_signature(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    refresh(client)
    stored = repr(the_login(database).model_dump())
    for token in (access_token(client), refresh_token(client)):
        header, body, signature = token.split(".")
        assert not any(part in stored for part in (token, body, signature, signature[:16]))
        assert header not in stored


# Honest people stay logged in


def test_two_tabs_within_the_grace_period_both_succeed(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    clock.shift(ACCESS_LIFETIME)
    shared = refresh_token(client)
    first = present(client, shared)
    clock.shift(GRACE - SECOND)
    second = present(client, shared)
    assert (first.status_code, second.status_code) == (200, 200)
    issued = {answer.cookies[REFRESH_COOKIE] for answer in (first, second)}
    assert len(issued | {shared}) == 3


def test_whichever_of_two_tabs_answers_is_stored_last_the_login_goes_on(
    clock: Clock, client: TestClient
) -> None:
    sign_up_and_in(client)
    clock.shift(ACCESS_LIFETIME)
    shared = refresh_token(client)
    stored_last = present(client, shared).cookies[REFRESH_COOKIE]
    clock.shift(5 * SECOND)
    present(client, shared)  # newer, but its answer was overtaken
    for _ in range(3):
        clock.shift(ACCESS_LIFETIME)
        answer = present(client, stored_last)
        assert answer.status_code == 200
        stored_last = answer.cookies[REFRESH_COOKIE]


@pytest.mark.proves("RT-06")
def test_a_token_whose_answer_was_lost_may_be_presented_again(
    clock: Clock, client: TestClient
) -> None:
    sign_up_and_in(client)
    kept = refresh_token(client)
    for _ in range(3):
        clock.shift(HOUR)
        assert present(client, kept).status_code == 200


@pytest.mark.proves("RT-05")
def test_an_old_token_presented_once_is_forgiven(clock: Clock, client: TestClient) -> None:
    """A browser that was killed had not yet written its last cookie."""
    sign_up_and_in(client)
    clock.shift(ACCESS_LIFETIME)
    before = refresh_token(client)
    refresh(client)
    clock.shift(2 * GRACE)
    assert present(client, before).status_code == 200


def test_a_laptop_that_slept_for_days_goes_on(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    for _ in range(4):
        clock.shift(6 * DAY)
        assert refresh(client).status_code == 200


# A second holder is found out


def second_old_token(clock: Clock, client: TestClient) -> str:
    """Move the login to where this token, older than the witness, proves a second holder."""
    stolen = refresh_token(client)
    for _ in range(2):
        clock.shift(ACCESS_LIFETIME)
        assert refresh(client).status_code == 200
    clock.shift(MINUTE)
    return stolen


@pytest.mark.proves("10.4.5", "RT-05")
def test_a_second_old_token_ends_the_login(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    answer = present(client, second_old_token(clock, client))
    assert (answer.status_code, code(answer)) == (401, "token_reused")
    assert all_logins(database) == []


@pytest.mark.proves("RT-05")
def test_access_tokens_are_void_at_once_after_a_theft(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    stolen = second_old_token(clock, client)
    assert who_am_i(client).status_code == 200
    present(client, stolen)
    answer = who_am_i(client)
    assert (answer.status_code, code(answer)) == (401, "session_revoked")


def test_no_token_of_a_stolen_login_works_again(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    stolen = second_old_token(clock, client)
    present(client, stolen)
    for token in (refresh_token(client), stolen):
        answer = present(client, token)
        assert (answer.status_code, code(answer)) == (401, "session_revoked")


@pytest.mark.proves("RT-07")
def test_the_other_logins_of_the_user_go_on_after_a_theft(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    phone = other_browser(client)
    log_in(phone)
    tokens = get_tokens(client)
    assert code(present(client, second_old_token(clock, client))) == "token_reused"
    assert refresh(phone).status_code == 200
    assert who_am_i(phone).status_code == 200
    renewed = client.post(
        "/api/v1/auth/token",
        data={"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]},
    )
    assert renewed.status_code == 200


def test_the_victim_can_log_in_again_after_a_theft(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    present(client, second_old_token(clock, client))
    assert log_in(client).status_code == 200
    assert who_am_i(client).status_code == 200


def test_a_thief_at_the_users_pace_gets_one_token(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    thief = copied_jar(client)
    clock.shift(ACCESS_LIFETIME)
    assert refresh(client).status_code == 200
    clock.shift(5 * MINUTE)
    assert refresh(thief).status_code == 200
    clock.shift(10 * MINUTE)
    assert code(refresh(client)) == "token_reused"
    assert code(refresh(thief)) == "session_revoked"


def test_a_thief_who_comes_first_gives_themselves_away(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    thief = copied_jar(client)
    clock.shift(5 * MINUTE)
    assert refresh(thief).status_code == 200
    clock.shift(10 * MINUTE)
    assert refresh(client).status_code == 200  # could be a lost answer: no evidence yet
    clock.shift(5 * MINUTE)
    assert code(refresh(thief)) == "token_reused"
    assert code(refresh(client)) == "session_revoked"


def test_a_thief_who_refreshes_so_fast_that_no_token_grows_old_is_found(
    clock: Clock, client: TestClient
) -> None:
    sign_up_and_in(client)
    thief = copied_jar(client)
    for _ in range(30):
        clock.shift(20 * SECOND)
        assert refresh(thief).status_code == 200
    assert code(refresh(client)) == "token_reused"
    assert who_am_i(thief).json()["code"] == "session_revoked"


def test_a_thief_in_the_shadow_of_every_honest_refresh_is_found(
    clock: Clock, client: TestClient
) -> None:
    """Within the grace period of the victim's refresh a copy passes, once."""
    sign_up_and_in(client)
    thief = copied_jar(client)
    clock.shift(ACCESS_LIFETIME)
    assert refresh(client).status_code == 200
    clock.shift(SECOND)
    assert refresh(thief).status_code == 200
    clock.shift(ACCESS_LIFETIME)
    assert refresh(client).status_code == 200
    clock.shift(SECOND)
    assert code(refresh(thief)) == "token_reused"


def test_an_old_copy_is_worth_nothing_at_its_first_use(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    thief = copied_jar(client)
    for _ in range(8):
        clock.shift(ACCESS_LIFETIME)
        refresh(client)
    clock.shift(GRACE)
    assert code(refresh(thief)) == "token_reused"
    assert all_logins(database) == []


def test_a_thief_of_a_programs_token_is_found(clock: Clock, client: TestClient) -> None:
    register(client)
    stolen = held = get_tokens(client)["refresh_token"]
    for _ in range(2):
        clock.shift(ACCESS_LIFETIME)
        held = renew(client, held).json()["refresh_token"]
    clock.shift(MINUTE)
    assert renew(client, stolen).json()["error"] == "invalid_grant"
    assert renew(client, held).json()["error"] == "invalid_grant"


def renew(client: TestClient, token: str) -> Response:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return client.post("/api/v1/auth/token", data=form)


# Strict mode: REFRESH_GRACE_SECONDS=0


@pytest.fixture
def strict_client(clock: Clock, make_client: ClientFactory) -> TestClient:
    client = make_client(refresh_grace_seconds=0)
    sign_up_and_in(client)
    return client


def test_strict_mode_rotates(clock: Clock, strict_client: TestClient) -> None:
    for _ in range(3):
        clock.shift(ACCESS_LIFETIME)
        assert refresh(strict_client).status_code == 200


@pytest.mark.proves("10.4.5")
def test_in_strict_mode_the_second_use_of_a_token_ends_the_login(
    strict_client: TestClient,
) -> None:
    shared = refresh_token(strict_client)
    assert present(strict_client, shared).status_code == 200
    assert code(present(strict_client, shared)) == "token_reused"
    assert code(who_am_i(strict_client)) == "session_revoked"


def test_strict_mode_fails_closed_after_a_restored_backup(
    clock: Clock, strict_client: TestClient
) -> None:
    database = strict_client.app.state.backend.database  # type: ignore[attr-defined]
    saved = the_login(database).last
    clock.shift(ACCESS_LIFETIME)
    refresh(strict_client)
    change_login(database, last=saved)
    assert code(refresh(strict_client)) == "token_reused"


# A login has two ends


def test_a_login_is_alive_until_the_last_second_of_the_idle_limit(
    clock: Clock, client: TestClient
) -> None:
    sign_up_and_in(client)
    clock.shift(7 * DAY - SECOND)
    assert refresh(client).status_code == 200


@pytest.mark.proves("7.3.1", "RT-10")
def test_a_login_that_was_idle_for_the_limit_has_expired(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    clock.shift(7 * DAY)
    answer = refresh(client)
    assert (answer.status_code, code(answer)) == (401, "session_expired")


def test_a_refresh_renews_the_idle_limit(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    clock.shift(6 * DAY)
    refresh(client)
    clock.shift(7 * DAY - SECOND)
    assert refresh(client).status_code == 200


def grown_old(clock: Clock, client: TestClient) -> str:
    """A token in good use until a day before the absolute end."""
    sign_up_and_in(client)
    for days in (6, 6, 6, 6, 5):
        clock.shift(days * DAY)
        assert refresh(client).status_code == 200
    return refresh_token(client)


def test_a_login_is_alive_until_the_last_second_of_the_absolute_limit(
    clock: Clock, client: TestClient
) -> None:
    token = grown_old(clock, client)
    clock.move_to(NOON + 30 * DAY - SECOND)
    assert present(client, token).status_code == 200


@pytest.mark.proves("7.3.2", "10.4.8")
def test_no_refresh_takes_a_login_beyond_the_absolute_limit(
    clock: Clock, client: TestClient
) -> None:
    token = grown_old(clock, client)
    clock.move_to(NOON + 30 * DAY)
    answer = present(client, token)
    assert (answer.status_code, code(answer)) == (401, "session_expired")


def test_no_access_token_outlives_its_login(clock: Clock, client: TestClient) -> None:
    grown_old(clock, client)
    clock.move_to(NOON + 30 * DAY - SECOND)
    refresh(client)
    access = bearer(access_token(client))
    assert other_browser(client).get("/api/v1/users/me", headers=access).status_code == 200
    clock.shift(SECOND)
    assert other_browser(client).get("/api/v1/users/me", headers=access).status_code == 401


def test_the_absolute_end_is_never_extended(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    for elapsed in (DAY, 6 * DAY, 12 * DAY):
        clock.move_to(NOON + elapsed)
        answer = refresh(client)
        assert the_login(database).expires_at == NOON + 30 * DAY
        assert answer.json()["session"]["expires_at"] == iso(NOON + 30 * DAY)
        assert claims(refresh_token(client))["exp"] == (NOON + 30 * DAY).timestamp()
        assert max_age(answer, REFRESH_COOKIE) == (30 * DAY - elapsed).total_seconds()
        assert max_age(answer, ACCESS_COOKIE) == ACCESS_LIFETIME.total_seconds()


def max_age(answer: Response, cookie: str) -> int:
    (line,) = [x for x in answer.headers.get_list("set-cookie") if x.startswith(cookie + "=")]
    (age,) = [part for part in line.split("; ") if part.startswith("Max-Age=")]
    return int(age.removeprefix("Max-Age="))


def test_the_idle_end_is_told_to_be_no_later_than_the_absolute_one(
    clock: Clock, client: TestClient
) -> None:
    grown_old(clock, client)
    session = refresh(client).json()["session"]
    assert session["idle_expires_at"] == session["expires_at"] == iso(NOON + 30 * DAY)


@pytest.mark.parametrize("late", [7 * DAY, 40 * DAY], ids=["idle", "absolute"])
def test_evidence_comes_before_expiry(
    clock: Clock, client: TestClient, database: Database, late: timedelta
) -> None:
    sign_up_and_in(client)
    stolen = second_old_token(clock, client)
    clock.shift(late)
    assert code(present(client, stolen)) == "token_reused"
    assert all_logins(database) == []


# Whoever may not be logged in gets nothing


@pytest.mark.proves("7.4.2")
def test_a_disabled_user_gets_no_new_token(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    change_user(database, ADA["email"], is_active=False)
    answer = refresh(client)
    assert (answer.status_code, code(answer)) == (401, "session_revoked")


@pytest.mark.proves("7.4.2")
def test_a_disabled_user_gets_none_for_an_old_token_while_others_are_active(
    clock: Clock, client: TestClient, database: Database
) -> None:
    """The newest token, once old, is rotated by one statement, which looks at the user itself."""
    register(other_browser(client), BOB)
    sign_up_and_in(client)
    change_user(database, ADA["email"], is_active=False)
    clock.shift(HOUR)
    answer = refresh(client)
    assert (answer.status_code, code(answer)) == (401, "session_revoked")


def test_the_end_of_a_disabled_users_stolen_login_is_not_put_off(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    stolen = second_old_token(clock, client)
    change_user(database, ADA["email"], is_active=False)
    assert code(present(client, stolen)) == "token_reused"
    assert all_logins(database) == []


def test_a_deleted_user_gets_no_new_token(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    database.run_write(lambda session: execute(session, delete(User)))
    answer = refresh(client)
    assert (answer.status_code, code(answer)) == (401, "session_revoked")
    assert all_logins(database) == []


@pytest.mark.proves("AC-02")
def test_who_registers_a_deleted_address_anew_inherits_no_login(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    database.run_write(lambda session: execute(session, delete(User)))
    register(other_browser(client))
    assert code(refresh(client)) == "session_revoked"
    assert code(who_am_i(client)) == "session_revoked"


def test_a_login_that_was_logged_out_gives_no_new_token(client: TestClient) -> None:
    sign_up_and_in(client)
    token = refresh_token(client)
    log_out(client)
    answer = present(client, token)
    assert (answer.status_code, code(answer)) == (401, "session_revoked")


@pytest.mark.proves("RT-09")
def test_an_unknown_login_is_answered_like_one_that_ended(client: TestClient) -> None:
    sign_up_and_in(client)
    ended = refresh_token(client)
    log_out(client)
    unknown = client.app.state.backend.tokens.issue_refresh(  # type: ignore[attr-defined]
        uuid4(), ClientId.BROWSER, claims(ended)["n"], datetime.now(UTC) + DAY
    )
    answers = [present(client, token).json() for token in (ended, unknown)]
    for answer in answers:
        del answer["request_id"]
    assert answers[0] == answers[1]


WRONG_TOKENS = {
    "empty": lambda token: "",
    "random": lambda token: "x" * len(token),
    "truncated": lambda token: token[:-1],
    "extended": lambda token: token + "A",
    "padded": lambda token: token + "=",
    "other case": lambda token: token.swapcase(),
    "URL-encoded": lambda token: token.replace(".", "%2E"),
    "without signature": lambda token: token.rpartition(".")[0] + ".",
    "very long": lambda token: token + "A" * 10_000,
    "not ASCII": lambda token: token + "é",
}


@pytest.mark.proves("7.2.3", "RT-09")
def test_a_token_that_was_changed_is_no_token(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    before = the_login(database).model_dump()
    answers = {}
    for name, change in WRONG_TOKENS.items():
        cookie = {"Cookie": f"{REFRESH_COOKIE}={change(refresh_token(client))}".encode()}
        answer = other_browser(client).post("/api/v1/auth/refresh", headers=cookie)
        answers[name] = (answer.status_code, code(answer))
    assert answers == dict.fromkeys(WRONG_TOKENS, (401, "not_authenticated"))
    assert the_login(database).model_dump() == before


def test_without_a_cookie_there_is_nothing_to_refresh(client: TestClient) -> None:
    answer = refresh(client)
    assert (answer.status_code, code(answer)) == (401, "not_authenticated")


def test_an_access_token_does_not_refresh(client: TestClient) -> None:
    sign_up_and_in(client)
    assert code(present(client, access_token(client))) == "not_authenticated"


def test_a_refresh_token_in_the_bearer_header_does_not_refresh(client: TestClient) -> None:
    sign_up_and_in(client)
    header = bearer(refresh_token(client))
    answer = other_browser(client).post("/api/v1/auth/refresh", headers=header)
    assert code(answer) == "not_authenticated"


def test_a_cookie_login_cannot_be_continued_by_a_program(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    before = the_login(database).model_dump()
    answer = renew(other_browser(client), refresh_token(client))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert the_login(database).model_dump() == before
    assert refresh(client).status_code == 200


def test_a_programs_login_cannot_be_continued_with_a_cookie(
    client: TestClient, database: Database
) -> None:
    register(client)
    token = get_tokens(client)["refresh_token"]
    before = the_login(database).model_dump()
    answer = present(client, token)
    assert (answer.status_code, code(answer)) == (401, "not_authenticated")
    assert the_login(database).model_dump() == before
    assert renew(client, token).status_code == 200


# Clocks and backups do not look like thieves


def test_a_restored_backup_makes_nobody_a_thief(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    clock.shift(ACCESS_LIFETIME)
    refresh(client)
    backup = the_login(database).model_dump(exclude={"id", "user_id"})
    for _ in range(10):
        clock.shift(ACCESS_LIFETIME)
        refresh(client)
    change_login(database, **backup)
    for _ in range(10):
        clock.shift(ACCESS_LIFETIME)
        presented = claims(refresh_token(client))["n"]
        assert refresh(client).status_code == 200
        assert claims(refresh_token(client))["n"] > presented


def test_a_thief_is_found_after_a_restored_backup_too(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    backup = the_login(database).model_dump(exclude={"id", "user_id"})
    for _ in range(4):
        clock.shift(ACCESS_LIFETIME)
        refresh(client)
    change_login(database, **backup)
    assert code(present(client, second_old_token(clock, client))) == "token_reused"


def test_a_clock_that_steps_back_an_hour_logs_nobody_out(clock: Clock, client: TestClient) -> None:
    sign_up_and_in(client)
    clock.shift(2 * HOUR)
    refresh(client)
    clock.shift(-HOUR)
    for _ in range(8):
        presented = refresh_token(client)
        assert refresh(client).status_code == 200
        assert claims(refresh_token(client))["n"] > claims(presented)["n"]
        assert who_am_i(client).status_code == 200
        assert present(client, presented).status_code == 200  # another tab, with the same token
        clock.shift(ACCESS_LIFETIME)


def test_a_thief_is_found_once_a_clock_that_stepped_back_has_caught_up(
    clock: Clock, client: TestClient
) -> None:
    sign_up_and_in(client)
    thief = copied_jar(client)
    clock.shift(ACCESS_LIFETIME)
    refresh(client)
    clock.shift(-HOUR)
    refresh(client)
    clock.shift(2 * HOUR)
    refresh(client)
    clock.shift(2 * GRACE)
    assert code(refresh(thief)) == "token_reused"


# What happens between the look at a login and its rotation

Meanwhile = list[tuple[Statement, Callable[[], object]]]


@pytest.fixture
def meanwhile(database: Database, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """What is put in here happens just before the next such statement is carried out."""
    happening: Meanwhile = []
    rows = database.rows

    async def with_events(statement: Statement, values: dict[str, Any]) -> Any:
        if happening and happening[0][0] is statement:
            happening.pop(0)[1]()
        return await rows(statement, values)

    monkeypatch.setattr(database, "rows", with_events)
    return happening


def test_a_young_token_is_rotated_without_a_transaction(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_up_and_in(client)
    monkeypatch.setattr(database, "write", None)
    for _ in range(3):
        assert refresh(client).status_code == 200


def test_two_tabs_with_an_old_token_need_no_transaction(
    clock: Clock, client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_up_and_in(client)
    clock.shift(ACCESS_LIFETIME)
    shared = refresh_token(client)
    monkeypatch.setattr(database, "write", None)
    for _ in range(2):
        assert present(client, shared).status_code == 200


def test_a_rotation_in_between_is_not_undone(
    clock: Clock, client: TestClient, database: Database, meanwhile: Meanwhile
) -> None:
    sign_up_and_in(client)
    of_other_tab = to_microseconds(NOON + SECOND)
    meanwhile.append((logins.ROTATE, lambda: change_login(database, last=of_other_tab)))
    assert refresh(client).status_code == 200
    assert the_login(database).last == of_other_tab + 1


def test_evidence_in_between_is_not_overlooked(
    clock: Clock, client: TestClient, database: Database, meanwhile: Meanwhile
) -> None:
    """The token was fine when it was looked at, and is theft once another one has been seen."""
    sign_up_and_in(client)
    later = to_microseconds(NOON + 3 * GRACE)  # by the clock of another process
    seen = {"last": later + 1, "witness_n": the_login(database).last + 1, "witness_at": later}
    meanwhile.append((logins.ROTATE, lambda: change_login(database, **seen)))
    assert code(refresh(client)) == "token_reused"
    assert all_logins(database) == []


@pytest.mark.parametrize(
    ("statement", "written"),
    [(logins.UNLOCKED, False), (logins.ROTATE, True)],
    ids=["when it was read", "when it was written"],
)
def test_a_request_that_is_late_only_since_gets_no_token(
    client: TestClient,
    database: Database,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    statement: Statement,
    written: bool,
) -> None:
    """What is stale before it is judged changes nothing; later, it is as an answer lost."""
    sign_up_and_in(client)
    before = the_login(database).model_dump()
    with monkeypatch.context() as patch:
        meanwhile.append((statement, lambda: received_earlier(patch, 20.1)))
        assert come_back(refresh(client)) == "busy"
    assert (the_login(database).model_dump() != before) is written
    assert refresh(client).status_code == 200


@pytest.mark.parametrize("what", ["logged out", "disabled", "deleted"])
def test_who_may_not_be_logged_in_since_gets_nothing(
    client: TestClient,
    database: Database,
    meanwhile: Meanwhile,
    what: str,
) -> None:
    sign_up_and_in(client)
    happens: dict[str, Callable[[], object]] = {
        "logged out": lambda: database.run_write(execute, delete(Login)),
        "disabled": lambda: change_user(database, ADA["email"], is_active=False),
        "deleted": lambda: database.run_write(execute, delete(User)),
    }
    meanwhile.append((logins.ROTATE, happens[what]))
    answer = refresh(client)
    assert (answer.status_code, code(answer)) == (401, "session_revoked")


# Trouble is a reason to come back, never to log in again


def come_back(answer: Response) -> str:
    """The code of a 503 that says when to try again and leaves the cookies alone."""
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    return code(answer)


def received_earlier(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As if the request had waited so long for its turn."""
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
    monkeypatch.setattr("app.services.logins.time", later)


@pytest.mark.parametrize("age", [timedelta(0), HOUR], ids=["young", "old"])
def test_a_request_that_waited_longer_than_a_third_of_the_grace_period_changes_nothing(
    clock: Clock,
    client: TestClient,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    age: timedelta,
) -> None:
    """Neither with a young token nor with an old one, which needs no lock to be rotated."""
    sign_up_and_in(client)
    clock.shift(age)
    before = the_login(database).model_dump()
    with monkeypatch.context() as patch:
        received_earlier(patch, 20.1)
        assert come_back(refresh(client)) == "busy"
    assert the_login(database).model_dump() == before
    assert refresh(client).status_code == 200


def test_a_request_that_waited_too_long_costs_the_database_nothing(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_up_and_in(client)
    received_earlier(monkeypatch, 20.1)
    asked: list[Any] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call))
    assert come_back(refresh(client)) == "busy"
    assert asked == []


def test_stale_work_is_no_evidence_of_theft(
    clock: Clock, client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_up_and_in(client)
    stolen = second_old_token(clock, client)
    received_earlier(monkeypatch, 20.1)
    assert come_back(present(client, stolen)) == "busy"
    assert len(all_logins(database)) == 1


def test_a_request_that_waited_less_is_served(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_up_and_in(client)
    received_earlier(monkeypatch, 15)
    assert refresh(client).status_code == 200


def test_strict_mode_has_no_grace_period_that_a_request_could_outlive(
    strict_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    received_earlier(monkeypatch, 20.1)
    assert refresh(strict_client).status_code == 200


def lock_logins(engine: Engine) -> Any:
    """Somebody else's transaction, which ends at the latest when its connection is closed."""
    connection = engine.connect()
    if engine.dialect.name == "postgresql":
        connection.execute(text("SELECT id FROM logins FOR UPDATE"))
    else:
        connection.execute(text("SELECT 1"))  # BEGIN IMMEDIATE locks everybody's writing
    return connection


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Another process's way to the same database."""
    engine = create_database_engine(make_settings(database_url))
    yield engine
    engine.dispose()


@pytest.mark.usefixtures("crowded")
def test_a_refresh_that_stood_in_line_for_the_row_too_long_is_busy(
    make_client: ClientFactory, elsewhere: Engine
) -> None:
    client = make_client(refresh_grace_seconds=1.5)  # a third: half a second
    sign_up_and_in(client)
    database = client.app.state.backend.database  # type: ignore[attr-defined]
    before = the_login(database).model_dump()
    with ThreadPoolExecutor() as pool:
        with lock_logins(elsewhere):
            waiting = pool.submit(refresh, client)
            with pytest.raises(StillWaiting):
                waiting.result(timeout=0.6)
        assert come_back(waiting.result()) == "busy"
    assert the_login(database).model_dump() == before
    assert refresh(client).status_code == 200


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_refresh_does_not_wait_for_whoever_holds_the_user(
    client: TestClient, elsewhere: Engine
) -> None:
    """It locks the login alone: who locks the user first may end logins next."""
    sign_up_and_in(client)
    with elsewhere.connect() as connection:
        connection.execute(text("SELECT id FROM users FOR UPDATE"))
        assert refresh(client).status_code == 200


def test_a_row_that_stays_locked_is_answered_503(
    database_url: str,
    make_client: ClientFactory,
    elsewhere: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("session", "engine"):
        monkeypatch.setattr(f"app.db.{module}.PATIENCE", 1)  # instead of 5 seconds
    options = {"options": "-c lock_timeout=1s"}
    monkeypatch.setattr("app.db.hosts.CONNECT_ARGUMENTS", CONNECT_ARGUMENTS | options)
    client = make_client()
    sign_up_and_in(client)
    with lock_logins(elsewhere):
        assert come_back(refresh(client)) == "database_unavailable"
    assert refresh(client).status_code == 200


@pytest.fixture
def unreachable_url(database_url: str, tmp_path: Any) -> str:
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/no/such/folder/app.db"
    return "postgresql://somebody:unknown@127.0.0.1:1/nothing"  # nobody listens there


@pytest.mark.proves("16.5.2")
def test_a_database_that_is_down_is_answered_503(
    client: TestClient, unreachable_url: str, make_client: ClientFactory
) -> None:
    sign_up_and_in(client)
    down = make_client(app=create_app(make_settings(unreachable_url)))
    down.cookies = client.cookies
    assert come_back(refresh(down)) == "database_unavailable"
    assert come_back(who_am_i(down)) == "database_unavailable"
    answer = renew(down, get_tokens(client)["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert refresh(client).status_code == 200


@pytest.mark.proves("2.3.3", "16.5.3", "RT-15")
@pytest.mark.usefixtures("crowded")
def test_a_database_that_fails_in_the_middle_leaves_the_token_good(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    before = the_login(database).model_dump()

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE"):
            raise OperationalError(statement, {}, Exception("the disk is full"))

    event.listen(database.engine, "before_cursor_execute", fail)
    assert come_back(refresh(client)) == "database_unavailable"
    event.remove(database.engine, "before_cursor_execute", fail)
    assert the_login(database).model_dump() == before
    assert refresh(client).status_code == 200


@pytest.mark.proves("16.5.3")
def test_a_database_that_fails_while_a_theft_is_recorded_lets_nobody_in(
    clock: Clock, client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    stolen = second_old_token(clock, client)

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE"):
            raise OperationalError(statement, {}, Exception("the disk is full"))

    event.listen(database.engine, "before_cursor_execute", fail)
    assert come_back(present(client, stolen)) == "database_unavailable"
    event.remove(database.engine, "before_cursor_execute", fail)
    assert code(present(client, stolen)) == "token_reused"
    assert all_logins(database) == []
