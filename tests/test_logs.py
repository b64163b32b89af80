"""The log: one JSON object a line, and in none of them a password, a token, a cookie or a query.

The ids (ER-05 …) are those of the list of attacks.
"""

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from passlib.hash import pbkdf2_sha256
from sqlalchemy import text

from app.db.session import Database
from app.main import create_app
from tests.conftest import ClientFactory, make_settings, running_server
from tests.journal import Journal
from tests.people import ADA, BOB, bearer, get_tokens, log_in, log_out, refresh, register, who_am_i
from tests.rows import change_login, change_user, execute

LOGIN = "/api/v1/auth/login"
TOKEN = "/api/v1/auth/token"
JSON = {"Content-Type": "application/json"}
CANARY = "canary-7391-never-in-a-log"
PASSWORD = f"{CANARY} and then some more"
CANARY_PERSON = ADA | {"password": PASSWORD}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def journal(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Journal:
    # The test's own HTTP client logs addresses with their queries, in this same process.
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)
    return Journal()


@pytest.fixture(autouse=True)
def _standard_streams(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing gets out beside the log either: no print, no warning, no traceback."""
    yield
    out, err = capfd.readouterr()
    assert CANARY not in out + err


def assert_no_secret(journal: Journal, *secrets: str) -> None:
    assert journal.requests
    for secret in (CANARY, *secrets):
        assert secret not in journal.text
        assert secret[:-1] not in journal.text
    assert "eyJ" not in journal.text  # how every JWT begins
    assert "$argon2" not in journal.text


# Secrets


@pytest.mark.proves("14.2.1", "16.2.5", "UL-01", "ER-05")
def test_a_whole_story_in_cookies_leaves_no_secret(client: TestClient, journal: Journal) -> None:
    """ER-05, UL-01."""
    tokens = []
    register(client, CANARY_PERSON)
    for step in (
        lambda: log_in(client, CANARY_PERSON),
        lambda: who_am_i(client),
        lambda: refresh(client),
        lambda: client.get("/api/v1/users/me/sessions"),
        lambda: log_in(client, CANARY_PERSON),
        lambda: client.delete("/api/v1/users/me/sessions"),
    ):
        assert step().status_code < 300
        tokens += list(client.cookies.values())
    log_out(client)
    assert len(journal.requests) == 8
    assert_no_secret(journal, *tokens)


@pytest.mark.proves("16.2.5", "UL-01", "ER-05")
def test_a_whole_story_with_tokens_leaves_no_secret(client: TestClient, journal: Journal) -> None:
    """ER-05, UL-01."""
    register(client, CANARY_PERSON)
    first = get_tokens(client, CANARY_PERSON)
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = client.post(TOKEN, data=form).json()
    headers = bearer(second["access_token"])
    client.get("/api/v1/users/me", headers=headers)
    client.get("/api/v1/users/me/sessions", headers=headers)
    client.post("/api/v1/auth/revoke", data={"token": second["refresh_token"]})
    client.get("/api/v1/users/me", headers=headers)
    found = [token for pair in (first, second) for token in pair.values() if len(str(token)) > 20]
    assert len(found) == 4
    assert_no_secret(journal, *found)


@pytest.mark.proves("16.2.5", "ER-05")
def test_refusals_leave_no_secret(client: TestClient, journal: Journal) -> None:
    """ER-05: 400, 401, 403, 404, 405, 409, 413, 415 and 422, with a canary wherever one fits."""
    register(client)
    headers = {
        "Authorization": f"Bearer {CANARY}",
        "Cookie": f"__Host-access={CANARY}; __Host-refresh={CANARY}; {CANARY}={CANARY}",
        "X-Api-Key": CANARY,
        "User-Agent": CANARY,
        "Referer": f"https://example.com/?{CANARY}",
    }
    query = {"token": CANARY, CANARY: CANARY}
    body = {"email": CANARY, "password": CANARY, CANARY: CANARY}
    statuses = set()
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in (LOGIN, TOKEN, "/api/v1/users/me", "/api/v1/auth/refresh", "/nowhere"):
            for content in (
                {},
                {"json": body},
                {"data": body | {"grant_type": CANARY}},
                {"content": f'{{"{CANARY}'},
                {"content": CANARY * 3000},
            ):
                answer = client.request(method, path, params=query, headers=headers, **content)  # type: ignore[arg-type]
                statuses.add(answer.status_code)
    answer = client.post(LOGIN, headers=headers | {"Origin": f"https://{CANARY}.example"})
    statuses.add(answer.status_code)
    answer = register(client, ADA | {"password": PASSWORD})
    statuses.add(answer.status_code)
    answer = client.post(LOGIN, content=b"\xff" + CANARY.encode(), headers=JSON)
    statuses.add(answer.status_code)
    assert statuses >= {400, 401, 403, 404, 405, 409, 413, 422}
    assert max(statuses) < 500
    assert_no_secret(journal)


@pytest.mark.proves("ER-05")
def test_wrong_credentials_leave_no_secret(client: TestClient, journal: Journal) -> None:
    """ER-05: people type their password into the field for the address."""
    register(client)
    log_in(client, CANARY_PERSON)
    log_in(client, {"email": f"{CANARY}@example.com", "password": PASSWORD})
    form = {"grant_type": "password", "username": PASSWORD, "password": PASSWORD}
    client.post(TOKEN, data=form)
    client.post(TOKEN, data=form | {"username": f"{CANARY}@example.com"})
    assert len(journal.events("login_failed")) == 3
    assert_no_secret(journal)


@pytest.mark.proves("ER-05")
def test_tokens_that_are_refused_leave_no_secret(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ER-05: of an ended login, and of a theft."""
    client = make_client(refresh_grace_seconds=0)
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)
    journal = Journal()
    register(client)
    log_in(client)
    stolen = dict(client.cookies)
    refresh(client)
    client.cookies.clear()
    cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in stolen.items())}
    assert client.post("/api/v1/auth/refresh", headers=cookie).json()["code"] == "token_reused"
    assert client.post("/api/v1/auth/refresh", headers=cookie).json()["code"] == "session_revoked"
    assert client.get("/api/v1/users/me", headers=cookie).json()["code"] == "session_revoked"
    assert_no_secret(journal, *stolen.values())
    (theft,) = journal.events("token_reused")
    assert theft["login_id"]


