"""The database stops, freezes, fills up, cuts connections or only reads: nobody is logged out.

Honest people use the service, one fault after the other befalls its database for some seconds,
and then their journals are compared with the service.
"""

import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy import make_url

from torture.faults import Fault, Notes, postgresql_faults, sqlite_faults
from torture.jar import EMPTY, Answer, new_session, read
from torture.laboratory import Finding, Laboratory, Missing, migrate
from torture.people import Entry, Fact, Person
from torture.postgres import Postgres, small_disk
from torture.service import Service
from torture.wire import Wire

PEOPLE = 40
REPEATS = 3  # of each fault
SHORTEST = 3  # seconds of a fault, at small scales
LONGEST = 25  # seconds for any answer: longer, and deploy/nginx.conf would break it off
RECOVERY = 5  # seconds, from the end of a fault to the last request that is refused
QUIET = 1.5  # seconds without a refusal: it has recovered
WAIT = 20  # seconds for that, at most
HEALTH_PATIENCE = 5  # seconds: a load balancer takes no answer for a no
CONNECTIONS = 60  # of PostgreSQL, where they are to be used up
DISK = 400  # megabytes


@dataclass
class World:
    """newest: of each login, as the database knows it."""

    service: Service
    people: list[Person]
    newest: Callable[[], dict[UUID, int]]
    randomness: random.Random = field(default_factory=lambda: random.Random(5))


@dataclass
class Trial:
    """One fault, from `began` to `lifted`, and all that was seen around it.

    complete: when it was there as a whole.
    """

    fault: Fault
    began: float = 0.0
    complete: float = 0.0
    lifted: float = 0.0
    entries: list[Entry] = field(default_factory=list)
    alive: list[Answer] = field(default_factory=list)
    ready: list[Entry] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    notes: Notes = field(default_factory=Counter)

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
        """Seconds from its end until nobody was refused any more."""
        late = [entry.start for entry in self.refusals if entry.start > self.lifted]
        return max(late, default=self.lifted) - self.lifted

    @property
    def readiness(self) -> float:
        """Likewise, until /health/ready said yes for good."""
        late = [asked.start for asked in self.ready if asked.end > self.lifted and not asked.right]
        return max(late, default=self.lifted) - self.lifted

    @property
    def ready_meanwhile(self) -> list[int | None]:
        """None: no answer in time. From a second after it began."""
        asked = [
            each for each in self.ready if self.complete + 1 < each.start and each.end < self.lifted
        ]
        return [each.answer.status for each in asked]

    @property
    def untrue(self) -> int:
        """Answers of /health/ready that were not so."""
        truth = {True: (200,), False: (503, None), None: (200, 503, None)}[self.fault.ready]
        return sum(status not in truth for status in self.ready_meanwhile)


def run(laboratory: Laboratory) -> Iterator[Finding]:
    """One event loop for all of it, which rests while a finding is told."""
    findings = experiment(laboratory)
    with asyncio.Runner() as runner:
        while finding := runner.run(following(findings)):
            yield finding


async def following(findings: AsyncIterator[Finding]) -> Finding | None:
    return await anext(findings, None)


async def experiment(laboratory: Laboratory) -> AsyncIterator[Finding]:
    trials: list[Trial] = []
    for database in (on_postgresql, on_sqlite):
        async with database(laboratory) as (world, faults):
            for fault in faults:
                found = []
                for number in range(laboratory.scaled(REPEATS)):
                    laboratory.say(f"{fault.name}, number {number + 1} ...")
                    found.append(await conduct(world, fault, laboratory.scale))
                yield of_answers(found)
                trials += found
    for finding in of_all(trials):
        yield finding


