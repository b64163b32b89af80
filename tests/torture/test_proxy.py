"""The network that misbehaves does so as it is told, and not otherwise."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from torture.jar import Answer, Jar, new_session
from torture.proxy import Faults, Proxy

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: __Host-x=1; Path=/\r\n\r\n{}"
IN_CHUNKS = b"""HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r
4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n"""


class Service:
    """Answers anything. heads: of the requests that arrived."""

    def __init__(self, answer: bytes = ANSWER) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            yield f"http://{host}:{port}"
            if self._connections:
                await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
        writer.transport.abort()
        self._connections.discard(task)


def ask_through(faults: Faults, service: Service, times: int = 1) -> tuple[Answer, Jar, Proxy]:
    """The last answer."""

    async def ask() -> tuple[Answer, Jar, Proxy]:
        async with service.running() as address:
            proxy = Proxy(address, faults)
            async with proxy.running(), new_session() as http:
                jar = Jar(http, proxy.address, "ada@example.com")
                for _ in range(times):
                    answer = await jar.refresh()
            return answer, jar, proxy

    return asyncio.run(ask())


def test_without_faults_everything_arrives() -> None:
    service = Service()
    answer, jar, _ = ask_through(Faults(), service, times=3)
    assert answer.status == 200
    assert jar.cookies == {"__Host-x": "1"}
    assert len(service.heads) == 3
    assert b"Cookie: __Host-x=1" in service.heads[-1]


def test_an_answer_in_chunks_arrives_whole() -> None:
    answer, _, _ = ask_through(Faults(), Service(IN_CHUNKS))
    assert answer.body == {"a": 1}


def test_a_lost_request_never_reaches_the_service() -> None:
    service = Service()
    answer, _, proxy = ask_through(Faults(lose_request=1), service)
    assert answer.status is None
    assert service.heads == []
    assert proxy.counts["lose_request"] == 1


def test_a_lost_answer_changes_no_jar() -> None:
    service = Service()
    answer, jar, _ = ask_through(Faults(lose_answer=1), service)
    assert answer.status is None
    assert jar.cookies == {}
    assert len(service.heads) == 1


def test_a_doubled_request_arrives_twice_and_is_answered_once() -> None:
    service = Service()
    answer, _, _ = ask_through(Faults(double=1), service)
    assert answer.status == 200
    first, second = service.heads
    assert first == second


def test_a_delay_is_there_both_ways() -> None:
    _, _, proxy = ask_through(Faults(delay=(0.02, 0.02)), Service())
    assert proxy.longest >= 0.02


def test_nobody_answers_for_a_service_that_is_down() -> None:
    async def ask() -> Answer:
        proxy = Proxy("http://127.0.0.1:1", Faults())
        async with proxy.running(), new_session() as http:
            return await Jar(http, proxy.address, "ada@example.com").refresh()

    assert asyncio.run(ask()).status is None
