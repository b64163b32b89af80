"""Requests as no client library sends them, over a socket, to a real uvicorn.

Smuggling (IN-07, ASVS 4.2.1): where a proxy and this server see different ends of one request,
what is left over becomes the beginning of the next person's request, with that person's token.
uvicorn with httptools refuses every ambiguous request and closes the connection. It answers with
a plain text of its own, because such a request never becomes one for the application.
"""

import asyncio
import json
import re
import select
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.session import Database
from app.main import create_app
from tests.conftest import make_settings, running_server
from tests.operations import SOME_ID
from tests.people import ADA, BOB
from tests.rows import all_logins

PATIENCE = 5  # seconds; no answer takes that long
SLOW = 0.2  # seconds that a request with `?slow` takes
LOGIN = "/api/v1/auth/login"
LOGOUT = "/api/v1/auth/logout"
ME = "/api/v1/users/me"
SESSIONS = "/api/v1/users/me/sessions"


class Seen(NamedTuple):
    """What the application was asked for, in whose name."""

    method: str
    path: str
    authorization: str | None


class Recorder:
    """Around the application. A request is seen when it has been dealt with."""

    def __init__(self, app: ASGIApp, seen: "SimpleQueue[tuple[Seen, int]]") -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        if scope["query_string"] == b"slow":
            await asyncio.sleep(SLOW)
        await self.app(scope, receive, send_and_note)
        authorization = Headers(scope=scope).get("authorization")
        self.seen.put((Seen(scope["method"], scope["path"], authorization), status))


class Server(NamedTuple):
    address: str
    database: Database
    tokens: dict[str, str]  # by address
    seen: "SimpleQueue[tuple[Seen, int]]"

    def bearer(self, person: dict[str, str]) -> str:
        return f"Bearer {self.tokens[person['email']]}"

    def all_seen(self) -> list[Seen]:
        return [self.seen.get()[0] for _ in range(self.seen.qsize())]


class Answer(NamedTuple):
    statuses: list[int]
    text: str
    closed: bool


