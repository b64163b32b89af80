"""A discrete-event simulation of one login: a browser with tabs, its network and its servers.

Times are integer microseconds. Everything random comes from the one generator that is passed
in, so a run is repeated by its seed. The rule is a black box here (see rules.py).
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from .rules import Login

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

GRACE = 60 * SECOND
ACCESS_LIFETIME = 15 * MINUTE


def log_uniform(rng: Random, low: int, high: int) -> int:
    """A time between `low` and `high` with every order of magnitude equally likely."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


@dataclass(frozen=True)
class World:
    """What the network, the servers and the browser's disk may do to a refresh.

    request, response: the longest ways, without the server's queue.
    typical: the median way; without it every way is nothing, the longest, or anything between.
    skew: how far the servers' clocks may differ.
    lost: the share of responses that never arrive; each puts the browser offline for `outage`.
    stuck: the share of requests that wait in a queue, for up to twice the grace period.
    stale: a request that waited longer than this is answered 503 and changes nothing.
    patience: after this time a client no longer takes the answer.
    flush: how long a cookie stays in memory before it is on the disk.
    """

    request: int
    response: int
    typical: int = 0
    skew: int = 0
    servers: int = 4
    lost: float = 0.0
    outage: tuple[int, int] | None = None
    stuck: float = 0.0
    stale: int = GRACE // 3
    patience: int = DAY
    flush: int = 0
    grace: int = GRACE

    @property
    def room(self) -> int:
        """What is left of the grace period when everything takes as long as it can."""
        queue = self.stale if self.stuck else 0
        return self.grace - self.request - queue - min(self.response, self.patience) - self.skew

    def way(self, rng: Random, longest: int) -> int:
        if self.typical:
            return min(longest, round(self.typical * math.exp(rng.gauss(0, 1))))
        return rng.choice((0, longest, rng.randint(0, longest), rng.randint(0, longest)))


# Browsers as they mostly are: a tenth of a second each way, now and then ten.
EVERYDAY = World(
    request=10 * SECOND,
    response=20 * SECOND,
    typical=SECOND // 10,
    skew=SECOND,
    lost=0.004,
    outage=(SECOND, 10 * MINUTE),
    patience=30 * SECOND,
)
# The worst that the proof allows: half of the grace period each way, one response in ten lost.
WORST = World(
    request=GRACE // 2 - 2 * SECOND, response=GRACE // 2 - SECOND, skew=2 * SECOND, lost=0.1
)
# Requests that hang in a queue for longer than their client waits.
STUCK = World(
    request=GRACE // 12,
    response=GRACE,
    skew=GRACE // 24,
    lost=0.1,
    stuck=0.3,
    patience=GRACE // 2,
)


class Timeline:
    def __init__(self) -> None:
        self.now = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay, self._order, action))

    def run(self, until: int, stop: Callable[[], bool]) -> None:
        while self._queue and self._queue[0][0] <= until and not stop():
            self.now, _, action = heapq.heappop(self._queue)
            action()


@dataclass(frozen=True, slots=True)
class Decision:
    who: str
    token: int
    at: int
    issued: int | None


