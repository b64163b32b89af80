"""The figures of docs/operations.md are those of the code."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from app import protocol
from app.api import metrics as metrics_route
from app.api import operations
from app.core import hasher, smtp
from app.db import session
from app.main import create_app
from app.server import LAST_CALL, SHUTDOWN_SECONDS
from app.services import courier, upkeep
from tests.conftest import make_settings

ROOT = Path(__file__).parents[1]
NOON = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
DOCUMENT = (ROOT / "docs" / "operations.md").read_text()


def row(beginning: str) -> list[str]:
    """The cells of the only line of a table that begins like this."""
    (line,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| {beginning}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.proves("13.1.3")
def test_time_outs() -> None:
    assert row("a free thread, connection or lock")[1] == str(session.PATIENCE)
    assert row("connecting to PostgreSQL")[1] == str(session.PATIENCE)
    assert row("one statement")[1] == str(session.SLOWEST_STATEMENT)
    assert row("a transaction that does nothing")[1] == str(session.SLOWEST_STATEMENT)
    assert row("a mail server that keeps silent")[1] == str(smtp.STEP)
    assert row("one mail")[1] == str(smtp.CONVERSATION)
    assert row("the database, for `/metrics`")[1] == str(metrics_route.LONGEST_WAIT)
    assert row("the database, for `/health/ready`")[1] == str(operations.LONGEST_WAIT)
    assert row("a request that does not arrive whole")[1] == str(protocol.ARRIVAL_SECONDS)
    assert row("an answer that its client does not take")[1] == str(protocol.READING_SECONDS)
    assert row("a hash that gets no core")[1] == f"{hasher.PATIENCE_SECONDS:.0f}"
    hanging = row("a process that hashes, with a share of a core, and hangs")
    assert hanging[1] == f"{hasher.HANG_SECONDS:.0f}"
    ending = f"{SHUTDOWN_SECONDS}, and {courier.FAREWELL} for the courier"
    assert row("ending a process")[1] == ending
    grace = make_settings("sqlite:///unused.db").grace.total_seconds()
    assert row("a refresh that waited")[1] == f"{grace / 3:g}"


@pytest.mark.proves("13.1.2")
def test_connections() -> None:
    settings = make_settings("postgresql://a:b@127.0.0.1:1/nothing")
    size = settings.database_pool_size
    most = f"twice `DATABASE_POOL_SIZE` and {session.READERS} a process ({2 * size + 2})"
    assert most in row("database")[1]
    database = session.Database(settings)
    pools = [engine.pool for engine in (database.engine, database._read_engine)]
    assert [pool.size() for pool in pools] == [size, session.READERS]  # type: ignore[attr-defined]
    assert database._runner._size == size  # type: ignore[attr-defined]
    assert all(pool._max_overflow == 0 for pool in pools)  # type: ignore[attr-defined]
    database.close()


@pytest.mark.proves("14.2.7")
def test_what_goes_by_itself() -> None:
    kinds = {rows.kind for rows in upkeep.expired(make_settings("sqlite:///unused.db"), NOON)}
    for kind in kinds:
        assert row(kind.replace("one_time", "one-time").replace("_", " "))
    assert f"deletes up to {upkeep.BATCH} rows of each kind" in " ".join(DOCUMENT.split())
    assert (upkeep.PAUSE, upkeep.BUDGETS_KEPT.days, courier.GIVE_UP.days) == (60, 30, 3)


def test_metrics(sqlite_url: str) -> None:
    app = create_app(make_settings(sqlite_url, enable_metrics=True))
    with TestClient(app, base_url="https://testserver") as client:
        told = client.get("/metrics").text
    names = set(re.findall(r"^# TYPE (\w+) ", told, re.MULTILINE))
    section = DOCUMENT.split("## Metrics")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    documented = {name for line in table for name in re.findall(r"`(\w+_\w+)`", line.split("|")[1])}
    assert names == documented


@pytest.mark.proves("13.4.5")
@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ("nginx.conf", r"location = /metrics \{[^}]*return 404;"),
        ("Caddyfile", "respond /metrics 404"),
    ],
)
def test_proxies_keep_metrics_from_the_public(file: str, rule: str) -> None:
    assert re.search(rule, (ROOT / "deploy" / file).read_text())


def test_nginx_hangs_up_before_the_service_does() -> None:
    """Or the service might, just when a request comes."""
    (seconds,) = re.findall(r"keepalive_timeout (\d+)s", (ROOT / "deploy/nginx.conf").read_text())
    assert int(seconds) < min(LAST_CALL, uvicorn.Config("app").timeout_keep_alive)
