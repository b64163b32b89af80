"""What a client cannot do to the connection: keep it, or send without end. app/protocol.py."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app import protocol
from app.main import create_app
from app.protocol import LARGEST_HEAD, MOST_HEADERS, MOST_PIPELINED
from tests.conftest import make_settings, running_server
from tests.connections import (
    SOON,
    be_impatient,
    close_what_rests,
    connect,
    is_cut_off,
    keep_few_answers,
    read_to_the_end,
    send_as_long_as_it_reads,
    send_without_end,
    tell_of_pauses,
)

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
    with connect(address) as opened:
        yield opened


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


@pytest.mark.parametrize(
    "beginning",
    [REQUEST, LOG_IN + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"],
    ids=["headers", "trailers"],
)
def test_more_headers_than_anybody_sends_are_refused(
    connection: socket.socket, beginning: bytes
) -> None:
    """The shortest one takes a hundred bytes of memory."""
    connection.sendall(beginning + b"a:\r\n" * (MOST_HEADERS + 2))
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 431 ")


def test_as_many_headers_as_are_allowed_are_borne(connection: socket.socket) -> None:
    sent = REQUEST.count(b"\r\n") - 1
    more = b"a:\r\n" * (MOST_HEADERS - sent - 1)
    connection.sendall(REQUEST + more + b"Connection: close\r\n\r\n")
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 200 ")


def test_large_headers_of_one_connection_do_not_add_up(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(REQUEST + b"X-Large: " + b"a" * (LARGEST_HEAD // 2) + b"\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


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
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    be_impatient(monkeypatch)
    with connect(address) as connection:
        send_as_long_as_it_reads(connection, beginning)
        read_to_the_end(connection)


def test_answers_that_nobody_takes_are_not_kept(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    keep_few_answers(monkeypatch)
    assert is_cut_off(address, REQUEST + b"\r\n")


def test_a_request_that_begins_while_answers_wait_is_not_waited_for(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_few_answers(monkeypatch)
    monkeypatch.setattr(protocol, "ARRIVAL_SECONDS", SOON)
    paused = tell_of_pauses(monkeypatch)
    with connect(address, room=4096) as connection:
        while not paused.is_set():
            connection.sendall(REQUEST + b"\r\n")
            time.sleep(0.01)
        connection.sendall(b"G")
        time.sleep(0.1)
        read_to_the_end(connection)


def test_a_body_that_was_refused_does_not_go_on_without_end(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    with connect(address) as connection:
        connection.sendall(LOG_IN + b"Content-Length: 300000000\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
        send_without_end(connection, b"a", pause=SOON / 10)


def test_after_a_body_that_was_refused_nobody_waits_for_ever_for_the_next_request(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    close_what_rests(monkeypatch)
    with connect(address) as connection:
        connection.sendall(LOG_IN + b"Content-Length: 70000\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
        send_as_long_as_it_reads(connection, b"a" * 70_000)
        assert read_to_the_end(connection) == b""


def test_after_a_body_that_was_refused_the_next_request_gets_its_answer(
    connection: socket.socket,
) -> None:
    connection.sendall(LOG_IN + b"Content-Length: 70000\r\n\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
    connection.sendall(b"a" * 70_000 + REQUEST + b"\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    connection.sendall(LOG_IN + b"Content-Length: 70000\r\n\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
    connection.sendall(b"a" * 70_000 + b"no request\r\n")
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 400 ")


def test_after_the_answer_to_a_request_its_body_gets_none(connection: socket.socket) -> None:
    connection.sendall(LOG_IN + b"Transfer-Encoding: chunked\r\n\r\n11170\r\n" + b"a" * 70_000)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
    connection.sendall(b"\r\nno size of a chunk\r\n")
    assert read_to_the_end(connection) == b""


@pytest.mark.parametrize("rest", [b"no request\r\n", REQUEST + b"X-Large: " + b"a" * 200_000])
def test_a_request_gets_its_own_answer_whatever_comes_after_it(
    connection: socket.socket, rest: bytes
) -> None:
    connection.sendall(REQUEST + b"\r\n")
    send_as_long_as_it_reads(connection, rest)
    answers = read_to_the_end(connection)
    assert answers.startswith(b"HTTP/1.1 200 ")


def test_what_is_no_request_is_not_answered_in_the_place_of_the_one_before(
    connection: socket.socket,
) -> None:
    connection.sendall(REQUEST + b"\r\n" + b"no request\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", read_to_the_end(connection)) == [b"200"]


def test_who_asks_on_and_on_without_waiting_is_cut_off(connection: socket.socket) -> None:
    """After so many answers as may be asked for."""
    connection.sendall((REQUEST + b"\r\n") * (MOST_PIPELINED + 10))
    statuses = re.findall(rb"HTTP/1.1 (\d+)", read_to_the_end(connection))
    assert statuses == [b"200"] * (MOST_PIPELINED + 1)


def test_some_requests_may_follow_one_another_without_waiting(connection: socket.socket) -> None:
    connection.sendall((REQUEST + b"\r\n") * (MOST_PIPELINED - 1))
    connection.sendall(REQUEST + b"Connection: close\r\n\r\n")
    statuses = re.findall(rb"HTTP/1.1 (\d+)", read_to_the_end(connection))
    assert statuses == [b"200"] * MOST_PIPELINED
