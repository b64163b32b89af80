"""Errors: one shape for all, which tells the caller what to do and an attacker nothing.

The ids (ER-01 …) are those of the list of attacks.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import text

from app.api.problems import PROBLEMS
from app.core.refusals import Reason
from app.db.session import Database
from app.main import create_app
from app.services.backend import Backend
from tests.conftest import ClientFactory, make_settings
from tests.operations import (
    DOCUMENT,
    FORM_OPERATIONS,
    JSON_OPERATIONS,
    OPERATIONS,
    SOME_ID,
    Operation,
)
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
from tests.rows import execute

DOCS = Path(__file__).parents[1] / "docs" / "errors.md"
LOGIN = "/api/v1/auth/login"
TOKEN = "/api/v1/auth/token"
JSON = {"Content-Type": "application/json"}
CANARY = "canary-in-the-password-7391"

# What a stranger could look up vulnerabilities for, or find his way around the code with.
TELLTALE = re.compile(
    r"traceback|file \"|\.py\b|line \d|fastapi(?!-auth)|starlette|pydantic|sqlmodel|sqlalchemy"
    r"|uvicorn|python|pyjwt|jwt|argon|sqlite|psycopg|postgres|select |insert |exception"
    r"|/[a-z]+/[a-z]+/[a-z]+/|\d+\.\d+\.\d+",
    re.IGNORECASE,
)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture(scope="module")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """For mistakes that no database sees."""
    url = f"sqlite:///{tmp_path_factory.mktemp('errors') / 'empty.db'}"
    app = create_app(make_settings(url))
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
        yield client


def assert_problem(answer: Response, reason: Reason) -> dict[str, Any]:
    """All that every error has in common, down to the bytes that it must not contain."""
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    more = {Reason.VALIDATION_FAILED: {"errors"}, Reason.PASSWORD_TOO_SHORT: {"min_length"}}
    common = {"type", "title", "status", "detail", "code", "request_id"}
    assert body.keys() == common | more.get(reason, set())
    assert body["status"] == answer.status_code == PROBLEMS[reason].status
    assert body["code"] == reason
    assert body["type"] == f"urn:fastapi-auth:problem:{reason}"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert isinstance(body["title"], str)
    assert isinstance(body["detail"], str)
    assert_tells_nothing(answer)
    return body


def assert_tells_nothing(answer: Response) -> None:
    headers = (f"{name}: {value}" for name, value in answer.headers.items())
    shown = "\n".join([answer.text, *headers])
    assert not TELLTALE.search(shown), TELLTALE.search(shown)


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("SELECT secret FROM /srv/app/core/tokens.py, line 5")


# The list of codes


def test_each_reason_has_exactly_one_problem() -> None:
    assert set(PROBLEMS) == set(Reason)
    titles = [problem.title for problem in PROBLEMS.values()]
    assert len(set(titles)) == len(titles)
    assert all(problem.detail.endswith(".") for problem in PROBLEMS.values())


def test_what_passes_says_when_to_come_back() -> None:
    """RFC 9110, 10.2.3: every 503 has a Retry-After, and nothing else does."""
    for problem in PROBLEMS.values():
        assert (problem.retry_after is not None) == (problem.status == 503)


def test_each_code_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+)(?:, \d+)* \| .+ \| .+ \|$", DOCS.read_text(), re.M)
    documented = {code: int(status) for code, status in rows}
    oauth2 = DOCUMENT["components"]["schemas"]["OAuth2Problem"]["properties"]["error"]["enum"]
    assert [code for code, _ in rows] == [*PROBLEMS, *oauth2]
    for reason, problem in PROBLEMS.items():
        assert documented[reason] == problem.status


def test_the_documented_example_is_what_is_sent(anyone: TestClient) -> None:
    example = json.loads(DOCS.read_text().split("```json")[1].split("```")[0])
    body = who_am_i(anyone).json()
    assert body | {"request_id": ""} == example | {"request_id": ""}


# Every kind of error. The table says how to get it.

Act = Callable[[TestClient], Response]
WRONG = ADA | {"password": "not the password of anybody"}

SIMPLE: list[tuple[Reason, Act]] = [
    (Reason.NOT_AUTHENTICATED, who_am_i),
    (Reason.NOT_AUTHENTICATED, refresh),
    (Reason.NOT_AUTHENTICATED, lambda client: client.get("/api/v1/users/me", headers=bearer("x"))),
    (Reason.NOT_FOUND, lambda client: client.get("/")),
    (Reason.NOT_FOUND, lambda client: client.get("/api/v1")),
    (Reason.NOT_FOUND, lambda client: client.post("/api/v1/auth/login/", json=ADA)),
    (Reason.NOT_FOUND, lambda client: client.get("/api/v1/auth/../../etc/passwd")),
    (Reason.NOT_FOUND, lambda client: client.get("/%00%ff%0d%0a")),
    (Reason.NOT_FOUND, lambda client: client.get("/docs")),
    (Reason.METHOD_NOT_ALLOWED, lambda client: client.get(LOGIN)),
    (Reason.METHOD_NOT_ALLOWED, lambda client: client.put(TOKEN)),
    (Reason.CROSS_ORIGIN, lambda client: client.post(LOGIN, headers={"Origin": "null"})),
    (Reason.CONTENT_TOO_LARGE, lambda client: client.post(LOGIN, content=b"x" * 65_537)),
    (Reason.CONTENT_TOO_LARGE, lambda client: client.post(TOKEN, content=b"x" * 65_537)),
    (Reason.BAD_REQUEST, lambda client: client.post(LOGIN, content=b"\xff", headers=JSON)),
    (Reason.BAD_REQUEST, lambda client: client.post(LOGIN, content=b"[" * 60_000, headers=JSON)),
    (Reason.VALIDATION_FAILED, lambda client: client.post(LOGIN, content=b"{", headers=JSON)),
    (Reason.VALIDATION_FAILED, lambda client: client.post(LOGIN)),
    (Reason.VALIDATION_FAILED, lambda client: client.post(LOGIN, json=[])),
    (Reason.PASSWORD_TOO_SHORT, lambda client: register(
        client, ADA | {"password": "fourteen chars"}
    )),
    (Reason.PASSWORD_TOO_COMMON, lambda client: register(client, ADA | {"password": "a" * 15})),
    (Reason.PREFLIGHT_REFUSED, lambda client: client.options(LOGIN, headers={
        "Origin": "https://evil.example", "Access-Control-Request-Method": "POST"
    })),
    (Reason.NOT_READY, lambda client: client.get("/health/ready")),
    (Reason.NOT_READY, log_in),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "act"), SIMPLE, ids=[f"{reason}-{n}" for n, (reason, _) in enumerate(SIMPLE)]
)
def test_every_error_has_the_same_shape(anyone: TestClient, reason: Reason, act: Act) -> None:
    answer = act(anyone)
    assert_problem(answer, reason)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert "location" not in answer.headers
    retry_after = PROBLEMS[reason].retry_after
    assert answer.headers.get("retry-after") == (str(retry_after) if retry_after else None)


@pytest.mark.proves("EN-01")
def test_a_wrong_password_and_an_unknown_address_are_one_error(client: TestClient) -> None:
    """EN-01."""
    register(client)
    known, unknown = log_in(client, WRONG), log_in(client, BOB)
    assert assert_problem(known, Reason.INVALID_CREDENTIALS) | {"request_id": ""} == (
        assert_problem(unknown, Reason.INVALID_CREDENTIALS) | {"request_id": ""}
    )
    assert known.headers.keys() == unknown.headers.keys()


def test_a_taken_address_is_a_conflict(client: TestClient) -> None:
    register(client)
    assert_problem(register(client), Reason.EMAIL_TAKEN)


def test_closed_registration_is_a_problem(make_client: ClientFactory) -> None:
    assert_problem(register(make_client(registration_open=False)), Reason.REGISTRATION_CLOSED)


def test_a_wrong_host_is_a_problem(make_client: ClientFactory) -> None:
    client = make_client(allowed_hosts=("auth.example.com",))
    assert_problem(client.get("/.well-known/jwks.json"), Reason.WRONG_HOST)


def test_a_full_queue_is_a_problem(client: TestClient, backend: Backend) -> None:
    backend.passwords._room = 0
    assert_problem(log_in(client), Reason.BUSY)


@pytest.mark.proves("ER-01")
def test_a_database_that_cannot_be_reached_is_a_problem(
    make_client: ClientFactory, tmp_path: Path
) -> None:
    """ER-01: without its address, and it counts as nobody's 401."""
    url = f"sqlite:///{tmp_path / 'nowhere' / 'canary.db'}"
    client = make_client(app=create_app(make_settings(url)))
    for answer in (log_in(client), client.get("/health/ready")):
        assert_problem(answer, Reason.DATABASE_UNAVAILABLE)
        assert "canary" not in answer.text
    assert client.get("/health/live").status_code == 200


