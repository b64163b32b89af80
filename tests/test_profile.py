"""One's own account: the name, the password, the address, everything stored, and the end of it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from threading import Barrier
from typing import Any

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import update

from app.core.client import HERE
from app.core.refusals import Reason, Refusal
from app.core.tokens import ClientId
from app.models.mail import Purpose, Template
from app.models.user import User
from app.services import new_logins, profile
from tests.answers import differences, refused_as
from tests.conftest import ClientFactory
from tests.jars import copied_jar, held, other_browser
from tests.links import all_tokens, database_of, forgot, mint, outbox, reset, verify
from tests.mailbox import Mailbox, write_to
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
from tests.rows import all_logins, all_users, change_user, execute, statements, the_user

ME = "/api/v1/users/me"
NEW = "seven loud geese on ice"
AFTER = ADA | {"password": NEW}
NEW_ADDRESS = "ada.king@example.com"


def change_password(
    client: TestClient, current: str = ADA["password"], new: str = NEW, **more: Any
) -> Response:
    body = {"current_password": current, "new_password": new}
    return client.put(f"{ME}/password", json=body, **more)


def change_email(
    client: TestClient, email: str = NEW_ADDRESS, password: str = ADA["password"]
) -> Response:
    return client.put(f"{ME}/email", json={"password": password, "email": email})


def confirm(client: TestClient, token: str) -> Response:
    return client.post(f"{ME}/email/confirm", json={"token": token})


def delete_me(client: TestClient, password: str = ADA["password"]) -> Response:
    return client.post(f"{ME}/delete", json={"password": password})


def link_to(client: TestClient, address: str) -> str:
    return mint(client, Purpose.CONFIRM_EMAIL, sent_to=address)


# The name


def test_the_name_changes(ada: TestClient) -> None:
    answer = ada.patch(ME, json={"full_name": "  Ada Lovelace "})
    assert (answer.status_code, answer.json()["full_name"]) == (200, "Ada Lovelace")
    assert who_am_i(ada).json()["full_name"] == "Ada Lovelace"


def test_the_name_can_be_taken_away(ada: TestClient) -> None:
    ada.patch(ME, json={"full_name": "Ada"})
    assert ada.patch(ME, json={"full_name": None}).json()["full_name"] is None


def test_what_is_not_named_stays(ada: TestClient) -> None:
    ada.patch(ME, json={"full_name": "Ada"})
    assert ada.patch(ME, json={}).json()["full_name"] == "Ada"


@pytest.mark.proves("PW-04", "8.2.3", "15.3.3", "MA-01", "6.2.3")
@pytest.mark.parametrize(
    "field",
    [
        "password",
        "hashed_password",
        "email",
        "email_verified",
        "is_admin",
        "is_active",
        "must_change_password",
        "id",
        "created_at",
        "password_changed_at",
        "last_login_at",
        "isAdmin",
    ],
)
def test_nothing_else_changes_that_way(ada: TestClient, field: str) -> None:
    before = the_user(database_of(ada), ADA["email"]).model_dump()
    answer = ada.patch(ME, json={"full_name": "Eve", field: True})
    assert refused_as(answer) == (422, "validation_failed")
    assert the_user(database_of(ada), ADA["email"]).model_dump() == before


@pytest.mark.parametrize("name", ["x" * 201, "a\x00b", "a\nb", 5, ["a"], {}])
def test_a_bad_name_is_refused(ada: TestClient, name: object) -> None:
    assert refused_as(ada.patch(ME, json={"full_name": name})) == (422, "validation_failed")


def test_a_stranger_changes_nothing(client: TestClient) -> None:
    for method, path, body in (
        ("PATCH", ME, {"full_name": "Eve"}),
        ("PUT", f"{ME}/password", {"current_password": "x", "new_password": NEW}),
        ("PUT", f"{ME}/email", {"password": "x", "email": "eve@example.com"}),
        ("POST", f"{ME}/delete", {"password": "x"}),
        ("GET", f"{ME}/export", None),
    ):
        answer = client.request(method, path, json=body)
        assert refused_as(answer) == (401, "not_authenticated"), path


# The password


@pytest.mark.proves("6.2.2")
def test_the_password_changes(ada: TestClient) -> None:
    assert change_password(ada).status_code == 200
    stranger = other_browser(ada)
    assert refused_as(log_in(stranger)) == (401, "invalid_credentials")
    assert log_in(stranger, AFTER).status_code == 200


@pytest.mark.proves("7.4.3", "7.2.4", "CS-SESS-RENEW", "RFC9700-4.14.2-d")
def test_every_login_ends_and_a_new_one_starts_for_the_caller(ada: TestClient) -> None:
    phone, thief = other_browser(ada), copied_jar(ada)
    log_in(phone)
    before = {login.id for login in all_logins(database_of(ada))}
    session_id = change_password(ada).json()["session"]["id"]
    (login,) = all_logins(database_of(ada))
    assert str(login.id) == session_id
    assert login.id not in before
    assert who_am_i(ada).status_code == 200
    assert refresh(ada).status_code == 200
    for client in (phone, thief):
        assert refused_as(who_am_i(client)) == (401, "session_revoked")
        assert refused_as(refresh(client)) == (401, "session_revoked")


def test_a_program_gets_its_new_tokens_in_the_answer(ada: TestClient) -> None:
    program = other_browser(ada)
    headers = bearer(get_tokens(program)["access_token"])
    answer = change_password(program, headers=headers)
    assert "set-cookie" not in answer.headers
    fresh = bearer(answer.json()["access_token"])
    assert program.get(ME, headers=fresh).status_code == 200
    assert refused_as(program.get(ME, headers=headers)) == (401, "session_revoked")
    assert refused_as(who_am_i(ada)) == (401, "session_revoked")


@pytest.mark.proves("3.3.4")
def test_a_browser_gets_its_new_tokens_in_cookies_only(ada: TestClient) -> None:
    answer = change_password(ada)
    assert set(answer.json()) == {"user", "session"}
    assert "eyJ" not in answer.text
    cookies = answer.headers.get_list("set-cookie")
    assert {cookie.partition("=")[0] for cookie in cookies} == {
        "__Host-access",
        "__Host-refresh",
        "__Host-device",
    }


@pytest.mark.proves("6.2.3", "7.5.1", "CS-AUTH-CHANGE")
def test_the_current_password_is_needed(ada: TestClient) -> None:
    answer = change_password(ada, current="not this one at all")
    assert refused_as(answer) == (403, "wrong_password")
    assert who_am_i(ada).status_code == 200
    assert log_in(other_browser(ada)).status_code == 200


@pytest.mark.proves("6.2.3")
@pytest.mark.parametrize("missing", ["current_password", "new_password"])
def test_both_passwords_are_needed(ada: TestClient, missing: str) -> None:
    body = {"current_password": ADA["password"], "new_password": NEW}
    del body[missing]
    answer = ada.put(f"{ME}/password", json=body)
    assert refused_as(answer) == (422, "validation_failed")


@pytest.mark.proves("6.2.1", "6.2.4", "6.2.11", "PWD-08")
@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("fourteen chars", "password_too_short"),
        ("passwordpassword", "password_too_common"),
        ("ada@example.com!", "password_too_personal"),
        ("x" * 1025, "validation_failed"),
    ],
)
def test_a_bad_new_password_changes_nothing(ada: TestClient, password: str, code: str) -> None:
    assert refused_as(change_password(ada, new=password)) == (422, code)
    assert log_in(other_browser(ada)).status_code == 200


@pytest.mark.proves("NIST63B4-3.1.1.2-6")
def test_the_password_of_now_is_no_new_one(ada: TestClient) -> None:
    answer = change_password(ada, new=ADA["password"])
    assert refused_as(answer) == (422, "password_unchanged")
    assert who_am_i(ada).status_code == 200


@pytest.mark.proves("6.3.1", "7.5.1")
def test_a_stolen_session_cannot_guess_the_password_for_ever(
    make_mailing_client: ClientFactory,
) -> None:
    client = make_mailing_client(login_attempts_per_account=3)
    sign_up_and_in(client)
    guesses = [refused_as(change_password(client, current=f"guess number {n}")) for n in range(4)]
    assert guesses == [(403, "wrong_password")] * 3 + [(429, "too_many_attempts")]
    assert refused_as(change_password(client)) == (429, "too_many_attempts")
    assert refused_as(change_email(client)) == (429, "too_many_attempts")
    assert refused_as(delete_me(client)) == (429, "too_many_attempts")


@pytest.mark.proves("PW-05", "6.4.3")
def test_a_change_voids_the_links_that_were_mailed(ada: TestClient) -> None:
    token = mint(ada, Purpose.RESET_PASSWORD)
    forgot(ada)
    change_password(ada)
    assert refused_as(reset(ada, token, "a teapot full of gravel")) == (
        400,
        "invalid_one_time_token",
    )
    assert outbox(ada) == [("password_changed", ADA["email"])]


@pytest.mark.proves("6.3.7")
def test_the_owner_is_told_of_a_change(ada: TestClient) -> None:
    change_password(ada)
    assert outbox(ada)[-1] == ("password_changed", ADA["email"])


@pytest.mark.proves("PW-06", "15.4.2", "2.3.4")
def test_of_twenty_changes_at_once_exactly_one_wins(ada: TestClient) -> None:
    backend = ada.app.state.backend  # type: ignore[attr-defined]
    database, barrier = database_of(ada), Barrier(20)
    user = the_user(database, ADA["email"])

    def change(number: int) -> Reason | None:
        login = new_logins.new_login(user, HERE, ClientId.BROWSER, backend.settings)
        barrier.wait()
        try:
            new_hash = f"!{number}"
            database.run_write(profile.exchange_password, backend, user, new_hash, login, HERE)
        except Refusal as refusal:
            return refusal.reason
        return None

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(change, range(20)))
    assert outcomes.count(None) == 1
    assert outcomes.count(Reason.WRONG_PASSWORD) == 19
    winner = outcomes.index(None)
    assert the_user(database, ADA["email"]).hashed_password == f"!{winner}"
    assert len(all_logins(database)) == 1


# A password that has to change


@pytest.fixture
def has_to_change(ada: TestClient) -> TestClient:
    change_user(database_of(ada), ADA["email"], must_change_password=True)
    return ada


@pytest.mark.proves("NIST63B4-3.1.1.2-6")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "", {"full_name": "Eve"}),
        ("GET", "/export", None),
        ("GET", "/sessions", None),
        ("DELETE", "/sessions", None),
        ("PUT", "/email", {"password": ADA["password"], "email": NEW_ADDRESS}),
        ("POST", "/delete", {"password": ADA["password"]}),
    ],
)
def test_until_then_nothing_else_is_allowed(
    has_to_change: TestClient, method: str, path: str, body: object
) -> None:
    answer = has_to_change.request(method, f"{ME}{path}", json=body)
    assert refused_as(answer) == (403, "password_change_required")
    assert the_user(database_of(has_to_change), ADA["email"]).full_name is None


def test_until_then_one_can_still_see_why(has_to_change: TestClient) -> None:
    assert who_am_i(has_to_change).json()["must_change_password"] is True


@pytest.mark.proves("NIST63B4-3.1.1.2-6")
def test_the_change_lifts_it(has_to_change: TestClient) -> None:
    answer = change_password(has_to_change)
    assert answer.json()["user"]["must_change_password"] is False
    assert has_to_change.get(f"{ME}/sessions").status_code == 200


def test_a_reset_lifts_it_too(has_to_change: TestClient) -> None:
    reset(has_to_change, mint(has_to_change, Purpose.RESET_PASSWORD), NEW)
    assert log_in(has_to_change, AFTER).json()["user"]["must_change_password"] is False


@pytest.mark.proves("NIST63B4-3.1.1.2-6")
def test_a_reset_to_the_same_password_does_not(has_to_change: TestClient) -> None:
    token = mint(has_to_change, Purpose.RESET_PASSWORD)
    answer = reset(has_to_change, token, ADA["password"])
    assert refused_as(answer) == (422, "password_unchanged")
    assert reset(has_to_change, token, NEW).status_code == 204


def test_logging_in_tells_of_it(has_to_change: TestClient) -> None:
    assert log_in(has_to_change).json()["user"]["must_change_password"] is True


# The address


@pytest.mark.proves("CS-AUTH-EMAIL", "EM-06")
def test_nothing_changes_before_the_new_address_confirms(ada: TestClient) -> None:
    answer = change_email(ada)
    assert answer.status_code == 202
    assert outbox(ada)[-1] == ("confirm_email", NEW_ADDRESS)
    assert who_am_i(ada).json()["email"] == ADA["email"]
    assert refused_as(log_in(other_browser(ada), ADA | {"email": NEW_ADDRESS})) == (
        401,
        "invalid_credentials",
    )


def test_the_link_changes_the_address(ada: TestClient) -> None:
    assert confirm(other_browser(ada), link_to(ada, NEW_ADDRESS)).status_code == 204
    me = who_am_i(ada).json()
    assert (me["email"], me["email_verified"]) == (NEW_ADDRESS, True)
    assert log_in(other_browser(ada), ADA | {"email": NEW_ADDRESS}).status_code == 200
    assert refused_as(log_in(other_browser(ada))) == (401, "invalid_credentials")


@pytest.mark.proves("6.3.7", "CS-AUTH-EMAIL", "EM-06")
def test_the_former_address_is_told(ada: TestClient) -> None:
    confirm(ada, link_to(ada, NEW_ADDRESS))
    assert outbox(ada)[-1] == ("email_changed", ADA["email"])


@pytest.mark.proves("7.5.1", "CS-AUTH-REAUTH")
def test_changing_the_address_needs_the_password(ada: TestClient) -> None:
    before = outbox(ada)
    assert refused_as(change_email(ada, password="not this one")) == (403, "wrong_password")
    assert outbox(ada) == before


@pytest.mark.proves("EM-06", "6.3.8")
def test_a_taken_address_gets_the_same_answer(ada: TestClient) -> None:
    register(ada, BOB)
    answers = [change_email(ada, email) for email in (NEW_ADDRESS, BOB["email"])]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert differences(*answers) <= {"header ratelimit"}


@pytest.mark.proves("EM-06", "15.4.2")
def test_an_address_that_was_taken_meanwhile_is_refused(ada: TestClient) -> None:
    token = link_to(ada, BOB["email"])
    register(ada, BOB)
    assert refused_as(confirm(ada, token)) == (400, "invalid_one_time_token")
    assert who_am_i(ada).json()["email"] == ADA["email"]
    assert log_in(other_browser(ada), BOB).status_code == 200


@pytest.mark.proves("EM-07", "PW-05")
def test_a_new_address_voids_the_links_to_the_former_one(ada: TestClient) -> None:
    former = mint(ada, Purpose.RESET_PASSWORD)
    forgot(ada)
    confirm(ada, link_to(ada, NEW_ADDRESS))
    assert refused_as(reset(ada, former, NEW)) == (400, "invalid_one_time_token")
    assert ("reset_password", ADA["email"]) not in outbox(ada)


@pytest.mark.proves("EM-06")
def test_of_two_pending_addresses_only_one_is_confirmed(ada: TestClient) -> None:
    first, second = link_to(ada, NEW_ADDRESS), link_to(ada, "ada2@example.com")
    assert confirm(ada, second).status_code == 204
    assert refused_as(confirm(ada, first)) == (400, "invalid_one_time_token")
    assert who_am_i(ada).json()["email"] == "ada2@example.com"


def test_a_confirmation_lives_an_hour(ada: TestClient) -> None:
    with time_machine.travel("2026-11-24T12:00:00Z", tick=False) as clock:
        token = link_to(ada, NEW_ADDRESS)
        clock.shift(timedelta(hours=1))
        assert refused_as(confirm(ada, token)) == (400, "invalid_one_time_token")


@pytest.mark.proves("10.3.3")
def test_a_new_address_ends_no_login(ada: TestClient) -> None:
    confirm(ada, link_to(ada, NEW_ADDRESS))
    assert refresh(ada).status_code == 200


@pytest.mark.proves("EM-06", "6.3.8")
def test_not_even_the_export_tells_whether_an_address_is_taken(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    client = make_client(**mailbox.settings)
    register(client, BOB)
    sign_up_and_in(client)
    mailbox.receive(client)
    seen = []
    for email in (NEW_ADDRESS, BOB["email"]):
        change_email(client, email)
        mailbox.receive(client)
        export = client.get(f"{ME}/export").json()
        newest = [(event["event"], event["details"]) for event in export["activity"][:3]]
        links = [link["purpose"] for link in export["links"]]
        seen.append((newest, links, [mail["template"] for mail in export["mails"]]))
    assert seen[0] == seen[1]
    assert seen[0][1].count("confirm_email") == 1


@pytest.mark.proves("EM-06", "6.3.8")
def test_not_even_the_link_of_before_tells_whether_an_address_is_taken(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    client = make_client(**mailbox.settings)
    register(client, BOB)
    sign_up_and_in(client)
    mailbox.receive(client)
    for email in ("ada2@example.com", BOB["email"]):
        change_email(client, NEW_ADDRESS)
        former = mailbox.receive_token(client, NEW_ADDRESS)
        change_email(client, email)
        mailbox.receive(client)
        assert refused_as(confirm(client, former)) == (400, "invalid_one_time_token")


@pytest.mark.proves("CS-FP-RATE", "2.4.1")
def test_changing_ones_password_again_and_again_floods_nobodys_mailbox(ada: TestClient) -> None:
    """The address may be somebody else's: it was never verified."""
    passwords = [ADA["password"], NEW] * 4
    for current, new in pairwise(passwords):
        assert change_password(ada, current, new).status_code == 200
    assert outbox(ada).count(("password_changed", ADA["email"])) == 3


