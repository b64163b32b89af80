"""What finds the queue full is refused before the application is asked: app/api/shortcut.py."""

import asyncio
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from httpx2 import Client, Response
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.protocol import CLOSE, MOST_PIPELINED, Protocol
from tests.answers import differences, refused_as
from tests.conftest import make_settings, running_server
from tests.connections import (
    PATIENCE,
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
from tests.figures import rise
from tests.people import ADA

PATH = "/api/v1/auth/login"
FRONT_END = "https://app.example.com"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: testserver\r\n".encode()
LOG_IN = HEAD + b"Content-Length: 2\r\n\r\n{}"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: testserver\r\n\r\n"
SLOW = LIVE.replace(b"live", b"live?slow")
GOODBYE = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Counted:
    """An application that knows how often it was asked."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += scope["type"] == "http"
        if scope.get("query_string") == b"slow":
            await asyncio.sleep(3 * SOON)
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def served(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Counted, str]]:
    path = shutil.copy(migrated_sqlite, tmp_path_factory.mktemp("shortcut"))
    settings = make_settings(
        f"sqlite:///{path}",
        backend_cors_origins=[FRONT_END],
        enable_metrics=True,
        trusted_proxies=["127.0.0.1"],
    )
    app = Counted(create_app(settings))
    with running_server(app) as address:
        yield app, address


@pytest.fixture
def app(served: tuple[Counted, str]) -> Iterator[Counted]:
    """Its queue is full."""
    app, _ = served
    app.asked = 0
    passwords = app.app.state.backend.passwords
    room, passwords._room = passwords._room, 0
    yield app
    passwords._room = room
    passwords._under_way.clear()


@pytest.fixture
def client(served: tuple[Counted, str]) -> Iterator[Client]:
    with Client(base_url=served[1]) as opened:
        yield opened


@pytest.fixture
def address(served: tuple[Counted, str]) -> tuple[str, int]:
    url = httpx2.URL(served[1])
    return url.host, url.port or 0


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with connect(address) as opened:
        yield opened


def log_in(client: Client, **headers: str) -> Response:
    return client.post(PATH, json=ADA, headers=headers)


def statuses(connection: socket.socket, *requests: bytes) -> list[bytes]:
    """Of all answers, in their order. The last request closes the connection."""
    for request in requests:
        send_as_long_as_it_reads(connection, request)
    return re.findall(rb"HTTP/1.1 (\d+)", read_to_the_end(connection))


def test_the_application_is_not_asked(client: Client, app: Counted) -> None:
    assert refused_as(log_in(client)) == (503, "busy")
    assert app.asked == 0


def test_what_is_said_is_what_the_application_says(client: Client, app: Counted) -> None:
    long_way = log_in(client, Connection="close")
    assert app.asked == 1
    assert differences(log_in(client), long_way) == {"header connection"}


def test_the_callers_request_id_is_kept(client: Client, app: Counted) -> None:
    answer = log_in(client, **{"X-Request-ID": "0123-from-a-proxy"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "0123-from-a-proxy"
    assert app.asked == 0


def test_with_room_in_the_queue_the_application_is_asked(client: Client, app: Counted) -> None:
    app.app.state.backend.passwords._room = 1
    assert refused_as(client.post(PATH, content=b"{")) == (422, "validation_failed")
    assert app.asked == 1


def test_a_network_that_has_its_share_is_refused_and_others_are_not(
    client: Client, app: Counted
) -> None:
    passwords = app.app.state.backend.passwords
    passwords._room = passwords._share
    passwords._under_way["192.0.2.1"] = passwords._share
    assert log_in(client, **{"X-Forwarded-For": "192.0.2.1"}).status_code == 503
    assert app.asked == 0
    assert log_in(client, **{"X-Forwarded-For": "192.0.2.2"}).status_code != 503


def test_a_page_of_the_front_end_can_read_the_refusal(client: Client, app: Counted) -> None:
    answer = log_in(client, Origin=FRONT_END)
    assert refused_as(answer) == (503, "busy")
    assert answer.headers["access-control-allow-origin"] == FRONT_END
    assert app.asked == 1


def test_a_page_from_elsewhere_is_not_asked_about_and_reads_nothing(
    client: Client, app: Counted
) -> None:
    answer = log_in(client, Origin="https://evil.example")
    assert refused_as(answer) == (503, "busy")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert app.asked == 0


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (HEAD.replace(b"login", b"login?a=b"), b"503"),
        (HEAD.replace(b"login", b"log%69n"), b"503"),
        (HEAD + b"Expect: 100-continue\r\n", b"503"),
        (HEAD.replace(b"login", b"logout"), b"204"),
        (HEAD.replace(b"POST", b"PUT"), b"405"),
    ],
    ids=["query", "encoded", "expect", "log out", "PUT"],
)
def test_whatever_is_not_plain_goes_the_long_way(
    connection: socket.socket, app: Counted, request_head: bytes, status: bytes
) -> None:
    found = statuses(connection, request_head + b"\r\n" + GOODBYE)
    assert found == [status, b"200"]
    assert app.asked == 2


@pytest.mark.parametrize(
    "request_head",
    [
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n",
        HEAD + b"Connection: close\r\n",
        HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    ],
    ids=["1.0", "1.0 kept alive", "close", "upgrade"],
)
def test_the_last_of_a_connection_goes_the_long_way(
    connection: socket.socket, app: Counted, request_head: bytes
) -> None:
    assert statuses(connection, request_head + b"\r\n" + LIVE) == [b"503"]
    assert app.asked == 1


@pytest.mark.parametrize(
    "head", [HEAD.replace(b"login", b"log\xffn"), HEAD + b"Content-Length: a\r\n"]
)
def test_what_is_no_http_is_refused_as_ever(
    connection: socket.socket, app: Counted, head: bytes
) -> None:
    assert statuses(connection, head + b"\r\n") == [b"400"]


def test_the_connection_goes_on(connection: socket.socket, app: Counted) -> None:
    found = statuses(connection, LOG_IN + LIVE, LOG_IN[:-1], LOG_IN[-1:], LOG_IN, GOODBYE)
    assert found == [b"503", b"200", b"503", b"503", b"200"]


def test_requests_in_one_piece_are_answered_in_their_order(
    connection: socket.socket, app: Counted
) -> None:
    found = statuses(connection, LIVE + LOG_IN + LIVE + LOG_IN + LOG_IN + GOODBYE)
    assert found == [b"200", b"503", b"200", b"503", b"503", b"200"]


def test_whoever_is_before_it_is_answered_before(connection: socket.socket, app: Counted) -> None:
    for request in (SLOW, LOG_IN, GOODBYE):
        connection.sendall(request)
        time.sleep(SOON / 3)
    assert statuses(connection) == [b"200", b"503", b"200"]


def test_it_is_not_taken_while_answers_wait_for_the_client(
    address: tuple[str, int], app: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would fill the memory."""
    keep_few_answers(monkeypatch)
    paused = tell_of_pauses(monkeypatch)
    with connect(address, room=4096) as connection:
        while not paused.is_set():
            connection.sendall(LOG_IN)
            time.sleep(0.01)
        before = app.asked
        connection.sendall(LOG_IN)
        deadline = time.monotonic() + PATIENCE
        while app.asked == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_who_asks_on_and_on_in_one_piece_is_cut_off(
    connection: socket.socket, app: Counted
) -> None:
    """One by the shortcut, then so many as may be asked for."""
    found = statuses(connection, LOG_IN * (MOST_PIPELINED + 10))
    assert found == [b"503"] * (MOST_PIPELINED + 2)


@pytest.mark.parametrize("pieces", [[LOG_IN + SLOW], [LOG_IN[:-1], LOG_IN[-1:] + SLOW]])
def test_a_request_in_one_piece_with_it_has_its_time(
    address: tuple[str, int],
    app: Counted,
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[bytes],
) -> None:
    close_what_rests(monkeypatch)
    with connect(address) as connection:
        assert statuses(connection, *pieces) == [b"503", b"200"]


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: gzip\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nX Y: 1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2;a=" + b"a" * 240_000,
    ],
    ids=["coding", "chunk", "trailer", "extension"],
)
def test_it_is_the_only_answer(connection: socket.socket, app: Counted, rest: bytes) -> None:
    assert statuses(connection, HEAD + rest) == [b"503"]