FAILING = [
    "app.services.authentication.authenticate",
    "app.services.authentication.find_who_tries",
    "app.core.hashing.verify",
    "app.services.new_logins.insert_login",
    "app.api.v1.auth.set_cookies",
]


@pytest.mark.proves("16.2.5", "16.3.4", "ER-05")
@pytest.mark.parametrize("place", FAILING)
def test_an_unexpected_error_is_logged_without_secrets(
    client: TestClient, journal: Journal, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """ER-05: the traceback names the place, and holds no value of any variable."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something broke")

    register(client, CANARY_PERSON)
    monkeypatch.setattr(place, fail)
    answer = log_in(client, CANARY_PERSON)
    assert answer.status_code == 500
    assert_no_secret(journal)
    (entry,) = [entry for entry in journal.entries if "traceback" in entry]
    assert entry["level"] == "error"
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert "RuntimeError: something broke" in entry["traceback"]


@pytest.mark.proves("16.3.4", "ER-05")
@pytest.mark.parametrize("table", ["users", "logins"])
def test_an_error_of_the_database_is_logged_without_values(
    client: TestClient, journal: Journal, database: Database, table: str
) -> None:
    """ER-05: neither the address, nor the hash, nor who logged in from where."""
    register(client, CANARY_PERSON)
    drop = text(f"ALTER TABLE {table} RENAME TO canaries")
    database.run_write(execute, drop)
    answer = log_in(client, CANARY_PERSON | {"email": f"{CANARY}@example.com"})
    assert answer.status_code == 503
    assert log_in(client, CANARY_PERSON).status_code == 503
    assert who_am_i(client).status_code == 401
    assert_no_secret(journal, ADA["email"])


@pytest.mark.proves("ER-05")
def test_a_constraint_that_fails_is_logged_without_values(
    client: TestClient, journal: Journal, database: Database
) -> None:
    """ER-05: SQLAlchemy would print the row, PostgreSQL the key."""
    register(client, CANARY_PERSON)
    trigger = "CREATE TRIGGER t BEFORE INSERT ON logins BEGIN SELECT RAISE(FAIL, 'no'); END"
    database.run_write(execute, text(trigger))
    assert log_in(client, CANARY_PERSON).status_code == 500
    assert_no_secret(journal, ADA["email"])
    assert "hidden" in journal.text  # "SQL parameters hidden due to hide_parameters=True"


@pytest.mark.proves("ER-05")
def test_what_postgresql_says_of_a_row_is_not_logged(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ER-05: its DETAIL spells out the row that failed, address and hash included. SQLAlchemy's
    hide_parameters does not reach into it.
    """
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)
    app = create_app(make_settings(postgresql_url))
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
        journal = Journal()
        register(client, CANARY_PERSON)
        database: Database = app.state.backend.database
        older = pbkdf2_sha256.using(rounds=1000).hash(PASSWORD)
        change_user(database, ADA["email"], hashed_password=older)
        with no_new_hashes(database):
            assert log_in(client, CANARY_PERSON).status_code == 500
    assert "CheckViolation" in journal.text
    assert_no_secret(journal, ADA["email"])