@pytest.mark.proves("ER-01")
def test_a_database_that_lacks_a_column_is_a_problem(
    client: TestClient, database: Database
) -> None:
    """ER-01: a process of the new version that runs before the migration did."""
    sign_up_and_in(client)
    drop = text("ALTER TABLE logins DROP COLUMN user_agent")
    database.run_write(execute, drop)
    for answer in (who_am_i(client), refresh(client)):
        assert_problem(answer, Reason.NOT_READY)
        assert "user_agent" not in answer.text


# 401: what a client is told


def test_a_401_says_which_scheme_to_use(anyone: TestClient) -> None:
    """RFC 9110, 15.5.2, and RFC 6750, 3.1: an error code only where a token was sent."""
    assert who_am_i(anyone).headers["www-authenticate"] == "Bearer"
    answer = anyone.get("/api/v1/users/me", headers=bearer("x"))
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.proves("8.2.1", "AZ-01")
@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.needs_login], ids=lambda one: one.name
)
def test_every_operation_of_a_user_says_401_to_a_stranger(
    anyone: TestClient, operation: Operation
) -> None:
    """AZ-01: before it looks at anything else, so there is nothing to be learnt."""
    answer = anyone.request(operation.method, operation.url)
    assert_problem(answer, Reason.NOT_AUTHENTICATED)


