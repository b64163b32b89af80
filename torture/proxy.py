"""A network that misbehaves: a proxy that delays, loses, doubles and reorders."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class Faults:
    """Parts of all requests, 0 to 1, and seconds each way. Delays differ, and so reorder."""

    lose_request: float = 0
    lose_answer: float = 0
    double: float = 0  # the request is sent twice, one after the other; the first answer counts
    delay: tuple[float, float] = (0, 0)  # at least and at most, before and after


@dataclass
class Proxy:
    """target: the service's address. counts: what happened, by name."""

    target: str
    faults: Faults
    randomness: random.Random = field(default_factory=random.Random)
    counts: Counter[str] = field(default_factory=Counter)
    address: str = ""

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["Proxy"]:
        """On loopback. The address is known once it runs."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as self._http:
            server = web.Server(self._handle)  # type: ignore[arg-type]
            runner = web.ServerRunner(server)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", port, shutdown_timeout=1)
            await site.start()
            host, taken = runner.addresses[0][:2]
            self.address = f"http://{host}:{taken}"
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.counts["requests"] += 1
        content = await request.read()
        await self._wait()
        if self._happens("lose_request"):
            return self._hang_up(request)
        answer = await self._forward(request, content)
        if self._happens("double"):
            await self._forward(request, content)
        if answer is None:
            return self._hang_up(request)
        await self._wait()
        if self._happens("lose_answer"):
            return self._hang_up(request)
        return answer

    async def _forward(self, request: web.BaseRequest, content: bytes) -> web.Response | None:
        """None: the service did not answer."""
        try:
            async with self._http.request(
                request.method,
                self.target + request.raw_path,
                data=content or None,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError):
            self.counts["unanswered"] += 1
            return None
        answer = web.Response(status=response.status, body=body)
        for name, value in response.headers.items():
            if name.lower() == "content-type":
                answer.headers[name] = value
            elif name.lower() not in HOP_BY_HOP:
                answer.headers.add(name, value)
        return answer

    def _happens(self, fault: str) -> bool:
        happens = self.randomness.random() < getattr(self.faults, fault)
        self.counts[fault] += happens
        return happens

    async def _wait(self) -> None:
        least, most = self.faults.delay
        if most:
            await asyncio.sleep(self.randomness.uniform(least, most))

    @staticmethod
    def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
        if request.transport:
            request.transport.abort()
        return web.Response()  # to nobody