@pytest.mark.proves("2.4.1", "16.3.3")
def test_nobody_fills_the_audit_trail_with_names(ada: TestClient) -> None:
    answers = [ada.patch(ME, json={"full_name": f"Ada {n}"}).status_code for n in range(61)]
    assert answers == [200] * 60 + [429]
    assert who_am_i(ada).json()["full_name"] == "Ada 59"


def test_an_export_waits_for_nobody_who_writes(ada: TestClient) -> None:
    """It reads in no transaction: on SQLite it would hold the only writer up."""
    with statements(database_of(ada)) as sent:
        assert ada.get(f"{ME}/export").status_code == 200
    writes = [number for number, one in enumerate(sent) if not one.startswith("SELECT")]
    assert max(writes) < len(sent) - 4


def test_an_address_that_nobody_could_sign_up_with_any_more_is_exported(ada: TestClient) -> None:
    of_before = "=?utf-8?q?a?=@example.com"
    database_of(ada).run_write(execute, update(User).values(email=of_before))
    write_to(ada, Template.PASSWORD_CHANGED, of_before)
    exported = ada.get(f"{ME}/export").json()
    assert exported["user"]["email"] == of_before
    assert of_before in [mail["recipient"] for mail in exported["mails"]]


@pytest.mark.proves("2.4.1")
def test_exports_are_made_one_at_a_time(ada: TestClient) -> None:
    """Each takes megabytes, and one of the few connections for reading."""
    exporting = ada.app.state.backend.exporting  # type: ignore[attr-defined]
    with exporting:
        assert refused_as(ada.get(f"{ME}/export")) == (503, "busy")
    for _ in range(2):
        assert ada.get(f"{ME}/export").status_code == 200