@asynccontextmanager
async def on_postgresql(laboratory: Laboratory) -> AsyncIterator[tuple[World, list[Fault]]]:
    laboratory.say("Starting PostgreSQL and the service ...")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Postgres.running())
        disk = None
        try:
            disk = stack.enter_context(small_disk(server.data.parent / "disk", DISK))
            stack.callback(server.stop, signal.SIGQUIT)  # before its disk goes
            server.move(disk)
        except Missing as missing:
            laboratory.progress.say(str(missing))
        server.restart(max_connections=CONNECTIONS)
        migrate(server.url, laboratory.folder)
        wire = await stack.enter_async_context(Wire(server.port).running())
        url = make_url(server.url).set(port=wire.port).render_as_string(hide_password=False)
        world = await settle(stack, laboratory, url, partial(newest_in_postgresql, server))
        yield world, postgresql_faults(server, wire, disk)


def newest_in_postgresql(server: Postgres) -> dict[UUID, int]:
    rows = server.execute("SELECT id, last FROM logins")
    return {UUID(str(login_id)): last for login_id, last in rows}


@asynccontextmanager
async def on_sqlite(laboratory: Laboratory) -> AsyncIterator[tuple[World, list[Fault]]]:
    laboratory.say("Starting the service on SQLite ...")
    async with AsyncExitStack() as stack:
        folder, disk = laboratory.folder, None
        with suppress(Missing):  # which has been said
            folder = disk = stack.enter_context(small_disk(laboratory.folder / "sqlite", DISK))
        path = folder / "torture.db"
        url = f"sqlite:///{path.as_posix()}"
        migrate(url, laboratory.folder)
        world = await settle(stack, laboratory, url, partial(newest_in_sqlite, path))
        yield world, sqlite_faults(world.service, path, disk)


def newest_in_sqlite(path: Path) -> dict[UUID, int]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, last FROM logins")
        return {UUID(login_id): last for login_id, last in rows}


async def settle(
    stack: AsyncExitStack, laboratory: Laboratory, url: str, newest: Callable[[], dict[UUID, int]]
) -> World:
    """A service, and people who are logged in."""
    service = Service(url, laboratory.folder, TRUSTED_PROXIES="127.0.0.1")
    stack.callback(service.kill)
    await asyncio.to_thread(service.start)
    http = await stack.enter_async_context(new_session())
    people = [
        Person(http, service.address, f"person{number}@example.com", rests=number % 2 == 0)
        for number in range(laboratory.scaled(PEOPLE, least=6))
    ]
    for person in people:
        assert (await person.register()).status == 201
        assert (await person.act(random.Random())).right  # logs in
    return World(service, people, newest)


# One fault after the other


async def conduct(world: World, fault: Fault, scale: float) -> Trial:
    trial = Trial(fault)
    over = asyncio.Event()
    everybody = [live(person, world.randomness, trial, over) for person in world.people]
    everybody += [ask_whether_alive(world, trial, over), ask_whether_ready(world, trial, over)]
    async with AsyncExitStack() as stack:
        if fault.beforehand:
            await stack.enter_async_context(fault.happens(trial.notes))
            trial.began = time.monotonic()
        tasks = [asyncio.create_task(each) for each in everybody]
        try:
            if not fault.beforehand:
                await asyncio.sleep(QUIET)
                trial.began = time.monotonic()
                await stack.enter_async_context(fault.happens(trial.notes))
            trial.complete = time.monotonic()
            await asyncio.sleep(max(SHORTEST, fault.seconds * min(1, scale)))
            trial.lifted = time.monotonic()  # or a little later
            await stack.aclose()
            trial.lifted = time.monotonic()
            await until_quiet(trial)
        finally:
            over.set()
            await asyncio.gather(*tasks)
    newest = await asyncio.to_thread(world.newest)
    for person in world.people:
        trial.facts += await person.check(newest)
    return trial