# 404 and 405


@pytest.mark.proves("8.2.2", "LO-08")
def test_another_users_session_and_none_are_one_404(client: TestClient) -> None:
    """LO-08: and the session of the other lives on."""
    register(client, BOB)
    bobs = get_tokens(client, BOB)
    (session,) = client.get(
        "/api/v1/users/me/sessions", headers=bearer(bobs["access_token"])
    ).json()
    sign_up_and_in(client)
    path = "/api/v1/users/me/sessions"
    theirs, nobodys = client.delete(f"{path}/{session['id']}"), client.delete(f"{path}/{SOME_ID}")
    assert assert_problem(theirs, Reason.NOT_FOUND) | {"request_id": ""} == (
        assert_problem(nobodys, Reason.NOT_FOUND) | {"request_id": ""}
    )
    answer = client.get("/api/v1/users/me", headers=bearer(bobs["access_token"]))
    assert answer.status_code == 200


@pytest.mark.proves("LO-08")
@pytest.mark.parametrize("name", ["current", "all", "0", "%00", "..", "*", "' OR 1=1 --"])
def test_a_session_id_that_is_none_ends_nothing(client: TestClient, name: str) -> None:
    """LO-08."""
    sign_up_and_in(client)
    answer = client.delete(f"/api/v1/users/me/sessions/{name}")
    assert answer.status_code in (404, 405, 422)
    assert_tells_nothing(answer)
    assert who_am_i(client).status_code == 200


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY", "FOO"]


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_a_405_lists_every_method_that_is_allowed(anyone: TestClient, path: str) -> None:
    """RFC 9110, 15.5.6, and so says `detail`."""
    allowed = {method.upper() for method in DOCUMENT["paths"][path]}
    for method in set(METHODS) - allowed:
        answer = anyone.request(method, path.replace("{session_id}", SOME_ID))
        assert_problem(answer, Reason.METHOD_NOT_ALLOWED)
        listed = {name.strip() for name in answer.headers["allow"].split(",")}
        assert listed - {"HEAD"} == allowed


# 413


def test_a_body_of_exactly_the_limit_is_read(anyone: TestClient) -> None:
    answer = anyone.post(LOGIN, content=b" " * 65_536, headers=JSON)
    assert_problem(answer, Reason.VALIDATION_FAILED)


