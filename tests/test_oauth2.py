"""Tokens for programs: RFC 6749 (the token endpoint) and RFC 7009 (revocation)."""

import re
import secrets
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.formparsers import MultiPartParser

from app.core.tokens import Tokens
from app.db.session import Database
from tests.conftest import ClientFactory, make_settings
from tests.jars import access_token, claims, other_browser, refresh_token
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
from tests.rows import all_logins, change_user, the_login

TOKEN = "/api/v1/auth/token"
REVOKE = "/api/v1/auth/revoke"
FORM = "application/x-www-form-urlencoded"
PASSWORD_GRANT = {
    "grant_type": "password",
    "username": ADA["email"],
    "password": ADA["password"],
}


def renew(client: TestClient, token: str) -> Response:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return client.post(TOKEN, data=form)


def revoke(client: TestClient, token: str, **more: str) -> Response:
    return client.post(REVOKE, data={"token": token, **more})


def me(client: TestClient, token: str) -> Response:
    return other_browser(client).get("/api/v1/users/me", headers=bearer(token))


def post_form(client: TestClient, pairs: list[tuple[str, str]], path: str = TOKEN) -> Response:
    """Names may be repeated."""
    return client.post(path, content=urlencode(pairs), headers={"Content-Type": FORM})


def error_of(answer: Response) -> str:
    """RFC 6749, 5.2: JSON of two members, never problem+json, never a cookie."""
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    body = answer.json()
    assert body.keys() == {"error", "error_description"}
    # Section 5.2 allows these characters only.
    assert re.fullmatch(r"[\x20-\x21\x23-\x5B\x5D-\x7E]+", body["error_description"])
    error: str = body["error"]
    return error


# The password grant


def test_a_password_brings_tokens(client: TestClient) -> None:
    register(client)
    answer = client.post(TOKEN, data=PASSWORD_GRANT)
    assert answer.status_code == 200
    tokens = answer.json()
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 15 * 60)
    assert me(client, tokens["access_token"]).json()["email"] == ADA["email"]


@pytest.mark.proves("10.1.1", "14.2.2")
def test_tokens_are_neither_cached_nor_put_into_cookies(client: TestClient) -> None:
    register(client)
    tokens = client.post(TOKEN, data=PASSWORD_GRANT)
    for answer in (tokens, renew(client, tokens.json()["refresh_token"])):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"
        assert "set-cookie" not in answer.headers
    assert not client.cookies


def test_the_tokens_say_that_they_are_a_programs(client: TestClient) -> None:
    register(client)
    tokens = get_tokens(client)
    assert claims(tokens["access_token"])["client_id"] == "program"
    assert claims(tokens["refresh_token"])["client_id"] == "program"


def test_expires_in_is_the_lifetime_that_was_set(make_client: ClientFactory) -> None:
    client = make_client(access_token_expire_minutes=5)
    register(client)
    tokens = get_tokens(client)
    assert tokens["expires_in"] == 300
    access = claims(tokens["access_token"])
    assert access["exp"] - access["iat"] == 300


@pytest.mark.proves("7.2.2")
def test_every_password_grant_is_a_login_of_its_own(client: TestClient, database: Database) -> None:
    register(client)
    sessions = {claims(get_tokens(client)["refresh_token"])["sid"] for _ in range(3)}
    assert len(sessions) == 3
    assert {str(login.id) for login in all_logins(database)} == sessions


def test_a_password_grant_leaves_the_login_of_the_cookies_alone(client: TestClient) -> None:
    sign_up_and_in(client)
    get_tokens(client)
    assert who_am_i(client).status_code == 200
    assert refresh(client).status_code == 200


WRONG_CREDENTIALS = {
    "wrong password": {"password": "a wrong password for her"},
    "unknown": {"username": "nobody@example.com"},
    "no address": {"username": "no address"},
    "NUL in the address": {"username": "ada\0@example.com"},
    "NUL in the password": {"password": "wrong\0password"},
}


@pytest.mark.proves("6.3.4")
def test_wrong_credentials_are_an_invalid_grant(client: TestClient) -> None:
    register(client)
    answers = {
        name: error_of(client.post(TOKEN, data=PASSWORD_GRANT | changes))
        for name, changes in WRONG_CREDENTIALS.items()
    }
    assert answers == dict.fromkeys(WRONG_CREDENTIALS, "invalid_grant")


