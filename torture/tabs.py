"""Tabs of real browsers run the README's front end; the network loses, doubles and reorders."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from bench.progress import in_words
from tests.processes import free_ports
from torture.fleet import thefts_on_record
from torture.jar import Jar, new_session
from torture.laboratory import DATABASES, Finding, Laboratory
from torture.pages import Window, chromium, front_end
from torture.proxy import Faults, Proxy
from torture.service import Service

REFRESHES = 1000
WINDOWS = 6  # of two tabs, and as many of five
TABS = 2, 5

GRACE = 2.0  # seconds
ACCESS_LIFETIME = 4 * GRACE
# Request, decision and answer have to fit into the grace period (docs/rotation.md). Where a
# connection breaks that it has used before, Chromium itself sends the request again, with the same
# cookie: that is a longer way. Even twice in a row fits.
FAULTS = Faults(lose_request=0.04, lose_answer=0.08, double=0.05, delay=(0, GRACE / 8))
PAUSE = 0.5  # seconds between two calls of a tab, about
LOOK_SECONDS = 2
ENOUGH = 20 * ACCESS_LIFETIME  # seconds in which any theft comes to light
MOST_TOKENS = 2  # of a thief who refreshes about as often as the user (docs/rotation.md)


def run(laboratory: Laboratory) -> Iterator[Finding]:
    for kind in DATABASES:
        yield from on(laboratory, kind)


def on(laboratory: Laboratory, kind: str) -> Iterator[Finding]:
    [port] = free_ports(1)
    with (
        front_end(laboratory.folder / "front-end", f"http://localhost:{port}") as origin,
        laboratory.database(kind) as url,
        Service(url, laboratory.folder, **settings(origin)) as service,
    ):
        trial = Trial(
            Proxy(service.address, Faults()),
            laboratory.scaled(WINDOWS),
            laboratory.scaled(REFRESHES),
            lambda news: laboratory.say(f"{kind}: {news}"),
        )
        asyncio.run(conduct(trial, port, origin))
        recorded = thefts_on_record(url)
    yield from trial.findings(kind, recorded)


def settings(origin: str) -> dict[str, str]:
    return {
        "BACKEND_CORS_ORIGINS": origin,
        "ACCESS_TOKEN_EXPIRE_MINUTES": str(ACCESS_LIFETIME / 60),
        "REFRESH_GRACE_SECONDS": str(GRACE),
    }


class Theft(NamedTuple):
    """tokens: what the thief got. codes: what the thief and each tab were told in the end."""

    tokens: int
    codes: set[str | None]


class Trial:
    """Windows on one service. seen: what their tabs were told before the thefts.

    windows_of_a_kind: so many of two tabs, and so many of five. say: how it goes on.
    """

    def __init__(
        self, proxy: Proxy, windows_of_a_kind: int, refreshes: int, say: Callable[[str], None]
    ) -> None:
        self.proxy = proxy
        self.windows_of_a_kind = windows_of_a_kind
        self.refreshes = refreshes
        self.say = say
        self.seen: Counter[str] = Counter()
        self.requests = 0  # that arrived
        self.summary = ""
        self.tabs_out = 0
        self.windows: list[Window] = []
        self.thefts: list[Theft] = []
        self.other_logins_out = 0

    @asynccontextmanager
    async def windows_open(self, port: int, origin: str) -> AsyncIterator[None]:
        """port: of the proxy. origin: of the front end."""
        async with self.proxy.running(port), chromium() as browser:
            self.say("browsers log in")
            self.windows = [
                await Window.open(browser, origin, tabs, f"user{number}of{tabs}@example.com")
                for tabs in TABS
                for number in range(self.windows_of_a_kind)
            ]
            yield

    async def live(self) -> None:
        self.proxy.faults = FAULTS
        self.proxy.counts.clear()
        start = time.monotonic()
        for window in self.windows:
            await window.live(PAUSE)
        while self.seen["refresh ok"] < self.refreshes and not self.tabs_out:
            await asyncio.sleep(LOOK_SECONDS)
            self.requests = self.proxy.counts["requests"]
            self.seen = sum([await window.seen() for window in self.windows], Counter())
            self.tabs_out = sum([await window.tabs_out() for window in self.windows])
            self.say(f"{self.seen['refresh ok']:,} of {self.refreshes:,} refreshes")
        self.summary = self._sum_up(time.monotonic() - start)

    async def be_robbed(self) -> None:
        """Everybody has another login, too."""
        self.say("somebody copies the cookies of each browser")
        async with new_session() as http:
            owners = [window.email for window in self.windows]
            thieves, phones = (
                [Jar(http, self.proxy.target, email) for email in owners] for _ in range(2)
            )
            for phone in phones:
                await phone.log_in()
            self.thefts = await asyncio.gather(*map(steal, self.windows, thieves))
            for phone in phones:
                self.other_logins_out += (await phone.refresh()).status != 200

    def _sum_up(self, seconds: float) -> str:
        counts, sent = self.proxy.counts, self.seen["sent"]
        return (
            f"{len(self.windows)} browsers, half with two tabs, half with five, in "
            f"{in_words(seconds)}; of {sent:,} requests, "
            f"{counts['lose_request'] + counts['lose_answer']:,} or their answers were lost, "
            f"{counts['double']:,} doubled, {self.requests - sent:,} or more repeated by "
            f"Chromium itself; one took {self.proxy.longest:.1f} s at most"
        )

    def findings(self, kind: str, thefts_on_record: int) -> Iterator[Finding]:
        thefts = self.thefts
        yield Finding(
            f"No tab is logged out ({kind})", self.seen["refresh ok"], self.tabs_out, self.summary
        )
        yield self.proxy.of_service(kind)
        yield Finding(
            f"A copied jar ends the session for both holders ({kind})",
            len(thefts),
            sum(not theft.codes <= {"token_reused", "session_revoked"} for theft in thefts),
        )
        tokens = [theft.tokens for theft in thefts]
        yield Finding(
            f"A thief at the user's pace gets two tokens at most ({kind})",
            len(thefts),
            sum(number > MOST_TOKENS for number in tokens),
            f"{sum(tokens) / len(tokens):.1f} on average, {max(tokens)} at most",
        )
        yield Finding(
            f"The user's other session goes on ({kind})", len(thefts), self.other_logins_out
        )
        yield Finding(
            f"The audit trail tells of every theft once, and of no other ({kind})",
            len(thefts),
            abs(len(thefts) - thefts_on_record),
        )


async def conduct(trial: Trial, port: int, origin: str) -> None:
    async with trial.windows_open(port, origin):
        await trial.live()
        await trial.be_robbed()


async def steal(window: Window, thief: Jar) -> Theft:
    """The thief refreshes about as often as the tabs do."""
    thief.cookies = await window.cookies()
    end = time.monotonic() + ENOUGH
    await asyncio.sleep(random.uniform(0, ACCESS_LIFETIME))
    tokens = 0
    while (answer := await thief.refresh()).status == 200 and time.monotonic() < end:
        tokens += 1
        await asyncio.sleep(ACCESS_LIFETIME + random.expovariate(1 / GRACE))
    codes = await window.codes()
    while None in codes and time.monotonic() < end:
        await asyncio.sleep(LOOK_SECONDS)
        codes = await window.codes()
    return Theft(tokens, {answer.code, *codes})
