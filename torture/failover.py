"""The primary of a cluster dies, freezes or steps down under load: nothing acknowledged is lost.

Two PostgreSQL nodes with synchronous replication and Patroni; a service of three processes that
know both; honest people, whose journals are compared with the new primary.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from torture.jar import Jar, new_session
from torture.laboratory import Finding, Laboratory, migrate
from torture.patroni import Cluster, Node, cluster
from torture.people import Entry, Fact, Person
from torture.service import Service

PROCESSES = 3
PEOPLE = 40
PAUSE = (0.2, 1.0)  # seconds between two acts of somebody
WARM = 3  # seconds of load before something happens, and after all is well again
LONGEST = 25  # seconds for any answer: longer, and deploy/nginx.conf would break it off
RECOVERY = 5  # seconds from the promotion until nobody is refused any more
QUIET = 1.5  # seconds without a refusal: it has recovered
WAIT = 30  # seconds for that, at most
HEALTH_PATIENCE = 5  # seconds: a load balancer takes no answer for a no
REMEMBERED = 500  # sessions that were ended


@dataclass
class World:
    """ended: what people held when their log-outs were acknowledged."""

    cluster: Cluster
    services: list[Service]
    people: list[Person]
    ended: list[Jar] = field(default_factory=list)
    randomness: random.Random = field(default_factory=lambda: random.Random(5))

    def address(self) -> str:
        return self.randomness.choice(self.services).address


@dataclass
class Trial:
    """began: from then on there was no primary. promoted: another node takes writes."""

    began: float = 0.0
    promoted: float = 0.0
    entries: list[Entry] = field(default_factory=list)
    ready: list[tuple[float, float, int | None]] = field(default_factory=list)  # asked, answered
    ghosts: Counter[int | None] = field(default_factory=Counter)
    facts: list[Fact] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def refusals(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.refused]

    @property
    def wrong(self) -> list[Entry]:
        """Neither right nor told to come back, or too late."""
        return [
            entry
            for entry in self.entries
            if not (entry.right or entry.refused) or entry.end - entry.start > LONGEST
        ]

    @property
    def recovery(self) -> float:
        """Seconds from the promotion to the last request that began later and was refused."""
        return after(self.promoted, (entry.start for entry in self.refusals))

    @property
    def readiness(self) -> float:
        return after(self.promoted, (at for at, _, status in self.ready if status != 200))

    @property
    def ready_meanwhile(self) -> list[int | None]:
        """None: no answer in time. From a second after it began."""
        return [
            status
            for asked, answered, status in self.ready
            if self.began + 1 < asked and answered < self.promoted - 0.2
        ]


def after(start: float, moments: Iterator[float]) -> float:
    return max((moment for moment in moments if moment > start), default=start) - start


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
    async with settled(laboratory) as world:
        for event in EVENTS:
            found = []
            for number in range(laboratory.scaled(event.times)):
                laboratory.say(f"{event.name}, number {number + 1} ...")
                found.append(await conduct(world, event))
            trials += found
            yield of_answers(event, found)
            if event.without_primary:
                yield of_recovery(event, found)
        for finding in of_all(trials):
            yield finding


@asynccontextmanager
async def settled(laboratory: Laboratory) -> AsyncIterator[World]:
    """A cluster, a service, and people who have signed up."""
    async with AsyncExitStack() as stack:
        laboratory.say("Starting etcd, Patroni, and PostgreSQL on two nodes ...")
        nodes = stack.enter_context(cluster(laboratory.folder))
        laboratory.say("Starting the service ...")
        migrate(nodes.url, laboratory.folder)
        services = [Service(nodes.url, laboratory.folder) for _ in range(PROCESSES)]
        for service in services:
            stack.callback(service.kill)
            service.start(wait=False)
        for service in services:
            service.wait_until_ready()
        http = await stack.enter_async_context(new_session())
        people = [
            Person(http, services[0].address, f"person{number}@example.com", rests=number % 2 == 0)
            for number in range(laboratory.scaled(PEOPLE, least=8))
        ]
        for person in people:
            registered = await person.register()
            assert registered.status == 201, registered
        yield World(nodes, services, people)


# What happens


async def primary_dies(world: World, trial: Trial) -> None:
    """Its machine loses its power, and comes back."""
    former = await primary(world)
    await asyncio.to_thread(former.kill)
    trial.began = time.monotonic()
    await promotion(world, former, trial)
    former.start()


async def primary_freezes(world: World, trial: Trial) -> None:
    """Its connections stay open and nobody answers. When it thaws, it still thinks it is one."""
    former = await primary(world)
    await asyncio.to_thread(former.freeze)
    trial.began = time.monotonic()
    await promotion(world, former, trial)
    await asyncio.to_thread(former.thaw)
    thawed = time.monotonic()
    while await asyncio.to_thread(both_take_writes, world.cluster):
        trial.notes["milliseconds with two primaries"] = round(1000 * (time.monotonic() - thawed))


def both_take_writes(cluster: Cluster) -> bool:
    return all(map(cluster.takes_writes, cluster.nodes))


async def primary_steps_down(world: World, trial: Trial) -> None:
    former = await primary(world)
    asked = asyncio.create_task(asyncio.to_thread(former.switch_over, world.cluster.other(former)))
    while not asked.done() and await asyncio.to_thread(world.cluster.takes_writes, former):
        pass
    trial.began = time.monotonic()
    await asked
    await promotion(world, former, trial)


async def standby_dies(world: World, trial: Trial) -> None:
    """There is a primary all the time; its commits wait until Patroni no longer asks for two."""
    standby = world.cluster.other(await primary(world))
    await asyncio.to_thread(standby.kill)
    trial.began = trial.promoted = time.monotonic()
    await until_quiet(trial)
    standby.start()


async def standby_freezes(world: World, trial: Trial) -> None:
    standby = world.cluster.other(await primary(world))
    trial.began = trial.promoted = time.monotonic()
    await asyncio.to_thread(standby.freeze)
    await asyncio.sleep(25)  # longer than Patroni believes in it
    await until_quiet(trial)
    await asyncio.to_thread(standby.thaw)


async def commits_are_cancelled(world: World, trial: Trial) -> None:
    """Somebody cancels commits that wait for a frozen standby: PostgreSQL answers them as done.
    Then the primary dies, and the standby, which knows nothing of them, takes its place.
    """
    former = await primary(world)
    standby = world.cluster.other(former)
    await asyncio.to_thread(standby.freeze)
    for _ in range(6):
        await asyncio.sleep(1)
        trial.notes["commits cancelled"] += await asyncio.to_thread(cancel, world.cluster, former)
    await asyncio.to_thread(former.kill)
    trial.began = time.monotonic()
    await asyncio.to_thread(standby.kill)  # or it would read what its system has received
    standby.start()
    await promotion(world, former, trial)
    former.start()


def cancel(cluster: Cluster, node: Node) -> int:
    rows = ask(
        cluster,
        node,
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND application_name = 'fastapi-auth'",
    )
    return sum(cancelled for (cancelled,) in rows)


class Event(NamedTuple):
    name: str
    happens: Callable[[World, Trial], Awaitable[None]]
    times: int
    without_primary: bool = True  # for a while


EVENTS = (
    Event("the primary dies", primary_dies, 5),
    Event("the primary steps down", primary_steps_down, 2),
    Event("the primary freezes", primary_freezes, 2),
    Event("the standby dies", standby_dies, 1, without_primary=False),
    Event("the standby freezes", standby_freezes, 1, without_primary=False),
    Event("commits are cancelled, and the primary dies", commits_are_cancelled, 1),
)


async def primary(world: World) -> Node:
    return await asyncio.to_thread(world.cluster.settled)


async def promotion(world: World, former: Node, trial: Trial) -> None:
    await asyncio.to_thread(world.cluster.new_primary, former)
    trial.promoted = time.monotonic()
    await until_quiet(trial)


async def until_quiet(trial: Trial) -> None:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < min(deadline, trial.promoted + trial.recovery + QUIET):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


# What people do meanwhile


async def conduct(world: World, event: Event) -> Trial:
    trial = Trial()
    over = asyncio.Event()
    tasks = [
        *(asyncio.create_task(live(world, person, trial, over)) for person in world.people),
        *(asyncio.create_task(ask_whether_ready(world, s, trial, over)) for s in world.services),
        asyncio.create_task(haunt(world, trial, over)),
    ]
    try:
        await asyncio.sleep(WARM)
        await event.happens(world, trial)
        await asyncio.to_thread(world.cluster.settled)
        await asyncio.sleep(WARM)
    finally:
        over.set()
        await asyncio.gather(*tasks)
    newest = await asyncio.to_thread(newest_of_each_login, world.cluster)
    for person in world.people:
        trial.facts += await person.check(newest)
    return trial


def newest_of_each_login(cluster: Cluster) -> dict[UUID, int]:
    rows = ask(cluster, cluster.settled(), "SELECT id, last FROM logins")
    return {UUID(login_id): last for login_id, last in rows}


def ask(cluster: Cluster, node: Node, statement: str) -> list[tuple[object, ...]]:
    connection = cluster.connect(node)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        connection.close()


async def live(world: World, person: Person, trial: Trial, over: asyncio.Event) -> None:
    while not over.is_set():
        person.address = world.address()
        ended = len(person.ended)
        trial.entries.append(await person.act(world.randomness))
        world.ended += person.ended[ended:]
        del world.ended[:-REMEMBERED]
        await pause(over, world.randomness.uniform(*PAUSE))


async def haunt(world: World, trial: Trial, over: asyncio.Event) -> None:
    """Whoever has logged out tries to come back, at any process, all the time."""
    while not over.is_set():
        if world.ended:
            ghost = world.randomness.choice(world.ended).copy()
            ghost.address = world.address()
            trial.ghosts[(await ghost.who_am_i()).status] += 1
        await pause(over, 0.05)


async def ask_whether_ready(
    world: World, service: Service, trial: Trial, over: asyncio.Event
) -> None:
    while not over.is_set():
        at, status = time.monotonic(), None
        with suppress(TimeoutError, OSError):
            async with (
                asyncio.timeout(HEALTH_PATIENCE),
                world.people[0].http.get(f"{service.address}/health/ready") as got,
            ):
                status = got.status
        trial.ready.append((at, time.monotonic(), status))
        await pause(over, 0.1)


async def pause(over: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)


# What was found


def of_answers(event: Event, trials: Sequence[Trial]) -> Finding:
    entries = [entry for trial in trials for entry in trial.entries]
    wrong = [entry for trial in trials for entry in trial.wrong]
    refused = sum(len(trial.refusals) for trial in trials)
    remark = [f"{len(trials)} times", f"{refused} told to come back"]
    remark += [f"the slowest answer after {max(e.end - e.start for e in entries):.1f} s"]
    notes: Counter[str] = sum((trial.notes for trial in trials), Counter())
    remark += [f"{name}: {number}" for name, number in notes.items()]
    if wrong:
        remark.append(f"wrong: {dict(Counter(map(describe, wrong)))}")
    promise = f"{event.name}: answers are right, or 503 with Retry-After"
    return Finding(promise, len(entries), len(wrong), ", ".join(remark))


def describe(entry: Entry) -> str:
    told = entry.answer.status, entry.answer.code
    return f"{entry.act} {told} after {entry.end - entry.start:.0f} s"


def of_recovery(event: Event, trials: Sequence[Trial]) -> Finding:
    late = sum(max(trial.recovery, trial.readiness) > RECOVERY for trial in trials)
    without = [trial.promoted - trial.began for trial in trials]
    remark = f"without a primary for {min(without):.1f} to {max(without):.1f} s, then refused for"
    remark += f" {max(trial.recovery for trial in trials):.1f} s at most, and not ready for"
    remark += f" {max(trial.readiness for trial in trials):.1f} s"
    promise = f"{event.name}: it recovers by itself within {RECOVERY} seconds of the promotion"
    return Finding(promise, len(trials), late, remark)


def of_all(trials: Sequence[Trial]) -> Iterator[Finding]:
    entries = [entry for trial in trials for entry in trial.entries]
    identified = [entry for entry in entries if entry.act in ("refresh", "who_am_i")]
    out = sum(entry.answer.status == 401 for entry in identified)
    yield Finding("nobody is logged out", len(identified), out)
    said = Counter(status for trial in trials for status in trial.ready_meanwhile)
    remark = ", ".join(f"{status or 'nothing'} {number} times" for status, number in said.items())
    yield Finding("/health/ready tells the truth", said.total(), said[200], remark)
    ghosts = sum((trial.ghosts for trial in trials), Counter())
    remark = f"{ghosts[401]} told so, {ghosts[503]} told to come back"
    promise = "whoever has logged out is let in by no process, at no moment"
    yield Finding(promise, ghosts.total(), ghosts[200], remark)
    facts = [fact for trial in trials for fact in trial.facts]
    for kind, promise in FACTS.items():
        judged = [fact.kept for fact in facts if fact.kind == kind]
        yield Finding(promise, len(judged), judged.count(False))


FACTS = {
    "login": "whoever was logged in goes on with the cookies they hold",
    "rotation": "no acknowledged rotation is lost",
    "log-out": "no acknowledged log-out is lost",
    "password": "no acknowledged change of a password is lost",
}
