"""What is stored, how it is protected, and where it is not."""

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlmodel import SQLModel, select

from app.core.tokens import ACCESS_CLAIMS, DEVICE_CLAIMS, REFRESH_CLAIMS
from app.db.session import Database
from app.models import User
from tests.conftest import ClientFactory
from tests.jars import claims
from tests.links import MAIL, forgot
from tests.operations import DOCUMENT
from tests.people import ADA, get_tokens, log_in, refresh, register
from tests.security.document import table

COLUMNS = {row["column"]: row for row in table("Data")}
PERSONAL = re.compile(r"\bada\b|example\.com|lovelace", re.IGNORECASE)


@pytest.mark.proves("14.1.1", "14.1.2")
def test_every_column_has_a_class_and_a_time_to_go() -> None:
    found = [f"{t.name}.{column.name}" for t in SQLModel.metadata.tables.values() for column in t.c]
    assert sorted(COLUMNS) == sorted(found)
    assert {row["class"] for row in COLUMNS.values()} == {"secret", "personal", "trace", "plain"}
    assert all(row["kept"] for row in COLUMNS.values())


@pytest.mark.proves("14.1.2", "14.2.6")
def test_what_is_secret_is_protected_and_in_no_answer() -> None:
    secret = {name.partition(".")[2] for name, row in COLUMNS.items() if row["class"] == "secret"}
    assert secret == {"hashed_password", "token_hash"}
    assert all(row["protection"] for row in COLUMNS.values() if row["class"] == "secret")
    assert not [name for name in secret if f"'{name}'" in str(DOCUMENT)]


@pytest.mark.proves("14.1.1")
@pytest.mark.parametrize("kind", ["access_token", "refresh_token", "device"])
def test_a_token_holds_these_claims_and_nothing_personal(client: TestClient, kind: str) -> None:
    """A JWT can be read by whoever has it."""
    register(client, full_name="Ada Lovelace")
    if kind == "device":
        log_in(client)
        token, expected = client.cookies["__Host-device"], DEVICE_CLAIMS
    else:
        token = get_tokens(client)[kind]
        expected = ACCESS_CLAIMS if kind == "access_token" else REFRESH_CLAIMS
    assert sorted(claims(token)) == sorted(expected)
    assert not PERSONAL.search(str(claims(token)))


@pytest.mark.proves("14.2.4", "14.1.2", "RT-14", "RS-06")
def test_the_database_holds_neither_passwords_nor_tokens(make_client: ClientFactory) -> None:
    client = make_client(**MAIL)
    register(client)
    tokens = [ADA["password"]]
    for _ in range(2):
        log_in(client)
        refresh(client)
        tokens += [value for value in client.cookies.values() if value]
        tokens += [str(token) for token in get_tokens(client).values() if len(str(token)) > 20]
    forgot(client)
    stored = everything(client.app.state.backend.database)  # type: ignore[attr-defined]
    assert ADA["email"] in stored  # the control: it is all there
    for token in tokens:
        assert token not in stored
        assert token.rpartition(".")[2][:30] not in stored  # nor its signature alone


def everything(database: Database) -> str:
    def read(session: Any) -> str:
        tables = SQLModel.metadata.tables.values()
        return str([session.connection().execute(select(each)).all() for each in tables])

    return database.run_read(read)


@pytest.mark.proves("14.2.4")
def test_where_people_were_is_cut_and_cleaned(client: TestClient, database: Database) -> None:
    register(client)
    client.headers["User-Agent"] = "Browser\x01\x7f " + "x" * 1000
    log_in(client)
    [session] = client.get("/api/v1/users/me/sessions").json()
    assert session["user_agent"] == "Browser " + "x" * 192


@pytest.mark.proves("14.2.1")
@pytest.mark.parametrize("path", ["login", "register", "reset-password", "verify-email"])
def test_nothing_secret_is_taken_from_an_address(
    client: TestClient, database: Database, path: str
) -> None:
    query = ADA | {"token": "x"}
    answer = client.post(f"/api/v1/auth/{path}", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert database.run_read(lambda session: session.exec(select(User)).first()) is None


@pytest.mark.proves("14.2.1")
def test_no_operation_documents_a_secret_in_its_address() -> None:
    names = [
        parameter["name"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", ())
    ]
    assert names
    assert not [name for name in names if re.search("token|password|secret|key", name)]
