"""Honest people use the service while something happens to its database, and all that is seen."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from torture.jar import EMPTY, Answer, read
from torture.laboratory import Finding, Laboratory
from torture.people import IDENTIFIED, OLD_REFRESH, Entry, Fact, Person
from torture.rotations import Ledger
from torture.service import Service

PEOPLE = 40
PAUSE = (0.1, 0.8)  # seconds between two acts of somebody
LONGEST = 25  # seconds for any answer: longer, and deploy/nginx.conf would break it off
RECOVERY = 5  # seconds, from the end of a fault to the last request that is refused
QUIET = 1.5  # seconds without a refusal: it has recovered
WAIT = 30  # seconds for that, at most
HEALTH_PATIENCE = 5  # seconds: a load balancer takes no answer for a no
TOLD_TO_COME_BACK = "told to come back"


@dataclass
class World:
    services: Sequence[Service]
    people: Sequence[Person]
    ledger: Ledger
    randomness: random.Random = field(default_factory=lambda: random.Random(5))


@dataclass
class Trial:
    """One fault, from `began` to `lifted`, on the monotonic clock.

    complete: when it was there as a whole. signs: what tells that it was felt, of which none may
    be missing. ready: what /health/ready has to say meanwhile; None: it depends.
    """

    signs: Sequence[str] = ()
    ready: bool | None = None
    began: float = 0.0
    complete: float = 0.0
    lifted: float = 0.0
    entries: list[Entry] = field(default_factory=list)
    readiness: list[Entry] = field(default_factory=list)
    alive: list[Answer] = field(default_factory=list)
    ghosts: Counter[int | None] = field(default_factory=Counter)
    facts: list[Fact] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)  # what the fault did, for the table

    @property
    def refusals(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.refused]

    @property
    def wrong(self) -> list[Entry]:
        """Neither right nor told to come back, or too late, or refused while nothing was wrong."""
        return [
            entry
            for entry in self.entries
            if not (entry.right or entry.refused)
            or entry.end - entry.start > LONGEST
            or (entry.refused and entry.end < self.began)
        ]

    @property
    def recovery(self) -> float:
        """Seconds from its end to the last request that began later and was refused."""
        return self._after(entry.start for entry in self.refusals)

    @property
    def back(self) -> float:
        """Likewise, until /health/ready said yes for good."""
        return self._after(asked.start for asked in self.readiness if not asked.right)

    def _after(self, moments: Iterator[float]) -> float:
        late = [each - self.lifted for each in moments if each > self.lifted]
        return max(late, default=0.0)

    @property
    def said(self) -> list[int | None]:
        """By /health/ready, from a second after it began. None: no answer in time."""
        return [
            each.answer.status
            for each in self.readiness
            if self.complete + 1 < each.start and each.end < self.lifted - 0.2
        ]

    @property
    def untrue(self) -> int:
        """Answers of /health/ready that were not so."""
        truth = {True: (200,), False: (503, None), None: (200, 503, None)}[self.ready]
        return sum(status not in truth for status in self.said)

    @property
    def meanwhile(self) -> list[Entry]:
        """What was under way while it lasted."""
        return [each for each in self.entries if each.end > self.began and each.start < self.lifted]

    @property
    def old_refreshes(self) -> list[Entry]:
        """With a token whose grace was over."""
        return [entry for entry in self.meanwhile if entry.act == OLD_REFRESH]

    @property
    def was_felt(self) -> bool:
        refused = sum(entry.refused for entry in self.meanwhile)
        seen = self.notes + Counter({TOLD_TO_COME_BACK: refused})
        return all(seen[sign] for sign in self.signs)


async def sign_up(
    laboratory: Laboratory, http: aiohttp.ClientSession, services: Sequence[Service]
) -> list[Person]:
    """Who are logged in, and of whom half seldom refresh."""
    addresses = [service.address for service in services]
    people = [
        Person(http, addresses, f"person{number}@example.com", rests=number % 2 == 0)
        for number in range(laboratory.scaled(PEOPLE, least=8))
    ]
    for person in people:
        registered = await person.register()
        assert registered.status == 201, registered
        assert (await person.act(random.Random())).right  # logs in
    return people


@asynccontextmanager
async def watched(world: World, trial: Trial) -> AsyncIterator[None]:
    """Meanwhile everybody lives; afterwards their journals are compared with the service."""
    over = asyncio.Event()
    tasks = [
        *(asyncio.create_task(live(person, world, trial, over)) for person in world.people),
        *(asyncio.create_task(ask_whether_ready(world, s, trial, over)) for s in world.services),
        asyncio.create_task(ask_whether_alive(world, trial, over)),
        asyncio.create_task(haunt(world, trial, over)),
    ]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)
    taken_out = await asyncio.to_thread(world.ledger.take_out)
    trial.facts += [fact for person in world.people for fact in person.rotations_among(taken_out)]
    for person in world.people:
        trial.facts += await person.check()


async def live(person: Person, world: World, trial: Trial, over: asyncio.Event) -> None:
    while not over.is_set():
        trial.entries.append(await person.act(world.randomness))
        await pause(over, world.randomness.uniform(*PAUSE))


async def haunt(world: World, trial: Trial, over: asyncio.Event) -> None:
    """Whoever has logged out tries to come back, at any process, all the time."""
    while not over.is_set():
        if ended := [jar for person in world.people for jar in person.ended]:
            ghost = world.randomness.choice(ended).copy()
            ghost.address = world.randomness.choice(world.services).address
            trial.ghosts[(await ghost.who_am_i()).status] += 1
        await pause(over, 0.1)


async def ask_whether_alive(world: World, trial: Trial, over: asyncio.Event) -> None:
    while not over.is_set():
        trial.alive.append(await ask(world, world.services[0], "/health/live"))
        await pause(over, 0.2)


async def ask_whether_ready(
    world: World, service: Service, trial: Trial, over: asyncio.Event
) -> None:
    """As often as a load balancer, and one question after the other."""
    while not over.is_set():
        start = time.monotonic()
        answer = await ask(world, service, "/health/ready")
        right = answer.status == 200
        trial.readiness.append(Entry("ready", start, time.monotonic(), answer, right))
        await pause(over, 0.2)


async def ask(world: World, service: Service, path: str) -> Answer:
    http = world.people[0].http
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(HEALTH_PATIENCE), http.get(service.address + path) as got:
            return Answer(got.status, EMPTY, read(await got.read()))
    return Answer(None)


async def pause(over: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)


async def until_quiet(trial: Trial) -> None:
    """Nobody has been refused for a while, and every request of before is answered."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < min(deadline, trial.lifted + trial.recovery + QUIET):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


