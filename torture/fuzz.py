"""Everybody at once against a model, walks through the OpenAPI document, a fuzzer at each parser.

Each run asks something else.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import randrange
from typing import Any
from unittest.mock import patch

import httpx2
import requests
from httpx2 import Response
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import make_url

from app.core import hashing
from app.core.passwords import Passwords
from tests.conftest import QUICK, create_app, make_settings, running_server
from tests.links import MAIL
from tests.rows import the_user
from tests.test_schemathesis import REGISTER, UNLIMITED, Service
from tests.torture.machine import Everybody, Fresh, copied, emptied
from torture.fuzzing.links import found, walk
from torture.fuzzing.targets import TARGETS
from torture.laboratory import DATABASES, Finding, Laboratory, Missing, environment

LIVES = 75  # of everybody, on each database
STEPS = 50
WALKS = 150  # on each database
SECONDS = 60  # for each target of the fuzzer


def run(laboratory: Laboratory) -> Iterator[Finding]:
    with quietly(), quick_hashes():
        for kind in DATABASES:
            with laboratory.database(kind, durable=False) as url:
                yield everybody(laboratory, kind, url)
                yield from walks(laboratory, kind, url)
    if find_spec("atheris") is None:
        raise Missing("The fuzzer is not installed: pip install atheris (Python 3.11, Linux).")
    for name, target in TARGETS.items():
        laboratory.say(f"the fuzzer is at {name}")
        yield fuzz(laboratory, name, promise_of(target))


@contextmanager
def quietly() -> Iterator[None]:
    """A line for each of a hundred thousand requests would hide what was found."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def quick_hashes() -> Iterator[None]:
    patches = (
        patch.object(hashing, "context", lambda: QUICK),
        patch.object(Passwords, "start_hasher", lambda _: None),
    )
    with patches[0], patches[1]:
        hashing.nobodys_hash.cache_clear()
        yield
    hashing.nobodys_hash.cache_clear()


def everybody(laboratory: Laboratory, kind: str, url: str) -> Finding:
    """A failing life is shrunk to its shortest, and printed."""
    lives = laboratory.scaled(LIVES, 2)
    seen: Counter[str] = Counter()

    class Counted(Everybody):
        def teardown(self) -> None:
            seen["lives"] += 1
            laboratory.say(f"{kind}: everybody at once, life {seen['lives']:,} of {lives:,}")
            super().teardown()

        def agree(self, answer: Response, act: Callable[..., Any], *arguments: Any) -> Any:
            seen["answers"] += 1
            result = super().agree(answer, act, *arguments)
            seen["refused"] += answer.is_error
            return result

    machine = partial(Counted, fresh_databases(laboratory, kind, url))
    chosen = settings(
        database=None,
        deadline=None,
        max_examples=lives,
        stateful_step_count=STEPS,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    broken = attempt(laboratory, lambda: run_state_machine_as_test(machine, settings=chosen))
    return Finding(
        f"whatever people do in whatever order, the service does what its model does ({kind})",
        seen["answers"],
        broken,
        f"{seen['lives']:,} lives; {seen['refused']:,} of the answers are refusals",
    )


def fresh_databases(laboratory: Laboratory, kind: str, url: str) -> Fresh:
    if kind == "postgresql":
        return partial(emptied, url)
    template = Path(str(make_url(url).database))
    return partial(copied, template, laboratory.folder / "life.db")


def walks(laboratory: Laboratory, kind: str, url: str) -> Iterator[Finding]:
    answers: Counter[tuple[str, int]] = Counter()
    app = create_app(make_settings(url, **MAIL | UNLIMITED))
    laboratory.say(f"{kind}: walks through the OpenAPI document")
    with running_server(app) as address, requests.Session() as session:
        httpx2.post(address + REGISTER.path, json=REGISTER.example, timeout=60).raise_for_status()
        person = the_user(app.state.backend.database, REGISTER.example["email"])
        service = Service(address, app.state.backend, session, person.hashed_password)
        seed, walks = randrange(2**32), laboratory.scaled(WALKS, 2)
        broken = attempt(laboratory, partial(walk, service, walks, seed, answers))
    yield Finding(
        f"whichever way is taken through the OpenAPI document, its answers are those ({kind})",
        answers.total(),
        broken,
        f"{len({name for name, _ in answers})} operations, {len(answers)} kinds of answers, "
        f"seed {seed}",
    )
    yield Finding(f"and what one answer brought, the next one knows ({kind})", found(answers))


def attempt(laboratory: Laboratory, work: Callable[[], object]) -> int:
    """How often it failed: once at most, for that ends it. What failed is printed."""
    try:
        work()
    except Exception as error:
        laboratory.progress.say("".join(traceback.format_exception(error)))
        return 1
    return 0


def fuzz(laboratory: Laboratory, name: str, promise: str) -> Finding:
    folder = laboratory.folder / name
    folder.mkdir()
    seconds = laboratory.scaled(SECONDS, 2)
    command = [sys.executable, "-m", "torture.fuzzing", name, str(folder), str(seconds)]
    log = folder / "log"
    with log.open("wb") as output:
        fuzzer = subprocess.Popen(
            command,
            cwd=laboratory.folder,
            env=environment("sqlite:///./never-opened.db"),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = fuzzer.wait()
        finally:
            if fuzzer.poll() is None:
                os.killpg(fuzzer.pid, signal.SIGKILL)
                fuzzer.wait()
    said = log.read_text(errors="replace")
    if status:
        laboratory.progress.say(said)
        for found in folder.glob("*-*"):
            laboratory.progress.say(f"{found.name}: {found.read_bytes()!r}")
    tried = number(r"stat::number_of_executed_units: (\d+)|^#(\d+)", said)
    covered = number(r"cov: (\d+)", said)
    return Finding(promise, tried, int(status != 0), f"{covered:,} branches reached")


def number(pattern: str, text: str) -> int:
    """The last one."""
    found = [match[match.lastindex or 0] for match in re.finditer(pattern, text, re.MULTILINE)]
    return int(found[-1]) if found else 0


def promise_of(target: Callable[[bytes], None]) -> str:
    first = (target.__doc__ or "").splitlines()[0]
    return f"{target.__name__}: {first[0].lower()}{first[1:].rstrip('.')}"