@pytest.mark.proves("PW-05")
def test_a_wish_for_a_new_address_does_not_outlive_a_change_of_the_password(
    ada: TestClient,
) -> None:
    """Between the password that was confirmed and the wish that is written, it changes."""
    backend = ada.app.state.backend  # type: ignore[attr-defined]
    user = the_user(database_of(ada), ADA["email"])
    change_password(ada)
    with pytest.raises(Refusal) as refused:
        database_of(ada).run_write(
            profile.enqueue_confirmation, backend, user, "thief@example.com", HERE
        )
    assert refused.value.reason is Reason.WRONG_PASSWORD
    assert ("confirm_email", "thief@example.com") not in outbox(ada)


@pytest.mark.proves("HH-01", "CS-FP-HOST")
@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host", "Forwarded"])
def test_no_header_decides_where_a_link_leads(
    make_client: ClientFactory, mailbox: Mailbox, header: str
) -> None:
    client = make_client(**mailbox.settings)
    evil = {header: "host=evil.example" if header == "Forwarded" else "evil.example"}
    register(client)
    log_in(client)
    json = {"email": ADA["email"]}
    assert client.post("/api/v1/auth/forgot-password", json=json, headers=evil).status_code == 202
    wish = {"password": ADA["password"], "email": NEW_ADDRESS}
    assert client.put(f"{ME}/email", json=wish, headers=evil).status_code == 202
    messages = mailbox.receive(client)
    assert len(messages) == 3
    assert not [message for message in messages if "evil.example" in message.as_string()]
    pages_url = client.app.state.backend.settings.pages_url  # type: ignore[attr-defined]
    assert all(link.startswith(f"{pages_url}/") for link in mailbox.links())


