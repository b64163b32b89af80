"""A real SMTP server on loopback, and what arrives there.

`mailbox` is a fixture. An application that mails to it: `make_client(**mailbox.settings)`.
Nothing is sent by itself in such a test: `mailbox.receive(client)` has everything delivered that
is due, and returns what arrived.
"""

import asyncio
import logging
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlmodel import col, select

from app.core.client import HERE, Client
from app.db.session import Database
from app.models.mail import Mail, Template
from app.services import outbox
from app.services.courier import deliver_due
from tests.rows import execute

LINK = re.compile(r"https?://\S+#token=[A-Za-z0-9_-]+")
SENDER = "Example <no-reply@example.com>"
PUBLIC_URL = "https://auth.example.com"


class Arrival(NamedTuple):
    """A message with its envelope, and how it came."""

    message: EmailMessage
    raw: bytes
    sender: str
    recipients: list[str]
    encrypted: bool
    user: str | None


class Mailbox:
    """refusals: the reply to a step of the conversation. held: the step where it never answers.

    Steps are CONNECT, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, and MESSAGE, which is the reply to
    the content. Both can be changed while it runs.
    """

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.turned_away: list[Arrival] = []  # read to the end, and refused
        self.refusals: dict[str, str] = {}
        self.refused_recipients: dict[str, str] = {}
        self.held = ""
        self.reached = threading.Event()  # a conversation is being held
        self.steps: list[str] = []
        self.connections = 0
        self.host = "127.0.0.1"
        self.port = 0
        self.scheme = "smtp"
        self.login = ""  # "user:password@" where it asks for one

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.login}{self.host}:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """For `make_client` and `make_settings`."""
        return {"smtp_url": self.url, "mail_from": SENDER, "public_url": PUBLIC_URL}

    @property
    def messages(self) -> list[EmailMessage]:
        return [arrival.message for arrival in self.arrivals]

    def links(self) -> list[str]:
        """Of all messages, the oldest first."""
        return [link for message in self.messages for link in LINK.findall(text_of(message))]

    def token_in(self, message: EmailMessage) -> str:
        (link,) = LINK.findall(text_of(message))
        return str(link).partition("#token=")[2]

    def receive(self, client: TestClient) -> list[EmailMessage]:
        """Have the client's application deliver what is due; returns what came by that."""
        before = len(self.arrivals)
        deliver_due(client.app.state.backend)  # type: ignore[attr-defined]
        return self.messages[before:]

    def receive_token(self, client: TestClient, recipient: str) -> str:
        """The one in the newest mail to this address, of those that came now."""
        found = [mail for mail in self.receive(client) if mail["To"] == recipient]
        return self.token_in(found[-1])

    def wait_until_held(self) -> None:
        assert self.reached.wait(20), "nobody came to that step"

    async def answer(self, step: str, arg: str = "") -> str | None:
        """Called by the server before each step: what to refuse it with, if anything."""
        self.steps.append(step)
        if self.held == step:
            self.reached.set()
            while self.held == step:  # noqa: ASYNC110 (another thread releases it)
                await asyncio.sleep(0.01)
        if step == "RCPT":
            for address, reply in self.refused_recipients.items():
                if address in arg:
                    return reply
        return self.refusals.get(step)


class Server(SMTP):
    """aiosmtpd's, which asks the mailbox before each step."""

    def __init__(self, mailbox: Mailbox, **options: Any) -> None:
        super().__init__(Handler(mailbox), hostname="mail.test", **options)
        self.mailbox = mailbox
        for name, method in self._smtp_methods.items():
            self._smtp_methods[name] = self.asked_before(name, method)

    def asked_before(self, step: str, method: Callable[..., Awaitable[None]]) -> Any:
        @wraps(method)
        async def smtp_method(arg: str | None) -> None:
            if reply := await self.mailbox.answer(step, arg or ""):
                await self.push(reply)
            elif step == "MAIL" and self.mailbox.login and not self.session.authenticated:
                await self.push("530 5.7.0 Authentication required")
            else:
                await method(arg)

        return smtp_method

    async def _handle_client(self) -> None:
        self.mailbox.connections += 1
        if reply := await self.mailbox.answer("CONNECT"):
            await self.push(reply)
            if self.transport:
                self.transport.close()
            return
        await super()._handle_client()


