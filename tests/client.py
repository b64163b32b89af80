"""A TestClient whose application runs in the thread that asks.

Starlette's hands each request over to another thread and back, nine times, which took longer than
all the rest of a request. This one has nothing running between two requests: where that is what a
test is about, it takes Starlette's own.
"""

import asyncio
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any, NamedTuple, Self
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import httpx2
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message, Scope


class Place(NamedTuple):
    """Where an application runs. From another thread, and without one, each request has a loop."""

    runner: asyncio.Runner
    thread: int


PLACES: MutableMapping[FastAPI, Place] = WeakKeyDictionary()


@contextmanager
def placed(app: FastAPI) -> Iterator[asyncio.Runner]:
    """Meanwhile all its clients share an event loop."""
    with asyncio.Runner() as runner:
        PLACES[app] = Place(runner, threading.get_ident())
        try:
            yield runner
        finally:
            del PLACES[app]


class LocalClient(TestClient):
    """As TestClient, but for WebSockets."""

    def __init__(
        self,
        app: FastAPI,
        base_url: str = "https://testserver",  # Secure cookies travel over https only
        *,
        raise_server_exceptions: bool = False,
        client: tuple[str, int] = ("testclient", 50000),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(app, base_url, client=client, headers=headers)
        self._transport = Transport(app, client, self.app_state, raise_server_exceptions)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            runner = stack.enter_context(placed(self.app))  # type: ignore[arg-type]
            lifespan = Lifespan(self.app, self.app_state)
            runner.run(lifespan.begin())
            stack.callback(lambda: runner.run(lifespan.end()))
            self.exit_stack = stack.pop_all()
        return self


class Lifespan:
    """Of an application: what it does before its first request and after its last one."""

    def __init__(self, app: Any, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def begin(self) -> None:
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._says: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "state": self._state}
        self._task = asyncio.create_task(self._app(scope, self._told.get, self._says.put))
        await self._tell("lifespan.startup")

    async def end(self) -> None:
        await self._tell("lifespan.shutdown")
        await self._task

    async def _tell(self, what: str) -> None:
        """And wait for the answer. Raises what the application raises."""
        await self._told.put({"type": what})
        answer = asyncio.create_task(self._says.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            self._task.result()
        assert answer.result()["type"] == f"{what}.complete", answer.result()


class Transport(httpx2.BaseTransport):
    def __init__(
        self, app: FastAPI, client: tuple[str, int], state: dict[str, Any], raises: bool
    ) -> None:
        self._app = app
        self._client = client
        self._state = state
        self._raises = raises

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = Exchange(request.read())
        work = exchange.run(self._app, self._scope(request), self._raises)
        place = PLACES.get(self._app)
        if place and place.thread == threading.get_ident():
            place.runner.run(work, context=copy_context())
        else:
            with asyncio.Runner() as runner:
                runner.run(work)
        return httpx2.Response(
            exchange.status,
            headers=exchange.headers,
            stream=httpx2.ByteStream(b"" if request.method == "HEAD" else bytes(exchange.body)),
            request=request,
        )

    def _scope(self, request: httpx2.Request) -> Scope:
        url = request.url
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "path": unquote(url.path),
            "raw_path": url.raw_path.split(b"?", 1)[0],
            "root_path": "",
            "scheme": url.scheme,
            "query_string": url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": self._client,
            "server": (url.host, url.port or {"http": 80, "https": 443}[url.scheme]),
            "state": self._state.copy(),
        }


class Exchange:
    """One request and its answer."""

    def __init__(self, content: bytes) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self._content: bytes | None = content
        self._started = False

    async def run(self, app: FastAPI, scope: Scope, raises: bool) -> None:
        """Until the application returns, which is after the whole answer."""
        self._answered = asyncio.Event()
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            if raises:
                raise

    async def _receive(self) -> Message:
        if self._content is not None:
            content, self._content = self._content, None
            return {"type": "http.request", "body": content, "more_body": False}
        await self._answered.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        assert not self._answered.is_set(), message
        if message["type"] == "http.response.start":
            assert not self._started, message
            self._started = True
            self.status = message["status"]
            self.headers = list(message["headers"])
        else:
            assert self._started, message
            assert message["type"] == "http.response.body", message
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                self._answered.set()
