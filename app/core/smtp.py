"""A conversation with a mail server, which has an end, however slow the server is.

Nothing is said in the clear but on this machine itself: otherwise whoever listens would read the
password, and links that change other people's passwords.
"""

import re
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from ipaddress import ip_address
from threading import Timer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from email_validator import EmailNotValidError, validate_email

STEP = 10  # seconds that a server may keep silent
CONVERSATION = 60  # seconds for one mail, however often it says a little
LONGEST_REASON = 200  # characters

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
NAME = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
ADDRESS = re.compile(rf"{ATOM}(\.{ATOM})*@{NAME}(\.{NAME})*")
MAILBOX = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]*)>")
# How text in a header begins that is to be decoded (RFC 2047): line breaks and all, in an address,
# where it must not stand. Python decodes it there.
ENCODED = "=?"
HOST = re.compile(rf"{NAME}(\.{NAME})*")


@dataclass(frozen=True, slots=True)
class SmtpServer:
    host: str
    port: int
    tls: bool  # from the first byte; otherwise by STARTTLS
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def is_this_machine(self) -> bool:
        """By its name in the setting. What a resolver says of other names can be forged."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def protection(self) -> str:
        if self.tls:
            return "TLS"
        return "in the clear, on this machine" if self.is_this_machine else "STARTTLS"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Sender(NamedTuple):
    name: str
    address: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]

    @property
    def service(self) -> str:
        """What the service calls itself in its mails."""
        return self.name or self.domain


def read_smtp_url(text: str) -> SmtpServer:
    """Raises ValueError, which does not quote the password, for what is no address of a server."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(
            "its port is no number from 1 to 65535; in a user or password, / : @ are %2F %3A %40"
        ) from None
    if url.scheme not in ("smtp", "smtps"):
        raise ValueError("it begins with neither smtp:// nor smtps://")
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ValueError("nothing may follow after ? or #; in a password they are %3F and %23")
    if url.path not in ("", "/"):
        raise ValueError("nothing may follow after the port; in a password, / is written %2F")
    host = (url.hostname or "").lower()
    if not host:
        raise ValueError("it names no host")
    if not is_host(host):
        raise ValueError("its host is no host name")
    if port == 0:
        raise ValueError("its port is no number from 1 to 65535")
    user, password = read_secret(url.username), read_secret(url.password)
    if bool(user) != bool(password):
        raise ValueError("a user needs a password, and a password a user")
    tls = url.scheme == "smtps"
    return SmtpServer(host, port or (465 if tls else 587), tls, user, password)


def is_host(text: str) -> bool:
    if ":" in text:  # between brackets in the URL
        with suppress(ValueError):
            return ip_address(text).version == 6
        return False
    return len(text) <= 253 and bool(HOST.fullmatch(text))


def read_secret(text: str | None) -> str:
    if text is None:
        return ""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("a % in a user or password is written %25")
    decoded = unquote(text, errors="replace")
    if not decoded.isascii() or not decoded.isprintable():  # smtplib knows no others
        raise ValueError("a user or password holds other characters than printable ASCII")
    return decoded