@pytest.mark.proves("6.3.4")
def test_a_disabled_user_is_an_invalid_grant(client: TestClient, database: Database) -> None:
    register(client)
    refresh_token_ = get_tokens(client)["refresh_token"]
    change_user(database, ADA["email"], is_active=False)
    assert error_of(client.post(TOKEN, data=PASSWORD_GRANT)) == "invalid_grant"
    assert error_of(renew(client, refresh_token_)) == "invalid_grant"


# The form


def test_what_is_missing_or_empty_is_an_invalid_request(client: TestClient) -> None:
    """RFC 6749, 3.2: without a value is as if it were not there."""
    register(client)
    for name in PASSWORD_GRANT:
        missing = {key: value for key, value in PASSWORD_GRANT.items() if key != name}
        assert error_of(client.post(TOKEN, data=missing)) == "invalid_request", name
        assert error_of(client.post(TOKEN, data=missing | {name: ""})) == "invalid_request", name


def test_a_refresh_grant_without_a_token_is_an_invalid_request(client: TestClient) -> None:
    assert error_of(client.post(TOKEN, data={"grant_type": "refresh_token"})) == "invalid_request"
    assert error_of(renew(client, "")) == "invalid_request"


OTHER_GRANTS = ["authorization_code", "client_credentials", "implicit", "Password", "password "]
OTHER_GRANTS += ["urn:ietf:params:oauth:grant-type:jwt-bearer", "x" * 300, "\0", "<script>"]


@pytest.mark.proves("10.4.4")
def test_other_grants_are_unsupported(client: TestClient) -> None:
    register(client)
    for grant_type in OTHER_GRANTS:
        form = PASSWORD_GRANT | {"grant_type": grant_type}
        assert error_of(client.post(TOKEN, data=form)) == "unsupported_grant_type", grant_type


@pytest.mark.proves("15.3.7")
def test_a_repeated_parameter_is_an_invalid_request(client: TestClient, database: Database) -> None:
    """A proxy and this service could each read another one."""
    register(client)
    pairs = [*PASSWORD_GRANT.items(), ("scope", "x")]
    for name, value in pairs:
        for second in (value, "other"):
            assert error_of(post_form(client, [*pairs, (name, second)])) == "invalid_request"
            assert error_of(post_form(client, [(name, second), *pairs])) == "invalid_request"
    assert all_logins(database) == []


def test_a_repeated_refresh_token_is_an_invalid_request(
    client: TestClient, database: Database
) -> None:
    register(client)
    token = get_tokens(client)["refresh_token"]
    before = the_login(database).model_dump()
    pairs = [("grant_type", "refresh_token"), ("refresh_token", token), ("refresh_token", "x")]
    assert error_of(post_form(client, pairs)) == "invalid_request"
    assert error_of(post_form(client, pairs[::-1])) == "invalid_request"
    assert the_login(database).model_dump() == before


def test_unknown_parameters_are_ignored(client: TestClient) -> None:
    register(client)
    more = {"scope": "admin", "client_id": "x", "client_secret": "y", "is_admin": "true"}
    answer = client.post(TOKEN, data=PASSWORD_GRANT | more)
    assert answer.status_code == 200
    assert me(client, answer.json()["access_token"]).json()["is_admin"] is False


def test_a_basic_header_is_ignored(client: TestClient) -> None:
    """Swagger UI sends one with neither name nor password."""
    register(client)
    for header in ("Basic Og==", f"Basic {b64encode(b'bob:x').decode()}", "Basic", "Digest x"):
        answer = client.post(TOKEN, data=PASSWORD_GRANT, headers={"Authorization": header})
        assert answer.status_code == 200, header


def test_a_bearer_header_neither_helps_nor_harms(client: TestClient) -> None:
    register(client)
    headers = bearer(get_tokens(client)["access_token"])
    assert client.post(TOKEN, data=PASSWORD_GRANT, headers=headers).status_code == 200
    form = {"grant_type": "password", "username": ADA["email"]}
    assert error_of(client.post(TOKEN, data=form, headers=headers)) == "invalid_request"