async def until_quiet(trial: Trial) -> None:
    """Nobody has been refused for a while, and every request of before is answered."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < min(deadline, trial.lifted + trial.recovery + QUIET):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def live(
    person: Person, randomness: random.Random, trial: Trial, over: asyncio.Event
) -> None:
    while not over.is_set():
        entry = await person.act(randomness)
        trial.entries.append(entry)
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), randomness.uniform(0.1, 0.6))


async def ask_whether_alive(world: World, trial: Trial, over: asyncio.Event) -> None:
    while not over.is_set():
        trial.alive.append(await ask(world, "/health/live"))
        await asyncio.sleep(0.2)


async def ask_whether_ready(world: World, trial: Trial, over: asyncio.Event) -> None:
    """As often as a load balancer, and one question after the other."""
    while not over.is_set():
        start = time.monotonic()
        answer = await ask(world, "/health/ready")
        right = answer.status == 200
        trial.ready.append(Entry("ready", start, time.monotonic(), answer, right))
        await asyncio.sleep(0.2)


async def ask(world: World, path: str) -> Answer:
    http = world.people[0].http
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(HEALTH_PATIENCE), http.get(world.service.address + path) as got:
            return Answer(got.status, EMPTY, read(await got.read()))
    return Answer(None)


# What was found


def of_answers(trials: Sequence[Trial]) -> Finding:
    """Of one fault."""
    entries = [entry for trial in trials for entry in trial.entries]
    wrong = [entry for trial in trials for entry in trial.wrong]
    refused = sum(len(trial.refusals) for trial in trials)
    seconds = max(entry.end - entry.start for entry in entries)
    notes: Notes = sum((trial.notes for trial in trials), Counter())
    remark = [f"{refused} told to come back", f"the slowest answer after {seconds:.1f} s"]
    remark += [f"recovered after {max(trial.recovery for trial in trials):.1f} s"]
    remark += [f"/health/ready said {in_words(trials)}"]
    remark += [f"{name}: {number}" for name, number in notes.items()]
    if wrong:
        remark.append(f"wrong: {dict(Counter(map(describe, wrong)))}")
    promise = f"{trials[0].fault.name}: answers are right, or 503 with Retry-After"
    return Finding(promise, len(entries), len(wrong), ", ".join(remark))


def describe(entry: Entry) -> str:
    told = entry.answer.status, entry.answer.code
    return f"{entry.act} {told} after {entry.end - entry.start:.0f} s"


def in_words(trials: Sequence[Trial]) -> str:
    said = Counter(status for trial in trials for status in trial.ready_meanwhile)
    return " ".join(f"{status or 'nothing'} {number} times" for status, number in said.items())


def of_all(trials: Sequence[Trial]) -> Iterator[Finding]:
    entries = [entry for trial in trials for entry in trial.entries]
    identified = [entry for entry in entries if entry.act in ("refresh", "who_am_i")]
    out = sum(entry.answer.status == 401 for entry in identified)
    kinds: dict[str, list[bool]] = {}
    for fact in (fact for trial in trials for fact in trial.facts):
        kinds.setdefault(fact.kind, []).append(fact.kept)
    stayed = kinds.pop("login")
    yield Finding("nobody is logged out", len(identified) + len(stayed), out + stayed.count(False))
    for kind, kept in kinds.items():
        yield Finding(f"no acknowledged {kind} is lost", len(kept), kept.count(False))
    yield Finding(
        f"it recovers by itself, within {RECOVERY} s of the end of a fault",
        len(trials),
        sum(trial.recovery > RECOVERY for trial in trials),
        f"after {max(trial.recovery for trial in trials):.1f} s at most",
    )
    said = sum(len(trial.ready_meanwhile) for trial in trials)
    yield Finding(
        f"/health/ready tells the truth, and is ready {RECOVERY} s after a fault",
        said + len(trials),
        sum(trial.untrue + (trial.readiness > RECOVERY) for trial in trials),
        f"ready after {max(trial.readiness for trial in trials):.1f} s at most",
    )
    alive = [answer.status for trial in trials for answer in trial.alive]
    yield Finding("/health/live says 200", len(alive), sum(each != 200 for each in alive))
