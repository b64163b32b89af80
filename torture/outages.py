"""The database stops, freezes, fills up, cuts connections or only reads: nobody is logged out.

Honest people use the service, one fault after the other befalls its database for some seconds,
and then their journals are compared with the service.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

from torture.crowd import as_they_come
from torture.faults import Fault, postgresql_faults, sqlite_faults
from torture.jar import new_session
from torture.laboratory import Finding, Laboratory, Missing, migrate
from torture.postgres import Postgres, small_disk
from torture.rotations import Ledger
from torture.service import Service
from torture.trial import (
    QUIET,
    RECOVERY,
    Trial,
    World,
    of_all,
    of_answers,
    sign_up,
    until_quiet,
    watched,
)
from torture.wire import Wire

REPEATS = 3  # of each fault
SHORTEST = 7  # seconds of a fault, at small scales: longer than anybody waits for a lock
CONNECTIONS = 60  # of PostgreSQL, where they are to be used up
DISK = 400  # megabytes


def run(laboratory: Laboratory) -> Iterator[Finding]:
    return as_they_come(experiment(laboratory))


async def experiment(laboratory: Laboratory) -> AsyncIterator[Finding]:
    trials: list[Trial] = []
    for database in (on_postgresql, on_sqlite):
        async with database(laboratory) as (world, faults):
            for fault in faults:
                found = []
                for number in range(laboratory.scaled(REPEATS)):
                    laboratory.say(f"{fault.name}, number {number + 1} ...")
                    found.append(await conduct(world, fault, laboratory.scale))
                yield of_answers(fault.name, found)
                trials += found
    yield of_recovery(trials)
    for finding in of_all(trials):
        yield finding


@asynccontextmanager
async def on_postgresql(laboratory: Laboratory) -> AsyncIterator[tuple[World, list[Fault]]]:
    laboratory.say("Starting PostgreSQL and the service ...")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Postgres.running())
        disk = small_disk_of(laboratory, stack, server.data.parent / "disk")
        if disk:
            stack.callback(server.stop, signal.SIGQUIT)  # before its disk goes
            server.move(disk)
        server.restart(max_connections=CONNECTIONS)
        migrate(server.url, laboratory.folder)
        wire = await stack.enter_async_context(Wire(server.port).running())
        url = make_url(server.url).set(port=wire.port).render_as_string(hide_password=False)
        world = await settle(stack, laboratory, url, Ledger(server.url))
        yield world, postgresql_faults(server, wire, disk)


@asynccontextmanager
async def on_sqlite(laboratory: Laboratory) -> AsyncIterator[tuple[World, list[Fault]]]:
    laboratory.say("Starting the service on SQLite ...")
    async with AsyncExitStack() as stack:
        disk = small_disk_of(laboratory, stack, laboratory.folder / "sqlite")
        path = (disk or laboratory.folder) / "torture.db"
        url = f"sqlite:///{path.as_posix()}"
        migrate(url, laboratory.folder)
        world = await settle(stack, laboratory, url, Ledger(url))
        yield world, sqlite_faults(world.services[0], path, disk)


def small_disk_of(laboratory: Laboratory, stack: AsyncExitStack, folder: Path) -> Path | None:
    try:
        return stack.enter_context(small_disk(folder, DISK))
    except Missing as missing:
        laboratory.leave_out(str(missing))
        return None


async def settle(stack: AsyncExitStack, laboratory: Laboratory, url: str, ledger: Ledger) -> World:
    """A service, and people who are logged in."""
    service = Service(url, laboratory.folder, TRUSTED_PROXIES="127.0.0.1")
    stack.callback(service.kill)
    await asyncio.to_thread(service.start)
    http = await stack.enter_async_context(new_session())
    return World([service], await sign_up(laboratory, http, [service]), ledger)


async def conduct(world: World, fault: Fault, scale: float) -> Trial:
    trial = Trial(fault.signs, fault.ready)
    async with AsyncExitStack() as stack:
        if fault.beforehand:
            await stack.enter_async_context(fault.happens(trial.notes))
            trial.began = time.monotonic()
        async with watched(world, trial):
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
    return trial


def of_recovery(trials: Sequence[Trial]) -> Finding:
    return Finding(
        f"it recovers by itself, within {RECOVERY} s of the end of a fault",
        len(trials),
        sum(trial.recovery > RECOVERY for trial in trials),
        f"after {max(trial.recovery for trial in trials):.1f} s at most",
    )
