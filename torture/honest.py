"""Honest people who remember what they were told, and look afterwards whether it is so.

Each of them acts until the service is killed; and when it is back, checks what its answers
promised, and finds out what became of the request that was not answered.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import aiohttp

from torture.jar import Answer, Jar, few_at_a_time, new_password
from torture.letterbox import Post
from torture.rotations import Issued, Recorder

GRACE = 10  # seconds: a busy machine answers well within it, and some come back later than that
PATIENCE = GRACE / 2  # of a client that refreshes: docs/rotation.md

GOES_ON = "every client goes on with the cookies it holds, whatever was under way"
ROTATED = "no acknowledged log-in or rotation is lost"
LOGGED_OUT = "an acknowledged log-out stays one"
REGISTERED = "who was told that they are registered can log in"
CHANGED = "a changed password is the one that works, and the former one is not"
WHOLLY = "what was not answered has happened wholly or not at all"
ONCE = "no one-time token works twice"
LINKS = "a mailed link works that nobody has used"
FAULTLESS = "no answer is a server error but 503"

NOTHING = Answer(None)


@dataclass
class Ledger:
    """How often each promise was put to the test and broken; what was asked and not answered."""

    cases: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    given_up: int = 0  # by clients whose patience ended
    refused: Counter[str] = field(default_factory=Counter)  # with 503: by what, and why
    old_tokens: int = 0  # held by browsers that came back later than the grace period

    def judge(self, promise: str, kept: bool, circumstances: str) -> None:
        self.cases[promise] += 1
        if not kept:
            self.broken[promise] += 1
            self.examples.setdefault(promise, circumstances)

    def note(self, what: str, answer: Answer, *, in_time: bool) -> None:
        self.asked[what] += 1
        if answer.status is None:
            self.unanswered[what] += in_time
            self.given_up += not in_time
            return
        if answer.status == 503:
            self.refused[f"{what} {answer.code}"] += 1
        faultless = answer.status < 500 or answer.status == 503
        self.judge(FAULTLESS, faultless, f"{what}: {answer.status}")


@dataclass
class Town:
    """Where they live. stopping: nobody begins anything more."""

    http: aiohttp.ClientSession
    address: str
    post: Post
    ledger: Ledger = field(default_factory=Ledger)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    everyone: list["Person"] = field(default_factory=list)
    given: list[Issued] = field(default_factory=list)

    def compare(self, committed: Set[Issued]) -> None:
        """With what everybody has been given since the last time."""
        for token in self.given:
            self.ledger.judge(ROTATED, token in committed, str(token))
        self.given.clear()

    async def pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stopping.wait(), random.uniform(0, seconds))
        except TimeoutError:
            return


class Person:
    """checks: what their last answers promised, to be looked at after the next restart."""

    pace = 0.8  # seconds between two requests, at most

    def __init__(self, town: Town) -> None:
        self.town = town
        self.email = f"{uuid4().hex}@example.com"
        self.password = new_password()
        self.has_logged_in = False
        self.origin = ""  # of the last request
        self.jar = self.new_jar()
        self.checks: list[Callable[[], Awaitable[None]]] = []
        town.everyone.append(self)

    async def settle(self) -> None:
        """Before anything is killed."""
        await insist(partial(self.register, self.password))
        await self.log_in(self.jar, self.password)

    async def live(self) -> None:
        while True:
            await self.town.pause(self.pace)
            if self.town.stopping.is_set():
                return
            await self.act()

    async def act(self) -> None:
        raise NotImplementedError

    async def check(self) -> None:
        checks, self.checks = self.checks, []
        for check in checks:
            await check()

    async def is_still_there(self) -> None:
        """At the very end, too, whatever they did."""
        self.judge(REGISTERED, await self.works(self.password))

    def judge(self, promise: str, kept: bool, answer: Answer = NOTHING) -> None:
        circumstances = f"{type(self).__name__} {self.email}: {answer.status} {answer.code}"
        self.town.ledger.judge(promise, kept, circumstances)

    def new_jar(self) -> Jar:
        return Recorder(self.town.http, self.town.address, self.email, self.town.given)

    async def ask(
        self,
        what: str,
        jar: Jar,
        method: str,
        path: str,
        body: object = None,
        patience: float = 60,
    ) -> Answer:
        """From an address of its own, which the mail that follows will tell."""
        self.origin = self.town.post.new_origin(f"{what} of {self.email}")
        start = time.monotonic()
        answer = await jar.ask(
            method, path, body, headers={"X-Forwarded-For": self.origin}, patience=patience
        )
        self.town.ledger.note(what, answer, in_time=time.monotonic() - start < patience)
        return answer

    async def register(self, password: str) -> Answer:
        credentials = {"email": self.email, "password": password}
        return await self.ask("registration", self.new_jar(), "POST", "/auth/register", credentials)

    async def log_in(self, jar: Jar, password: str) -> Answer:
        """From a browser that has not been seen before: but for the first time, a mail says so."""
        credentials = {"email": self.email, "password": password}
        answer = await self.ask("log-in", jar, "POST", "/auth/login", credentials)
        if answer.status == 200:
            if self.has_logged_in:
                self.town.post.promise(self.origin)
            self.has_logged_in = True
        return answer

    async def refresh(self, jar: Jar) -> Answer:
        return await self.ask("refresh", jar, "POST", "/auth/refresh", patience=PATIENCE)

    async def works(self, password: str) -> bool:
        answer = await insist(lambda: self.log_in(self.new_jar(), password))
        return answer.status == 200

    async def has_changed(self, former: str) -> None:
        kept = not await self.works(former) and await self.works(self.password)
        self.judge(CHANGED, kept)

    async def goes_on(self, jar: Jar) -> Answer:
        answer = await insist(partial(self.refresh, jar))
        self.judge(GOES_ON, answer.status == 200, answer)
        return answer

    async def is_logged_out(self, former: Jar) -> None:
        answer = await insist(partial(self.refresh, former))
        self.judge(LOGGED_OUT, answer.code == "session_revoked", answer)


class Tabs(Person):
    """A browser with two tabs that refresh.

    presence: how likely somebody is there after a restart. Who is not comes back with a token
    that is older than the grace period.
    """

    def __init__(self, town: Town, pace: float, presence: float) -> None:
        super().__init__(town)
        self.pace = pace
        self.presence = presence
        self.renewed_at = time.monotonic()

    async def live(self) -> None:
        await asyncio.gather(super().live(), super().live())

    async def act(self) -> None:
        answer = await self.refresh(self.jar)
        self.remember(answer)
        if answer.status == 401:
            self.judge(GOES_ON, False, answer)

    async def check(self) -> None:
        if random.random() > self.presence:
            return
        self.town.ledger.old_tokens += time.monotonic() - self.renewed_at > GRACE
        for answer in await asyncio.gather(*(self.goes_on(self.jar) for _ in range(2))):
            self.remember(answer)

    def remember(self, answer: Answer) -> None:
        if answer.status == 200:
            self.renewed_at = time.monotonic()


class Commuter(Person):
    """Logs in and out, each time as from another browser."""

    def __init__(self, town: Town) -> None:
        super().__init__(town)
        self.left: list[Jar] = []  # copies of what they held before they logged out

    async def act(self) -> None:
        if not self.jar.cookies:
            await self.log_in(self.jar, self.password)
        elif random.random() < 0.5:
            answer = await self.ask("look", self.jar, "GET", "/users/me")
            if answer.status == 401:
                self.judge(GOES_ON, False, answer)
        else:
            await self.log_out()

    async def log_out(self) -> None:
        former = self.jar.copy()
        answer = await self.ask("log-out", self.jar, "POST", "/auth/logout")
        if answer.status == 204:
            self.jar.cookies.clear()  # also that of the device
            self.left.append(former)
            self.checks.append(partial(self.is_logged_out, former))
        elif answer.status is None:
            self.checks.insert(0, self.look_whether_logged_out)

    async def check(self) -> None:
        await super().check()
        if self.jar.cookies:
            await self.goes_on(self.jar)

    async def look_whether_logged_out(self) -> None:
        answer = await insist(partial(self.refresh, self.jar))
        self.judge(WHOLLY, answer.status == 200 or answer.code == "session_revoked", answer)
        if answer.status != 200:
            self.jar.cookies.clear()

    async def is_still_there(self) -> None:
        await super().is_still_there()
        for former in self.left:
            await self.is_logged_out(former)


class Changer(Person):
    """Changes the password again and again."""

    async def act(self) -> None:
        former, new, jar = self.password, new_password(), self.jar.copy()
        body = {"current_password": former, "new_password": new}
        answer = await self.ask("password change", self.jar, "PUT", "/users/me/password", body)
        if answer.status == 200:
            self.password = new
            self.town.post.promise(self.origin)
            self.checks = [partial(self.has_changed, former), partial(self.is_logged_out, jar)]
        elif answer.status is None:
            look = partial(self.look_whether_changed, former, new, self.origin)
            self.checks.insert(0, look)
        elif answer.status != 503:
            self.judge(GOES_ON, False, answer)

    async def check(self) -> None:
        await super().check()
        await self.goes_on(self.jar)

    async def look_whether_changed(self, former: str, new: str, origin: str) -> None:
        """A new password and the end of every session, or neither."""
        answer = await insist(partial(self.refresh, self.jar))
        changed, unchanged = await self.works(new), await self.works(former)
        is_out = answer.code == "session_revoked"
        self.judge(WHOLLY, (changed, unchanged) in {(is_out, not is_out)}, answer)
        if changed:
            self.password = new
            self.town.post.promise(origin)
            self.jar = self.new_jar()
            await insist(lambda: self.log_in(self.jar, new))


class Newcomer(Person):
    """Signs up, confirms the address, forgets the password and chooses another one."""

    def __init__(self, town: Town) -> None:
        super().__init__(town)
        self.next: Callable[[], Awaitable[None]] | None = self.sign_up
        self.awaited = ""  # the origin that a mail with a link will tell

    @property
    def can_act(self) -> bool:
        return bool(self.next and (not self.awaited or self.town.post.token(self.awaited)))

    async def act(self) -> None:
        assert self.next
        step, self.next = self.next, None
        await step()

    async def sign_up(self) -> None:
        answer = await self.register(self.password)
        if answer.status == 201:
            self.await_mail(self.origin, self.verify)
            self.checks.append(self.is_still_there)
        elif answer.status is None:
            self.checks.append(partial(self.look_whether_registered, self.origin))
        else:
            self.next = self.sign_up

    async def verify(self) -> None:
        token = self.town.post.token(self.awaited)
        answer = await self.present(token)
        if answer.status == 204:
            self.judge(LINKS, True)
            self.awaited, self.next = "", self.forget
            self.checks.append(partial(self.is_spent, partial(self.present, token)))
        elif answer.status is None:
            self.checks.insert(0, partial(self.look_whether_verified, token))
        elif answer.status == 503:
            self.next = self.verify
        else:
            self.judge(LINKS, False, answer)

    async def forget(self) -> None:
        answer = await self.ask(
            "wish for a link", self.jar, "POST", "/auth/forgot-password", {"email": self.email}
        )
        if answer.status == 202:
            self.await_mail(self.origin, self.reset)
        elif answer.status is not None:
            self.next = self.forget

    async def reset(self) -> None:
        token, former, new = self.town.post.token(self.awaited), self.password, new_password()
        answer = await self.choose(token, new)
        if answer.status == 204:
            self.judge(LINKS, True)
            self.password = new
            self.town.post.promise(self.origin)
            self.checks += [
                partial(self.has_changed, former),
                partial(self.is_spent, partial(self.choose, token, new_password())),
            ]
        elif answer.status is None:
            look = partial(self.look_whether_reset, token, new, self.origin)
            self.checks.insert(0, look)
        elif answer.status == 503:
            self.next = self.reset
        else:
            self.judge(LINKS, False, answer)

    def await_mail(self, origin: str, then: Callable[[], Awaitable[None]]) -> None:
        self.town.post.promise(origin)
        self.awaited, self.next = origin, then

    async def present(self, token: str) -> Answer:
        path = "/auth/verify-email"
        return await self.ask("verification", self.jar, "POST", path, {"token": token})

    async def choose(self, token: str, new: str) -> Answer:
        path, body = "/auth/reset-password", {"token": token, "password": new}
        return await self.ask("reset", self.jar, "POST", path, body)

    async def is_spent(self, use: Callable[[], Awaitable[Answer]]) -> None:
        answer = await insist(use)
        self.judge(ONCE, answer.code == "invalid_one_time_token", answer)

    async def look_whether_registered(self, origin: str) -> None:
        """Where there is an account, there is the mail, and the password is the one given."""
        answer = await insist(partial(self.register, self.password))
        registered_before = answer.code == "email_taken"
        self.await_mail(origin if registered_before else self.origin, self.verify)
        kept = registered_before or answer.status == 201
        self.judge(WHOLLY, kept and await self.works(self.password), answer)

    async def look_whether_verified(self, token: str) -> None:
        """The token works if it has not worked before, and then never again."""
        worked_before = await self.is_verified()
        answer = await insist(partial(self.present, token))
        self.judge_second_use(answer, worked_before=worked_before)
        await self.is_spent(partial(self.present, token))
        self.awaited, self.next = "", self.forget

    async def look_whether_reset(self, token: str, new: str, origin: str) -> None:
        worked_before, unchanged = await self.works(new), await self.works(self.password)
        another = new_password()
        answer = await insist(partial(self.choose, token, another))
        self.town.post.promise(origin if worked_before else self.origin)
        self.judge(WHOLLY, worked_before is not unchanged, answer)
        self.judge_second_use(answer, worked_before=worked_before)
        self.password = new if worked_before else another
        await self.is_spent(partial(self.choose, token, new_password()))
        self.checks.append(self.is_still_there)

    def judge_second_use(self, answer: Answer, *, worked_before: bool) -> None:
        if worked_before:
            self.judge(ONCE, answer.code == "invalid_one_time_token", answer)
        else:
            self.judge(LINKS, answer.status == 204, answer)

    async def is_verified(self) -> bool:
        answer = await insist(lambda: self.log_in(self.new_jar(), self.password))
        return bool(answer.status == 200 and answer.body["user"]["email_verified"])


class Street:
    """Where newcomers come in, and go on as soon as they have their mail."""

    def __init__(self, town: Town, households: int) -> None:
        self.town = town
        self.households = households
        self.newcomers: list[Newcomer] = []

    async def live(self) -> None:
        await asyncio.gather(*(self.live_at_one() for _ in range(self.households)))

    async def live_at_one(self) -> None:
        while True:
            await self.town.pause(Newcomer.pace)
            if self.town.stopping.is_set():
                return
            await self.next_one().act()

    def next_one(self) -> Newcomer:
        for newcomer in self.newcomers:
            if newcomer.can_act:
                return newcomer
        self.newcomers.append(Newcomer(self.town))
        return self.newcomers[-1]

    async def finish(self) -> None:
        """What they have begun, while nobody disturbs them."""
        while able := [newcomer for newcomer in self.newcomers if newcomer.can_act]:
            await few_at_a_time(map(Newcomer.act, able))


async def insist(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """As honest clients do who are told to come again, or hear nothing."""
    for attempt in range(50):
        answer = await ask()
        if answer.status not in {None, 503}:
            break
        await asyncio.sleep(min(0.2 * 2**attempt, 5))  # or a busy service would never come round
    return answer