@dataclass
class Fleet:
    """The servers. They decide one request at a time, each by its own clock."""

    timeline: Timeline
    rng: Random
    world: World
    login: Login
    epoch: int
    decisions: list[Decision] = field(default_factory=list)
    refused_as_stale: int = 0
    listeners: list[Callable[[Decision], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.offsets = [self.rng.randint(0, self.world.skew) for _ in range(self.world.servers)]
        self.behind = 0

    def set_clocks_back(self, by: int) -> None:
        """All clocks at once; a negative `by` is a jump forward, which the proof does not allow."""
        self.behind += by

    def decide(self, who: str, token: int) -> int | None:
        clock = self.epoch + self.timeline.now + self.rng.choice(self.offsets) - self.behind
        issued = self.login.present(token, clock)
        decision = Decision(who, token, self.timeline.now, issued)
        self.decisions.append(decision)
        for listener in self.listeners:
            listener(decision)
        return issued

    def successes(self, who: str) -> list[Decision]:
        return [d for d in self.decisions if d.who == who and d.issued is not None]


class Browser:
    """One cookie jar. Its tabs read it when they send and write it when an answer comes."""

    def __init__(self, fleet: Fleet, first: int) -> None:
        self.fleet, self.timeline = fleet, fleet.timeline
        self.rng, self.world = fleet.rng, fleet.world
        self.jar = self.disk = first
        self.access_until = ACCESS_LIFETIME
        self.offline_until = 0
        self.sent = 0
        self.life = 0
        self.flushing = False
        self.on_send: Callable[[], None] = lambda: None

    def refresh(self) -> None:
        self.sent += 1
        token, sent_at, life = self.jar, self.timeline.now, self.life
        queued = 0
        if self.rng.random() < self.world.stuck:
            queued = self.rng.randint(0, 2 * self.world.grace)

        def its_turn() -> None:
            if queued > self.world.stale:
                self.fleet.refused_as_stale += 1
                return
            issued = self.fleet.decide("user", token)
            if issued is None:
                return
            if self.rng.random() < self.world.lost:
                if self.world.outage:
                    away = log_uniform(self.rng, *self.world.outage)
                    self.offline_until = self.timeline.now + away
                return
            self.timeline.after(
                self.world.way(self.rng, self.world.response), lambda: the_answer_comes(issued)
            )

        def the_answer_comes(issued: int) -> None:
            waited = self.timeline.now - sent_at
            if life == self.life and waited <= self.world.patience:
                self.write(issued)

        self.on_send()
        self.timeline.after(self.world.way(self.rng, self.world.request) + queued, its_turn)

    def write(self, token: int) -> None:
        self.jar = token
        self.access_until = self.timeline.now + ACCESS_LIFETIME
        if not self.flushing:
            self.flushing = True
            life = self.life
            self.timeline.after(self.world.flush, lambda: self.flush(life))

    def flush(self, life: int) -> None:
        if life == self.life:
            self.disk, self.flushing = self.jar, False

    def crash(self) -> None:
        """Killed: cookies not yet on the disk are lost, answers on their way find nobody."""
        self.life += 1
        self.flushing = False
        self.jar = self.disk
        self.access_until = self.timeline.now


def paced_tabs(browser: Browser, tabs: int, refreshes: int, pause: int = 30 * SECOND) -> None:
    """Tabs that call the API every `pause` or so, and refresh when the access token has expired."""

    def check() -> None:
        now = browser.timeline.now
        if browser.sent >= refreshes:
            return
        if now >= max(browser.access_until, browser.offline_until):
            browser.refresh()
        free = max(now, browser.access_until, browser.offline_until)
        rest = round(browser.rng.expovariate(1 / pause))
        browser.timeline.after(free - now + rest, check)

    for _ in range(tabs):
        browser.timeline.after(round(browser.rng.expovariate(1 / pause)), check)


def frantic_tabs(browser: Browser, tabs: int, refreshes: int, gaps: tuple[int, int]) -> None:
    """Tabs that refresh whenever they like, whether anything has expired or not."""

    def tick() -> None:
        if browser.sent < refreshes:
            browser.refresh()
            browser.timeline.after(log_uniform(browser.rng, *gaps), tick)

    for _ in range(tabs):
        browser.timeline.after(log_uniform(browser.rng, *gaps), tick)


def bursting_tabs(browser: Browser, refreshes: int, restart: tuple[int, int]) -> None:
    """Several refreshes within half the grace period, a pause, and in every second burst a crash.

    The crash comes at any moment of the burst, so it can lose one write or several.
    """
    rng, timeline = browser.rng, browser.timeline
    length = browser.world.grace // 2

    def burst() -> None:
        if browser.sent >= refreshes:
            return
        for _ in range(rng.randint(1, 6)):
            timeline.after(rng.randint(0, length), browser.refresh)
        if rng.random() < 0.5:
            timeline.after(rng.randint(0, length), crash)
        else:
            timeline.after(ACCESS_LIFETIME + log_uniform(rng, SECOND, HOUR), burst)

    def crash() -> None:
        browser.crash()
        timeline.after(log_uniform(rng, *restart), burst)

    timeline.after(log_uniform(rng, SECOND, HOUR), burst)


EPOCH = 1_800_000_000 * SECOND


@dataclass
class Life:
    """One simulated login, ready to run."""

    start: Callable[[int], Login]
    world: World
    rng: Random

    def __post_init__(self) -> None:
        self.timeline = Timeline()
        self.login = self.start(EPOCH)
        self.fleet = Fleet(self.timeline, self.rng, self.world, self.login, EPOCH)
        self.browser = Browser(self.fleet, EPOCH)

    def run(self, until: int = 10_000 * DAY) -> None:
        self.timeline.run(until, lambda: self.login.ended)