def read_sender(text: str) -> Sender:
    """`Name <address>`, or the address alone. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("it holds a line break or another control character")
    match = MAILBOX.fullmatch(text.strip())
    name, address = (match["name"], match["address"]) if match else ("", text)
    address = address.strip()
    domain = address.rpartition("@")[2]
    if len(address) > 254 or not is_host(domain) or not ADDRESS.fullmatch(address):
        raise ValueError("it is neither Name <address> nor an address")
    return Sender(name.strip().strip('"').strip(), address.replace(domain, domain.lower()))


class Unreachable(Exception):
    """No connection to the server, or none that may be used. What it says is no secret."""


class Undelivered(Exception):
    """The server did not take this mail, or must not be given it. Without the server's own words,
    which may quote from the mail.
    """


class Conversation:
    """One connection, for one mail after another."""

    def __init__(self, server: SmtpServer, sender: Sender) -> None:
        self._server = server
        self._smtp = Client(server, sender.domain)

    def open(self) -> None:
        """Raises Unreachable."""
        smtp, server = self._smtp, self._server
        try:
            with self._limited():
                greeting, text = smtp.connect(server.host, server.port)
                if greeting != 220:
                    raise smtplib.SMTPConnectError(greeting, text)
                smtp.ehlo_or_helo_if_needed()
                if not (server.tls or server.is_this_machine):
                    smtp.starttls(context=ssl.create_default_context())
                if server.user:
                    smtp.login(server.user, server.password)
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            smtp.close()
            raise Unreachable(self._explain(error)) from None

    @property
    def is_open(self) -> bool:
        return self._smtp.sock is not None

    def send(self, message: EmailMessage) -> None:
        """To the one address in its To. Raises Undelivered."""
        smtp = self._smtp
        (sender,), (recipient,) = (message[name].addresses for name in ("From", "To"))
        try:
            with self._limited():
                smtp.send_message(message, sender.addr_spec, [recipient.addr_spec])
        except smtplib.SMTPRecipientsRefused as error:
            ((code, text),) = error.recipients.values()
            raise Undelivered(f"RCPT: {number(code, text)}") from None
        except smtplib.SMTPResponseException as error:
            step = "MAIL" if isinstance(error, smtplib.SMTPSenderRefused) else "DATA"
            raise Undelivered(f"{step}: {number(error.smtp_code, error.smtp_error)}") from None
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            if not isinstance(error, smtplib.SMTPNotSupportedError):
                smtp.close()  # who knows what it would answer next
            raise Undelivered(type(error).__name__) from None

    def close(self) -> None:
        if self.is_open:
            with suppress(OSError, smtplib.SMTPException), self._limited():
                self._smtp.quit()
        self._smtp.close()

    def abort(self) -> None:
        """From another thread: whatever is being waited for fails at once."""
        self._smtp.expired = True
        if sock := self._smtp.sock:
            with suppress(OSError):
                # Not SSLSocket's own, after which it would go on in the clear.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        timer = Timer(CONVERSATION, self.abort)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is refused: {error.verify_message}"
        elif isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            reason = "it does not answer in time"
        elif isinstance(error, smtplib.SMTPResponseException):
            reason = f"{error.smtp_code} {said(error.smtp_error)}"
        else:
            reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        if password := self._server.password:
            reason = reason.replace(password, "(hidden)")
        return " ".join(reason.split())[:LONGEST_REASON]


class Client(smtplib.SMTP):
    """smtplib's, which can be stopped between two steps as well as within one."""

    def __init__(self, server: SmtpServer, own_name: str) -> None:
        # own_name: smtplib would ask a resolver for this machine's, and tell it to the server.
        super().__init__(local_hostname=own_name, timeout=STEP)
        self._host = server.host  # which STARTTLS compares with the certificate
        self._tls = server.tls
        self.expired = False

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), timeout)
        if not self._tls:
            return connection
        try:
            return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise

    def send(self, s: Any) -> None:
        if self.expired:
            raise TimeoutError
        super().send(s)


def recipient_header(address: str) -> Address:
    """The domain in the form that every server understands. Raises Undelivered.

    By IDNA 2008, as the address was read. Python's own codec is of 2003, and makes groß.de the
    domain gross.de, which is somebody else's.
    """
    try:
        domain = validate_email(address, check_deliverability=False).ascii_domain
    except EmailNotValidError:
        raise Undelivered("To: no address") from None
    if ENCODED in address:
        raise Undelivered("To: an address that reads as another one")
    return Address(username=address.rpartition("@")[0], domain=domain)


def number(code: int, text: bytes | str) -> str:
    """550 5.1.1: both codes of a refusal, and not its words."""
    extended = re.match(r"[245]\.\d{1,3}\.\d{1,3}\b", said(text))
    return f"{code} {extended[0]}" if extended else str(code)


def said(text: bytes | str) -> str:
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "".join(character if character.isprintable() else " " for character in decoded)
