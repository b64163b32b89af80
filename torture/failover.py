"""The primary of a cluster dies, freezes or steps down under load: nothing acknowledged is lost.

Two PostgreSQL nodes with synchronous replication and Patroni; a service of three processes that
know both; honest people, whose journals are compared with the new primary.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from torture.crowd import as_they_come
from torture.jar import new_session
from torture.laboratory import Finding, Laboratory, migrate
from torture.patroni import Cluster, Node, cluster, until
from torture.rotations import Ledger
from torture.service import Service
from torture.trial import (
    RECOVERY,
    TOLD_TO_COME_BACK,
    Trial,
    World,
    of_all,
    of_answers,
    sign_up,
    until_quiet,
    watched,
)

PROCESSES = 3
WARM = 3  # seconds of load before something happens, and after all is well again
TWO_PRIMARIES = 3  # seconds with two, after one has thawed
SPLIT = "two nodes thought that they are the primary"
CANCELLED = "commits cancelled"
RELEASE = "moment in which commits wait for nobody"


@dataclass(kw_only=True)
class Replicated(World):
    cluster: Cluster


def run(laboratory: Laboratory) -> Iterator[Finding]:
    return as_they_come(experiment(laboratory))


async def experiment(laboratory: Laboratory) -> AsyncIterator[Finding]:
    trials: list[Trial] = []
    async with settled(laboratory) as world:
        for event in EVENTS:
            found = []
            for number in range(laboratory.scaled(event.times)):
                laboratory.say(f"{event.name}, number {number + 1} ...")
                found.append(await conduct(world, event))
            trials += found
            yield of_answers(event.name, found)
            yield of_recovery(event, found)
        for finding in of_all(trials):
            yield finding


@asynccontextmanager
async def settled(laboratory: Laboratory) -> AsyncIterator[Replicated]:
    """A cluster, a service, and people who have signed up."""
    async with AsyncExitStack() as stack:
        laboratory.say("Starting etcd, Patroni, and PostgreSQL on two nodes ...")
        nodes = stack.enter_context(cluster(laboratory.folder, laboratory.progress.say))
        laboratory.say("Starting the service ...")
        migrate(nodes.url, laboratory.folder)
        services = [
            Service(nodes.url, laboratory.folder, TRUSTED_PROXIES="127.0.0.1")
            for _ in range(PROCESSES)
        ]
        for service in services:
            stack.callback(service.kill)
            service.start(wait=False)
        for service in services:
            service.wait_until_ready()
        ledger = Ledger(nodes.url, target_session_attrs="read-write")
        http = await stack.enter_async_context(new_session())
        people = await sign_up(laboratory, http, services)
        yield Replicated(services, people, ledger, cluster=nodes)


async def conduct(world: Replicated, event: "Event") -> Trial:
    trial = Trial(event.signs, event.ready)
    async with watched(world, trial):
        await asyncio.sleep(WARM)
        await event.happens(world, trial)
        await asyncio.to_thread(world.cluster.settled)
        await asyncio.sleep(WARM)
    trial.notes.update(world.cluster.helped)
    world.cluster.helped.clear()
    return trial


# What happens


async def primary_dies(world: Replicated, trial: Trial) -> None:
    """Its machine loses its power, and comes back."""
    former = await primary(world)
    trial.began = time.monotonic()
    await asyncio.to_thread(former.kill)
    trial.complete = time.monotonic()
    await promotion(world, former, trial)
    former.start()


async def primary_steps_down(world: Replicated, trial: Trial) -> None:
    former = await primary(world)
    trial.began = time.monotonic()
    asked = asyncio.create_task(asyncio.to_thread(former.switch_over, world.cluster.other(former)))
    while not asked.done() and await asyncio.to_thread(world.cluster.takes_writes, former):
        pass
    trial.complete = time.monotonic()
    await asked
    await promotion(world, former, trial)


async def primary_freezes(world: Replicated, trial: Trial) -> None:
    """Its connections stay open and nobody answers. When it thaws, it still thinks it is one, until
    Patroni is started again on its machine.
    """
    former = await primary(world)
    trial.began = time.monotonic()
    await asyncio.to_thread(former.freeze)
    trial.complete = time.monotonic()
    await promotion(world, former, trial)
    await asyncio.to_thread(former.thaw_postgresql)
    await asyncio.sleep(TWO_PRIMARIES)
    trial.notes[SPLIT] += await asyncio.to_thread(both_take_writes, world.cluster)
    former.start()


def both_take_writes(cluster: Cluster) -> bool:
    return all(map(cluster.takes_writes, cluster.nodes))


async def standby_dies(world: Replicated, trial: Trial) -> None:
    """There is a primary all the time; its commits wait until Patroni no longer asks for two."""
    former = await primary(world)
    standby = world.cluster.other(former)
    trial.began = time.monotonic()
    await asyncio.to_thread(standby.kill)
    trial.complete = time.monotonic()
    await release(world, former, trial)
    standby.start()


async def standby_freezes(world: Replicated, trial: Trial) -> None:
    former = await primary(world)
    standby = world.cluster.other(former)
    trial.began = time.monotonic()
    await asyncio.to_thread(standby.freeze)
    trial.complete = time.monotonic()
    await release(world, former, trial)
    await asyncio.to_thread(standby.thaw)


async def commits_are_cancelled(world: Replicated, trial: Trial) -> None:
    """Somebody cancels commits that wait for a frozen standby: PostgreSQL answers them as done.
    Then the primary dies, and the standby, which knows nothing of them, takes its place.
    """
    former = await primary(world)
    standby = world.cluster.other(former)
    trial.began = time.monotonic()
    await asyncio.to_thread(standby.freeze)
    for _ in range(6):
        await asyncio.sleep(1)
        trial.notes[CANCELLED] += await asyncio.to_thread(cancel, world.cluster, former)
    await asyncio.to_thread(former.kill)
    trial.complete = time.monotonic()
    await asyncio.to_thread(standby.kill)  # or it would read what its system has received
    standby.start()
    await promotion(world, former, trial)
    former.start()


def cancel(cluster: Cluster, node: Node) -> int:
    rows = cluster.ask(
        node,
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND application_name = 'fastapi-auth'",
    )
    return sum(cancelled for (cancelled,) in rows)


async def primary(world: Replicated) -> Node:
    return await asyncio.to_thread(world.cluster.settled)


async def promotion(world: Replicated, former: Node, trial: Trial) -> None:
    """Another node takes writes."""
    await asyncio.to_thread(world.cluster.new_primary, former)
    trial.lifted = time.monotonic()
    await until_quiet(trial)


async def release(world: Replicated, primary: Node, trial: Trial) -> None:
    """Its commits wait for nobody any more."""
    await asyncio.to_thread(until, lambda: waits_for_nobody(world.cluster, primary), "They waited")
    trial.lifted = time.monotonic()
    await until_quiet(trial)


def waits_for_nobody(cluster: Cluster, node: Node) -> bool:
    return cluster.ask(node, "SHOW synchronous_standby_names") == [("",)]


class Event(NamedTuple):
    """ends: what does, and how it is called. ready, signs: as in Trial."""

    name: str
    happens: Callable[[Replicated, Trial], Awaitable[None]]
    times: int
    ends: str = "promotion"
    ready: bool | None = False
    signs: Sequence[str] = (TOLD_TO_COME_BACK,)


EVENTS = (
    Event("the primary dies", primary_dies, 5),
    Event("the primary steps down", primary_steps_down, 2, signs=()),
    Event("the primary freezes", primary_freezes, 2, signs=(SPLIT, TOLD_TO_COME_BACK)),
    Event("the standby dies", standby_dies, 1, RELEASE, ready=None, signs=()),
    Event("the standby freezes", standby_freezes, 1, RELEASE, ready=None, signs=()),
    Event(
        "commits are cancelled, and the primary dies",
        commits_are_cancelled,
        1,
        signs=(CANCELLED, TOLD_TO_COME_BACK),
    ),
)


def of_recovery(event: Event, trials: Sequence[Trial]) -> Finding:
    lasted = [trial.lifted - trial.began for trial in trials]
    return Finding(
        f"{event.name}: it recovers by itself within {RECOVERY} seconds of the {event.ends}",
        len(trials),
        sum(max(trial.recovery, trial.back) > RECOVERY for trial in trials),
        f"which came after {min(lasted):.1f} to {max(lasted):.1f} s; then refused for "
        f"{max(trial.recovery for trial in trials):.1f} s at most, and not ready for "
        f"{max(trial.back for trial in trials):.1f} s",
    )
