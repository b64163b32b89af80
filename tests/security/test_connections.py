"""Whom the service speaks to, how long it waits, and with how little it can do its work."""

import ast
import re
import socket
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.core import smtp
from app.core.config import Settings
from app.db import session as database_module
from app.db.session import Database
from app.services import courier
from tests.conftest import make_settings
from tests.people import log_in, refresh, register, sign_up_and_in
from tests.proof import ROOT
from tests.security.document import table


@pytest.mark.proves("13.1.1", "13.2.4")
def test_every_address_of_the_settings_is_in_the_table() -> None:
    """What is connected to is named by these two; the other addresses are written into links."""
    told = " ".join(row["with"] for row in table("Communication"))
    addresses = {name.upper() for name in Settings.model_fields if name.endswith("_url")}
    connected = {name for name in addresses if name in told}
    assert connected == {"DATABASE_URL", "SMTP_URL"}
    assert addresses - connected == {"FRONTEND_URL", "PUBLIC_URL"}


@pytest.mark.proves("13.1.1", "13.2.4", "1.3.6")
def test_nothing_here_can_make_another_connection() -> None:
    """No HTTP client is imported, and a socket only by the part that speaks to the mail server
    and by the one that listens.
    """
    clients = re.compile(r"^(http\.client|urllib\.request|httpx2?|requests|aiohttp|ftplib|socket)$")
    found = set()
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            found |= {f"{path.name}: {name}" for name in names if clients.match(name)}
    assert found == {"server.py: socket", "smtp.py: socket"}


@pytest.mark.proves("13.2.4", "1.3.6", "14.2.3")
def test_no_text_of_a_request_is_ever_connected_to(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[Any] = []
    genuine = socket.socket.connect

    def note(this: socket.socket, address: Any) -> None:
        connected.append(address)
        genuine(this, address)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        monkeypatch.setattr(socket.socket, "connect", note)
        headers = {"Referer": url, "X-Forwarded-Host": url[7:], "User-Agent": url, "Origin": url}
        register(client, full_name=f"{url} <img src={url}>")
        client.headers.update(headers)
        log_in(client)
        client.headers.pop("Origin")
        log_in(client)
        client.patch("/api/v1/users/me", json={"full_name": url})
        client.post("/api/v1/auth/verify-email", json={"token": url})
        monkeypatch.undo()
        port = listener.getsockname()[1]
    assert not [address for address in connected if str(port) in str(address)]


@pytest.mark.proves("13.1.2", "13.1.3", "13.2.6")
def test_the_times_in_the_table_are_those_in_force() -> None:
    by_whom = {row["with"].split(",")[0]: row["how"] for row in table("Communication")}
    database, mail = by_whom["the database"], by_whom["the mail server"]
    assert f"{database_module.PATIENCE} s to connect" in database
    assert f"{database_module.SLOWEST_STATEMENT} s a statement" in database
    assert f"{smtp.STEP} s a step, {smtp.CONVERSATION} s a mail" in mail
    assert f"given up after {courier.GIVE_UP.days} days" in mail


@pytest.mark.proves("13.1.2", "13.2.6")
def test_the_pool_is_as_large_as_its_setting_and_never_grows(database_url: str) -> None:
    database = Database(make_settings(database_url, database_pool_size=3))
    pool = database.engine.pool
    assert (pool.size(), pool._max_overflow) == (3, 0)  # type: ignore[attr-defined]
    assert pool._timeout == database_module.PATIENCE  # type: ignore[attr-defined]
    database.close()


@pytest.mark.proves("13.1.3")
def test_no_transaction_stays_open_between_requests(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    refresh(client)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
