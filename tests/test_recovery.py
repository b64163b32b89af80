"""What a mailed link does: it confirms an address, or lets its owner choose a new password."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response

from app.core.client import HERE
from app.core.refusals import Reason, Refusal
from app.models.mail import Purpose
from app.services import one_time_tokens, recovery
from tests.answers import differences, refused_as
from tests.conftest import ClientFactory
from tests.jars import copied_jar, other_browser, refresh_token
from tests.links import all_tokens, database_of, forgot, mint, outbox, reset, verify
from tests.people import (
    ADA,
    BOB,
    bearer,
    get_tokens,
    log_in,
    refresh,
    register,
    who_am_i,
)
from tests.rows import all_logins, change_user, the_user

NEW = "seven loud geese on ice"
AFTER = ADA | {"password": NEW}
REFUSED = (400, "invalid_one_time_token")


# Verifying an address


@pytest.mark.proves("EV-01", "2.3.1")
def test_the_link_verifies_the_address_once(ada: TestClient) -> None:
    token = mint(ada, Purpose.VERIFY_EMAIL)
    assert who_am_i(ada).json()["email_verified"] is False
    assert verify(ada, token).status_code == 204
    assert who_am_i(ada).json()["email_verified"] is True
    assert refused_as(verify(ada, token)) == REFUSED


@pytest.mark.proves("6.3.6", "6.3.4", "EV-01")
def test_verifying_logs_nobody_in(ada: TestClient) -> None:
    stranger = other_browser(ada)
    answer = verify(stranger, mint(ada, Purpose.VERIFY_EMAIL))
    assert "set-cookie" not in answer.headers
    assert answer.content == b""
    assert who_am_i(stranger).status_code == 401


def test_verifying_needs_no_login(ada: TestClient) -> None:
    assert verify(other_browser(ada), mint(ada, Purpose.VERIFY_EMAIL)).status_code == 204


@pytest.mark.proves("NIST63B4-4.2.1")
def test_a_verification_link_lives_24_hours(ada: TestClient) -> None:
    with time_machine.travel("2026-11-24T12:00:00Z", tick=False) as clock:
        early, late = mint(ada, Purpose.VERIFY_EMAIL), mint(ada, Purpose.VERIFY_EMAIL)
        clock.shift(timedelta(hours=24) - timedelta(microseconds=1))
        assert verify(ada, early).status_code == 204
        clock.shift(timedelta(microseconds=1))
        assert refused_as(verify(ada, late)) == REFUSED


@pytest.mark.proves("EN-03")
def test_asking_for_the_link_answers_everybody_alike(ada: TestClient) -> None:
    asked = [
        ada.post("/api/v1/auth/verify-email/request", json={"email": email})
        for email in (ADA["email"], "nobody@example.com")
    ]
    assert [answer.status_code for answer in asked] == [202, 202]
    assert differences(*asked) <= {"header ratelimit"}
    assert outbox(ada)[-2:] == [
        ("verify_email", ADA["email"]),
        ("verify_email", "nobody@example.com"),
    ]


# Choosing a new password


def test_the_link_sets_a_new_password(ada: TestClient) -> None:
    answer = reset(other_browser(ada), mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert answer.status_code == 204
    stranger = other_browser(ada)
    assert refused_as(log_in(stranger)) == (401, "invalid_credentials")
    assert log_in(stranger, AFTER).status_code == 200


@pytest.mark.proves("RS-10", "6.3.6", "CS-FP-NOLOGIN")
def test_a_reset_logs_nobody_in(ada: TestClient) -> None:
    stranger = other_browser(ada)
    answer = reset(stranger, mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert "set-cookie" not in answer.headers
    assert answer.content == b""
    assert who_am_i(stranger).status_code == 401


@pytest.mark.proves("PW-02", "7.4.3", "6.4.3")
def test_a_reset_ends_every_login(ada: TestClient) -> None:
    phone, program = other_browser(ada), get_tokens(ada)
    log_in(phone)
    reset(other_browser(ada), mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert refused_as(who_am_i(ada)) == (401, "session_revoked")
    assert refused_as(refresh(phone)) == (401, "session_revoked")
    headers = bearer(program["access_token"])
    assert refused_as(other_browser(ada).get("/api/v1/users/me", headers=headers)) == (
        401,
        "session_revoked",
    )
    assert all_logins(database_of(ada)) == []


@pytest.mark.proves("EV-01", "RS-04")
def test_a_reset_link_works_once(ada: TestClient) -> None:
    token = mint(ada, Purpose.RESET_PASSWORD)
    assert reset(ada, token, NEW).status_code == 204
    assert refused_as(reset(ada, token, "a teapot full of gravel")) == REFUSED
    assert log_in(other_browser(ada), AFTER).status_code == 200


@pytest.mark.proves("RS-02", "6.4.3")
def test_a_reset_link_lives_an_hour(ada: TestClient) -> None:
    with time_machine.travel("2026-11-24T12:00:00Z", tick=False) as clock:
        early, late = mint(ada, Purpose.RESET_PASSWORD), mint(ada, Purpose.RESET_PASSWORD)
        clock.shift(timedelta(hours=1))
        assert refused_as(reset(ada, late, NEW)) == REFUSED
        clock.shift(-timedelta(microseconds=1))
        assert reset(ada, early, NEW).status_code == 204


@pytest.mark.proves("PW-05")
def test_a_reset_voids_the_other_links(ada: TestClient) -> None:
    others = [mint(ada, purpose, sent_to="x@example.com") for purpose in Purpose]
    reset(ada, mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert all_tokens(ada) == []
    assert refused_as(reset(ada, others[1], "a teapot full of gravel")) == REFUSED


@pytest.mark.proves("PW-05")
def test_a_reset_voids_the_links_that_were_not_sent_yet(ada: TestClient) -> None:
    forgot(ada)
    reset(ada, mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert outbox(ada) == [("password_changed", ADA["email"])]


@pytest.mark.proves("6.3.7")
def test_the_owner_is_told_of_a_reset(ada: TestClient) -> None:
    reset(ada, mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert outbox(ada)[-1] == ("password_changed", ADA["email"])


def test_a_reset_shows_that_the_mailbox_is_theirs(ada: TestClient) -> None:
    reset(ada, mint(ada, Purpose.RESET_PASSWORD), NEW)
    assert the_user(database_of(ada), ADA["email"]).email_verified


@pytest.mark.proves("RS-08", "7.4.2")
def test_a_disabled_user_cannot_reset_their_way_in(ada: TestClient) -> None:
    token = mint(ada, Purpose.RESET_PASSWORD)
    change_user(database_of(ada), ADA["email"], is_active=False)
    assert refused_as(reset(ada, token, NEW)) == REFUSED
    assert refused_as(log_in(other_browser(ada), AFTER)) == (401, "invalid_credentials")
    assert not the_user(database_of(ada), ADA["email"]).is_active


@pytest.mark.proves("RS-04", "8.2.2")
def test_a_reset_link_is_for_nobody_else(ada: TestClient) -> None:
    register(ada, BOB)
    body = {"token": mint(ada, Purpose.RESET_PASSWORD), "password": NEW, "email": BOB["email"]}
    answer = ada.post("/api/v1/auth/reset-password", json=body)
    assert refused_as(answer) == (422, "validation_failed")
    assert reset(ada, body["token"], NEW).status_code == 204
    assert log_in(other_browser(ada), BOB).status_code == 200


@pytest.mark.proves("RS-07", "6.2.1", "6.2.4", "6.2.11")
@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("fourteen chars", "password_too_short"),
        ("passwordpassword", "password_too_common"),
        ("ada@example.com!", "password_too_personal"),
        ("x" * 1025, "validation_failed"),
    ],
)
def test_a_refused_password_leaves_the_link_as_it_was(
    ada: TestClient, password: str, code: str
) -> None:
    token = mint(ada, Purpose.RESET_PASSWORD)
    assert refused_as(reset(ada, token, password)) == (422, code)
    assert reset(ada, token, NEW).status_code == 204


@pytest.mark.proves("CS-FP-NOCHANGE")
def test_asking_for_a_reset_changes_nothing(ada: TestClient) -> None:
    before = the_user(database_of(ada), ADA["email"]).model_dump()
    assert forgot(ada).status_code == 202
    assert the_user(database_of(ada), ADA["email"]).model_dump() == before
    assert who_am_i(ada).status_code == 200
    assert log_in(other_browser(ada)).status_code == 200


@pytest.mark.proves("EN-03", "6.3.8", "6.4.1")
def test_asking_for_a_reset_answers_everybody_alike(ada: TestClient) -> None:
    register(ada, BOB)
    change_user(database_of(ada), BOB["email"], is_active=False)
    known = forgot(ada)
    for email in ("nobody@example.com", BOB["email"]):
        assert differences(known, forgot(ada, email)) <= {"header ratelimit"}
    assert [template for template, _ in outbox(ada)[-3:]] == ["reset_password"] * 3


# What is no link


@pytest.mark.proves("JWT-17", "9.2.2")
@pytest.mark.parametrize("purpose", [*Purpose])
def test_a_link_serves_its_own_purpose_only(ada: TestClient, purpose: Purpose) -> None:
    token = mint(ada, purpose)
    uses = {
        Purpose.VERIFY_EMAIL: lambda: verify(ada, token),
        Purpose.RESET_PASSWORD: lambda: reset(ada, token, NEW),
        Purpose.CONFIRM_EMAIL: lambda: confirm(ada, token),
    }
    for other in set(Purpose) - {purpose}:
        assert refused_as(uses[other]()) == REFUSED
    assert uses[purpose]().status_code == 204


@pytest.mark.proves("JWT-17", "9.2.2")
def test_a_link_is_no_access_token_and_an_access_token_no_link(ada: TestClient) -> None:
    token = mint(ada, Purpose.RESET_PASSWORD)
    headers = bearer(token)
    answer = other_browser(ada).get("/api/v1/users/me", headers=headers)
    assert refused_as(answer) == (401, "not_authenticated")
    for stolen in (refresh_token(ada), get_tokens(ada)["access_token"]):
        assert reset(ada, stolen, NEW).status_code in (400, 422)
        assert verify(ada, stolen).status_code in (400, 422)
    assert log_in(copied_jar(ada)).status_code == 200


@pytest.mark.parametrize("token", ["x", "a" * 43, "a" * 200, "' OR 1=1 --", "\u2028", "%00"])
def test_a_made_up_token_is_refused(ada: TestClient, token: str) -> None:
    for answer in (verify(ada, token), reset(ada, token, NEW), confirm(ada, token)):
        assert refused_as(answer) == REFUSED


@pytest.mark.parametrize("token", ["", "a" * 201, None, 5, ["a"], {"$ne": ""}])
def test_what_is_no_token_fails_the_validation(ada: TestClient, token: object) -> None:
    answer = ada.post("/api/v1/auth/verify-email", json={"token": token})
    assert refused_as(answer) == (422, "validation_failed")


@pytest.mark.proves("EV-01")
def test_wrong_used_expired_and_foreign_tokens_look_alike(ada: TestClient) -> None:
    used, foreign = mint(ada, Purpose.VERIFY_EMAIL), mint(ada, Purpose.RESET_PASSWORD)
    verify(ada, used)
    with time_machine.travel("2026-11-20T12:00:00Z"):
        expired = mint(ada, Purpose.VERIFY_EMAIL)
    wrong = verify(ada, "wrong")
    for token in (used, foreign, expired):
        assert differences(wrong, verify(ada, token)) == set()


@pytest.mark.proves("3.5.3", "EV-03")
@pytest.mark.parametrize("path", ["verify-email", "reset-password", "forgot-password"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
def test_nothing_but_a_post_uses_a_link(ada: TestClient, path: str, method: str) -> None:
    token = mint(ada, Purpose.VERIFY_EMAIL)
    answer = ada.request(method, f"/api/v1/auth/{path}?token={token}")
    assert answer.status_code == 405
    assert verify(ada, token).status_code == 204


@pytest.mark.proves("14.2.1")
def test_a_token_in_the_address_is_not_read(ada: TestClient) -> None:
    token = mint(ada, Purpose.VERIFY_EMAIL)
    answer = ada.post(f"/api/v1/auth/verify-email?token={token}", json={})
    assert refused_as(answer) == (422, "validation_failed")
    assert verify(ada, token).status_code == 204


# How it is stored


@pytest.mark.proves("RS-06", "14.1.2", "11.4.3")
def test_the_database_has_no_token_that_could_be_used(ada: TestClient) -> None:
    token = mint(ada, Purpose.RESET_PASSWORD)
    (row,) = all_tokens(ada)
    stored = " ".join(str(value) for value in row.model_dump().values())
    assert token not in stored
    assert refused_as(reset(ada, row.token_hash, NEW)) == REFUSED


@pytest.mark.proves("EV-04", "7.2.3", "11.5.1")
def test_tokens_are_256_random_bits(ada: TestClient) -> None:
    tokens = [mint(ada, Purpose.VERIFY_EMAIL) for _ in range(1000)]
    assert {len(token) for token in tokens} == {43}  # 32 bytes in base64url
    assert len(set(tokens)) == 1000
    for place in range(42):  # no column of characters is fixed or nearly so
        assert len({token[place] for token in tokens}) > 50


# Really at the same time


@pytest.mark.proves("EV-01", "2.3.4", "15.4.2")
def test_of_twenty_uses_of_one_link_exactly_one_succeeds(ada: TestClient) -> None:
    token = mint(ada, Purpose.VERIFY_EMAIL)
    outcomes = at_once(ada, recovery.mark_verified, token, HERE)
    assert outcomes.count(None) == 1
    assert outcomes.count(Reason.INVALID_ONE_TIME_TOKEN) == 19


@pytest.mark.proves("2.3.4", "15.4.2")
def test_of_twenty_resets_by_one_link_exactly_one_succeeds(ada: TestClient) -> None:
    backend = ada.app.state.backend  # type: ignore[attr-defined]
    token = mint(ada, Purpose.RESET_PASSWORD)
    outcomes = at_once(ada, recovery.replace_password, backend, token, "!", HERE)
    assert outcomes.count(None) == 1
    assert outcomes.count(Reason.INVALID_ONE_TIME_TOKEN) == 19
    assert [template for template, _ in outbox(ada)] == ["password_changed"]


@pytest.mark.proves("2.3.4", "15.4.2", "PW-05")
def test_of_twenty_links_at_once_exactly_one_resets(ada: TestClient) -> None:
    """The first one voids the others, also those that were found before it."""
    backend = ada.app.state.backend  # type: ignore[attr-defined]
    tokens = [mint(ada, Purpose.RESET_PASSWORD) for _ in range(20)]
    database, barrier = database_of(ada), Barrier(20)

    def use(token: str) -> Reason | None:
        barrier.wait()
        try:
            database.run_write(recovery.replace_password, backend, token, "!", HERE)
        except Refusal as refusal:
            return refusal.reason
        return None

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(use, tokens))
    assert outcomes.count(None) == 1
    assert outcomes.count(Reason.INVALID_ONE_TIME_TOKEN) == 19


# Where there is no mail server


def test_without_a_mail_server_nothing_waits_to_be_sent(client: TestClient) -> None:
    register(client)
    assert forgot(client).status_code == 202
    assert outbox(client) == []


def test_a_reset_link_given_by_hand_works_without_a_mail_server(client: TestClient) -> None:
    register(client)
    assert reset(client, mint(client, Purpose.RESET_PASSWORD), NEW).status_code == 204
    assert log_in(client, AFTER).status_code == 200


# Limits


@pytest.mark.proves("2.4.1", "2.3.2", "CS-FP-RATE")
@pytest.mark.parametrize("path", ["forgot-password", "verify-email/request"])
def test_a_mailbox_gets_so_many_mails_an_hour(
    make_mailing_client: ClientFactory, path: str
) -> None:
    client = make_mailing_client(mails_per_address=2)

    def ask(email: str) -> Response:
        return client.post(f"/api/v1/auth/{path}", json={"email": email})

    assert [ask("x@example.com").status_code for _ in range(2)] == [202, 202]
    refused = ask("X@example.com")
    assert refused_as(refused) == (429, "too_many_attempts")
    assert 0 < int(refused.headers["retry-after"]) <= 1800
    assert refused.json()["retry_after"] == int(refused.headers["retry-after"])
    assert ask("y@example.com").status_code == 202
    assert len(outbox(client)) == 3


@pytest.mark.proves("2.4.1")
def test_one_network_asks_for_so_many_mails_an_hour(make_mailing_client: ClientFactory) -> None:
    client = make_mailing_client(sign_ups_per_network=3)
    statuses = [forgot(client, f"{name}@example.com").status_code for name in "abcd"]
    assert statuses == [202, 202, 202, 429]


def test_a_reset_opens_an_account_that_too_many_failures_closed(
    make_mailing_client: ClientFactory,
) -> None:
    client = make_mailing_client(login_attempts_per_account=2)
    register(client)
    wrong = ADA | {"password": "not this one at all"}
    for _ in range(2):
        assert refused_as(log_in(client, wrong)) == (401, "invalid_credentials")
    assert refused_as(log_in(client)) == (429, "too_many_attempts")
    reset(client, mint(client, Purpose.RESET_PASSWORD), NEW)
    assert log_in(client, AFTER).status_code == 200


def test_tokens_of_one_person_leave_with_them(ada: TestClient) -> None:
    mint(ada, Purpose.VERIFY_EMAIL)
    ada.post("/api/v1/users/me/delete", json={"password": ADA["password"]})
    assert all_tokens(ada) == []


def confirm(client: TestClient, token: str) -> Response:
    return client.post("/api/v1/users/me/email/confirm", json={"token": token})


def at_once(client: TestClient, work: object, *args: object) -> list[Reason | None]:
    """Twenty threads, one database."""
    database, barrier = database_of(client), Barrier(20)

    def attempt(_: int) -> Reason | None:
        barrier.wait()
        try:
            database.run_write(work, *args)  # type: ignore[arg-type]
        except Refusal as refusal:
            return refusal.reason
        return None

    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(attempt, range(20)))


def test_the_lifetimes_are_as_documented() -> None:
    hours = {
        purpose: life.total_seconds() / 3600 for purpose, life in one_time_tokens.LIFETIMES.items()
    }
    assert hours == {"verify_email": 24, "reset_password": 1, "confirm_email": 1}