@pytest.mark.parametrize("email", ["", "x", "a@b@c", "a@example.com\r\nBcc: b@example.com", 5])
def test_a_bad_address_is_refused(ada: TestClient, email: object) -> None:
    answer = ada.put(f"{ME}/email", json={"password": ADA["password"], "email": email})
    assert refused_as(answer) == (422, "validation_failed")


# The end


@pytest.mark.proves("7.4.2", "AC-02", "14.2.7")
def test_a_deleted_account_is_gone_at_once(ada: TestClient) -> None:
    phone, program = other_browser(ada), get_tokens(ada)
    log_in(phone)
    mint(ada, Purpose.VERIFY_EMAIL)
    assert delete_me(ada).status_code == 204
    assert all_users(database_of(ada)) == []
    assert all_logins(database_of(ada)) == []
    assert all_tokens(ada) == []
    assert refused_as(who_am_i(phone)) == (401, "session_revoked")
    assert refused_as(refresh(phone)) == (401, "session_revoked")
    headers = bearer(program["access_token"])
    assert refused_as(phone.get(ME, headers=headers)) == (401, "session_revoked")
    assert refused_as(log_in(phone)) == (401, "invalid_credentials")


@pytest.mark.proves("AC-02", "JWT-21", "10.3.3")
def test_whoever_signs_up_with_the_address_next_is_somebody_else(ada: TestClient) -> None:
    old = copied_jar(ada)
    old_id = who_am_i(ada).json()["id"]
    delete_me(ada)
    assert register(ada).json()["id"] != old_id
    assert refused_as(who_am_i(old)) == (401, "session_revoked")
    log_in(ada)
    export = ada.get(f"{ME}/export").json()
    assert old_id not in str(export)


