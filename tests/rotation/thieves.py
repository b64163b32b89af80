"""Whoever copied a cookie jar, the ways to use the copy, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .model import (
    ACCESS_LIFETIME,
    DAY,
    EVERYDAY,
    GRACE,
    HOUR,
    SECOND,
    Browser,
    Decision,
    Life,
    World,
    log_uniform,
    paced_tabs,
)
from .rules import Login


class Thief:
    """Holds a copy of the jar from some moment on, and uses it with no delay at all."""

    def __init__(self, browser: Browser) -> None:
        self.browser, self.fleet, self.rng = browser, browser.fleet, browser.rng
        self.hoard: list[int] = []

    @property
    def tokens_got(self) -> int:
        return len(self.hoard) - 1

    def steal(self) -> None:
        self.hoard = [self.browser.jar]

    def use(self, token: int | None = None) -> None:
        issued = self.fleet.decide("thief", token or self.hoard[-1])
        if issued is not None:
            self.hoard.append(issued)

    def use_every(self, low: int, high: int, first: int | None = None) -> None:
        def again() -> None:
            self.use()
            self.fleet.timeline.after(log_uniform(self.rng, low, high), again)

        start = log_uniform(self.rng, low, high) if first is None else first
        self.fleet.timeline.after(start, again)


Strategy = Callable[[Thief], None]


def at_the_users_pace(thief: Thief) -> None:
    def again() -> None:
        thief.use()
        rest = round(thief.rng.expovariate(1 / (10 * SECOND)))
        thief.fleet.timeline.after(ACCESS_LIFETIME + rest, again)

    thief.fleet.timeline.after(thief.rng.randint(0, ACCESS_LIFETIME), again)


def slow(thief: Thief) -> None:
    first = thief.rng.randint(0, ACCESS_LIFETIME)
    thief.use_every(HOUR // 2, 2 * HOUR, first)


def fast(thief: Thief) -> None:
    thief.use_every(SECOND, GRACE // 2, first=0)


def right_after_the_user(thief: Thief) -> None:
    delay = log_uniform(thief.rng, 1000, 2 * GRACE)

    def follow(decision: Decision) -> None:
        if decision.who == "user":
            thief.fleet.timeline.after(delay, thief.use)

    thief.fleet.listeners.append(follow)


def right_before_the_user(thief: Thief) -> None:
    thief.browser.on_send = thief.use


def once(thief: Thief) -> None:
    thief.fleet.timeline.after(thief.rng.randint(0, 3 * ACCESS_LIFETIME), thief.use)


def anything(thief: Thief) -> None:
    """Any gap from a second to two hours, and now and then an older token of the hoard."""

    def again() -> None:
        old = thief.rng.random() < 0.2
        thief.use(thief.rng.choice(thief.hoard) if old else None)
        thief.fleet.timeline.after(log_uniform(thief.rng, SECOND, 2 * HOUR), again)

    thief.fleet.timeline.after(log_uniform(thief.rng, 1000, HOUR), again)


# Thieves that come back. `once` is apart: who never returns gives no second evidence.
STRATEGIES: tuple[Strategy, ...] = (
    at_the_users_pace,
    slow,
    fast,
    right_after_the_user,
    right_before_the_user,
    anything,
)


@dataclass(frozen=True)
class Pursuit:
    """How a theft went.

    got: tokens the thief got with the stolen one.
    lasted: from the theft to the end of the login, or of the pursuit.
    stolen: the copied token; 0 if the login ended before the theft at time `at`.
    """

    got: int
    ended: bool
    lasted: int
    decisions: list[Decision]
    stolen: int
    at: int


def pursue(
    start: Callable[[int], Login],
    strategy: Strategy,
    rng: Random,
    *,
    world: World = EVERYDAY,
    tabs: int = 3,
    horizon: int = DAY,
) -> Pursuit:
    """Everyday tabs, and a thief who copies the jar once within the first five access lifetimes."""
    life = Life(start, world, rng)
    paced_tabs(life.browser, tabs, refreshes=10**9)
    thief = Thief(life.browser)
    stolen_at = rng.randint(1, 5 * ACCESS_LIFETIME)

    def theft() -> None:
        thief.steal()
        strategy(thief)

    life.timeline.after(stolen_at, theft)
    life.run(until=stolen_at + horizon)
    return Pursuit(
        got=thief.tokens_got if thief.hoard else 0,
        ended=life.login.ended,
        lasted=life.timeline.now - stolen_at,
        decisions=life.fleet.decisions,
        stolen=thief.hoard[0] if thief.hoard else 0,
        at=stolen_at,
    )


def successes_after_the_victims_pause(pursuit: Pursuit, grace: int = GRACE) -> int:
    """Count what the proof forbids: a thief's success after the victim came back from a pause.

    A pause: the browser presented nothing for more than three grace periods, then a token that
    the thief never held. Measured in the login's own time, which the issued tokens tell.
    """
    held = {d.token for d in pursuit.decisions if d.who == "thief"} | {pursuit.stolen}
    quiet_since: int | None = None
    told = False
    forbidden = 0
    for decision in pursuit.decisions:
        if decision.issued is None:
            continue
        if decision.who == "thief":
            forbidden += told
            continue
        if quiet_since is not None and decision.token not in held and decision.at > pursuit.at:
            told = told or decision.issued > quiet_since + 3 * grace
        quiet_since = decision.issued
    return forbidden