@pytest.mark.proves("IN-01")
@pytest.mark.parametrize("operation", JSON_OPERATIONS, ids=lambda one: one.name)
def test_an_endless_body_is_cut_off(anyone: TestClient, operation: Operation) -> None:
    """IN-01: without a Content-Length it is counted as it comes."""
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            sent.append(1)
            yield b"x" * 10_000

    answer = anyone.request(operation.method, operation.url, content=endless(), headers=JSON)
    assert_problem(answer, Reason.CONTENT_TOO_LARGE)


@pytest.mark.proves("IN-01")
@pytest.mark.parametrize("operation", FORM_OPERATIONS, ids=lambda one: one.name)
def test_an_endless_form_is_cut_off(anyone: TestClient, operation: Operation) -> None:
    """IN-01."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    chunks = (b"a=" + b"x" * 10_000 for _ in range(10))
    answer = anyone.post(operation.url, content=chunks, headers=headers)
    assert_problem(answer, Reason.CONTENT_TOO_LARGE)


@pytest.mark.proves("IN-01")
def test_a_content_length_that_lies_does_not_help(anyone: TestClient) -> None:
    """IN-01."""
    for length in ("99999999999999999999", "65537"):
        answer = anyone.post(LOGIN, content=b"{}", headers=JSON | {"Content-Length": length})
        assert_problem(answer, Reason.CONTENT_TOO_LARGE)


# 422


PASSWORDS: list[Any] = [
    CANARY,
    [CANARY],
    {CANARY: CANARY},
    {"$ne": CANARY},
    f"{CANARY}\ud800",
    CANARY * 100,
    CANARY[:5],
]


@pytest.mark.proves("16.5.1")
@pytest.mark.parametrize("password", PASSWORDS, ids=lambda value: ascii(value)[:30])
@pytest.mark.parametrize("path", ["register", "login"])
@pytest.mark.parametrize("email", ["no address", 5, None, "ada@example.com"], ids=str)
def test_a_422_never_says_what_was_sent(
    anyone: TestClient, path: str, email: Any, password: Any
) -> None:
    """PWD: FastAPI's own 422 echoes `input`, so the password would be in every proxy's log."""
    body = json.dumps({"email": email, "password": password})
    answer = anyone.post(f"/api/v1/auth/{path}", content=body, headers=JSON)
    assert answer.status_code in (422, 503)  # where nothing was wrong, there was no database
    assert "canary" not in answer.text
    assert_tells_nothing(answer)


@pytest.mark.parametrize(
    "content",
    [
        f'{{"password": "{CANARY}"',
        f'{{"password": {CANARY}}}',
        f'"{CANARY}"',
        f'["{CANARY}"]',
        f"{CANARY}",
        f'{{"email": "a@b.co", "password": "{CANARY}"}} {CANARY}',
        f"email=a&password={CANARY}",
    ],
)
def test_a_body_that_is_no_object_is_not_echoed(anyone: TestClient, content: str) -> None:
    answer = anyone.post(LOGIN, content=content, headers=JSON)
    assert_problem(answer, Reason.VALIDATION_FAILED)
    assert "canary" not in answer.text


def test_a_422_says_where_and_why(anyone: TestClient) -> None:
    answer = anyone.post(LOGIN, json={"password": "", "is_admin": True})
    errors = assert_problem(answer, Reason.VALIDATION_FAILED)["errors"]
    assert {(*error["loc"], error["type"]) for error in errors} == {
        ("body", "email", "missing"),
        ("body", "password", "string_too_short"),
        ("body", "is_admin", "extra_forbidden"),
    }
    assert all(error.keys() == {"loc", "msg", "type"} for error in errors)


def test_a_422_stays_small(anyone: TestClient) -> None:
    """A thousand wrong fields with long names are no way to make a large answer."""
    body = {f"{number}{'x' * 50}": 1 for number in range(1000)}
    answer = anyone.post(LOGIN, json=body)
    assert len(assert_problem(answer, Reason.VALIDATION_FAILED)["errors"]) <= 20
    assert len(answer.content) < 10_000


@pytest.mark.proves("IN-05")
@pytest.mark.parametrize("name", ["\ud800", "\x00", "a" * 40_000, "<script>", "__proto__"])
def test_the_name_of_an_unknown_field_is_harmless(anyone: TestClient, name: str) -> None:
    """IN-05: names are the sender's. A lone surrogate cannot be encoded, so it was a 500."""
    answer = anyone.post(LOGIN, content=json.dumps(ADA | {name: 1}), headers=JSON)
    assert_problem(answer, Reason.VALIDATION_FAILED)
    assert len(answer.content) < 1000


