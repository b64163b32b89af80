"""A network that misbehaves: a proxy that delays, loses, doubles and reorders."""

import asyncio
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from torture.laboratory import Finding

LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
IDLE_SECONDS = 4  # uvicorn closes a connection after 5

BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass(frozen=True)
class Faults:
    """Parts of all requests, 0 to 1, and seconds each way. Delays differ, and so reorder."""

    lose_request: float = 0
    lose_answer: float = 0
    double: float = 0  # the request is sent twice, and the two race; one is answered
    delay: tuple[float, float] = (0, 0)  # at least and at most, before and after


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used_at: float


@dataclass
class Proxy:
    """It passes on the bytes as they come, and never repeats a request by itself.

    target: the service's address. counts: what happened, by name. longest: seconds from a request's
    arrival here to the service's answer, at most.
    """

    target: str
    faults: Faults
    randomness: random.Random = field(default_factory=random.Random)
    counts: Counter[str] = field(default_factory=Counter)
    longest: float = 0
    address: str = ""
    is_over: bool = False

    def __post_init__(self) -> None:
        self._idle: defaultdict[str, list[Connection]] = defaultdict(list)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["Proxy"]:
        """On loopback. The address is known once it runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1000)
        host, taken = server.sockets[0].getsockname()[:2]
        self.address = f"http://{host}:{taken}"
        try:
            yield self
        finally:
            self.is_over = True
            server.close()
            self._drop_all()
            while self._tasks:  # which end when their connections break, also those to come
                await asyncio.wait(self._tasks, timeout=0.1)
                self._drop_all()
            await asyncio.sleep(0)  # the loop closes what was dropped

    def of_service(self, kind: str) -> Finding:
        """What the service itself lost, in between. kind: its database."""
        arrived = self.counts["requests"] - self.counts["lose_request"] + self.counts["double"]
        promise = f"Whatever reaches the service is answered ({kind})"
        return Finding(promise, arrived, self.counts["unanswered"])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        self._keep(asyncio.current_task())
        self._writers.add(writer)
        try:
            with suppress(*BROKEN, asyncio.CancelledError):  # by Ctrl-C
                while answer := await self._carry(await read_message(reader)):
                    writer.write(answer)
                    await writer.drain()
        finally:
            self._drop(writer)

    def _keep(self, task: asyncio.Task[Any] | None) -> None:
        """To be ended with the proxy."""
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, request: bytes) -> bytes | None:
        """None: hang up."""
        self.counts["requests"] += 1
        if self._happens("lose_request"):
            await self._wait()
            return None
        if self._happens("double"):
            self._keep(asyncio.create_task(self._deliver(request)))
        answer = await self._deliver(request)
        if answer is None:
            return None
        await self._wait()
        if self._happens("lose_answer"):
            return None
        return answer

    async def _deliver(self, request: bytes) -> bytes | None:
        """None: the service did not answer."""
        answer = await self._ask(request)
        self.counts["unanswered"] += answer is None and not self.is_over
        return answer

    async def _ask(self, request: bytes) -> bytes | None:
        arrived, target = time.monotonic(), self.target
        await self._wait()
        try:
            connection = await self._connect(target)
        except OSError:
            return None
        answer = None
        try:
            connection.writer.write(request)
            answer = await read_message(connection.reader)
            self.longest = max(self.longest, time.monotonic() - arrived)
        except BROKEN:
            return None
        finally:
            if answer is None or CLOSE.search(answer):
                self._drop(connection.writer)
            else:
                self._idle[target].append(connection._replace(used_at=time.monotonic()))
        return answer

    async def _connect(self, target: str) -> Connection:
        idle = self._idle[target]
        while idle:
            connection = idle.pop()
            if connection.used_at > time.monotonic() - IDLE_SECONDS and is_open(connection):
                return connection
            self._drop(connection.writer)
        parts = urlsplit(target)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        self._writers.add(writer)
        return Connection(reader, writer, time.monotonic())

    def _drop_all(self) -> None:
        for writer in list(self._writers):
            self._drop(writer)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        self._writers.discard(writer)

    def _happens(self, fault: str) -> bool:
        happens = self.randomness.random() < getattr(self.faults, fault)
        self.counts[fault] += happens
        return happens

    async def _wait(self) -> None:
        least, most = self.faults.delay
        if most:
            await asyncio.sleep(self.randomness.uniform(least, most))


def is_open(connection: Connection) -> bool:
    return not connection.reader.at_eof() and not connection.writer.is_closing()


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """A request, or an answer to one that was no HEAD."""
    head = await reader.readuntil(b"\r\n\r\n")
    if length := LENGTH.search(head):
        return head + await reader.readexactly(int(length[1]))
    if not CHUNKED.search(head):
        return head
    parts = [head]
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
    return b"".join(parts)