class Handler:
    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        assert envelope.mail_from
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        login = session.auth_data
        arrival = Arrival(
            message,
            content,
            envelope.mail_from,
            [str(recipient) for recipient in envelope.rcpt_tos],
            encrypted=server.transport.get_extra_info("ssl_object") is not None,  # type: ignore[union-attr]
            user=login.login.decode() if isinstance(login, LoginPassword) else None,
        )
        reply = await self.mailbox.answer("MESSAGE")
        (self.mailbox.turned_away if reply else self.mailbox.arrivals).append(arrival)
        return reply or "250 OK"


class Certificates(NamedTuple):
    """authority: the PEM file of a CA that signed the server's, for SSL_CERT_FILE."""

    authority: Path
    server: ssl.SSLContext
    self_signed: ssl.SSLContext


@contextmanager
def smtp_server(
    *,
    tls: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
    login: tuple[str, str] | None = None,
    port: int = 0,
    smtputf8: bool = True,
) -> Iterator[Mailbox]:
    """On a free port of 127.0.0.1, or on the same one as before."""
    mailbox = Mailbox()
    if tls:
        mailbox.scheme = "smtps"
    if login:
        mailbox.login = f"{login[0]}:{login[1]}@"

    def authenticate(
        _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == login, auth_data=data)

    loop = asyncio.new_event_loop()
    options: dict[str, Any] = {
        "loop": loop,
        "tls_context": starttls,
        "require_starttls": starttls is not None,
        "authenticator": authenticate,
        "auth_require_tls": starttls is not None,
        "enable_SMTPUTF8": smtputf8,
    }
    connections: list[Server] = []

    def connected() -> Server:
        connections.append(Server(mailbox, **options))
        return connections[-1]

    server = loop.run_until_complete(loop.create_server(connected, "127.0.0.1", port, ssl=tls))
    mailbox.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    # It would log every command, with its addresses, into the log that tests look at.
    logging.getLogger("mail.log").disabled = True
    thread.start()
    try:
        yield mailbox
    finally:
        asyncio.run_coroutine_threadsafe(hang_up(server, connections), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def hang_up(server: asyncio.Server, connections: list[Server]) -> None:
    server.close()
    for connection in connections:
        if connection.transport:
            connection.transport.abort()  # type: ignore[attr-defined]
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.sleep(0)  # so that the transports say goodbye


def database_of(client: TestClient) -> Database:
    found: Database = client.app.state.backend.database  # type: ignore[attr-defined]
    return found


def write_to(
    client: TestClient,
    template: Template,
    recipient: str,
    origin: Client = HERE,
    **more: Any,
) -> None:
    """Into the outbox, as a service does."""
    settings = client.app.state.backend.settings  # type: ignore[attr-defined]
    database_of(client).run_write(outbox.enqueue, settings, template, recipient, origin, **more)


def waiting(client: TestClient) -> list[Mail]:
    """What is in the outbox, the oldest first."""
    oldest_first = select(Mail).order_by(col(Mail.id))
    return database_of(client).run_read(lambda session: list(session.exec(oldest_first)))


def make_due(client: TestClient) -> None:
    """As if every pause and every lease had run out."""
    now = datetime.now(UTC)
    database_of(client).run_write(execute, update(Mail).values(due_at=now))


def text_of(message: EmailMessage) -> str:
    return content_of(message, "plain")


def html_of(message: EmailMessage) -> str:
    return content_of(message, "html")


def content_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert isinstance(part, EmailMessage)
    return str(part.get_content()).replace("\r\n", "\n")


def make_certificates(folder: Path) -> Certificates:
    """A CA of our own, and a certificate by it for mail.example.net, localhost and 127.0.0.1."""
    key, ca_key, own_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    authority = certificate("Test CA", ca_key, "Test CA", ca_key, is_ca=True)
    signed = certificate("mail.example.net", key, "Test CA", ca_key)
    self_signed = certificate("mail.example.net", own_key, "mail.example.net", own_key)
    path = folder / "authority.pem"
    path.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return Certificates(
        path,
        server_context(folder / "server.pem", signed, key),
        server_context(folder / "self-signed.pem", self_signed, own_key),
    )


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [x509.DNSName(name) for name in ("mail.example.net", "localhost")]
    return (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([*names, x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def server_context(
    path: Path, signed: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> ssl.SSLContext:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
