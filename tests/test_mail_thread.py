"""The courier's thread: it sends by itself, holds nobody up, and ends with the service."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlmodel import Session

from app.core.refusals import Reason, Refusal
from app.main import create_app
from app.models.mail import Template
from app.services import courier
from tests.conftest import ClientFactory, make_settings
from tests.mailbox import LINK, Mailbox, database_of, smtp_server, waiting, write_to
from tests.people import ADA, BOB, register

TEMPLATE = Template.PASSWORD_CHANGED


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """The server alone: the thread runs."""
    with smtp_server() as found:
        yield found


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks more often, so that nobody waits for a test."""
    monkeypatch.setattr(courier, "LOOK", 0.02)
    monkeypatch.setattr(courier, "LONGEST_WAIT", 0.1)


def wait_until(condition: Callable[[], object]) -> None:
    """What happens on another thread. Fails after a while, and otherwise takes as long as that."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def couriers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "courier"]


def forgot(client: TestClient, email: str) -> int:
    answer = client.post("/api/v1/auth/forgot-password", json={"email": email})
    return answer.status_code


def test_mails_go_by_themselves(make_client: ClientFactory, mailbox: Mailbox) -> None:
    client = make_client(**mailbox.settings)
    register(client)
    wait_until(lambda: mailbox.arrivals and not waiting(client))
    assert [message["To"] for message in mailbox.messages] == [ADA["email"]]


@pytest.mark.proves("13.1.3", "16.5.2", "EN-03", "EN-04")
@pytest.mark.parametrize("step", ["CONNECT", "MAIL", "MESSAGE"])
def test_no_request_waits_for_a_mail_server_that_never_answers(
    make_client: ClientFactory, mailbox: Mailbox, step: str
) -> None:
    """It hangs before the requests come and after they are answered."""
    mailbox.held = step
    client = make_client(**mailbox.settings)
    write_to(client, TEMPLATE, BOB["email"])
    mailbox.wait_until_held()
    steps = len(mailbox.steps)
    assert register(client).status_code == 201
    assert forgot(client, ADA["email"]) == 202
    assert forgot(client, BOB["email"]) == 202
    assert len(waiting(client)) == 4
    assert len(mailbox.steps) == steps
    mailbox.held = ""
    wait_until(lambda: not waiting(client))
    assert len(mailbox.arrivals) == 3  # nobody is BOB


@pytest.mark.proves("13.1.3")
@pytest.mark.parametrize("step", ["CONNECT", "RCPT"])
def test_no_transaction_is_open_while_it_talks_to_the_mail_server(
    postgresql_url: str, mailbox: Mailbox, step: str
) -> None:
    """PostgreSQL tells who has one."""
    idle = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    mailbox.held = step
    with TestClient(create_app(make_settings(postgresql_url, **mailbox.settings))) as client:
        write_to(client, TEMPLATE, ADA["email"])
        mailbox.wait_until_held()
        assert database_of(client).run_read(lambda s: s.connection().execute(idle).scalar()) == 0
        mailbox.held = ""


def test_a_server_that_comes_back_gets_what_has_waited(make_client: ClientFactory) -> None:
    with smtp_server() as gone:
        settings = gone.settings
    client = make_client(**settings)
    tried = threading.Event()
    register(client)
    original = courier.log_event

    def log_event(name: str, *more: Any, **fields: Any) -> None:
        if name == "mail_server_unreachable":
            tried.set()
        original(name, *more, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courier, "log_event", log_event)
        assert tried.wait(20)
    with smtp_server(port=gone.port) as mailbox:
        wait_until(lambda: not waiting(client))
    assert len(mailbox.arrivals) == 1


@pytest.mark.parametrize(
    "error", [Refusal(Reason.DATABASE_UNAVAILABLE), Refusal(Reason.NOT_READY), RuntimeError("odd")]
)
def test_no_failure_ends_the_thread(
    make_client: ClientFactory,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    failed = threading.Event()
    find_due = courier.find_due

    def fail_once(session: Session, now: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise error
        return find_due(session, now)

    monkeypatch.setattr(courier, "find_due", fail_once)
    client = make_client(**mailbox.settings)
    register(client)
    wait_until(lambda: failed.is_set() and not waiting(client))
    assert len(mailbox.arrivals) == 1


def test_without_a_mail_server_there_is_no_thread(make_client: ClientFactory) -> None:
    make_client()
    assert couriers() == []


def test_it_ends_with_the_service(make_client: ClientFactory, mailbox: Mailbox) -> None:
    client = make_client(**mailbox.settings)
    assert len(couriers()) == 1
    client.__exit__()
    assert couriers() == []


def test_a_conversation_under_way_is_finished_when_the_service_stops(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    mailbox.held = "MESSAGE"
    client = make_client(**mailbox.settings)
    write_to(client, TEMPLATE, ADA["email"])
    mailbox.wait_until_held()
    release = threading.Timer(0.2, lambda: setattr(mailbox, "held", ""))
    release.start()
    client.__exit__()
    release.join()
    assert couriers() == []
    assert len(mailbox.arrivals) == 1
    assert waiting(client) == []


def test_a_server_that_hangs_does_not_keep_the_service_from_stopping(
    make_client: ClientFactory, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mail is kept, and whoever runs next sends it."""
    monkeypatch.setattr(courier, "FAREWELL", 0.1)
    mailbox.held = "RCPT"
    client = make_client(**mailbox.settings)
    write_to(client, TEMPLATE, ADA["email"])
    mailbox.wait_until_held()
    client.__exit__()
    assert couriers() == []
    (mail,) = waiting(client)
    assert mail.attempts == 1
    assert mailbox.arrivals == []


def test_with_debug_and_no_server_mails_are_printed_with_their_link(
    make_client: ClientFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    """To standard error: the log on standard output never has a token in it."""
    client = make_client(debug=True, public_url="http://127.0.0.1:8000")
    register(client)
    wait_until(lambda: not waiting(client))
    out, err = capfd.readouterr()
    (link,) = LINK.findall(err)
    token = link.partition("#token=")[2]
    assert f"Mail to {ADA['email']}: Confirm" in err
    assert token not in out
    for line in out.splitlines():
        json.loads(line)
    answer = client.post("/api/v1/auth/verify-email", json={"token": token})
    assert answer.status_code == 204
