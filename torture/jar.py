"""An honest browser's cookie jar, which its tabs share. Asynchronous: a process has thousands."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

import aiohttp

REFRESH_COOKIE = "__Host-refresh"
PASSWORD = "nine tall herons at dawn"
EMPTY: Mapping[str, str] = {}
AT_A_TIME = 16  # people who log in: more would find the queue for hashes full


class Answer(NamedTuple):
    """status: None where none came."""

    status: int | None
    headers: Mapping[str, str] = EMPTY  # by lower-case names
    body: Any = None

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None


class Jar:
    """Cookies as a browser keeps them: whatever answer arrives last is what is held.

    address: where the service is, or the proxy before it.
    """

    def __init__(self, http: aiohttp.ClientSession, address: str, email: str) -> None:
        self.http = http
        self.address = address
        self.email = email
        self.cookies: dict[str, str] = {}

    def copy(self) -> "Jar":
        """What a thief has who read it, or a second computer with the same profile."""
        copied = Jar(self.http, self.address, self.email)
        copied.cookies = dict(self.cookies)
        return copied

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] = EMPTY,
        patience: float = 60,
    ) -> Answer:
        """Sends what it holds now, and keeps what the answer sets."""
        held = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {**({"Cookie": held} if held else {}), **headers}
        content = None
        if body is not None:
            content, sent = json.dumps(body).encode(), {**sent, "Content-Type": "application/json"}
        start = time.monotonic()
        try:
            async with self.http.request(
                method,
                f"{self.address}/api/v1{path}",
                data=content,
                headers=sent,
                timeout=aiohttp.ClientTimeout(total=patience),
            ) as response:
                received = await response.read()
                if time.monotonic() - start > patience:  # we were held up ourselves: still too late
                    return Answer(None)
                self._keep(response.headers.getall("Set-Cookie", []))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Answer(None)
        told = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, told, read(received))

    async def register(self) -> Answer:
        return await self.ask("POST", "/auth/register", self._credentials())

    async def log_in(self) -> Answer:
        return await self.ask("POST", "/auth/login", self._credentials())

    async def refresh(self, patience: float = 60) -> Answer:
        return await self.ask("POST", "/auth/refresh", patience=patience)

    async def log_out(self) -> Answer:
        return await self.ask("POST", "/auth/logout")

    async def who_am_i(self) -> Answer:
        return await self.ask("GET", "/users/me")

    def _credentials(self) -> dict[str, str]:
        return {"email": self.email, "password": PASSWORD}

    def _keep(self, lines: list[str]) -> None:
        for line in lines:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value


def read(received: bytes) -> Any:
    try:
        return json.loads(received)
    except ValueError:
        return None


async def few_at_a_time(calls: Iterable[Awaitable[object]]) -> None:
    room = asyncio.Semaphore(AT_A_TIME)

    async def one(call: Awaitable[object]) -> None:
        async with room:
            await call

    await asyncio.gather(*map(one, calls))


def new_password() -> str:
    return f"{secrets.token_hex(8)} herons at dawn"


def new_session(*, keep_alive: bool = True) -> aiohttp.ClientSession:
    """No jar of its own, no limit of connections.

    keep_alive: not where every lost answer counts. On a busy machine a connection may be closed
    for being idle in the moment in which it is used.
    """
    waiting = {"keepalive_timeout": 4} if keep_alive else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, **waiting),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
