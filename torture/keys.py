"""A new key, in rolling restarts: the next one is known first, then it signs, then the former one
goes.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torture.crowd import Crowd, come_back, count_others, people
from torture.jar import Jar, few_at_a_time, new_session
from torture.laboratory import Finding, Laboratory, environment, run
from torture.service import Service

PROCESSES = 3


class Change(NamedTuple):
    """steps: settings, one rolling restart each. ask: what shows whether an old token counts."""

    what: str
    before: Mapping[str, str]
    steps: Mapping[str, Mapping[str, str]]
    ask: Any


def change_secret(_: Path) -> Change:
    former, new = secrets.token_hex(32), secrets.token_hex(32)
    steps = {
        "the next one is known": {"SECRET_KEY": former, "SECRET_KEY_FALLBACKS": new},
        "it signs": {"SECRET_KEY": new, "SECRET_KEY_FALLBACKS": former},
        "the former one is gone": {"SECRET_KEY": new, "SECRET_KEY_FALLBACKS": ""},
    }
    return Change("SECRET_KEY", {"SECRET_KEY": former}, steps, Jar.refresh)


def change_signing_key(folder: Path) -> Change:
    for name in ("former.pem", "new.pem"):
        run(folder, environment(""), "-m", "app", "keygen", name)
    former = {"SIGNING_KEY_FILE": "former.pem", "VERIFICATION_KEY_FILES": ""}
    new = {"SIGNING_KEY_FILE": "new.pem", "VERIFICATION_KEY_FILES": ""}
    steps = {
        "the next one is published": {**former, "VERIFICATION_KEY_FILES": "new.pem"},
        "it signs": {**new, "VERIFICATION_KEY_FILES": "former.pem"},
        "the former one is gone": new,
    }
    return Change("SIGNING_KEY_FILE", {"ALGORITHM": "EdDSA", **former}, steps, Jar.who_am_i)


async def change_key(laboratory: Laboratory, change: Change) -> AsyncIterator[Finding]:
    """Process by process, while people refresh and others sleep until the new key signs."""
    with ExitStack() as stack:
        url = stack.enter_context(laboratory.database("postgresql"))
        services = [
            stack.enter_context(Service(url, laboratory.folder, **change.before))
            for _ in range(PROCESSES)
        ]
        async with new_session() as http:
            addresses = [service.address for service in services]
            awake = Crowd(people(http, "awake", laboratory.scaled(100)), addresses, pause=1)
            asleep = Crowd(people(http, "asleep", laboratory.scaled(50)), addresses)
            laboratory.say(f"{change.what}: {len(awake.jars + asleep.jars)} people sign up")
            for crowd in (awake, asleep):
                await crowd.sign_up()
                crowd.begin()
            copies = [jar.copy() for jar in awake.jars]
            refreshes = []
            async with awake.busy():
                for name, settings in change.steps.items():
                    laboratory.say(f"{change.what}: {name}")
                    before = awake.refreshes
                    for service in services:
                        await asyncio.to_thread(service.stop)
                        await asyncio.to_thread(partial(service.start, **settings))
                        await asyncio.sleep(10 * laboratory.scale)
                    if name == "it signs":
                        await few_at_a_time(come_back(asleep, jar) for jar in asleep.jars)
                    refreshes.append(f"{name}: {awake.refreshes - before:,}")
            for jar in copies:
                jar.address = addresses[0]
            accepted = await count_others(copies, change.ask, "not_authenticated")
            # The copies have ended nothing.
            await few_at_a_time(come_back(awake, jar) for jar in awake.jars)
    remark = f"{'; '.join(refreshes)}; {awake.unanswered} times a process that ended"
    what = f"{change.what} changes in {PROCESSES} processes"
    out = awake.logged_out + asleep.logged_out
    yield Finding(f"{what}, and nobody is logged out", awake.answers + asleep.answers, out, remark)
    yield Finding(f"{what}, and no answer is a 5xx", awake.answers, awake.failed)
    yield Finding(f"{what}: a token of the former key counts no more", len(copies), accepted)