@contextmanager
def no_new_hashes(database: Database) -> Iterator[None]:
    """A constraint that the replacement of an older hash violates."""
    rule = "CHECK (hashed_password NOT LIKE '$argon2%') NOT VALID"
    add, drop = f"ADD CONSTRAINT no_new_hashes {rule}", "DROP CONSTRAINT no_new_hashes"
    database.run_write(execute, text(f"ALTER TABLE users {add}"))
    try:
        yield
    finally:
        database.run_write(execute, text(f"ALTER TABLE users {drop}"))


@pytest.mark.proves("14.2.4")
def test_addresses_of_people_are_not_logged(client: TestClient, journal: Journal) -> None:
    """Ids are enough for an operator, and the log needs no erasing when an account is deleted."""
    register(client)
    log_in(client)
    log_in(client, BOB)
    register(client)
    assert ADA["email"] not in journal.text
    assert BOB["email"] not in journal.text


# The access line


@pytest.mark.proves("16.2.1")
def test_the_access_line_says_what_happened(client: TestClient, journal: Journal) -> None:
    answer = client.get("/api/v1/users/me?token=x#fragment", headers={"X-Request-ID": "my-own-id"})
    (line,) = journal.entries
    assert line.pop("time")
    duration = line.pop("duration_ms")
    assert isinstance(duration, float)
    assert 0 < duration < 60_000
    assert line == {
        "level": "info",
        "request_id": "my-own-id",
        "event": "request",
        "method": "GET",
        "path": "/api/v1/users/me",
        "status": 401,
        "code": "not_authenticated",
        "client": "testclient",
    }
    assert answer.json()["request_id"] == "my-own-id"


def test_the_access_line_says_who_it_was(client: TestClient, journal: Journal) -> None:
    register(client)
    session = log_in(client).json()
    who_am_i(client)
    line = journal.requests[-1]
    assert line["user_id"] == session["user"]["id"]
    assert line["login_id"] == session["session"]["id"]
    assert "code" not in line


@pytest.mark.proves("16.3.2", "16.3.3", "JWT-01")
@pytest.mark.parametrize(
    ("method", "path", "options", "code"),
    [
        ("GET", "/nowhere", {}, "not_found"),
        ("GET", LOGIN, {}, "method_not_allowed"),
        ("POST", LOGIN, {}, "validation_failed"),
        ("POST", LOGIN, {"content": b"\xff", "headers": JSON}, "bad_request"),
        ("POST", LOGIN, {"content": b"x" * 70_000}, "content_too_large"),
        ("POST", LOGIN, {"headers": {"Origin": "null"}}, "cross_origin"),
        ("POST", LOGIN, {"json": ADA}, "invalid_credentials"),
        ("POST", "/api/v1/auth/refresh", {}, "not_authenticated"),
        ("GET", "/api/v1/users/me", {"headers": bearer("e.x.y")}, "not_authenticated"),
    ],
)
def test_the_access_line_has_the_code_of_the_refusal(
    client: TestClient,
    journal: Journal,
    method: str,
    path: str,
    options: dict[str, Any],
    code: str,
) -> None:
    """JWT-01: a forged token is in the log, as a refusal, without the token."""
    answer = client.request(method, path, **options)
    (line,) = journal.requests
    assert (line["method"], line["path"], line["status"]) == (method, path, answer.status_code)
    assert line["code"] == answer.json()["code"] == code
    assert line["request_id"] == answer.headers["x-request-id"]


@pytest.mark.proves("RL-11")
def test_every_request_has_one_access_line(client: TestClient, journal: Journal) -> None:
    """Preflights, too: who probes which origins are allowed is to be seen."""
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    client.get("/health/live")
    client.head("/health/live")
    client.options(LOGIN)
    client.options(LOGIN, headers=preflight)
    assert [line["method"] for line in journal.requests] == ["GET", "HEAD", "OPTIONS", "OPTIONS"]


