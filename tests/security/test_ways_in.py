"""Every way to get authenticated, and that there is no other."""

import re
from typing import Any

import jwt
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import SQLModel

from app.db.session import Database
from app.main import create_app
from app.models.mail import Purpose
from tests.conftest import make_settings
from tests.links import mint, reset, verify
from tests.operations import DOCUMENT, OPERATIONS, Operation
from tests.people import ADA, bearer, get_tokens, log_in, refresh, register, sign_up_and_in
from tests.rows import all_users, change_user
from tests.security.document import table

TOKEN_SHAPES = {"SessionStarted", "SessionRefreshed", "TokenPair"}


@pytest.mark.proves("6.1.3", "6.3.4")
def test_the_operations_that_start_or_go_on_with_a_session_are_those_of_the_table() -> None:
    told = {re.split("[, ]", row["way"])[1] for row in table("Ways in")}
    found = {one.path for one in OPERATIONS if answers_with(one) & TOKEN_SHAPES}
    assert found == {f"/api/v1{path}" for path in told}


def answers_with(operation: Operation) -> set[str]:
    """The schemas of its success."""
    responses = operation.documented["responses"]
    good = [body for status, body in responses.items() if status.startswith("2")]
    return set(re.findall(r"#/components/schemas/(\w+)", str(good)))


@pytest.mark.proves("6.1.3")
def test_every_way_in_says_what_it_proves_and_what_guards_it() -> None:
    assert all(all(row.values()) for row in table("Ways in"))


def tokens_in(answer: Response) -> list[str]:
    """Of a session. What marks a device as known opens nothing by itself."""
    sent = " ".join([*answer.headers.get_list("set-cookie"), answer.text])
    types = [
        jwt.get_unverified_header(token)["typ"]
        for token in re.findall(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", sent)
    ]
    return [typ for typ in types if typ != "dt+jwt"]


@pytest.mark.proves("6.3.4", "6.3.6", "RS-10")
def test_neither_signing_up_nor_a_mailed_link_logs_anybody_in(client: TestClient) -> None:
    answers = [
        register(client),
        verify(client, mint(client, Purpose.VERIFY_EMAIL)),
        reset(client, mint(client, Purpose.RESET_PASSWORD), "eleven quiet otters swimming"),
    ]
    assert [answer.status_code for answer in answers] == [201, 204, 204]
    assert [tokens_in(answer) for answer in answers] == [[], [], []]
    started = log_in(client, ADA | {"password": "eleven quiet otters swimming"})
    assert tokens_in(started) == ["at+jwt", "rt+jwt"]


@pytest.mark.proves("6.3.4")
@pytest.mark.parametrize("state", [{"is_active": False}, {"hashed_password": "!"}])
def test_every_way_in_refuses_the_same_accounts(
    client: TestClient, database: Database, state: dict[str, Any]
) -> None:
    sign_up_and_in(client)
    change_user(database, ADA["email"], **state)
    form = {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}
    answers = [log_in(client), client.post("/api/v1/auth/token", data=form)]
    assert [answer.status_code for answer in answers] == [401, 400]
    assert [tokens_in(answer) for answer in answers] == [[], []]


@pytest.mark.proves("6.3.2", "AC-05")
def test_a_new_database_has_no_account(client: TestClient, database: Database) -> None:
    assert all_users(database) == []
    for name in ("admin", "root", "test", "user", "admin@example.com", "admin@localhost"):
        for password in ("admin", "root", "password", "changethis", "changeme", name):
            form = {"grant_type": "password", "username": name, "password": password}
            answer = client.post("/api/v1/auth/token", data=form)
            assert answer.status_code in (400, 429), name
            assert tokens_in(answer) == []


@pytest.mark.proves("AC-05", "13.4.5")
@pytest.mark.parametrize("path", ["setup", "bootstrap", "install", "init", "admin", "create-admin"])
def test_no_route_makes_the_first_administrator(client: TestClient, path: str) -> None:
    for prefix in ("/", "/api/v1/", "/api/v1/auth/", "/api/v1/users/"):
        answer = client.post(prefix + path, json=ADA | {"is_admin": True})
        assert answer.status_code in (401, 404, 405), prefix


@pytest.mark.proves("6.4.2")
def test_there_are_no_hints_and_no_secret_questions() -> None:
    columns = [column.name for t in SQLModel.metadata.tables.values() for column in t.columns]
    schemas = DOCUMENT["components"]["schemas"].values()
    fields = [name for schema in schemas for name in schema.get("properties", ())]
    found = {name for name in columns + fields if re.search("hint|question|answer", name)}
    assert found == {"token_type_hint"}  # RFC 7009: of no password


@pytest.mark.proves("RT-13", "10.3.4", "7.5.1")
def test_a_refresh_is_no_recent_log_in(client: TestClient) -> None:
    """What asks for a recent password asks for the password, however fresh the tokens are."""
    sign_up_and_in(client)
    assert refresh(client).status_code == 200
    email = {"email": "new@example.com", "password": "not the password of ada"}
    change = {"current_password": email["password"], "new_password": "eleven quiet otters swimming"}
    for method, path, body in (
        ("PUT", "/api/v1/users/me/email", email),
        ("PUT", "/api/v1/users/me/password", change),
        ("POST", "/api/v1/users/me/delete", {"password": email["password"]}),
    ):
        answer = client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_password"), path
        without = client.request(method, path, json={})
        assert (without.status_code, without.json()["code"]) == (422, "validation_failed"), path


@pytest.mark.proves("10.3.2", "10.4.4")
def test_there_are_no_scopes_and_no_other_grants() -> None:
    [scheme] = DOCUMENT["components"]["securitySchemes"].values()
    assert [*scheme["flows"]] == ["password"]
    assert not scheme["flows"]["password"]["scopes"]


@pytest.mark.proves("10.4.4")
def test_the_password_grant_can_be_switched_off() -> None:
    app = create_app(make_settings("sqlite:///./never-opened.db", enable_token_endpoint=False))
    assert "/api/v1/auth/token" not in app.openapi()["paths"]


@pytest.mark.proves("7.2.2", "10.4.14")
def test_two_log_ins_share_no_token(client: TestClient) -> None:
    register(client)
    pairs = [get_tokens(client), get_tokens(client)]
    assert len({pair[kind] for pair in pairs for kind in ("access_token", "refresh_token")}) == 4
    for pair in pairs:
        assert client.get("/api/v1/users/me", headers=bearer(pair["access_token"])).is_success