def test_parameters_in_the_query_do_not_count(client: TestClient) -> None:
    """A password in a URL ends up in somebody's log."""
    register(client)
    assert error_of(client.post(TOKEN, params=PASSWORD_GRANT)) == "invalid_request"


def test_json_is_no_form(client: TestClient) -> None:
    register(client)
    assert error_of(client.post(TOKEN, json=PASSWORD_GRANT)) == "invalid_request"
    assert error_of(client.post(TOKEN, json=[PASSWORD_GRANT])) == "invalid_request"


@pytest.mark.parametrize("path", [TOKEN, REVOKE])
def test_a_multipart_form_is_refused_before_it_is_read(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """It names the codec of its text itself, and some take seconds for 64 KiB: punycode."""
    monkeypatch.setattr(MultiPartParser, "parse", None)
    register(client)
    parts = {name: (None, value) for name, value in PASSWORD_GRANT.items()}
    answer = client.post(path, files=parts)
    assert error_of(answer) == "invalid_request"
    assert answer.json()["error_description"] == f"Send the parameters as {FORM}."


@pytest.mark.parametrize("content_type", [FORM.upper(), f"{FORM} ; charset=utf-8"])
def test_a_form_may_say_more_of_itself(client: TestClient, content_type: str) -> None:
    register(client)
    body = urlencode(PASSWORD_GRANT)
    answer = client.post(TOKEN, content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"%", b"%zz=%", b"a&b&=c", b"grant_type=%ff"])
def test_what_is_hardly_a_form_is_the_senders_error(client: TestClient, body: bytes) -> None:
    answer = client.post(TOKEN, content=body, headers={"Content-Type": FORM})
    assert error_of(answer) in ("invalid_request", "unsupported_grant_type")


def test_parameters_that_are_too_long_are_an_invalid_request(client: TestClient) -> None:
    register(client)
    for name, length in (("username", 300), ("password", 1025)):
        answer = client.post(TOKEN, data=PASSWORD_GRANT | {name: "x" * length})
        assert error_of(answer) == "invalid_request"
    assert error_of(renew(client, "x" * 5000)) == "invalid_request"


def test_a_very_long_form_is_refused(client: TestClient) -> None:
    answer = client.post(TOKEN, data=PASSWORD_GRANT | {"password": "x" * 1_000_000})
    assert answer.status_code == 413


def test_a_thousand_parameters_are_the_senders_error(client: TestClient) -> None:
    register(client)
    pairs = [*PASSWORD_GRANT.items(), *((f"p{i}", "x") for i in range(2000))]
    assert post_form(client, pairs).status_code in (200, 400)


def test_other_methods_are_not_allowed(client: TestClient) -> None:
    for path in (TOKEN, REVOKE):
        assert client.get(path, params=PASSWORD_GRANT).status_code == 405


# The refresh_token grant


def test_a_refresh_token_brings_new_tokens(client: TestClient, database: Database) -> None:
    register(client)
    first = get_tokens(client)
    answer = renew(client, first["refresh_token"])
    assert answer.status_code == 200
    second = answer.json()
    assert second.keys() == first.keys()
    assert second["refresh_token"] != first["refresh_token"]
    assert me(client, second["access_token"]).status_code == 200
    assert the_login(database).last == claims(second["refresh_token"])["n"]


def test_a_renewed_login_stays_the_same_login(client: TestClient) -> None:
    register(client)
    tokens = get_tokens(client)
    first = claims(tokens["access_token"])
    second = claims(renew(client, tokens["refresh_token"]).json()["access_token"])
    assert [second[name] for name in ("sub", "sid")] == [first[name] for name in ("sub", "sid")]