# The token endpoint speaks OAuth2


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant"),
        ({"grant_type": "password", "username": "x", "password": CANARY}, 400, "invalid_grant"),
        ({"grant_type": "client_credentials"}, 400, "unsupported_grant_type"),
        ({"grant_type": ["password", "password"]}, 400, "invalid_request"),
        (
            {"grant_type": "password", "username": "a" * 300, "password": CANARY},
            400,
            "invalid_request",
        ),
        (
            {"grant_type": "password", "username": ADA["email"], "password": CANARY * 100},
            400,
            "invalid_request",
        ),
        (
            {"grant_type": "password", "username": ADA["email"], "password": CANARY},
            503,
            "temporarily_unavailable",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_token_endpoint_fails_as_rfc_6749_says(
    anyone: TestClient, form: dict[str, Any], status: int, error: str
) -> None:
    answer = anyone.post(TOKEN, data=form)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error", "error_description"}
    assert answer.json()["error"] == error
    assert answer.headers["cache-control"] == "no-store"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "canary" not in answer.text
    assert_tells_nothing(answer)


# 500


FAILING = [
    ("app.services.authentication.authenticate", log_in),  # in a service
    ("app.services.authentication.find_who_tries", log_in),
    ("app.core.hashing.verify", log_in),  # on a hashing thread
    ("app.services.logins.identify", who_am_i),  # in a dependency
    ("app.core.tokens.read_id", who_am_i),
    ("app.services.logins.judge", refresh),  # in a transaction
    ("app.api.v1.auth.set_cookies", refresh),  # after it
    ("app.api.csrf.is_cross_origin", refresh),  # in the middleware
    ("app.api.boundary.host_name", who_am_i),
    ("app.db.migrations.inspect", lambda client: client.get("/health/ready")),
    ("app.models.login.SessionTimes.of", refresh),  # while the answer is put together
]


@pytest.mark.proves("16.5.1", "16.5.4", "ER-01")
@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize(("place", "act"), FAILING, ids=[place for place, _ in FAILING])
def test_an_unexpected_error_tells_nothing(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, place: str, act: Act
) -> None:
    """ER-01: wherever it happens."""
    client = make_client(allowed_hosts=("testserver",))
    sign_up_and_in(client)
    monkeypatch.setattr(place, fail)
    answer = act(client)
    assert_problem(answer, Reason.INTERNAL_ERROR)
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers


@pytest.mark.proves("ER-01")
@pytest.mark.parametrize("operation", FORM_OPERATIONS, ids=lambda one: one.name)
def test_an_unexpected_error_at_the_token_endpoint_tells_nothing(
    anyone: TestClient, monkeypatch: pytest.MonkeyPatch, operation: Operation
) -> None:
    """ER-01."""
    monkeypatch.setattr("app.core.tokens.Tokens.login_of", fail)
    monkeypatch.setattr("app.services.authentication.authenticate", fail)
    form = {"grant_type": "password", "username": ADA["email"], "password": CANARY, "token": "x"}
    assert_problem(anyone.post(operation.url, data=form), Reason.INTERNAL_ERROR)


@pytest.mark.proves("16.5.4", "ER-01")
@pytest.mark.usefixtures("crowded")
def test_after_an_unexpected_error_the_service_goes_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ER-01: and nothing of what failed was committed."""
    sign_up_and_in(client)
    with monkeypatch.context() as patch:
        patch.setattr("app.services.logins.judge", fail)
        for _ in range(20):  # more than there are connections and threads
            assert refresh(client).status_code == 500
    assert refresh(client).status_code == 200
    assert who_am_i(client).status_code == 200


@pytest.mark.proves("16.5.1", "ER-01")
def test_an_error_of_the_database_shows_neither_statement_nor_values(
    client: TestClient, database: Database
) -> None:
    """ER-01."""
    register(client)
    trigger = "CREATE TRIGGER t BEFORE INSERT ON logins BEGIN SELECT RAISE(FAIL, 'canary'); END"
    database.run_write(execute, text(trigger))
    answer = log_in(client)
    assert_problem(answer, Reason.INTERNAL_ERROR)
    assert "canary" not in answer.text