@pytest.mark.proves("7.5.1", "7.5.3")
def test_deleting_needs_the_password(ada: TestClient) -> None:
    assert refused_as(delete_me(ada, "not this one")) == (403, "wrong_password")
    assert who_am_i(ada).status_code == 200


@pytest.mark.proves("14.3.1")
def test_deleting_clears_all_cookies(ada: TestClient) -> None:
    delete_me(ada)
    assert list(ada.cookies.jar) == []


@pytest.mark.proves("6.3.7")
def test_a_last_mail_says_that_the_account_is_gone(ada: TestClient) -> None:
    delete_me(ada)
    assert outbox(ada)[-1] == ("account_deleted", ADA["email"])


def test_a_thief_cannot_silence_a_notice_by_deleting_the_account(ada: TestClient) -> None:
    confirm(ada, link_to(ada, "eve@example.com"))
    delete_me(ada)
    assert ("email_changed", ADA["email"]) in outbox(ada)


@pytest.mark.proves("AZ-03")
def test_the_only_administrator_cannot_go(ada: TestClient) -> None:
    change_user(database_of(ada), ADA["email"], is_admin=True)
    assert refused_as(delete_me(ada)) == (409, "last_admin")
    register(ada, BOB)
    change_user(database_of(ada), BOB["email"], is_admin=True)
    assert delete_me(ada).status_code == 204