@pytest.mark.proves("10.4.5")
def test_a_stolen_program_login_ends_for_both_holders(
    client: TestClient, database: Database
) -> None:
    with time_machine.travel(datetime(2026, 11, 23, tzinfo=UTC), tick=False) as clock:
        register(client)
        stolen = held = get_tokens(client)["refresh_token"]
        for _ in range(2):
            clock.shift(timedelta(minutes=15))
            tokens = renew(client, held).json()
            held = tokens["refresh_token"]
        clock.shift(timedelta(minutes=2))
        assert me(client, tokens["access_token"]).status_code == 200
        theft = renew(client, stolen)
        assert error_of(theft) == "invalid_grant"
        assert "copied" in theft.json()["error_description"]
        assert all_logins(database) == []
        assert me(client, tokens["access_token"]).json()["code"] == "session_revoked"
        assert error_of(renew(client, held)) == "invalid_grant"


def test_an_expired_login_is_an_invalid_grant(client: TestClient) -> None:
    with time_machine.travel(datetime(2026, 11, 23, tzinfo=UTC), tick=False) as clock:
        register(client)
        token = get_tokens(client)["refresh_token"]
        clock.shift(timedelta(days=7))
        assert error_of(renew(client, token)) == "invalid_grant"


def test_what_is_no_refresh_token_is_an_invalid_grant(client: TestClient) -> None:
    for token in ("random", "a.b.c", "é", "\0", " "):
        assert error_of(renew(client, token)) == "invalid_grant", token


def test_an_access_token_is_no_refresh_token(client: TestClient) -> None:
    register(client)
    assert error_of(renew(client, get_tokens(client)["access_token"])) == "invalid_grant"


@pytest.mark.proves("9.2.4")
def test_the_token_of_another_deployment_is_an_invalid_grant(
    client: TestClient, database: Database, database_url: str
) -> None:
    register(client)
    get_tokens(client)
    login = the_login(database)
    assert (
        error_of(renew(client, foreign_token(database_url, login.id, login.last)))
        == "invalid_grant"
    )
    assert the_login(database).model_dump() == login.model_dump()


def foreign_token(database_url: str, login_id: UUID, n: int) -> str:
    """By somebody who knows everything but the key."""
    tokens = Tokens(make_settings(database_url, secret_key=secrets.token_hex(32)))
    end = datetime.now(UTC) + timedelta(days=1)
    return tokens.issue_refresh(login_id, "program", n, end)  # type: ignore[arg-type]


# Revocation


@pytest.mark.proves("10.4.9")
def test_revoking_the_refresh_token_ends_the_login(client: TestClient, database: Database) -> None:
    register(client)
    tokens = get_tokens(client)
    answer = revoke(client, tokens["refresh_token"])
    assert (answer.status_code, answer.content) == (200, b"")
    assert all_logins(database) == []
    assert me(client, tokens["access_token"]).json()["code"] == "session_revoked"
    assert error_of(renew(client, tokens["refresh_token"])) == "invalid_grant"


def test_revoking_the_access_token_ends_the_login_too(
    client: TestClient, database: Database
) -> None:
    register(client)
    tokens = get_tokens(client)
    assert revoke(client, tokens["access_token"]).status_code == 200
    assert all_logins(database) == []


def test_the_hint_may_be_wrong(client: TestClient, database: Database) -> None:
    register(client)
    revoke(client, get_tokens(client)["refresh_token"], token_type_hint="access_token")
    revoke(client, get_tokens(client)["access_token"], token_type_hint="refresh_token")
    revoke(client, get_tokens(client)["refresh_token"], token_type_hint="other")
    assert all_logins(database) == []


def test_an_older_token_of_the_login_revokes_it_as_well(
    client: TestClient, database: Database
) -> None:
    register(client)
    older = get_tokens(client)["refresh_token"]
    renew(client, older)
    assert revoke(client, older).status_code == 200
    assert all_logins(database) == []


def test_an_expired_access_token_still_logs_out(client: TestClient, database: Database) -> None:
    with time_machine.travel(datetime(2026, 11, 23, tzinfo=UTC), tick=False) as clock:
        register(client)
        token = get_tokens(client)["access_token"]
        clock.shift(timedelta(hours=1))
        assert revoke(client, token).status_code == 200
        assert all_logins(database) == []


def test_revoking_ends_that_login_only(client: TestClient) -> None:
    sign_up_and_in(client)
    other = get_tokens(client)
    bobs_browser = other_browser(client)
    sign_up_and_in(bobs_browser, BOB)
    revoke(client, get_tokens(client)["refresh_token"])
    assert who_am_i(client).status_code == 200
    assert who_am_i(bobs_browser).status_code == 200
    assert me(client, other["access_token"]).status_code == 200


