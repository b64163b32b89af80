"""A deployment ends processes all day long: nobody who is being served notices."""

import asyncio
import json
import signal
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.boundary import Boundary
from app.server import LAST_CALL, SHUTDOWN_SECONDS
from tests.conftest import make_settings
from tests.people import ADA
from tests.servers import Server, served

CALLERS = 90  # fewer than the failures in a row that close an account
# One hashing thread, so that there is a queue of log-ins at any moment, and room for all of them.
SETTINGS = {
    "HASHING_THREADS": "1",
    "HASHING_QUEUE": "1000",
    "LOGIN_ATTEMPTS_PER_ACCOUNT": "1000",
    "LOGIN_ATTEMPTS_PER_NETWORK": "100000",
}


class Caller:
    """Somebody with an open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.answered_at = 0.0
        self.is_told_to_leave = False

    @classmethod
    async def call(cls, server: Server) -> "Caller":
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def send(self, method: str, path: str, body: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode() if body else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)
        await self.writer.drain()

    async def receive(self) -> int:
        """The status of a whole answer. Raises where the connection breaks before its end."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.answered_at = time.monotonic()
        self.is_told_to_leave = "connection: close" in head
        if "content-length: " in head:
            await self.reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        return int(head.split(" ")[1])

    async def hang_up(self) -> None:
        self.writer.close()
        with suppress(OSError):  # the other end was faster
            await self.writer.wait_closed()


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_under_way_are_answered_and_others_refused_at_once(
    sqlite_url: str, tmp_path: Path, workers: int
) -> None:
    with served(sqlite_url, tmp_path, workers=workers, **SETTINGS) as server:
        asyncio.run(ends_in_the_middle(server))
        assert server.process.wait(timeout=SHUTDOWN_SECONDS + 5) == 0
        assert "Traceback" not in server.log.read_text()


async def ends_in_the_middle(server: Server) -> None:
    callers = [await Caller.call(server) for _ in range(CALLERS)]
    await callers[0].send("POST", "/api/v1/auth/register", ADA)
    assert await callers[0].receive() == 201
    for caller in callers:  # so that a worker has taken each connection
        await caller.send("GET", "/health/live")
        assert await caller.receive() == 200
    for caller in callers:
        await caller.send("POST", "/api/v1/auth/login", ADA)
    answers = [asyncio.create_task(caller.receive()) for caller in callers]
    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)

    server.process.send_signal(signal.SIGTERM)
    await refused(server)
    waiting = [answer for answer in answers if not answer.done()]
    assert waiting, "the last one was answered before new callers were refused"
    assert await asyncio.gather(*answers) == [200] * CALLERS
    assert max(callers, key=lambda caller: caller.answered_at).is_told_to_leave
    for caller in callers:
        await caller.hang_up()


async def refused(server: Server) -> None:
    while True:
        try:
            caller = await Caller.call(server)
        except ConnectionRefusedError:
            return
        await caller.hang_up()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("begun", [False, True])
def test_what_takes_too_long_is_told_to_come_back(sqlite_url: str, begun: bool) -> None:
    """uvicorn cancels it in the end. An answer that has begun is broken off."""
    sent: list[Message] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    async def end() -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
        boundary = Boundary(endless, make_settings(sqlite_url))
        state = {"state": {"request_id": "it"}}
        asked = asyncio.create_task(boundary(scope | state, endless, send))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError) if begun else nullcontext():
            await asked

    asyncio.run(end())
    assert [message.get("status") for message in sent] == ([200] if begun else [503, None])
    assert begun or b'"code":"shutting_down"' in sent[1]["body"]


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_a_proxy_has_just_sent_on_open_connections_are_answered_too(
    sqlite_url: str, tmp_path: Path, workers: int
) -> None:
    with served(sqlite_url, tmp_path, workers=workers) as server:
        asyncio.run(asks_at_the_last_moment(server))
        assert server.process.wait(timeout=SHUTDOWN_SECONDS) == 0


async def asks_at_the_last_moment(server: Server) -> None:
    has_asked, has_not = [await Caller.call(server) for _ in range(2)]
    await has_asked.send("GET", "/health/live")
    assert await has_asked.receive() == 200
    server.process.send_signal(signal.SIGTERM)
    await refused(server)
    for caller in (has_asked, has_not):
        await caller.send("POST", "/api/v1/auth/logout")
        assert await caller.receive() == 204
        assert await caller.reader.read() == b""  # and that was the last one
        await caller.hang_up()


def test_a_connection_that_rests_does_not_hold_up_the_end(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path) as server:
        asyncio.run(rests(server))


async def rests(server: Server) -> None:
    caller = await Caller.call(server)
    await caller.send("GET", "/health/live")
    assert await caller.receive() == 200
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(LAST_CALL + 5):
        assert await caller.reader.read() == b""
    assert await asyncio.to_thread(server.process.wait, 10) == 0
    await caller.hang_up()
