"""One deployment as in production: real servers, real sockets, several processes, one database."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.cookies import SimpleCookie
from itertools import cycle
from pathlib import Path
from threading import Barrier, Event
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlmodel import col, select

from app.db.session import Database
from app.models import Login, User
from tests.jars import ACCESS_COOKIE, REFRESH_COOKIE
from tests.people import ADA

ROOT = Path(__file__).parents[1]
START_SECONDS = 60
PASSWORD = ADA["password"]
# So that the many attempts of a test are let through; tests of limits set their own.
ROOMY = {
    "login_attempts_per_account": 1000,
    "login_attempts_per_network": 100_000,
    "sign_ups_per_network": 100_000,
}

EMPTY: Mapping[str, str] = {}

T = TypeVar("T")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # by lower-case names
    body: Any
    cookies: dict[str, str]
    started_at: float  # seconds, on the monotonic clock
    ended_at: float

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None


class Service:
    """One deployment: several addresses, one database. Requests go to the addresses in turn."""

    def __init__(self, addresses: Sequence[str], database: Database) -> None:
        self.database = database
        self._next = cycle(addresses)

    def next_address(self) -> str:
        return next(self._next)

    def ask(
        self,
        method: str,
        path: str,
        cookie: str = "",
        *,
        peer: str = "127.0.0.1",
        headers: Mapping[str, str] = EMPTY,
        **body: Any,
    ) -> Answer:
        """On a connection of its own, and with exactly this cookie; no jar has a say.

        peer: where it comes from. All of 127.0.0.0/8 is this machine.
        """
        connection = http.client.HTTPConnection(
            urlsplit(self.next_address()).netloc, timeout=60, source_address=(peer, 0)
        )
        json_type = {"Content-Type": "application/json"} if body else {}
        headers = {"Cookie": cookie, **json_type, **headers}
        started_at = time.monotonic()
        content = json.dumps(body) if body else None
        connection.request(method, f"/api/v1{path}", content, headers)
        response = connection.getresponse()
        received = response.read()
        ended_at = time.monotonic()
        cookies = SimpleCookie()
        for line in response.headers.get_all("set-cookie", []):
            cookies.load(line)
        connection.close()
        held = {name: morsel.value for name, morsel in cookies.items()}
        told = {name.lower(): value for name, value in response.headers.items()}
        body = json.loads(received or "null")
        return Answer(response.status, told, body, held, started_at, ended_at)

    def sign_up(self) -> dict[str, str]:
        """Somebody of this test's own: {email, password}."""
        person = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
        assert self.ask("POST", "/auth/register", **person).status == 201
        return person

    def log_in(self, person: dict[str, str]) -> Answer:
        answer = self.ask("POST", "/auth/login", **person)
        assert answer.status == 200
        return answer

    def refresh(self, token: str) -> Answer:
        return self.ask("POST", "/auth/refresh", f"{REFRESH_COOKIE}={token}")

    def who_am_i(self, access_token: str) -> Answer:
        return self.ask("GET", "/users/me", f"{ACCESS_COOKIE}={access_token}")

    def logins_of(self, person: dict[str, str]) -> list[Login]:
        theirs = select(Login).join(User).where(col(User.email) == person["email"])
        return self.database.run_read(lambda session: list(session.exec(theirs).all()))


@contextmanager
def processes_serving(
    database_url: str, folder: Path, count: int, **changes: Any
) -> Iterator[list[str]]:
    """uvicorn as in production, but a port for each process, so that all of them take part."""
    ports = free_ports(count)
    settings = {"SECRET_KEY": os.environ["SECRET_KEY"], "DATABASE_URL": database_url}
    settings |= {name.upper(): str(value) for name, value in changes.items()}
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT), "app.main:app"]
    command += ["--no-proxy-headers", "--no-server-header", "--port"]
    with ExitStack() as stack:
        processes = []
        for port in ports:
            log = stack.enter_context((folder / f"{port}.log").open("wb"))
            process = subprocess.Popen(
                [*command, str(port)], cwd=folder, env=settings, stdout=log, stderr=log
            )
            processes.append(process)
        try:
            for port, process in zip(ports, processes, strict=True):
                wait_until_it_answers(port, process, folder / f"{port}.log")
            yield [f"http://127.0.0.1:{port}" for port in ports]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=30)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            Event().wait(0.02)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()}")


def at_once(*calls: Callable[[], T]) -> list[T]:
    """What each returns; none begins before all are ready."""
    ready = Barrier(len(calls))

    def begin(call: Callable[[], T]) -> T:
        ready.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls))
