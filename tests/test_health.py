"""What operators ask: is it alive, is it ready?"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import Engine, NullPool, create_engine
from sqlmodel import Session, text

from app.api import operations
from app.core.identifiers import new_id
from app.db.engine import create_database_engine
from app.db.migrations import alembic_config
from app.db.session import Database
from app.main import create_app
from tests.answers import refused_as
from tests.conftest import make_settings
from tests.people import ADA, log_in, refresh, register, who_am_i

OK = {"status": "ok"}
GET_REVISION = "SELECT version_num FROM alembic_version"


@contextmanager
def serving(database_url: str) -> Iterator[TestClient]:
    app = create_app(make_settings(database_url))
    with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def unmigrated(empty_url: str) -> Iterator[TestClient]:
    with serving(empty_url) as client:
        yield client


@pytest.fixture
def nowhere() -> Iterator[TestClient]:
    """Before a database that is not there."""
    with serving("postgresql://somebody:unknown@127.0.0.1:1/nothing") as client:
        yield client


@contextmanager
def at_revision(database: Database, *revisions: str) -> Iterator[None]:
    """The database says that it is there, until the end of the test."""
    (saved,) = database.run_read(lambda s: s.connection().execute(text(GET_REVISION)).one())

    def replace(*with_these: str) -> None:
        def work(session: Session) -> None:
            session.connection().execute(text("DELETE FROM alembic_version"))
            for revision in with_these:
                insert = text("INSERT INTO alembic_version VALUES (:revision)")
                session.connection().execute(insert, {"revision": revision})

        database.run_write(work)

    replace(*revisions)
    try:
        yield
    finally:
        replace(saved)


def test_a_migrated_database_is_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == OK
    assert client.get("/health/ready").json() == OK


def test_a_database_without_migrations_is_not_ready(unmigrated: TestClient) -> None:
    answer = unmigrated.get("/health/ready")
    assert refused_as(answer) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) > 0
    assert unmigrated.get("/health/live").json() == OK


def test_without_migrations_every_request_says_so(unmigrated: TestClient) -> None:
    for answer in (register(unmigrated), log_in(unmigrated)):
        assert refused_as(answer) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0
        assert "set-cookie" not in answer.headers
    form = {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}
    answer = unmigrated.post("/api/v1/auth/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")


def test_without_migrations_nobody_is_told_to_log_in_again(
    unmigrated: TestClient, client: TestClient
) -> None:
    register(client)
    log_in(client)
    unmigrated.cookies = client.cookies
    assert refused_as(refresh(unmigrated)) == (503, "not_ready")
    assert refused_as(who_am_i(unmigrated)) == (503, "not_ready")


@pytest.fixture
def behind(empty_url: str) -> Iterator[TestClient]:
    """Before a database that has the first migration and lacks the others."""
    settings = make_settings(empty_url)
    engine = create_database_engine(settings)
    config = alembic_config()
    config.attributes["engine"] = engine
    command.upgrade(config, "0001")
    with engine.begin() as connection:  # somebody is logged in already
        statement = (
            "INSERT INTO users (id, email, hashed_password, is_active, is_admin, created_at)"
        )
        statement += " VALUES (:id, :email, '!', true, false, '2026-01-01 00:00:00')"
        owner = {"id": new_id().hex, "email": ADA["email"]}
        connection.execute(text(statement), owner)
    engine.dispose()
    with serving(empty_url) as client:
        yield client


def test_a_pending_migration_is_not_ready(behind: TestClient) -> None:
    answer = behind.get("/health/ready")
    assert refused_as(answer) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) > 0
    assert behind.get("/health/live").json() == OK


def test_while_a_migration_is_pending_every_request_that_needs_it_says_so(
    behind: TestClient, client: TestClient
) -> None:
    register(client)
    log_in(client)
    behind.cookies = client.cookies
    auth = "/api/v1/auth"
    new = {"email": "new@example.com", "password": ADA["password"]}
    for answer in (
        register(behind),
        register(behind, new),
        log_in(behind),
        refresh(behind),
        who_am_i(behind),
        behind.get("/api/v1/users/me/sessions"),
        behind.get("/api/v1/users"),
        behind.get("/api/v1/audit-events"),
        behind.post(f"{auth}/forgot-password", json={"email": ADA["email"]}),
        behind.post(f"{auth}/verify-email", json={"token": "x" * 43}),
        behind.post(
            f"{auth}/reset-password", json={"token": "x" * 43, "password": ADA["password"]}
        ),
    ):
        assert refused_as(answer) == (503, "not_ready"), answer.url
        assert int(answer.headers["retry-after"]) > 0
        assert "set-cookie" not in answer.headers


def test_a_database_without_a_revision_is_not_ready(client: TestClient, database: Database) -> None:
    with at_revision(database):
        assert refused_as(client.get("/health/ready")) == (503, "not_ready")
    assert client.get("/health/ready").json() == OK


def test_a_newer_revision_is_ready(client: TestClient, database: Database) -> None:
    """A rolling deployment migrates first; the processes of before go on."""
    with at_revision(database, "9999"):
        assert client.get("/health/ready").json() == OK
        assert register(client).status_code == 201


@pytest.mark.proves("16.5.2")
def test_a_database_that_is_down_is_not_ready_but_alive(nowhere: TestClient) -> None:
    answer = nowhere.get("/health/ready")
    assert refused_as(answer) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert nowhere.get("/health/live").json() == OK


def test_a_file_that_is_no_database_is_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(b"Dear diary, today I was taken for a database." * 100)
    with serving(f"sqlite:///{path}") as client:
        assert refused_as(client.get("/health/ready")) == (503, "database_unavailable")


@pytest.mark.proves("13.2.6")
def test_a_database_that_comes_back_is_ready_again(migrated_sqlite: Path, tmp_path: Path) -> None:
    path = tmp_path / "later" / "app.db"
    with serving(f"sqlite:///{path}") as client:
        assert refused_as(client.get("/health/ready")) == (503, "database_unavailable")
        path.parent.mkdir()
        path.write_bytes(migrated_sqlite.read_bytes())
        assert client.get("/health/ready").json() == OK
        assert register(client).status_code == 201


def test_a_database_that_only_reads_is_not_ready(postgresql_client: TestClient) -> None:
    """A standby, or one whose disk is nearly full. Nobody is told to log in again."""
    client = postgresql_client
    register(client)
    log_in(client)
    with only_reading(client):
        assert refused_as(client.get("/health/ready")) == (503, "database_unavailable")
        assert refused_as(refresh(client)) == (503, "database_unavailable")
        assert who_am_i(client).status_code == 200
    assert client.get("/health/ready").json() == OK
    assert refresh(client).status_code == 200


def test_a_load_balancer_does_not_wait_long_for_a_database_that_keeps_silent(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep_silent(_: object) -> None:
        await asyncio.sleep(10)

    monkeypatch.setattr(operations, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(database, "read", keep_silent)
    assert refused_as(client.get("/health/ready")) == (503, "database_unavailable")


def test_connections_that_the_server_has_cut_are_replaced(postgresql_client: TestClient) -> None:
    """As by a restart of the database: nobody sees an error."""
    client = postgresql_client
    register(client)
    log_in(client)
    for ask in (who_am_i, refresh, log_in):
        cut_connections(client)
        assert ask(client).status_code == 200


@pytest.fixture
def postgresql_client(postgresql_url: str) -> Iterator[TestClient]:
    with serving(postgresql_url) as client:
        yield client


@contextmanager
def only_reading(client: TestClient) -> Iterator[None]:
    """New connections to its database, and the ones of now are cut."""
    name = f'ALTER DATABASE "{database_of(client).url.database}"'
    other = create_engine(database_of(client).url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def run(statement: str) -> None:
        with other.connect() as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            connection.execute(text(statement))
        cut_connections(client)

    run(f"{name} SET default_transaction_read_only = on")
    try:
        yield
    finally:
        run(f"{name} RESET default_transaction_read_only")


def database_of(client: TestClient) -> Engine:
    engine: Engine = client.app.state.backend.database.engine  # type: ignore[attr-defined]
    return engine


def cut_connections(client: TestClient) -> None:
    """All that the client's application holds, from outside."""
    engine = database_of(client)
    other = create_engine(engine.url, poolclass=NullPool)
    with other.connect() as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        cut += " AND application_name = 'fastapi-auth'"
        found = connection.execute(text(cut), {"name": engine.url.database}).all()
    assert found