@pytest.fixture(scope="module")
def server(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With Ada and Bob logged in as programs are. One for all: these tests change nothing."""
    path = shutil.copy(migrated_sqlite, tmp_path_factory.mktemp("raw"))
    app = create_app(make_settings(f"sqlite:///{path}"))
    seen: SimpleQueue[tuple[Seen, int]] = SimpleQueue()
    app.add_middleware(Recorder, seen=seen)
    with running_server(app) as address:
        tokens = {}
        for person in (ADA, BOB):
            httpx2.post(f"{address}/api/v1/auth/register", json=person).raise_for_status()
            form = {"grant_type": "password", "username": person["email"]}
            form["password"] = person["password"]
            answer = httpx2.post(f"{address}/api/v1/auth/token", data=form).json()
            tokens[person["email"]] = answer["access_token"]
        yield Server(address, app.state.backend.database, tokens, seen)


@pytest.fixture(autouse=True)
def _forget_what_was_seen(server: Server) -> None:
    server.all_seen()


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.address)
    connection = socket.create_connection((address.hostname, address.port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange(server: Server, sent: bytes) -> Answer:
    """Reads until the server closes: whoever wants it to says `Connection: close`."""
    with connect(server) as connection:
        connection.sendall(sent)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    received, closed = b"", False
    try:
        while data := connection.recv(65_536):
            received += data
        closed = True
    except ConnectionResetError:
        closed = True  # it closed before it had read everything
    except TimeoutError:
        pass
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]
    return Answer(statuses, received.decode("latin-1"), closed)


def request(
    method: str, path: str | bytes, *headers: str, authorization: str = "", body: bytes = b""
) -> bytes:
    """The last one of its connection."""
    lines = ["Host: testserver", *headers, "Connection: close"]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    path = path.encode() if isinstance(path, str) else path
    head = "\r\n".join(lines).encode("latin-1")
    return method.encode() + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n\r\n" + body


def without_close(request: bytes) -> bytes:
    return request.replace(b"Connection: close\r\n", b"")


# Where does the request end?

# It ends in the middle of a header, and so would swallow the first line of the next request.
SMUGGLED = b"GET /api/v1/users/me/sessions HTTP/1.1\r\nHost: testserver\r\nX-Swallow: "
NO_CHUNKS = b"0\r\n\r\n" + SMUGGLED
ALL = len(NO_CHUNKS)

AMBIGUOUS = {
    "length and chunks": (f"Content-Length: {ALL}\r\nTransfer-Encoding: chunked", NO_CHUNKS),
    "chunks and length": (f"Transfer-Encoding: chunked\r\nContent-Length: {ALL}", NO_CHUNKS),
    "two lengths": (f"Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}", SMUGGLED),
    "the same length twice": ("Content-Length: 0\r\nContent-Length: 0", SMUGGLED),
    "a list of lengths": (f"Content-Length: 0, {len(SMUGGLED)}", SMUGGLED),
    "a signed length": ("Content-Length: +0", SMUGGLED),
    "a negative length": ("Content-Length: -1", SMUGGLED),
    "a hexadecimal length": ("Content-Length: 0x0", SMUGGLED),
    "an endless length": ("Content-Length: 99999999999999999999999", SMUGGLED),
    "an empty length": ("Content-Length:", SMUGGLED),
    "an unknown coding": ("Transfer-Encoding: xchunked", NO_CHUNKS),
    "a coding after chunked": ("Transfer-Encoding: chunked, identity", NO_CHUNKS),
    "a header after chunked": (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        NO_CHUNKS,
    ),
    "chunked twice": ("Transfer-Encoding: chunked, chunked", NO_CHUNKS),
    "identity": ("Transfer-Encoding: identity", NO_CHUNKS),
    "chunked with a parameter": ("Transfer-Encoding: chunked;q=1", NO_CHUNKS),
    "chunked in quotes": ('Transfer-Encoding: "chunked"', NO_CHUNKS),
    "chunked after a vertical tab": ("Transfer-Encoding: \x0bchunked", NO_CHUNKS),
    "a space before the colon": ("Transfer-Encoding : chunked", NO_CHUNKS),
    "a folded header": ("Transfer-Encoding:\r\n chunked", NO_CHUNKS),
    "a folded line": ("X-Anything: a\r\n Transfer-Encoding: chunked", NO_CHUNKS),
    "a bare line feed": ("X-Anything: a\nContent-Length: 0", SMUGGLED),
    "a bare carriage return": ("X-Anything: a\rContent-Length: 0", SMUGGLED),
    "a bare line feed in the chunks": ("Transfer-Encoding: chunked", b"0\n\n" + SMUGGLED),
    "a line feed in a chunk extension": (
        "Transfer-Encoding: chunked",
        b"2;\nxx\r\n{}\r\n" + NO_CHUNKS,
    ),
    "a chunk size beyond 64 bits": (
        "Transfer-Encoding: chunked",
        b"fffffffffffffffff2\r\n{}\r\n" + NO_CHUNKS,
    ),
    "a chunk size with 0x": ("Transfer-Encoding: chunked", b"0x2\r\n{}\r\n" + NO_CHUNKS),
    "a chunk longer than its size": (
        "Transfer-Encoding: chunked",
        b"2\r\n{}{}\r\n" + NO_CHUNKS,
    ),
}


@pytest.mark.proves("4.2.1", "IN-07")
@pytest.mark.parametrize(("headers", "body"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_with_an_ambiguous_end_is_refused(
    server: Server, headers: str, body: bytes
) -> None:
    attack = f"POST {LOGOUT} HTTP/1.1\r\nHost: testserver\r\n{headers}\r\n\r\n".encode("latin-1")
    victim = request("GET", ME, authorization=server.bearer(BOB))
    answer = exchange(server, attack + body + victim)
    assert answer.statuses == [400]
    assert answer.closed
    assert not [seen for seen in server.all_seen() if seen.authorization]


UNAMBIGUOUS = {
    "a body where none is expected": (f"Content-Length: {len(SMUGGLED)}", SMUGGLED),
    "one chunk": (
        "Transfer-Encoding: chunked",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    ),
    "a chunk extension": ("Transfer-Encoding: Chunked", b"2;a=b\r\n{}\r\n0\r\n\r\n"),
    "a trailer": (
        "Transfer-Encoding: chunked",
        b"0\r\nAuthorization: Bearer a\r\n\r\n",
    ),
    "chunked as the last coding": ("Transfer-Encoding: identity, chunked", b"0\r\n\r\n"),
}


@pytest.mark.proves("4.2.1", "IN-07")
@pytest.mark.parametrize(("headers", "body"), UNAMBIGUOUS.values(), ids=UNAMBIGUOUS)
def test_after_a_request_with_a_clear_end_the_next_one_is_its_own(
    server: Server, headers: str, body: bytes
) -> None:
    first = f"POST {LOGOUT} HTTP/1.1\r\nHost: testserver\r\n{headers}\r\n\r\n".encode()
    answer = exchange(server, first + body + request("GET", ME, authorization=server.bearer(BOB)))
    assert answer.statuses == [204, 200]
    assert BOB["email"] in answer.text
    assert server.all_seen() == [
        Seen("POST", LOGOUT, None),
        Seen("GET", ME, server.bearer(BOB)),
    ]


def test_requests_of_two_people_in_one_packet_are_answered_in_order(server: Server) -> None:
    """As a proxy that shares connections sends them."""
    first = without_close(request("GET", ME, authorization=server.bearer(ADA)))
    answer = exchange(server, first + request("GET", ME, authorization=server.bearer(BOB)))
    assert answer.statuses == [200, 200]
    assert re.findall(r'"email":"(\w+)@', answer.text) == ["ada", "bob"]


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_what_follows_an_upgrade_is_no_request(server: Server, protocol: str) -> None:
    """uvicorn answers the request itself and reads nothing more from that connection."""
    upgrade = request("GET", "/health/live", f"Upgrade: {protocol}").replace(
        b"Connection: close", b"Connection: Upgrade, close"
    )
    answer = exchange(server, upgrade + request("GET", ME, authorization=server.bearer(BOB)))
    assert answer.statuses == [200]
    assert not [seen for seen in server.all_seen() if seen.authorization]


@pytest.mark.proves("4.2.1", "IN-07")
@pytest.mark.parametrize("pause", [SLOW / 4, 2 * SLOW], ids=["before the answer", "after it"])
@pytest.mark.parametrize("is_request", [True, False])
def test_the_body_of_an_upgrade_is_no_request(
    server: Server, pause: float, is_request: bool
) -> None:
    """As `curl --http2` and Java send one: the body in a piece of its own."""
    body = request("GET", ME, authorization=server.bearer(BOB)) if is_request else b"{}\r\n"
    head = f"POST {LOGOUT}?slow HTTP/1.1\r\nHost: testserver\r\n"
    head += "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    with connect(server) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        time.sleep(pause)
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(body)
        answer = read_answer(connection)
    assert answer.statuses == [204]
    assert server.all_seen() == [Seen("POST", LOGOUT, None)]


def test_whoever_leaves_while_two_requests_wait_is_no_error(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server) as connection:
        connection.sendall(without_close(request("POST", f"{LOGOUT}?slow")) + request("GET", ME))
        time.sleep(SLOW / 4)
    time.sleep(2 * SLOW)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_breaks_off_is_not_answered_in_the_place_of_the_request_before(
    server: Server,
) -> None:
    broken = request("POST", LOGOUT, "Transfer-Encoding: chunked") + b"no size of a chunk\r\n"
    answer = exchange(server, without_close(request("GET", "/health/live?slow")) + broken)
    assert answer.statuses == []
    server.seen.get(timeout=PATIENCE)  # the next test sees only its own


@pytest.mark.proves("4.2.1", "13.4.4", "IN-07")
@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health/live HTTP/9.9\r\nHost: testserver\r\n\r\n",
        b"GET /health live HTTP/1.1\r\nHost: testserver\r\n\r\n",
        b"GET /health/\xff HTTP/1.1\r\nHost: testserver\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: testserver\r\n: a\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: testserver\r\nX-A: a\x00b\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: testserver\r\nX-A: a\x01b\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: testserver\r\n\r\n",
        b"\r\n\r\n\r\n\x00",
    ],
    ids=lambda sent: ascii(sent[:60]),
)
def test_what_is_no_http_is_refused_and_ends_the_connection(server: Server, sent: bytes) -> None:
    answer = exchange(server, sent)
    assert answer.statuses == [400]
    assert answer.closed
    assert not server.all_seen()


# How much will it take?


@pytest.mark.proves("15.2.2", "IN-01")
def test_a_large_body_is_refused_before_it_is_sent(server: Server) -> None:
    """IN-01. Also with `Expect: 100-continue`: nobody tells the client to go ahead."""
    head = request("POST", LOGIN, "Content-Length: 300000000", "Expect: 100-continue")
    answer = exchange(server, head)
    assert answer.statuses == [413]
    assert "application/problem+json" in answer.text


def test_an_endless_body_is_refused_when_it_has_become_too_large(server: Server) -> None:
    chunk = b"2000\r\n" + b"a" * 0x2000 + b"\r\n"
    head = request("POST", LOGIN, "Transfer-Encoding: chunked", "Content-Type: application/json")
    sent = 0
    with connect(server) as connection:
        connection.sendall(without_close(head))
        while not select.select([connection], [], [], 0)[0] and sent < 50_000_000:
            connection.sendall(chunk)
            sent += len(chunk)
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"content_too_large" in answer


def test_a_header_of_60_kilobytes_is_borne(server: Server) -> None:
    """uvicorn sets no limit of its own to headers: the proxy does."""
    for name in ("X-Anything", "User-Agent", "X-Request-ID", "Cookie", "Referer"):
        answer = exchange(server, request("GET", ME, f"{name}: " + "a" * 60_000))
        assert answer.statuses == [401]
        assert len(answer.text) < 4_000


@pytest.mark.proves("IN-11")
@pytest.mark.parametrize(
    ("path", "content_type"),
    [(LOGIN, "application/json"), ("/api/v1/auth/token", "application/x-www-form-urlencoded")],
)
def test_a_client_that_hangs_up_in_the_middle_of_a_body_does_no_harm(
    server: Server, path: str, content_type: str
) -> None:
    """IN-11: no error in the log, and no answer to nobody counted as a success."""
    before = len(all_logins(server.database))
    with connect(server) as connection:
        headers = (f"Content-Type: {content_type}", "Content-Length: 1000")
        connection.sendall(request("POST", path, *headers) + b'{"email": "ada@exam')
    seen, status = server.seen.get(timeout=PATIENCE)
    assert seen.path == path
    assert 400 <= status < 500
    assert len(all_logins(server.database)) == before


# Which path is it?


@pytest.mark.proves("1.1.1", "IN-10")
@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/auth/login",
        "/api/v1//auth/login",
        "/api/v1/auth//login",
        "/api/v1/auth/./login",
        "/api/v1/auth/../auth/login",
        "/api/v1/auth/%2e/login",
        "/api/v1/users/%2e%2e/auth/login",
        "/api/v1/users/..%2fauth/login",
        "/api/v1/auth/login/",
        "/api/v1/auth/login/.",
        "/api/v1/auth/login.",
        "/api/v1/auth/login.json",
        "/api/v1/auth/login;x=y",
        "/api/v1/auth;x=y/login",
        "/API/V1/AUTH/LOGIN",
        "/api/v1/auth/Login",
        "/api/v1/auth%2flogin",
        "/api/v1/auth%2Flogin",
        "/api/v1/auth%252flogin",
        "/api/v1/auth%5clogin",
        "/api/v1/auth\\login",
        "/api/v1/auth/login%00",
        "/api/v1/auth/login%20",
        "/api/v1/auth/login%09",
        "/api/v1/auth/login%0d%0a",
        "/api/v1/auth/login%3fa=b",
        "/api/v1/auth/login%23",
        "/api/v1/auth/login%ff",
        "/api/v1/auth/lo%67%69%256e",
        "/api/v1/auth/log%c4%b1n",
        "/api/v1/auth/%ef%bd%8cogin",
        "api/v1/auth/login",
        "*",
    ],
)
def test_only_the_path_itself_logs_in(server: Server, path: str) -> None:
    """IN-10: a filter in front looks at the path, so there is one spelling of it."""
    before = len(all_logins(server.database))
    answer = exchange(server, request("POST", path, body=json.dumps(ADA).encode()))
    assert answer.statuses in ([404], [400])
    assert "set-cookie" not in answer.text
    assert len(all_logins(server.database)) == before


@pytest.mark.proves("14.2.5")
@pytest.mark.parametrize(
    "suffix",
    [
        "/x.css",
        "/.css",
        ".css",
        ";x.js",
        ";/x.js",
        "%3bx.js",
        "%2fx.png",
        "%2f..%2fme.css",
        "%00.js",
    ],
)
def test_no_cache_can_be_made_to_keep_an_answer_about_somebody(server: Server, suffix: str) -> None:
    """ASVS 14.2.5: what looks like a file is not the account. Some look like another user's id,
    which is for administrators.
    """
    answer = exchange(server, request("GET", ME + suffix, authorization=server.bearer(BOB)))
    assert answer.statuses in ([403], [404])
    assert BOB["email"] not in answer.text


@pytest.mark.proves("8.2.2", "IN-05")
@pytest.mark.parametrize(
    "session_id",
    [
        *("0", "-1", "1" + "0" * 30, "1" * 5_000, "1.5", "1e999", "NaN", "null", "undefined"),
        *("%00", "%ff", "%ed%a0%80", "%25", "%2531", "%2f", "..%2f..", "%2e%2e", ".", "*", "%20"),
        *("[]", "{}", "'", '"', "%25s%25n", "{{7*7}}", "me", "a" * 5_000),
        *(SOME_ID, SOME_ID.upper(), f"{SOME_ID}/", f"{SOME_ID};x=y", f"{SOME_ID}%0a"),
        *(f"{SOME_ID}%00", f"%20{SOME_ID}", f"{SOME_ID},{SOME_ID}", f"{SOME_ID}/../{SOME_ID}"),
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
    ids=lambda session_id: session_id[:50],
)
def test_an_id_of_nothing_ends_no_session(server: Server, session_id: str) -> None:
    """IN-05."""
    before = len(all_logins(server.database))
    path = f"{SESSIONS}/{session_id}"
    answer = exchange(server, request("DELETE", path, authorization=server.bearer(BOB)))
    assert answer.statuses in ([404], [422], [405])
    assert "application/problem+json" in answer.text
    assert len(all_logins(server.database)) == before


def test_the_server_is_as_it_was(server: Server) -> None:
    """Whatever of this file ran before."""
    for person in (ADA, BOB):
        answer = exchange(server, request("GET", ME, authorization=server.bearer(person)))
        assert answer.statuses == [200]
        assert person["email"] in answer.text