def test_a_body_that_was_refused_does_not_go_on_without_end(
    address: tuple[str, int], app: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    with connect(address) as connection:
        connection.sendall(HEAD + b"Content-Length: 300000000\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 503 ")
        send_without_end(connection, b"a", pause=SOON / 10)


def test_answers_that_nobody_takes_are_not_kept(
    address: tuple[str, int], app: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    keep_few_answers(monkeypatch)
    assert is_cut_off(address, LOG_IN)


def test_while_the_process_ends_the_answer_is_the_connections_last(
    client: Client, app: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As app/server.py has it."""
    begun = Protocol.on_message_begin

    def ending(self: Protocol) -> None:
        headers = [*self.server_state.default_headers, CLOSE]
        monkeypatch.setattr(self.server_state, "default_headers", headers)
        begun(self)

    monkeypatch.setattr(Protocol, "on_message_begin", ending)
    assert log_in(client).headers["connection"] == "close"
    assert app.asked == 1


def test_it_leaves_no_line_and_is_counted(
    client: Client, app: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"method": "POST", "route": PATH, "status": "503"}
    caplog.clear()
    for _ in range(3):
        assert rise(client, lambda: log_in(client), "http_requests_total", **labels) == 1
    lines = [vars(record)["fields"] for record in caplog.records if record.msg == "request"]
    assert {line["path"] for line in lines} == {"/metrics"}
