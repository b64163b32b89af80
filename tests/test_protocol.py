"""What a client cannot do to the connection: keep it, or send without end. app/protocol.py."""

import re
import socket
import threading
import time
from asyncio import Transport
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app import protocol
from app.main import create_app
from app.protocol import LARGEST_HEAD, MOST_PIPELINED, Protocol
from tests.conftest import make_settings, running_server

PATIENCE = 10  # seconds; nothing takes that long
SOON = 0.3  # seconds, instead of the limits of production
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: testserver\r\n"
LOG_IN = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: testserver\r\n"
LOG_IN += b"Content-Type: application/json\r\n"
PIECE = b"a" * 8192


@pytest.fixture(scope="module")
def address(migrated_sqlite: Path) -> Iterator[tuple[str, int]]:
    """These requests never get as far as the database."""
    with running_server(create_app(make_settings(f"sqlite:///{migrated_sqlite}"))) as url:
        parts = urlsplit(url)
        yield str(parts.hostname), int(parts.port or 0)


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=PATIENCE) as opened:
        yield opened


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system keeps no more than a few answers for a client."""
    made = Protocol.connection_made

    def connection_made(self: Protocol, transport: Transport) -> None:
        opened = transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Protocol, "connection_made", connection_made)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that rests is soon closed."""
    made = Protocol.connection_made

    def connection_made(self: Protocol, transport: Transport) -> None:
        self.timeout_keep_alive = SOON
        made(self, transport)

    monkeypatch.setattr(Protocol, "connection_made", connection_made)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARRIVAL_SECONDS", "READING_SECONDS", "LEAVING_SECONDS"):
        monkeypatch.setattr(protocol, name, SOON)


def send_without_end(connection: socket.socket, piece: bytes) -> int:
    """How many bytes it took until nobody listened any more."""
    sent = 0
    try:
        while sent < 50_000_000:
            connection.sendall(piece)
            sent += len(piece)
    except (BrokenPipeError, ConnectionResetError):
        return sent
    pytest.fail("it would have gone on for ever")


def read_to_the_end(connection: socket.socket) -> bytes:
    """Raises TimeoutError where the connection stays."""
    received = b""
    try:
        while data := connection.recv(65_536):
            received += data
    except ConnectionResetError:
        pass
    return received


def is_cut_off(address: tuple[str, int], request: bytes) -> bool:
    """Whoever asks one thing after the other, and takes no answer."""
    deadline = time.monotonic() + PATIENCE / 2
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.setblocking(False)
        while time.monotonic() < deadline:
            try:
                connection.send(request)
                time.sleep(0.01)  # so that each arrives by itself
            except BlockingIOError:
                time.sleep(0.05)
            except (BrokenPipeError, ConnectionResetError):
                return True
    return False


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"GET /", PIECE),
        (REQUEST + b"X-Endless: ", PIECE),
        (REQUEST, b"X-Another: one\r\n" * 500),
        (b"\r\n", b"\r\n" * 4000),
        (LOG_IN + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Endless: ", PIECE),
        (LOG_IN + b"Transfer-Encoding: chunked\r\n\r\n2;a=", PIECE),
    ],
    ids=["address", "header", "headers", "empty lines", "trailer", "chunk extension"],
)
def test_what_is_no_body_does_not_go_on_without_end(
    connection: socket.socket, beginning: bytes, piece: bytes
) -> None:
    connection.sendall(beginning)
    assert send_without_end(connection, piece) < 40_000_000


def test_a_header_that_is_too_large_is_told_so(connection: socket.socket) -> None:
    connection.sendall(REQUEST + b"X-Large: " + b"a" * LARGEST_HEAD)
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 431 ")


def test_a_header_that_is_not_too_large_is_borne(connection: socket.socket) -> None:
    large = b"X-Large: " + b"a" * (LARGEST_HEAD - 200)
    connection.sendall(REQUEST + large + b"\r\nConnection: close\r\n\r\n")
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 200 ")


def test_large_headers_of_one_connection_do_not_add_up(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(REQUEST + b"X-Large: " + b"a" * (LARGEST_HEAD // 2) + b"\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"\r\n",
        REQUEST + b"X-Slow: a",
        LOG_IN + b"Content-Length: 1000\r\n\r\n{",
        REQUEST + b"\r\n" + REQUEST,
    ],
    ids=["nothing", "an empty line", "a header", "a body", "a second request"],
)
def test_a_request_that_does_not_arrive_is_not_waited_for(
    address: tuple[str, int], beginning: bytes
) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(beginning)
        read_to_the_end(connection)


@pytest.mark.usefixtures("impatient", "narrow")
def test_answers_that_nobody_takes_are_not_kept(address: tuple[str, int]) -> None:
    assert is_cut_off(address, REQUEST + b"\r\n")


@pytest.mark.usefixtures("impatient")
def test_a_body_that_was_refused_does_not_go_on_without_end(connection: socket.socket) -> None:
    connection.sendall(LOG_IN + b"Content-Length: 300000000\r\n\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
    assert read_to_the_end(connection) == b""


@pytest.mark.usefixtures("restless")
def test_nobody_waits_for_another_request_after_a_body_that_was_refused(
    address: tuple[str, int],
) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(LOG_IN + b"Content-Length: 70000\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"a" * 70_000)
        assert read_to_the_end(connection) == b""


@pytest.mark.usefixtures("narrow")
def test_a_request_that_begins_while_answers_wait_is_not_waited_for(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "ARRIVAL_SECONDS", SOON)
    paused = threading.Event()
    pause = Protocol.pause_writing
    monkeypatch.setattr(Protocol, "pause_writing", lambda self: (pause(self), paused.set()))
    with socket.create_connection(address, timeout=PATIENCE / 2) as connection:
        while not paused.is_set():
            connection.sendall(REQUEST + b"\r\n")
            time.sleep(0.01)
        connection.sendall(b"G")
        time.sleep(0.1)
        read_to_the_end(connection)


def test_after_the_answer_to_a_request_its_body_gets_none(connection: socket.socket) -> None:
    connection.sendall(LOG_IN + b"Transfer-Encoding: chunked\r\n\r\n11170\r\n" + b"a" * 70_000)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
    connection.sendall(b"\r\nno size of a chunk\r\n")
    assert read_to_the_end(connection) == b""


def test_what_is_no_request_is_not_the_answer_to_the_one_before(
    connection: socket.socket,
) -> None:
    connection.sendall(REQUEST + b"\r\n" + b"no request\r\n")
    assert b" 400 " not in read_to_the_end(connection)


def test_who_asks_on_and_on_without_waiting_is_cut_off(connection: socket.socket) -> None:
    connection.sendall((REQUEST + b"\r\n") * (MOST_PIPELINED + 10))
    assert read_to_the_end(connection) == b""


def test_some_requests_may_follow_one_another_without_waiting(connection: socket.socket) -> None:
    connection.sendall((REQUEST + b"\r\n") * (MOST_PIPELINED - 1))
    connection.sendall(REQUEST + b"Connection: close\r\n\r\n")
    statuses = re.findall(rb"HTTP/1.1 (\d+)", read_to_the_end(connection))
    assert statuses == [b"200"] * MOST_PIPELINED
