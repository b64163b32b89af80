"""A thousand sessions refresh 200 times each while the network loses, doubles and reorders."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from statistics import median

import aiohttp
import sqlalchemy
import uvloop

from bench.progress import in_words
from torture.jar import REFRESH_COOKIE, Answer, Jar, few_at_a_time, new_session
from torture.laboratory import DATABASES, Finding, Laboratory
from torture.proxy import Faults, Proxy
from torture.rotations import issued
from torture.service import Service

SESSIONS, REFRESHES = 1000, 200  # so many refreshes each
THEFTS = 50
SESSIONS_OF_A_USER = 10
CONTROLS, REFRESHES_OF_CONTROLS = 20, 20

GRACE = 8.0  # seconds
ACCESS_LIFETIME = 4 * GRACE
# Request, decision and answer have to fit into the grace period (docs/rotation.md): half of it for
# the client's patience, and half for the way to the decision, most of it left to a busy machine.
FAULTS = Faults(lose_request=0.01, lose_answer=0.02, double=0.02, delay=(0, GRACE / 16))
PATIENCE = GRACE / 2
ENOUGH = 30 * ACCESS_LIFETIME  # seconds in which any theft comes to light
UNDER_WAY = 160  # honest browsers at a time: more would wait for each other

# Most gaps are shorter than the grace period; most of the time passes in longer ones.
SHORTEST_GAP, LONGEST_GAP = GRACE / 100, 3 * GRACE
MOST_TABS = 4
TOGETHER = 0.1  # how often all tabs of a browser refresh at once
REPORT_SECONDS = 5


def run(laboratory: Laboratory) -> Iterator[Finding]:
    for kind in DATABASES:
        yield from on(laboratory, kind)
    yield control(laboratory)


def on(laboratory: Laboratory, kind: str) -> Iterator[Finding]:
    workers = 2 if kind == "postgresql" else 1  # which then race
    with (
        laboratory.database(kind) as url,
        Service(url, laboratory.folder, workers=workers, **settings(GRACE)) as service,
    ):
        sessions, thefts = laboratory.scaled(SESSIONS), laboratory.scaled(THEFTS)
        fleet = Fleet(service.address, laboratory.scaled(REFRESHES))
        start = time.monotonic()
        uvloop.run(sail(fleet, sessions, thefts, lambda news: laboratory.say(f"{kind}: {news}")))
        seconds = time.monotonic() - start
        recorded = thefts_on_record(url)
    log_outs = sum(browser.is_out for browser in fleet.honest)
    remark = f"{fleet.summary} in {in_words(seconds)}"
    yield Finding(f"No honest session ends ({kind})", sessions, log_outs, remark)
    yield fleet.proxy.of_service(kind)
    yield from about_thefts(fleet.thefts, kind)
    yield Finding(
        f"The audit trail tells of every theft once, and of no other ({kind})",
        thefts,
        abs(thefts - recorded),
    )


def settings(grace: float) -> dict[str, str]:
    return {
        "ACCESS_TOKEN_EXPIRE_MINUTES": str(ACCESS_LIFETIME / 60),
        "REFRESH_GRACE_SECONDS": str(grace),
    }


class Fleet:
    """Browsers on one network. counts: their refreshes, by age of the token and by outcome."""

    def __init__(self, service: str, refreshes: int) -> None:
        self.service = service
        self.refreshes = refreshes  # of each honest session
        self.proxy = Proxy(service, FAULTS)
        self.room = asyncio.Semaphore(UNDER_WAY)
        self.counts: Counter[str] = Counter()
        self.honest: list[Browser] = []
        self.thefts: list[Theft] = []

    @property
    def summary(self) -> str:
        counts, faults = self.counts, self.proxy.counts
        lost = faults["lose_request"] + faults["lose_answer"]
        return (
            f"{counts['answered']:,} refreshes answered; {counts['young']:,} tokens were young, "
            f"{counts['old']:,} old; {lost:,} lost, {faults['double']:,} doubled, "
            f"{counts['busy']:,} told to come back; "
            f"a request took {self.proxy.longest:.1f} s at most ({GRACE - PATIENCE:g} are allowed)"
        )


class Browser:
    """One jar, and tabs that share it. is_out: it was told so."""

    def __init__(self, fleet: Fleet, jar: Jar) -> None:
        self.fleet = fleet
        self.jar = jar
        self.tabs = random.randint(1, MOST_TABS)
        self.answered = 0
        self.code: str | None = None

    @property
    def is_out(self) -> bool:
        return self.code is not None

    async def live(self) -> None:
        await asyncio.gather(*(self._use_tab() for _ in range(self.tabs)))

    async def _use_tab(self) -> None:
        pace = self.tabs * random.uniform(0.5, 1.5)
        while self.answered < self.fleet.refreshes and not self.is_out:
            gap = pace * log_uniform(SHORTEST_GAP, LONGEST_GAP)
            await asyncio.sleep(min(gap, LONGEST_GAP))
            async with self.fleet.room:
                await self.refresh_at_once(self.tabs if random.random() < TOGETHER else 1)

    async def refresh_at_once(self, tabs: int) -> None:
        await asyncio.gather(*(self.refresh() for _ in range(tabs)))

    async def refresh(self) -> None:
        """As a front end does: no answer, and a 503, are reasons to try again, each time later."""
        pause = GRACE / 2
        while not self.is_out:
            answer = await self.try_to_refresh()
            if answer.status == 200:
                return
            told = int(answer.headers.get("retry-after", 0))
            await asyncio.sleep(told + random.uniform(0, pause))
            pause = min(2 * pause, 4 * GRACE)

    async def try_to_refresh(self) -> Answer:
        counts = self.fleet.counts
        counts["old" if age(self.jar) > GRACE else "young"] += 1
        answer = await self.jar.refresh(PATIENCE)
        if answer.status == 200:
            counts["answered"] += 1
            self.answered += 1
        elif answer.status == 503:
            counts["busy"] += 1
        elif answer.status:
            self.code = answer.code or str(answer.status)
        return answer


class Theft:
    """A browser as most are: its tabs refresh together, when the access token has expired. Somebody
    copies its jar, once. fast: the thief refreshes several times in each grace period.

    late: tokens that no thief may get, because the user had come back twice (docs/rotation.md).
    seconds: from the theft to the end.
    """

    def __init__(self, browser: Browser, *, fast: bool) -> None:
        self.browser = browser
        self.fast = fast
        self.late = 0
        self.seconds = 0.0
        self.thief: Browser | None = None
        self._begun = self._ended = 0  # bursts of the user's refreshes

    @property
    def tokens(self) -> int:
        return self.thief.answered if self.thief else 0

    @property
    def codes(self) -> set[str | None]:
        return {self.browser.code, self.thief.code if self.thief else None}

    async def happen(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ENOUGH):
                await asyncio.gather(self._use(), self._misuse())

    async def _use(self) -> None:
        while not self.browser.is_out:
            await asyncio.sleep(pause())
            self._begun += 1
            await self.browser.refresh_at_once(self.browser.tabs)
            self._ended += 1

    async def _misuse(self) -> None:
        await asyncio.sleep(random.uniform(1, 3) * ACCESS_LIFETIME)
        thief = self.thief = Browser(self.browser.fleet, self.browser.jar.copy())
        start, begun = time.monotonic(), self._begun
        while not thief.is_out:
            await asyncio.sleep(log_uniform(GRACE / 10, GRACE / 2) if self.fast else pause())
            too_late = self._ended >= begun + 2
            answer = await thief.try_to_refresh()
            self.late += too_late and answer.status == 200
        self.seconds = time.monotonic() - start


async def sail(fleet: Fleet, sessions: int, thefts: int, say: Callable[[str], None]) -> None:
    """say: how it goes on."""
    async with fleet.proxy.running(), new_session() as http:
        say(f"{sessions + thefts:,} log in")
        browsers = [Browser(fleet, jar) for jar in await log_in(http, fleet, sessions + thefts)]
        fleet.honest = browsers[thefts:]
        fleet.thefts = [Theft(each, fast=n % 2 == 1) for n, each in enumerate(browsers[:thefts])]
        report = asyncio.create_task(report_on(fleet, say))
        lives = [browser.live() for browser in fleet.honest]
        await asyncio.gather(*lives, *(theft.happen() for theft in fleet.thefts))
        report.cancel()
        await few_at_a_time(map(look_around, fleet.honest))


async def log_in(http: aiohttp.ClientSession, fleet: Fleet, sessions: int) -> list[Jar]:
    """Neighbours in the list belong to different users, who have several sessions each."""
    users = math.ceil(sessions / SESSIONS_OF_A_USER)
    jars = [Jar(http, fleet.service, f"user{n % users}@example.com") for n in range(sessions)]
    await few_at_a_time(jar.register() for jar in jars[:users])
    await few_at_a_time(jar.log_in() for jar in jars)
    assert all(REFRESH_COOKIE in jar.cookies for jar in jars)
    for jar in jars:
        jar.address = fleet.proxy.address
    return jars


async def report_on(fleet: Fleet, say: Callable[[str], None]) -> None:
    expected = len(fleet.honest) * fleet.refreshes
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        done = sum(min(browser.answered, fleet.refreshes) for browser in fleet.honest)
        out = sum(browser.is_out for browser in fleet.honest)
        say(f"{done:,} of {expected:,} refreshes, {out} sessions ended")


async def look_around(browser: Browser) -> None:
    """Whoever was not logged out can still use the service."""
    browser.jar.address = browser.fleet.service
    await browser.refresh()
    answer = await browser.jar.who_am_i()
    if answer.status != 200:
        browser.code = browser.code or answer.code or str(answer.status)


def pause() -> float:
    return ACCESS_LIFETIME + random.expovariate(1 / GRACE)


def log_uniform(least: float, most: float) -> float:
    """Every order of magnitude is equally likely."""
    return math.exp(random.uniform(math.log(least), math.log(most)))


def age(jar: Jar) -> float:
    """Of the refresh token that it holds, in seconds."""
    return time.time() - issued(jar.cookies[REFRESH_COOKIE]).n / 1e6


def thefts_on_record(url: str) -> int:
    engine = sqlalchemy.create_engine(url)
    query = sqlalchemy.text("SELECT count(*) FROM audit_events WHERE event = 'token_reused'")
    with engine.connect() as connection:
        count: int = connection.execute(query).scalar_one()
    engine.dispose()
    return count


def about_thefts(thefts: Sequence[Theft], kind: str) -> Iterator[Finding]:
    right = [{"token_reused", "session_revoked"}, {"session_revoked"}]  # an answer may be lost
    yield Finding(
        f"A copied jar ends the session for both holders, and no other one of the user ({kind})",
        len(thefts),
        sum(theft.codes not in right for theft in thefts),
    )
    yield Finding(
        f"No thief gets a token after the user's second return ({kind})",
        len(thefts),
        sum(theft.late > 0 for theft in thefts),
        "; ".join(map(in_figures, ("as slow as the user", "fast"), (thefts[::2], thefts[1::2]))),
    )


def in_figures(pace: str, thefts: Sequence[Theft]) -> str:
    if not thefts:
        return f"{pace}: none"
    tokens = [theft.tokens for theft in thefts]
    seconds = [theft.seconds for theft in thefts]
    return (
        f"{pace}: {median(tokens):g} tokens in the median, {max(tokens)} at most, "
        f"ended after {median(seconds):.0f} s, {max(seconds):.0f} at most"
    )


def control(laboratory: Laboratory) -> Finding:
    """The same faults must do harm where the rule is another one, or they prove nothing."""
    with (
        laboratory.database("sqlite") as url,
        Service(url, laboratory.folder, **settings(0)) as service,
    ):
        fleet = Fleet(service.address, REFRESHES_OF_CONTROLS)
        uvloop.run(sail(fleet, CONTROLS, 0, lambda news: laboratory.say(f"strict: {news}")))
    out = sum(browser.is_out for browser in fleet.honest)
    return Finding(
        "With strict single use, the same network does log browsers out",
        CONTROLS,
        0 if out else CONTROLS,
        f"{out} of {CONTROLS} within {REFRESHES_OF_CONTROLS} refreshes",
    )
