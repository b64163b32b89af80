"""Mail servers as they are: with TLS, STARTTLS and log-in, slow, silent, refusing, and forged."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.core import smtp
from app.core.smtp import Unreachable
from app.models.mail import Template
from app.services import courier
from app.services.courier import deliver_due
from tests.conftest import ClientFactory
from tests.links import forgot
from tests.mailbox import (
    Certificates,
    Mailbox,
    make_certificates,
    make_due,
    smtp_server,
    waiting,
    write_to,
)
from tests.people import ADA, BOB, register

NAME = "mail.example.net"  # for STARTTLS: a host that is not this machine, by its name
LOGIN = ("ada", "sesame-7391")
TEMPLATE = Template.PASSWORD_CHANGED


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """OpenSSL trusts our CA; and a name leads to this machine, as it would in /etc/hosts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == NAME else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return certificates


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What a mail server does is the same to either database."""
    return sqlite_url


@pytest.fixture(autouse=True)
def without_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test says itself when mails are sent."""
    monkeypatch.setattr(courier.Courier, "start", lambda _: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a server that never answers costs a test no more than a blink."""
    monkeypatch.setattr(smtp, "STEP", 0.3)
    monkeypatch.setattr(smtp, "CONVERSATION", 0.6)


def has_mail(make_client: ClientFactory, mailbox: Mailbox, **changes: Any) -> TestClient:
    """A client in whose outbox one mail waits."""
    client = make_client(**mailbox.settings | changes)
    write_to(client, TEMPLATE, ADA["email"])
    return client


def unreachable_because(client: TestClient) -> str:
    with pytest.raises(Unreachable) as refusal:
        deliver_due(client.app.state.backend)  # type: ignore[attr-defined]
    (mail,) = waiting(client)
    assert mail.attempts == 0
    return str(refusal.value)


# Protection


@pytest.mark.proves("12.3.1", "13.2.1")
def test_starttls_and_a_login(make_client: ClientFactory, trusted: Certificates) -> None:
    with smtp_server(starttls=trusted.server, login=LOGIN) as mailbox:
        mailbox.host = NAME
        mailbox.receive(has_mail(make_client, mailbox))
    (arrival,) = mailbox.arrivals
    assert (arrival.encrypted, arrival.user) == (True, LOGIN[0])


@pytest.mark.proves("12.3.1")
@pytest.mark.parametrize("host", [NAME, "127.0.0.1", "localhost"])
def test_tls_and_a_login(make_client: ClientFactory, trusted: Certificates, host: str) -> None:
    with smtp_server(tls=trusted.server, login=LOGIN) as mailbox:
        mailbox.host = host
        mailbox.receive(has_mail(make_client, mailbox))
    (arrival,) = mailbox.arrivals
    assert (arrival.encrypted, arrival.user) == (True, LOGIN[0])


def test_a_password_is_written_as_in_any_url(
    make_client: ClientFactory, trusted: Certificates
) -> None:
    with smtp_server(tls=trusted.server, login=("a@b", "p/w:%#?")) as mailbox:
        mailbox.login = "a%40b:p%2Fw%3A%25%23%3F@"
        mailbox.receive(has_mail(make_client, mailbox))
    assert [arrival.user for arrival in mailbox.arrivals] == ["a@b"]


@pytest.mark.parametrize("login", [None, LOGIN])
def test_in_the_clear_on_this_machine(
    make_client: ClientFactory, login: tuple[str, str] | None
) -> None:
    """A relay here has seldom a certificate that is valid, and nobody listens in."""
    with smtp_server(login=login) as mailbox:
        mailbox.receive(has_mail(make_client, mailbox))
    (arrival,) = mailbox.arrivals
    assert (arrival.encrypted, arrival.user) == (False, login and login[0])


@pytest.mark.proves("12.3.1")
def test_without_starttls_nothing_leaves_this_machine(
    make_client: ClientFactory, trusted: Certificates
) -> None:
    """Somebody in between can strike the offer out of the server's answer."""
    with smtp_server(login=LOGIN) as mailbox:
        mailbox.host = NAME
        assert "STARTTLS" in unreachable_because(has_mail(make_client, mailbox))
    assert not {"AUTH", "MAIL"} & {*mailbox.steps}


@pytest.mark.proves("12.3.1")
def test_a_name_is_not_this_machine_because_a_resolver_says_so(
    make_client: ClientFactory, trusted: Certificates
) -> None:
    with smtp_server() as mailbox:
        mailbox.host = NAME  # which the resolver says is 127.0.0.1
        unreachable_because(has_mail(make_client, mailbox))
    assert mailbox.arrivals == []


@pytest.mark.proves("12.3.2")
@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_a_certificate_that_nobody_vouches_for_is_refused_and_the_mail_kept(
    make_client: ClientFactory, trusted: Certificates, kind: str
) -> None:
    with smtp_server(**{kind: trusted.self_signed}, login=LOGIN) as mailbox:  # type: ignore[arg-type]
        mailbox.host = NAME
        assert "self-signed" in unreachable_because(has_mail(make_client, mailbox))
    assert not {"AUTH", "MAIL"} & {*mailbox.steps}


@pytest.mark.proves("12.3.2")
@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_a_certificate_of_another_host_is_refused(
    make_client: ClientFactory, trusted: Certificates, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A valid one, by a CA that is trusted: whoever is in between can have that."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda _host, *more, **options: resolve("127.0.0.1", *more, **options),
    )
    with smtp_server(**{kind: trusted.server}, login=LOGIN) as mailbox:  # type: ignore[arg-type]
        mailbox.host = "mail.example.org"
        assert "mail.example.org" in unreachable_because(has_mail(make_client, mailbox))
    assert not {"AUTH", "MAIL"} & {*mailbox.steps}


def test_a_wrong_password_is_told_without_the_password(
    make_client: ClientFactory, trusted: Certificates
) -> None:
    with smtp_server(tls=trusted.server, login=LOGIN) as mailbox:
        mailbox.login = "ada:sesame-wrong@"
        mailbox.refusals["AUTH"] = "535 5.7.8 not with sesame-wrong"
        reason = unreachable_because(has_mail(make_client, mailbox))
    assert reason == "535 5.7.8 not with (hidden)"


def test_a_server_without_log_in_does_not_get_the_password(make_client: ClientFactory) -> None:
    with smtp_server() as mailbox:
        mailbox.login = "ada:sesame@"
        mailbox.refusals["EHLO"] = "502 what"  # HELO knows no AUTH
        assert "AUTH" in unreachable_because(has_mail(make_client, mailbox))
    assert "AUTH" not in mailbox.steps


# The message and its envelope


@pytest.mark.proves("1.3.11")
def test_the_envelope_has_one_recipient_and_the_address_of_mail_from(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    mailbox.receive(has_mail(make_client, mailbox))
    (arrival,) = mailbox.arrivals
    assert (arrival.sender, arrival.recipients) == ("no-reply@example.com", [ADA["email"]])


def test_several_mails_go_by_one_connection(make_client: ClientFactory, mailbox: Mailbox) -> None:
    client = make_client(**mailbox.settings)
    people = [f"{i}@example.com" for i in range(courier.MAILS_PER_CONNECTION + 1)]
    for person in people:
        write_to(client, TEMPLATE, person)
    assert [message["To"] for message in mailbox.receive(client)] == people
    assert mailbox.connections == 2


def test_a_server_that_hangs_up_between_two_mails_is_called_again(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    """421 is how it says so."""
    client = has_mail(make_client, mailbox)
    write_to(client, TEMPLATE, BOB["email"])
    mailbox.refused_recipients[ADA["email"]] = "421 4.7.0 enough for now"
    (message,) = mailbox.receive(client)
    assert message["To"] == BOB["email"]
    assert mailbox.connections == 2
    assert [mail.recipient for mail in waiting(client)] == [ADA["email"]]


@pytest.mark.parametrize("address", ["jörg@example.com", "ada@münchen.example.com"])
def test_addresses_beyond_ascii_arrive(
    make_client: ClientFactory, mailbox: Mailbox, address: str
) -> None:
    client = make_client(**mailbox.settings)
    write_to(client, TEMPLATE, address)
    mailbox.receive(client)
    (arrival,) = mailbox.arrivals
    assert arrival.recipients[0].startswith(address.partition("@")[0])
    assert f"To: {arrival.recipients[0]}\r\n".encode() in arrival.raw


def test_a_domain_beyond_ascii_needs_no_extension(make_client: ClientFactory) -> None:
    with smtp_server(smtputf8=False) as mailbox:
        client = make_client(**mailbox.settings)
        write_to(client, TEMPLATE, "ada@münchen.de")
        mailbox.receive(client)
    assert mailbox.arrivals[0].recipients == ["ada@xn--mnchen-3ya.de"]


@pytest.mark.proves("EM-03")
@pytest.mark.parametrize(
    ("domain", "sent"),
    [("groß.de", "xn--gro-7ka.de"), ("ς.example.com", "xn--3xa.example.com")],
)
def test_no_mail_goes_to_a_domain_that_merely_used_to_be_the_same(
    make_client: ClientFactory, mailbox: Mailbox, domain: str, sent: str
) -> None:
    """IDNA of 2003, which Python's codec speaks, made ß ss: another domain, of another owner."""
    client = make_client(**mailbox.settings)
    register(client, ADA | {"email": f"ada@{domain}"})
    forgot(client, f"ada@{domain}")
    mailbox.receive(client)
    assert [arrival.recipients for arrival in mailbox.arrivals] == [[f"ada@{sent}"]] * 2


@pytest.mark.proves("1.3.11")
def test_an_address_that_a_header_would_decode_gets_no_mail(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    """None can sign up any more; one that has is not written to."""
    client = make_client(**mailbox.settings)
    decoded = "=?utf-8?q?a=0d=0a=0d=0ago_to_http=3a//evil.example/?=@example.com"
    write_to(client, TEMPLATE, decoded)
    write_to(client, TEMPLATE, ADA["email"])
    mailbox.receive(client)
    assert [arrival.recipients for arrival in mailbox.arrivals] == [[ADA["email"]]]
    assert [mail.recipient for mail in waiting(client)] == [decoded]


def test_a_user_name_beyond_ascii_waits_for_a_server_that_knows_it(
    make_client: ClientFactory,
) -> None:
    with smtp_server(smtputf8=False) as mailbox:
        client = make_client(**mailbox.settings)
        write_to(client, TEMPLATE, "jörg@example.com")
        write_to(client, TEMPLATE, ADA["email"])
        mailbox.receive(client)
    assert [arrival.recipients for arrival in mailbox.arrivals] == [[ADA["email"]]]
    assert [mail.recipient for mail in waiting(client)] == ["jörg@example.com"]


# Refusals and silence, at each step

OPENING = ["CONNECT", "EHLO", "AUTH"]
SENDING = ["MAIL", "RCPT", "DATA", "MESSAGE"]


@pytest.mark.proves("16.5.2", "13.2.6")
@pytest.mark.parametrize("code", ["421", "454", "554"])
@pytest.mark.parametrize("step", [*OPENING, "STARTTLS", *SENDING])
def test_what_is_refused_is_kept_and_delivered_later(
    make_client: ClientFactory, trusted: Certificates, step: str, code: str
) -> None:
    """Temporarily or for good, as the server says: an operator can put either right."""
    with smtp_server(starttls=trusted.server, login=LOGIN) as mailbox:
        mailbox.host = NAME
        client = has_mail(make_client, mailbox)
        mailbox.refusals = {step: f"{code} no"} | ({"HELO": f"{code} no"} if step == "EHLO" else {})
        if step in SENDING:
            assert mailbox.receive(client) == []
            assert [mail.attempts for mail in waiting(client)] == [1]
        else:
            unreachable_because(client)
        mailbox.refusals.clear()
        make_due(client)
        assert len(mailbox.receive(client)) == 1
        assert waiting(client) == []


@pytest.mark.proves("13.1.3", "13.2.6")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", [*OPENING, "STARTTLS", *SENDING])
def test_a_server_that_falls_silent_is_left_and_the_mail_delivered_later(
    make_client: ClientFactory, trusted: Certificates, step: str
) -> None:
    with smtp_server(starttls=trusted.server, login=LOGIN) as mailbox:
        mailbox.host = NAME
        client = has_mail(make_client, mailbox)
        mailbox.held = step
        if step in SENDING:
            assert mailbox.receive(client) == []
        else:
            assert unreachable_because(client) == "it does not answer in time"
        assert mailbox.reached.is_set()
        mailbox.held = ""
        make_due(client)
        mailbox.turned_away.clear()
        mailbox.receive(client)
        assert waiting(client) == []
        assert mailbox.arrivals


@contextmanager
def dripping_server() -> Iterator[int]:
    """It greets for ever, a byte now and then: no single read ever runs out of time."""
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220-")
            while not over.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=[server])
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


@pytest.mark.proves("13.1.3")
def test_a_server_that_answers_a_byte_at_a_time_is_left_too(
    make_client: ClientFactory, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "CONVERSATION", 0.5)
    with dripping_server() as port:
        client = has_mail(make_client, mailbox, smtp_url=f"smtp://127.0.0.1:{port}")
        unreachable_because(client)


def test_a_lease_outlasts_the_longest_conversation() -> None:
    """Opening and sending; the rest is for a resolver that takes its time."""
    assert timedelta(seconds=2 * smtp.CONVERSATION) + timedelta(minutes=1) <= courier.LEASE


def test_a_server_that_talks_nonsense_is_left(make_client: ClientFactory, mailbox: Mailbox) -> None:
    mailbox.refusals["CONNECT"] = "HTTP/1.1 400 Bad Request"
    client = has_mail(make_client, mailbox)
    unreachable_because(client)


@pytest.mark.parametrize("host", ["nowhere.invalid", "127.0.0.1"])
def test_no_such_host_and_no_such_port(make_client: ClientFactory, host: str) -> None:
    with smtp_server() as mailbox:
        mailbox.host = host
    unreachable_because(has_mail(make_client, mailbox))
