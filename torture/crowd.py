"""People who stay logged in, in two tabs each, while something is done to the service."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from torture.jar import Answer, Jar, few_at_a_time
from torture.laboratory import Finding

TABS = 2
FINE = (" 200", " 201", " 204")
COME_BACK = 1  # second; sooner than Retry-After says, to see more of an outage


@dataclass
class Crowd:
    """addresses: of the service's processes, which people take in no order.

    seen: how often each answer came: "refresh 200", "me 401 session_revoked", and "refresh none"
    where nobody answered. slowest: seconds that somebody waited for one.
    """

    jars: list[Jar]
    addresses: Sequence[str]
    pause: float = 2  # seconds between two refreshes of a tab, about
    patience: float = 30  # seconds
    seen: Counter[str] = field(default_factory=Counter)
    slowest: float = 0
    _tabs: dict[Jar, list[asyncio.Task[None]]] = field(default_factory=dict)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Meanwhile everybody refreshes, and asks who they are."""
        for jar in self.jars:
            self._tabs[jar] = [asyncio.create_task(self._use_tab(jar)) for _ in range(TABS)]
        try:
            yield
        finally:
            await self.close_tabs(list(self._tabs))

    async def close_tabs(self, jars: Collection[Jar]) -> None:
        """Of people who do something else from now on."""
        tabs = [tab for jar in jars for tab in self._tabs.pop(jar, [])]
        await end(tabs)

    async def _use_tab(self, jar: Jar) -> None:
        while True:
            await asyncio.sleep(random.uniform(0, 2 * self.pause))
            await self.insist(jar, "refresh", lambda: jar.refresh(self.patience))
            # Once: the new access token may have expired when there is somebody to ask again.
            await self.try_once(jar, "me", jar.who_am_i)

    async def insist(self, jar: Jar, what: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Until somebody says yes or no: nobody, and a 503, are reasons to try again."""
        while True:
            answer = await self.try_once(jar, what, ask)
            if answer.status not in (None, 503):
                return answer
            await asyncio.sleep(COME_BACK)

    async def try_once(self, jar: Jar, what: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        jar.address = random.choice(self.addresses)
        start = time.monotonic()
        answer = await ask()
        self.slowest = max(self.slowest, time.monotonic() - start)
        status = str(answer.status or "none")
        self.seen[" ".join(filter(None, (what, status, answer.code)))] += 1
        return answer

    async def sign_up(self) -> None:
        """And log in."""
        await few_at_a_time(map(self._sign_up, self.jars))

    async def _sign_up(self, jar: Jar) -> None:
        for what, ask in (("register", jar.register), ("log in", jar.log_in)):
            answer = await self.insist(jar, what, ask)
            if answer.status not in (200, 201):
                raise AssertionError(f"Somebody could not {what}: {answer}")

    def begin(self) -> None:
        """What was seen before does not count."""
        self.seen.clear()
        self.slowest = 0

    @property
    def refreshes(self) -> int:
        return self.seen["refresh 200"]

    @property
    def answers(self) -> int:
        return self.seen.total() - self.unanswered

    @property
    def unanswered(self) -> int:
        return self._count(" none")

    @property
    def logged_out(self) -> int:
        return self._count(" 401")

    @property
    def failed(self) -> int:
        return self._count(" 5")

    @property
    def told_to_come_back(self) -> int:
        return self._count(" 503")

    @property
    def disappointed(self) -> int:
        """Who did not get what they asked for, or nothing at all."""
        return sum(seen for what, seen in self.seen.items() if not what.endswith(FINE))

    @property
    def complaints(self) -> list[str]:
        """All that was not asked for."""
        return [
            f"{seen} times {what}" for what, seen in self.seen.items() if not what.endswith(FINE)
        ]

    def _count(self, part: str) -> int:
        return sum(number for what, number in self.seen.items() if part in what)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raises what one of them has raised before."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


def people(http: aiohttp.ClientSession, name: str, number: int) -> list[Jar]:
    return [Jar(http, "", f"{name}{each}@example.com") for each in range(number)]


def as_they_come(found: AsyncIterator[Finding]) -> Iterator[Finding]:
    """Crowds stand still while a finding is written down."""

    async def another() -> Finding | None:
        return await anext(found, None)

    with asyncio.Runner() as runner:
        while finding := runner.run(another()):
            yield finding


async def come_back(crowd: Crowd, jar: Jar) -> None:
    await crowd.insist(jar, "refresh", jar.refresh)


async def count_others(jars: Sequence[Jar], ask: Any, expected: int | str) -> int:
    """Those who got another status or code, when they were not told to come back any more."""
    others = 0

    async def one(jar: Jar) -> None:
        nonlocal others
        while (answer := await ask(jar)).status == 503:  # noqa: ASYNC110
            await asyncio.sleep(COME_BACK)
        others += expected not in (answer.status, answer.code)

    await few_at_a_time(map(one, jars))
    return others