def test_the_token_of_a_cookie_may_be_revoked(client: TestClient) -> None:
    for token in (refresh_token, access_token):
        other = other_browser(client)
        register(other)
        log_in(other)
        assert revoke(client, token(other)).status_code == 200
        assert who_am_i(other).json()["code"] == "session_revoked"


def test_revoking_what_is_no_token_succeeds(client: TestClient, database: Database) -> None:
    """RFC 7009, 2.2: the client could do nothing about it."""
    register(client)
    get_tokens(client)
    for token in ("", "random", "a.b.c", "é\0", "x" * 10_000):
        answer = revoke(client, token)
        assert (answer.status_code, answer.content) == (200, b""), token
    assert len(all_logins(database)) == 1


def test_revoking_the_token_of_another_deployment_ends_nothing(
    client: TestClient, database: Database, database_url: str
) -> None:
    register(client)
    get_tokens(client)
    login = the_login(database)
    assert revoke(client, foreign_token(database_url, login.id, login.last)).status_code == 200
    assert len(all_logins(database)) == 1


def test_revoking_twice_succeeds_twice(client: TestClient) -> None:
    register(client)
    token = get_tokens(client)["refresh_token"]
    assert [revoke(client, token).status_code for _ in range(2)] == [200, 200]


def test_revoking_nothing_succeeds(client: TestClient) -> None:
    assert client.post(REVOKE).status_code == 200


def test_who_revokes_by_json_is_not_told_that_it_is_done(client: TestClient) -> None:
    register(client)
    token = get_tokens(client)["refresh_token"]
    assert error_of(client.post(REVOKE, json={"token": token})) == "invalid_request"


def test_revoking_does_not_touch_cookies(client: TestClient) -> None:
    sign_up_and_in(client)
    answer = revoke(client, get_tokens(client)["refresh_token"])
    assert "set-cookie" not in answer.headers
    assert who_am_i(client).status_code == 200


def test_logging_out_with_cookies_leaves_programs_alone(client: TestClient) -> None:
    sign_up_and_in(client)
    tokens = get_tokens(client)
    log_out(client)
    assert me(client, tokens["access_token"]).status_code == 200


# Another site's page


@pytest.mark.parametrize("path", [TOKEN, REVOKE])
def test_a_page_elsewhere_may_not_use_these_endpoints(client: TestClient, path: str) -> None:
    register(client)
    origin = {"Origin": "https://evil.example"}
    answer = client.post(path, data=PASSWORD_GRANT, headers=origin)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")


# Switched off: ENABLE_TOKEN_ENDPOINT=false


@pytest.fixture
def without_endpoint(make_client: ClientFactory) -> TestClient:
    return make_client(enable_token_endpoint=False, enable_docs=True)


@pytest.mark.proves("10.4.4")
def test_the_endpoints_can_be_switched_off(without_endpoint: TestClient) -> None:
    register(without_endpoint)
    for path in (TOKEN, REVOKE):
        answer = without_endpoint.post(path, data=PASSWORD_GRANT)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_cookies_work_without_the_endpoints(without_endpoint: TestClient) -> None:
    sign_up_and_in(without_endpoint)
    assert refresh(without_endpoint).status_code == 200


def test_the_document_does_not_offer_what_is_switched_off(without_endpoint: TestClient) -> None:
    document = without_endpoint.get("/openapi.json").json()
    components = document["components"]
    assert not {TOKEN, REVOKE} & document["paths"].keys()
    # TokenPair stays: a program that was logged in before may still change its password.
    assert "OAuth2Problem" not in components["schemas"]
    schemes = components.get("securitySchemes", {}).values()
    assert "oauth2" not in [scheme["type"] for scheme in schemes]


def test_the_document_says_how_to_authorize(make_client: ClientFactory) -> None:
    document = make_client(enable_docs=True).get("/openapi.json").json()
    assert {TOKEN, REVOKE} <= document["paths"].keys()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert scheme["flows"]["password"]["tokenUrl"] == TOKEN
