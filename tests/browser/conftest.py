"""A real server and a real browser: the pages as somebody who opens /docs meets them."""

import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30
PUBLIC_HOST = "auth.example.com"


@dataclass(frozen=True)
class Site:
    """The running server. `host:port` in `public_address` is a public name for it."""

    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def public_address(self) -> str:
        return f"http://{PUBLIC_HOST}:{self.port}"


@dataclass
class Visit:
    """A page, and what the browser did and said while it was open."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def requests_elsewhere(self, site: Site) -> list[str]:
        own = {site.address, site.public_address}
        return [url for url in self.requests if _origin(url) not in own | {"data://"}]

    def refusals(self) -> list[str]:
        return [text for text in self.complaints if "Content Security Policy" in text]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser") / "app.db"


@pytest.fixture(scope="session")
def server(database: Path) -> Iterator[Site]:
    with served(database.parent, free_port(), DEBUG="true") as site:
        yield site


@contextmanager
def served(folder: Path, port: int, **settings: str) -> Iterator[Site]:
    """`uvicorn app.main:app`, with its database and its log in this folder.

    Started there, so that no `.env` of a developer decides what is tested.
    """
    environment = os.environ | {
        "SECRET_KEY": secrets.token_hex(32),
        "DATABASE_URL": f"sqlite:///{folder / 'app.db'}",
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    migrate = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "head"]
    subprocess.run(migrate, cwd=folder, env=environment, check=True)

    site = Site(port, folder / "server.log")
    serve = [sys.executable, "-m", "uvicorn", "app.main:app"]
    serve += ["--host", "127.0.0.1", "--port", str(site.port)]
    with site.log.open("wb") as output:
        process = subprocess.Popen(
            serve, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_it_answers(process, site)
        yield site
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


@pytest.fixture
def site(server: Site, database: Path) -> Site:
    """The server, with an empty database: no test sees the accounts of another."""
    with closing(sqlite3.connect(database, timeout=5)) as connection, connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        for (table,) in tables:
            # Audit events cannot be deleted, and hold nothing that a page shows.
            if table not in ("alembic_version", "audit_events") and not table.startswith("sqlite_"):
                connection.execute(f'DELETE FROM "{table}"')
    return server


@pytest.fixture(scope="module")  # it keeps an event loop running, which other tests would meet
def browser() -> Iterator[Browser]:
    # Names other than the server's do not resolve: what a page asks of the world is seen by the
    # tests and reaches nobody.
    arguments = [
        f"--host-resolver-rules=MAP {PUBLIC_HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to start its sandbox as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 960})
    visit = Visit(context.new_page())

    def keep_complaint(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visit.complaints.append(message.text)

    context.on("request", lambda request: visit.requests.append(request.url))
    context.on("console", keep_complaint)
    context.on("weberror", lambda error: visit.complaints.append(str(error.error)))
    yield visit
    context.close()


def _chromium() -> str:
    named = os.environ.get("CHROMIUM")
    # The first one has no windows, and takes half as long.
    usual = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
    names = [named] if named else usual
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.fail(
        f"No browser for the tests of the pages ({', '.join(names)}): install Chromium "
        "(on Debian and Ubuntu: apt-get install chromium), or set CHROMIUM to the path of a "
        "Chromium or Chrome.",
        pytrace=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(process: subprocess.Popen[bytes], site: Site) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", site.port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"The server did not start. It said:\n{site.log.read_text()}", pytrace=False)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