# What was found


def of_answers(name: str, trials: Sequence[Trial]) -> Finding:
    """Of one fault."""
    entries = [entry for trial in trials for entry in trial.entries]
    wrong = [entry for trial in trials for entry in trial.wrong]
    remark = ["once" if len(trials) == 1 else f"{len(trials)} times"]
    remark += [f"{sum(len(trial.refusals) for trial in trials)} {TOLD_TO_COME_BACK}"]
    old = sum(len(trial.old_refreshes) for trial in trials)
    remark += [f"{old} refreshes after the grace period"]
    remark += [f"the slowest answer after {max(e.end - e.start for e in entries):.1f} s"]
    remark += [f"recovered after {max(trial.recovery for trial in trials):.1f} s"]
    said: Counter[Any] = sum((Counter(trial.said) for trial in trials), Counter())
    if told := " ".join(f"{status or 'nothing'} {number} times" for status, number in said.items()):
        remark += [f"/health/ready said {told}"]
    notes: Counter[str] = sum((trial.notes for trial in trials), Counter())
    remark += [f"{note}: {number}" for note, number in notes.items()]
    if wrong:
        remark += [f"wrong: {dict(Counter(map(describe, wrong)))}"]
    promise = f"{name}: answers are right, or 503 with Retry-After"
    return Finding(promise, len(entries), len(wrong), ", ".join(remark))


def describe(entry: Entry) -> str:
    told = entry.answer.status, entry.answer.code
    return f"{entry.act} {told} after {entry.end - entry.start:.0f} s"


def of_all(trials: Sequence[Trial]) -> Iterator[Finding]:
    """Of all faults together, but for how soon it recovered."""
    unfelt = [f"{', '.join(trial.signs)}: none" for trial in trials if not trial.was_felt]
    signed = sum(bool(trial.signs) for trial in trials)
    yield Finding("what befalls the database is felt", signed, len(unfelt), "; ".join(unfelt))
    entries = [entry for trial in trials for entry in trial.entries if entry.act in IDENTIFIED]
    facts = [fact for trial in trials for fact in trial.facts]
    stayed = [fact.kept for fact in facts if fact.kind == "login"]
    out = sum(entry.answer.status == 401 for entry in entries)
    yield Finding("nobody is logged out", len(entries) + len(stayed), out + stayed.count(False))
    old = [entry for trial in trials for entry in trial.old_refreshes]
    yield Finding(
        "and nobody who refreshes during it, after the grace period of their token",
        len(old),
        sum(entry.answer.status == 401 for entry in old),
    )
    for kind in ("rotation", "log-out", "change of a password"):
        kept = [fact.kept for fact in facts if fact.kind == kind]
        yield Finding(f"no acknowledged {kind} is lost", len(kept), kept.count(False))
    ghosts: Counter[int | None] = sum((trial.ghosts for trial in trials), Counter())
    yield Finding(
        "whoever has logged out is let in by no process, at no moment",
        ghosts.total(),
        ghosts.total() - ghosts[401] - ghosts[503],
        f"{ghosts[401]} told so, {ghosts[503]} {TOLD_TO_COME_BACK}",
    )
    yield Finding(
        "/health/ready tells the truth",
        sum(len(trial.said) for trial in trials if trial.ready is not None),
        sum(trial.untrue for trial in trials),
    )
    yield Finding(
        f"/health/ready says so {RECOVERY} s after a fault",
        len(trials),
        sum(trial.back > RECOVERY for trial in trials),
        f"after {max(trial.back for trial in trials):.1f} s at most",
    )
    alive = [answer.status for trial in trials for answer in trial.alive]
    yield Finding("/health/live says 200", len(alive), sum(each != 200 for each in alive))
