"""Every behaviour is tested on SQLite and on a real PostgreSQL, both built by the migrations."""

import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import uvicorn
from alembic import command
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic_settings import BaseSettings
from pydantic_settings import PydanticBaseSettingsSource as Source
from sqlalchemy import Engine, event
from sqlmodel import SQLModel
from starlette.types import ASGIApp

from app.core.config import Settings

# What the developer's own environment says decides nothing here. `app.main` builds an
# application for `uvicorn app.main:app` when it is imported, so it needs the two keys without
# a default.
for name in Settings.model_fields:
    os.environ.pop(name.upper(), None)
Settings.model_config["env_file"] = None
os.environ["SECRET_KEY"] = secrets.token_hex(32)
os.environ["DATABASE_URL"] = "sqlite:///./never-opened.db"

from app.core import hashing  # noqa: E402
from app.core.passwords import Passwords  # noqa: E402
from app.db.engine import create_database_engine  # noqa: E402
from app.db.migrations import alembic_config  # noqa: E402
from app.db.session import Database  # noqa: E402
from app.main import create_app  # noqa: E402
from app.protocol import Protocol  # noqa: E402
from app.services.backend import Backend  # noqa: E402
from tests import compiled  # noqa: E402
from tests.client import LocalClient, placed  # noqa: E402
from tests.links import MAIL  # noqa: E402
from tests.mailbox import Mailbox, smtp_server  # noqa: E402
from tests.people import sign_up_and_in  # noqa: E402
from tests.postgres import fresh_database, libpq, postgres_server, share_with_workers  # noqa: E402

AppFactory = Callable[..., FastAPI]
ClientFactory = Callable[..., TestClient]


def pytest_configure(config: pytest.Config) -> None:
    """Not where torture/ uses something of ours: there it is the service as it is."""
    share_with_workers(config)
    compiled.share()
    event.listen(Engine, "connect", write_quickly)


def write_quickly(connection: Any, _: object) -> None:
    """No test cuts the power, which is what a database waits for the disk for."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF").close()


class GivenSettings(Settings):
    """Nothing but what is given. To look into the environment takes four fifths of the time."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Source, **_: Source
    ) -> tuple[Source, ...]:
        return (init_settings,)


def make_settings(database_url: str, **changes: Any) -> Settings:
    values = {"secret_key": os.environ["SECRET_KEY"], "database_url": database_url}
    return GivenSettings(**values | changes)


def migrate(database_url: str) -> None:
    engine = create_database_engine(make_settings(database_url))
    config = alembic_config()
    config.attributes["engine"] = engine
    command.upgrade(config, "head")
    engine.dispose()


QUICK = hashing.context().copy(argon2__memory_cost=64, argon2__time_cost=1)
kind_of_hashes = ""  # that there were last


@pytest.fixture(autouse=True)
def quick_hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash takes a tenth of a millisecond instead of 25, but where a test is about hashes.

    None is left to another process, but where servers run.
    """
    global kind_of_hashes
    kind = "real" if request.node.get_closest_marker("real_hashes") else "quick"
    if kind == "quick":
        monkeypatch.setattr(hashing, "context", lambda: QUICK)
    if kind != kind_of_hashes:
        hashing.nobodys_hash.cache_clear()
        kind_of_hashes = kind
    hashing.nobodys_hash()
    monkeypatch.setattr(Passwords, "start_hasher", lambda _: None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: str) -> Iterator[str]:
    with fresh_database(postgresql_server) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    path = tmp_path / "app.db"
    shutil.copy(migrated_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(migrated_postgresql: str) -> Iterator[str]:
    yield migrated_postgresql
    empty(migrated_postgresql)


def empty(postgresql_url: str) -> None:
    """By DELETE, which takes a seventh of TRUNCATE's time; a trigger keeps audit events from it."""
    statements = [
        "ALTER TABLE audit_events DISABLE TRIGGER USER",
        *(f"DELETE FROM {table.name}" for table in reversed(SQLModel.metadata.sorted_tables)),
        "ALTER TABLE audit_events ENABLE TRIGGER USER",
    ]
    patient = {"options": "-c lock_timeout=5s"}
    with closing(psycopg2.connect(libpq(postgresql_url), **patient)) as connection:
        connection.cursor().execute("; ".join(statements))
        connection.commit()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database with nobody in it, on each engine in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database that no migration has touched."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    with fresh_database(request.getfixturevalue("postgresql_server")) as url:
        yield url


@pytest.fixture
def make_client(database_url: str) -> Iterator[ClientFactory]:
    """`make_client(debug=True, …)`: a browser's worth of cookies before an app so configured."""
    with ExitStack() as stack:

        def make(*, app: FastAPI | None = None, **changes: Any) -> TestClient:
            app = app or create_app(make_settings(database_url, **changes))
            return stack.enter_context(LocalClient(app))

        yield make


@pytest.fixture
def make_mailing_client(database_url: str) -> Iterator[ClientFactory]:
    """Before an app that has a mail server, but whose courier does not run: mails wait."""
    with ExitStack() as stack:

        def make(**changes: Any) -> TestClient:
            app = create_app(make_settings(database_url, **MAIL | changes))
            stack.enter_context(placed(app))
            stack.callback(app.state.backend.close)
            return LocalClient(app)

        yield make


@pytest.fixture
def mailing_client(make_mailing_client: ClientFactory) -> TestClient:
    return make_mailing_client()


@pytest.fixture
def ada(mailing_client: TestClient) -> TestClient:
    """Her browser, logged in."""
    sign_up_and_in(mailing_client)
    return mailing_client


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    return make_client()


@pytest.fixture
def backend(client: TestClient) -> Backend:
    found: Backend = client.app.state.backend  # type: ignore[attr-defined]
    return found


@pytest.fixture
def database(client: TestClient) -> Database:
    """To look into the client's database, and to move time there."""
    found: Database = client.app.state.backend.database  # type: ignore[attr-defined]
    return found


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody else is always faster: each refresh is judged with its row locked."""

    async def too_late(*_: object) -> None:
        pass

    monkeypatch.setattr("app.services.logins.rotate_unlocked", too_late)


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """Where the application's mails arrive, once the test asks for them (tests/mailbox.py)."""
    monkeypatch.setattr("app.services.courier.Courier.start", lambda _: None)
    with smtp_server() as found:
        yield found


@contextmanager
def running_server(app: ASGIApp) -> Iterator[str]:
    """A real uvicorn on a free port of 127.0.0.1; gives its address."""
    config = uvicorn.Config(
        app, http=Protocol, ws="none", port=0, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