# What is stored


def test_the_export_has_everything_that_is_stored(ada: TestClient) -> None:
    log_in(other_browser(ada))
    mint(ada, Purpose.RESET_PASSWORD)
    export = ada.get(f"{ME}/export").json()
    assert set(export) == {"user", "sessions", "links", "mails", "activity"}
    assert export["user"] == who_am_i(ada).json()
    assert [session["current"] for session in export["sessions"]].count(True) == 1
    assert len(export["sessions"]) == 2
    assert [link["purpose"] for link in export["links"]] == ["reset_password"]
    assert [mail["template"] for mail in export["mails"]] == ["verify_email", "new_device"]
    events = [event["event"] for event in export["activity"]]
    assert events == ["data_exported", "login_started", "login_started", "user_created"]


@pytest.mark.proves("MA-03", "15.3.1", "14.2.6")
def test_the_export_has_no_secret(ada: TestClient) -> None:
    mint(ada, Purpose.RESET_PASSWORD)
    text = ada.get(f"{ME}/export").text
    (row,) = all_tokens(ada)
    secrets = [
        the_user(database_of(ada), ADA["email"]).hashed_password,
        row.token_hash,
        held(ada, "__Host-access"),
    ]
    assert not [secret for secret in secrets if secret in text]


@pytest.mark.proves("8.2.2")
def test_the_export_has_nothing_of_anybody_else(ada: TestClient) -> None:
    bob = other_browser(ada)
    bobs = sign_up_and_in(bob, BOB)["user"]["id"]
    assert bobs not in ada.get(f"{ME}/export").text


# Verifying again


def test_a_verified_user_can_be_verified_again_without_harm(ada: TestClient) -> None:
    first, second = mint(ada, Purpose.VERIFY_EMAIL), mint(ada, Purpose.VERIFY_EMAIL)
    assert verify(ada, first).status_code == 204
    assert verify(ada, second).status_code == 204


def test_a_name_costs_four_statements_more_than_who_am_i(ada: TestClient) -> None:
    database = database_of(ada)
    with statements(database) as sent:
        ada.patch(ME, json={"full_name": "Ada"})
    assert len(sent) == 5  # who, the row, its change, its trace, and a part of the budget