@pytest.mark.proves("16.3.4")
def test_an_unexpected_error_is_an_error_in_the_access_line(
    client: TestClient, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("app.services.authentication.authenticate", fail)
    log_in(client)
    (line,) = journal.requests
    assert (line["level"], line["status"], line["code"]) == ("error", 500, "internal_error")


@pytest.mark.proves("16.2.4")
def test_security_events_share_the_request_id(client: TestClient, journal: Journal) -> None:
    for name, act in (
        ("user_created", register),
        ("login_started", log_in),
        ("login_ended", log_out),
        ("login_failed", lambda same: log_in(same, BOB)),
    ):
        answer = act(client)
        (event,) = journal.events(name)
        assert event["request_id"] == answer.headers["x-request-id"]


@pytest.mark.proves("16.3.2")
def test_a_refused_refresh_says_whose_session_it_was(
    client: TestClient, journal: Journal, database: Database
) -> None:
    """Nobody is logged in any more, so the access line cannot tell."""
    register(client)
    session = log_in(client).json()
    change_login(database, expires_at=datetime.now(UTC))
    assert refresh(client).status_code == 401
    (line,) = journal.events("session_expired")
    assert line["user_id"] == session["user"]["id"]
    assert line["login_id"] == session["session"]["id"]


# One line stays one line (ASVS 5.0, 16.4.1)


@pytest.mark.proves("16.4.1")
@pytest.mark.parametrize(
    "path",
    [
        "/%0d%0a%7b%22event%22:%22forged%22%7d",
        "/%0aINFO",
        "/%1b%5b31mred",
        "/%00",
        "/%c2%85next-line",
        "/%e2%80%a8line-separator",
        "/%e2%80%aeright-to-left",
        "/%ff%fe",
        "/%22,%22status%22:200,%22x%22:%22",
    ],
)
def test_a_path_with_control_characters_stays_one_line(
    client: TestClient, journal: Journal, path: str
) -> None:
    client.get(path)
    assert_one_clean_line(journal)
    (line,) = journal.requests
    assert (line["event"], line["status"]) == ("request", 404)


def assert_one_clean_line(journal: Journal) -> None:
    assert journal.text.count("\n") == 1
    assert journal.text.endswith("\n")
    assert journal.text.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", journal.text)


@pytest.mark.proves("16.4.1")
@pytest.mark.parametrize(
    "name", ["User-Agent", "X-Request-ID", "X-Forwarded-For", "Host", "Origin"]
)
@pytest.mark.parametrize(
    "value", [b'a\r\n{"event":"forged"}', b"a\nb", b"\x1b[31m", b"a\x00b", b"\xe2\x80\xa8", b"\x85"]
)
def test_a_header_with_control_characters_stays_one_line(
    client: TestClient, journal: Journal, name: str, value: bytes
) -> None:
    """Servers refuse most of these. The log does not rely on that."""
    client.get("/health/live", headers=[(name.encode(), value)])
    assert_one_clean_line(journal)
    assert "forged" not in journal.text


@pytest.mark.proves("RL-11")
def test_a_long_path_does_not_fill_the_disk(client: TestClient, journal: Journal) -> None:
    """RL-11."""
    client.get("/" + "x" * 50_000)
    assert len(journal.text) < 2000


def test_a_log_in_with_a_forged_user_agent_stays_one_line_each(
    client: TestClient, journal: Journal
) -> None:
    register(client)
    agent = [(b"User-Agent", b'x\n{"event":"login_started","user_id":"forged"}')]
    client.post(LOGIN, json=ADA, headers=agent)
    (started,) = journal.events("login_started")  # and every line is JSON
    assert started["user_agent"] == 'x{"event":"login_started","user_id":"forged"}'
    assert "forged" not in [entry.get("user_id") for entry in journal.entries]


# What others write


@pytest.mark.proves("16.2.3", "16.2.4", "UL-01")
def test_a_real_server_writes_nothing_but_json(sqlite_url: str) -> None:
    """UL-01: uvicorn's access log would show queries, and its messages are plain text."""
    with running_server(create_app(make_settings(sqlite_url))) as base:
        journal = Journal()
        for request in (
            f"GET /nowhere?token={CANARY} HTTP/1.1\r\nHost: x\r\nCookie: a={CANARY}\r\n",
            f"GET /%0d%0a?{CANARY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CANARY}\r\n",
            f"{CANARY} nonsense\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\nX: {CANARY}\x00\r\n",
        ):
            assert exchange(base, request).startswith("HTTP/1.1 4")
    assert CANARY not in journal.text
    assert [line["path"] for line in journal.requests] == ["/nowhere", "/\r\n"]
    assert all(line["client"] == "127.0.0.1" for line in journal.requests)
    assert all({"time", "level"} <= entry.keys() for entry in journal.entries)


def exchange(base: str, request: str) -> str:
    """Sent as it stands, where a client would correct it."""
    parts = urlsplit(base)
    assert parts.hostname
    assert parts.port
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"{request}Connection: close\r\n\r\n".encode("latin-1"))
        return connection.makefile("rb").read().decode("latin-1")


def test_messages_of_libraries_are_json_too(client: TestClient, journal: Journal) -> None:
    logging.getLogger("some.library").warning("two\nlines with %s", "an argument")
    (entry,) = journal.entries
    assert entry["message"] == "two\nlines with an argument"
    assert (entry["logger"], entry["level"]) == ("some.library", "warning")
    assert_one_clean_line(journal)
