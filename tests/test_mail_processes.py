"""Real processes of the service, killed and side by side: each mail arrives, and once."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.engine import make_url
from sqlmodel import Session, col, select

from app.core.client import HERE
from app.db.session import Database
from app.models import User
from app.models.mail import Mail, Template
from app.services import outbox
from tests.conftest import make_settings
from tests.mailbox import LINK, Mailbox, smtp_server
from tests.people import ADA

ROOT = Path(__file__).parents[1]


class Process:
    """`uvicorn app.main:app`, and what it writes into its log."""

    def __init__(self, folder: Path, settings: dict[str, str], *command: str) -> None:
        command = command or ("uvicorn", "app.main:app", "--port=0")
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=dict(os.environ) | {"PYTHONPATH": str(ROOT)} | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in (
                (self._process.stdout, self.lines),
                (self._process.stderr, self.errors),
            )
        ]
        for reader in self._readers:
            reader.start()
        wait_until(lambda: "startup complete" in "".join(self.lines), self)

    @staticmethod
    def _read(stream: Any, into: list[str]) -> None:
        with stream:
            into.extend(iter(stream.readline, ""))

    @property
    def url(self) -> str:
        wait_until(lambda: "Uvicorn running on" in "".join(self.lines), self)
        (url,) = re.findall(r"Uvicorn running on (http://[0-9.:]+)", "".join(self.lines))
        return str(url)

    def events(self, name: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == name]

    def kill(self) -> None:
        """As the kernel does when memory runs out: no handler runs."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        for reader in self._readers:
            reader.join()


def wait_until(condition: Callable[[], object], *processes: Process) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, [process.errors for process in processes]
        time.sleep(0.02)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with smtp_server() as found:
        yield found


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(make_settings(database_url))
    yield found
    found.close()


@pytest.fixture
def start(database_url: str, mailbox: Mailbox, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    url = make_url(database_url).render_as_string(hide_password=False)
    settings = {"DATABASE_URL": url, "SECRET_KEY": os.environ["SECRET_KEY"]}
    settings |= {key.upper(): value for key, value in mailbox.settings.items()}
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(tmp_path, settings))
        return started[-1]

    yield start
    mailbox.held = ""
    for process in started:
        process.end()


def mails(database: Database) -> list[Mail]:
    return database.run_read(lambda session: list(session.exec(select(Mail))))


def sign_up(process: Process) -> None:
    answer = httpx2.post(f"{process.url}/api/v1/auth/register", json=ADA)
    assert answer.status_code == 201


def people_who_asked(session: Session, database_url: str, count: int) -> list[str]:
    """So many accounts, and a link to be sent to each."""
    settings = make_settings(database_url, debug=True)
    addresses = [f"person-{number}@example.com" for number in range(count)]
    for address in addresses:
        session.add(User(email=address, hashed_password="x"))
        outbox.enqueue(session, settings, Template.RESET_PASSWORD, address, HERE)
    return addresses


def test_two_processes_send_a_hundred_mails_and_each_once(
    start: Callable[..., Process], mailbox: Mailbox, database: Database, database_url: str
) -> None:
    processes = [start(), start()]
    mailbox.held = "CONNECT"  # so that both of them begin at the same time
    addresses = database.run_write(people_who_asked, database_url, 100)
    wait_until(lambda: mailbox.connections == 2, *processes)
    mailbox.held = ""
    wait_until(lambda: not mails(database), *processes)
    assert Counter(str(message["To"]) for message in mailbox.messages) == Counter(addresses)
    assert len(set(mailbox.links())) == 100
    for process in processes:
        process.end()
    shares = [len(process.events("mail_sent")) for process in processes]
    assert sum(shares) == 100
    assert min(shares) > 0
    assert [process.events("mail_retried") for process in processes] == [[], []]


def test_a_process_that_is_killed_between_commit_and_sending_loses_nothing(
    start: Callable[..., Process], mailbox: Mailbox, database: Database
) -> None:
    mailbox.held = "CONNECT"
    first = start()
    sign_up(first)
    mailbox.wait_until_held()
    first.kill()
    assert len(mails(database)) == 1
    mailbox.held = ""
    second = start()
    wait_until(lambda: not mails(database), second)
    assert [message["To"] for message in mailbox.messages] == [ADA["email"]]


@pytest.mark.parametrize("step", ["MAIL", "MESSAGE"])
def test_a_process_that_is_killed_while_it_sends_delays_the_mail_by_its_lease(
    start: Callable[..., Process], mailbox: Mailbox, database: Database, step: str
) -> None:
    mailbox.held = step
    first = start()
    sign_up(first)
    mailbox.wait_until_held()
    first.kill()
    mailbox.held = ""
    second = start()
    (mail,) = mails(database)
    assert mail.attempts == 1
    database.run_write(expire_lease)
    wait_until(lambda: not mails(database), second)
    assert [message["To"] for message in mailbox.messages] == [ADA["email"]]
    (mailed,) = mailbox.links()
    token = mailed.partition("#token=")[2]
    answer = httpx2.post(f"{second.url}/api/v1/auth/verify-email", json={"token": token})
    assert answer.status_code == 204


def expire_lease(session: Session) -> None:
    mail = session.exec(select(Mail).where(col(Mail.attempts) == 1)).one()
    mail.due_at = mail.created_at


def test_on_a_laptop_the_printed_link_leads_to_where_the_service_runs(
    migrated_sqlite: Path, tmp_path: Path, unused_port: int
) -> None:
    (tmp_path / "app.db").write_bytes(migrated_sqlite.read_bytes())
    settings = {
        "DATABASE_URL": "sqlite:///./app.db",
        "SECRET_KEY": os.environ["SECRET_KEY"],
        "DEBUG": "true",
    }
    command = ("app", "run", "--host", "127.0.0.1", "--port", str(unused_port))
    process = Process(tmp_path, settings, *command)
    try:
        sign_up(process)
        wait_until(lambda: LINK.search("".join(process.errors)), process)
        (link,) = LINK.findall("".join(process.errors))
        page, _, token = link.partition("#token=")
        assert page == f"{process.url}/account/verify-email"
        assert httpx2.get(page).status_code == 200
        assert token not in "".join(process.lines)
    finally:
        process.end()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
