"""Who may call what, and touch which rows and fields: docs/security.md, exercised."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import Session

from app.core.hashing import context
from app.core.identifiers import new_id
from app.core.moments import to_microseconds
from app.core.tokens import ClientId
from app.db.session import Database
from app.main import create_app
from app.models import Login, User
from app.models.user import UserInvite, UserPublic, UserUpdate, UserUpdateByAdmin
from tests.conftest import ClientFactory, make_settings
from tests.links import MAIL
from tests.operations import OPERATIONS, SOME_ID, Operation
from tests.people import ADA, bearer, get_tokens, log_in, register
from tests.rows import all_users, change_user, the_user
from tests.security.document import table

MATRIX = {row.pop("route"): row for row in table("Who may call what")}
CALLERS = {
    "nobody": None,
    "user": {},
    "forced": {"must_change_password": True},
    "disabled": {"is_active": False},
    "administrator": {"is_admin": True},
}
UNKNOWN = {"not_authenticated", "session_revoked"}
NOT_ALLOWED = {"forbidden", "password_change_required"}


def route_of(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.mark.proves("8.1.1")
def test_the_matrix_lists_every_operation_and_no_other() -> None:
    assert sorted(MATRIX) == sorted(route_of(operation) for operation in OPERATIONS)


@pytest.mark.proves("8.1.1")
def test_what_is_not_in_the_document_is_listed_too() -> None:
    """Hidden routes, found where FastAPI keeps them and not where it documents them."""
    settings = make_settings("sqlite:///./never-opened.db", debug=True, enable_metrics=True)
    hidden = {path for path, documented in all_routes(create_app(settings)) if not documented}
    pages = {"/", "/docs", "/redoc", "/openapi.json", "/metrics"}
    assets = {path for path in hidden if path.startswith(("/docs/assets/", "/account"))}
    assert hidden - assets == pages


def all_routes(app: Any) -> Iterator[tuple[str, bool]]:
    for route in app.routes:
        yield route.path, route.include_in_schema


@pytest.mark.proves("8.1.1", "8.2.1", "8.3.1", "AZ-01")
@pytest.mark.parametrize("kind", CALLERS)
def test_every_operation_lets_in_whom_the_matrix_says(client: TestClient, kind: str) -> None:
    found = {route_of(one): verdict(call(client, one, caller(client, kind))) for one in OPERATIONS}
    assert found == {route: row[kind] for route, row in MATRIX.items()}


def caller(client: TestClient, kind: str) -> dict[str, str]:
    """The headers of somebody with a login of a browser, made of rows: nothing is hashed for it."""
    values = CALLERS[kind]
    if values is None:
        return {}
    backend = client.app.state.backend  # type: ignore[attr-defined]
    now = datetime.now(UTC)
    end = now + timedelta(days=1)
    user = User(email=f"{new_id()}@example.com", hashed_password="!", **values)
    login = Login(
        user_id=user.id,
        client_id=ClientId.BROWSER,
        user_agent="",
        ip_address="",
        created_at=now,
        expires_at=end,
        last=to_microseconds(now),
    )
    user_id, login_id = user.id, login.id
    backend.database.run_write(insert, user, login)
    access, _ = backend.tokens.issue_access(user_id, login_id, ClientId.BROWSER, end)
    refresh = backend.tokens.issue_refresh(login_id, ClientId.BROWSER, to_microseconds(now), end)
    return {"Cookie": f"__Host-access={access}; __Host-refresh={refresh}"}


def insert(session: Session, user: User, login: Login) -> None:
    session.add(user)
    session.flush()
    session.add(login)


def call(client: TestClient, operation: Operation, headers: dict[str, str]) -> Response:
    url = operation.path.replace("{session_id}", SOME_ID).replace("{user_id}", SOME_ID)
    kind = "json" if operation.media_type == "application/json" else "data"
    body: dict[str, Any] = {kind: operation.example} if operation.media_type else {}
    client.cookies.clear()
    return client.request(operation.method, url, headers=headers, **body)


def verdict(answer: Response) -> str:
    assert answer.status_code < 500, answer.text
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    code = answer.json()["code"] if is_problem else None
    if code in UNKNOWN or code in NOT_ALLOWED:
        return str(answer.status_code)
    return "yes"


@pytest.mark.proves("8.1.1", "6.3.4")
def test_an_unverified_user_cannot_log_in_where_that_is_required(
    make_client: ClientFactory, database: Database
) -> None:
    """By neither way; and a session from before goes on."""
    client = make_client(require_verified_email=True, **MAIL)
    before = caller(client, "user")
    [unverified] = all_users(database)
    hashed_password = context().hash(ADA["password"])
    change_user(database, unverified.email, hashed_password=hashed_password)
    person = {"email": unverified.email, "password": ADA["password"]}
    form = {"grant_type": "password", "username": person["email"], "password": person["password"]}
    assert log_in(client, person).json()["code"] == "invalid_credentials"
    assert client.post("/api/v1/auth/token", data=form).json()["error"] == "invalid_grant"
    assert client.get("/api/v1/users/me", headers=before).status_code == 200
    change_user(database, unverified.email, email_verified=True)
    assert log_in(client, person).status_code == 200


@pytest.mark.proves("8.2.2")
@pytest.mark.parametrize("kind", ["user", "administrator"])
def test_nobody_ends_a_session_of_somebody_else_by_its_id(
    client: TestClient, database: Database, kind: str
) -> None:
    """An administrator has a route of their own for that, which leaves another trace."""
    victim = get_session_id(client, caller(client, "user"))
    headers = caller(client, kind)
    answer = client.delete(f"/api/v1/users/me/sessions/{victim}", headers=headers)
    unknown = client.delete(f"/api/v1/users/me/sessions/{SOME_ID}", headers=headers)
    assert answer.status_code == unknown.status_code == 404
    without_id = [{**one.json(), "request_id": ""} for one in (answer, unknown)]
    assert without_id[0] == without_id[1]
    assert database.run_read(lambda session: session.get(Login, UUID(victim)))


def get_session_id(client: TestClient, headers: dict[str, str]) -> str:
    [session] = client.get("/api/v1/users/me/sessions", headers=headers).json()
    found: str = session["id"]
    return found


@pytest.mark.proves("8.3.1")
def test_what_a_caller_says_about_their_rights_changes_nothing(client: TestClient) -> None:
    register(client)
    headers = bearer(get_tokens(client)["access_token"])
    for name, value in (
        ("X-User-Role", "admin"),
        ("X-Admin", "true"),
        ("X-User-Id", SOME_ID),
        ("X-Forwarded-User", "admin"),
        ("Cookie", "role=admin; is_admin=1"),
    ):
        answer = client.get("/api/v1/users?is_admin=true", headers=headers | {name: value})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.proves("8.4.2", "4.1.3")
def test_being_on_this_machine_makes_nobody_an_administrator(make_client: ClientFactory) -> None:
    client = make_client(trusted_proxies="127.0.0.0/8")
    client = TestClient(client.app, base_url="https://testserver", client=("127.0.0.1", 50000))
    forwarded = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}
    for headers in ({}, forwarded):
        assert client.get("/api/v1/users", headers=headers).status_code == 401


@pytest.mark.proves("8.3.2", "AC-03")
def test_a_former_administrator_is_refused_at_the_next_request(
    client: TestClient, database: Database
) -> None:
    register(client)
    headers = bearer(get_tokens(client)["access_token"])
    change_user(database, ADA["email"], is_admin=True)
    assert client.get("/api/v1/users", headers=headers).status_code == 200
    change_user(database, ADA["email"], is_admin=False)
    assert client.get("/api/v1/users", headers=headers).status_code == 403


# Fields

FIELDS = {row["field"]: row for row in table("Fields")}


@pytest.mark.proves("8.1.2")
def test_the_fields_are_those_of_the_table() -> None:
    assert {*FIELDS} == {*User.model_fields}


@pytest.mark.proves("8.1.2", "8.2.3", "14.2.6", "15.3.1")
def test_an_answer_about_a_user_holds_what_may_be_read_and_no_more() -> None:
    readable = {name for name, row in FIELDS.items() if row["read"] != "nobody"}
    assert {*UserPublic.model_fields} == readable
    assert "hashed_password" not in readable


@pytest.mark.proves("8.1.2", "8.2.3", "15.3.3")
def test_nobody_writes_a_field_but_who_may() -> None:
    by_admin = {name for name, row in FIELDS.items() if "admin" in row["write"].split(";")[0]}
    assert {*UserUpdateByAdmin.model_fields} == by_admin
    assert {*UserUpdate.model_fields} == {"full_name"}
    assert {*UserInvite.model_fields} == {"email", "full_name", "is_admin"}


NOT_FOR_WRITING = [
    *("password", "new_password", "hashed_password", "email", "id", "email_verified"),
    *("created_at", "password_changed_at", "last_login_at", "role", "isAdmin", "scopes"),
]


@pytest.mark.proves("6.2.3", "8.2.3", "15.3.3", "PW-04")
@pytest.mark.parametrize("route", ["/api/v1/users/me", "/api/v1/users/{id}"])
def test_a_field_that_is_not_for_writing_is_refused(
    client: TestClient, database: Database, route: str
) -> None:
    """Also for an administrator, and also beside one that is."""
    register(client)
    change_user(database, ADA["email"], is_admin=True)
    headers = bearer(get_tokens(client)["access_token"])
    before = the_user(database, ADA["email"])
    for field in NOT_FOR_WRITING:
        changes = {"full_name": "Ada King", field: "true"}
        answer = client.patch(route.format(id=before.id), json=changes, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), field
    assert the_user(database, ADA["email"]) == before
