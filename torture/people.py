"""Honest people with a journal: what they were told has to be true, whatever happens meanwhile."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Any, NamedTuple

import aiohttp

from torture.jar import Answer, Jar, new_password
from torture.rotations import Issued, Recorder

OFTEN = {"who_am_i": 8, "refresh": 8, "change_password": 2, "log_out": 1}
SELDOM = 61  # seconds: then a refresh takes the other way, that of a token whose grace is over
OLD_REFRESH = "refresh after the grace period"
IDENTIFIED = ("who_am_i", "refresh", OLD_REFRESH)


class Entry(NamedTuple):
    """What somebody did, and what came of it. right: as when nothing is wrong."""

    act: str
    start: float
    end: float
    answer: Answer
    right: bool

    @property
    def refused(self) -> bool:
        """Told to come back. Nothing else is a good answer while something is wrong."""
        return self.answer.status == 503 and int(self.answer.headers.get("retry-after", 0)) > 0


class Fact(NamedTuple):
    """Of the journal, and whether it is true."""

    kind: str
    kept: bool


class Person(Recorder):
    """Does one thing at a time, at any of the addresses.

    passwords: the first is believed in; two after a change that may have happened or not.
    ended: copies of what they held when a log-out was acknowledged. former: passwords that were
    acknowledged to be replaced. rests: looks, and refreshes only what has rested for SELDOM.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        addresses: Sequence[str],
        email: str,
        *,
        rests: bool = False,
    ) -> None:
        super().__init__(http, addresses[0], email, given=[])
        self.addresses = addresses
        self.rests = rests
        self.passwords = [new_password()]
        self.logged_in = False
        self.ended: list[Jar] = []
        self.former: list[str] = []
        self._refreshed_at = 0.0
        octets = random.randbytes(2)
        self._network = {"X-Forwarded-For": f"198.18.{octets[0]}.{octets[1]}"}

    async def ask(self, *arguments: Any, **more: Any) -> Answer:
        """From a network of their own, which has a share of the queue of its own."""
        self.address = random.choice(self.addresses)
        return await super().ask(*arguments, headers=self._network, **more)

    async def act(self, randomness: random.Random) -> Entry:
        name = self._choose(randomness) if self.logged_in else "log_in"
        acts: dict[str, Callable[[], Awaitable[tuple[Answer, bool]]]] = {
            "who_am_i": self._look,
            "refresh": self._renew,
            OLD_REFRESH: self._renew,
            "change_password": self._change_password,
            "log_out": self._leave,
            "log_in": self._enter,
        }
        start = time.monotonic()
        answer, right = await acts[name]()
        return Entry(name, start, time.monotonic(), answer, right)

    def _choose(self, randomness: random.Random) -> str:
        if not self.rests:
            return randomness.choices([*OFTEN], [*OFTEN.values()])[0]
        has_rested = time.monotonic() > self._refreshed_at + SELDOM
        return randomness.choice(("who_am_i", OLD_REFRESH if has_rested else "who_am_i"))

    async def _look(self) -> tuple[Answer, bool]:
        answer = await self.who_am_i()
        return answer, answer.status == 200

    async def _renew(self) -> tuple[Answer, bool]:
        answer = await self.refresh()
        if answer.status == 200:
            self._refreshed_at = time.monotonic()
        return answer, answer.status == 200

    async def _enter(self) -> tuple[Answer, bool]:
        answer = await self.log_in()
        if answer.status == 200:
            self.passwords = self.passwords[:1]
            self.logged_in = True
            self._refreshed_at = time.monotonic()
        elif answer.code == "invalid_credentials" and len(self.passwords) > 1:
            self.passwords.pop(0)  # now it is known which one it is
            return answer, True
        return answer, answer.status == 200

    async def _leave(self) -> tuple[Answer, bool]:
        before = self.copy()
        answer = await self.log_out()
        if answer.status == 204:
            self.ended.append(before)
        if answer.code != "busy":  # of which is promised that nothing was changed
            self.logged_in = False
        return answer, answer.status == 204

    async def _change_password(self) -> tuple[Answer, bool]:
        before, old, new = self.copy(), self.passwords[0], new_password()
        change = {"current_password": old, "new_password": new}
        answer = await self.ask("PUT", "/users/me/password", change)
        if answer.status == 200:
            self.passwords = [new]
            self.ended.append(before)
            self.former.append(old)
        elif answer.code != "busy":
            self.passwords = [old, new]
            self.logged_in = False  # it may have happened, and then every login has ended
        return answer, answer.status == 200

    def rotations_among(self, committed: Set[Issued]) -> list[Fact]:
        """Of what they were given since they were asked last."""
        given, self.given = self.given, []
        return [Fact("rotation", token in committed) for token in given]

    async def check(self) -> list[Fact]:
        """Whether the journal is true."""
        facts = []
        if self.logged_in:
            answer = await (self.who_am_i() if self.rests else self.refresh())
            facts.append(Fact("login", answer.status == 200))
        for copy in self.ended:
            statuses = [(await copy.who_am_i()).status, (await copy.refresh()).status]
            facts.append(Fact("log-out", statuses == [401, 401]))
        if self.former and len(self.passwords) == 1:
            facts.append(Fact("change of a password", await self._opens(self.passwords[0], 200)))
            facts.append(Fact("change of a password", await self._opens(self.former[-1], 401)))
        self.ended, self.former = [], []
        return facts

    async def _opens(self, password: str, status: int) -> bool:
        other = Person(self.http, self.addresses, self.email)
        other.passwords = [password]
        return (await other.log_in()).status == status

    def _credentials(self) -> dict[str, str]:
        return {"email": self.email, "password": self.passwords[0]}
