"""docs/operations.md is true: the service works as a role that can hardly do harm."""

import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from app.core.identifiers import lowest_id
from app.db.session import Database
from app.main import create_app
from app.services.upkeep import purge
from tests.conftest import make_settings, migrate
from tests.people import ADA, log_in, log_out, refresh, sign_up_and_in, who_am_i
from tests.postgres import fresh_database

DOCUMENT = Path(__file__).parents[1] / "docs" / "operations.md"
SQL = re.compile(r"```sql\n(.*?)```", re.DOTALL)


def run(url: str, script: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(script))
    engine.dispose()


@pytest.fixture
def app_url(postgresql_server: str) -> Iterator[str]:
    """A database made as the document says; gives the address that the service uses."""
    suffix = secrets.token_hex(4)  # roles are the whole server's
    as_superuser, as_owner = (
        re.sub(r"\bauth_(owner|app)\b", rf"auth_\1_{suffix}", script)
        for script in SQL.findall(DOCUMENT.read_text())
    )
    with ExitStack() as stack:
        database = stack.enter_context(fresh_database(postgresql_server))
        run(database, as_superuser)
        stack.callback(run, postgresql_server, f"DROP ROLE auth_owner_{suffix}, auth_app_{suffix}")
        stack.callback(run, database, f"DROP OWNED BY auth_owner_{suffix}, auth_app_{suffix}")
        owner, app = (address(database, f"auth_{role}_{suffix}") for role in ("owner", "app"))
        migrate(owner)
        run(owner, as_owner)
        yield app


def address(database: str, role: str) -> str:
    password = secrets.token_hex(8)
    run(database, f"ALTER ROLE {role} PASSWORD '{password}'")
    return make_url(database).set(username=role, password=password).render_as_string(False)


@pytest.fixture
def client(app_url: str) -> Iterator[TestClient]:
    app = create_app(make_settings(app_url))
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def database(client: TestClient) -> Database:
    found: Database = client.app.state.backend.database  # type: ignore[attr-defined]
    return found


@pytest.fixture
def engine(app_url: str) -> Iterator[Engine]:
    engine = create_engine(app_url)
    yield engine
    engine.dispose()


@pytest.mark.proves("13.2.2")
def test_the_service_works_as_a_role_without_more_rights(
    client: TestClient, database: Database, engine: Engine
) -> None:
    assert client.get("/health/ready").status_code == 200
    sign_up_and_in(client)
    assert refresh(client).status_code == 200
    assert who_am_i(client).status_code == 200
    changed = client.put(
        "/api/v1/users/me/password",
        json={"current_password": ADA["password"], "new_password": "seven slow boats at noon"},
    )
    assert changed.status_code == 200
    old = datetime.now(UTC) - timedelta(days=400)
    columns = "id, at, event, result, ip_address, user_agent, request_id, details"
    with engine.begin() as connection:
        connection.execute(
            text(
                f"INSERT INTO audit_events ({columns}) "
                "VALUES (:id, :at, 'login_failed', 'failure', '', '', '', '{}')"
            ),
            {"id": lowest_id(old), "at": old},
        )
        connection.execute(text("UPDATE logins SET expires_at = now() - interval '1 day'"))
    settings = client.app.state.backend.settings  # type: ignore[attr-defined]
    assert +purge(database, settings) == {"logins": 1, "audit_events": 1}
    assert log_in(client, ADA | {"password": "seven slow boats at noon"}).status_code == 200
    gone = client.post("/api/v1/users/me/delete", json={"password": "seven slow boats at noon"})
    assert gone.status_code == 204
    assert log_out(client).status_code == 204


@pytest.mark.proves("13.2.2", "16.4.2")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET event = 'login_started'",
        "TRUNCATE audit_events",
        "ALTER TABLE audit_events DISABLE TRIGGER USER",
        "DROP TRIGGER audit_events_protected ON audit_events",
        "CREATE OR REPLACE FUNCTION protect_audit_events() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RETURN OLD; END $$",
        "DROP TABLE users",
        "ALTER TABLE users ADD COLUMN backdoor text",
        "CREATE TABLE mine (id int)",
        "UPDATE alembic_version SET version_num = '0001'",
        "CREATE ROLE somebody_else",
        "COPY users TO PROGRAM 'cat'",
    ],
)
def test_that_role_cannot(engine: Engine, statement: str) -> None:
    with (
        engine.connect() as connection,
        pytest.raises(ProgrammingError) as error,
        connection.begin(),
    ):
        connection.execute(text(statement))
    assert isinstance(error.value.orig, InsufficientPrivilege)
