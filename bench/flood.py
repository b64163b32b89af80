"""Refresh and who am I while far more people log in than passwords can be checked.

Half of them have the right password, and each comes from a network of its own, so that no limit of
attempts helps: what protects the others is the queue in front of the hashing threads.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import load
from bench.contender import PASSWORD, Request
from bench.load import Load
from bench.progress import Progress
from bench.subjects import Served, hashing_threads

TIMES = 20  # as many log-ins as the service can do
WORKS = ("refresh", "me")
WAITING = 64 + hashing_threads()  # log-ins that it takes at a time, HASHING_QUEUE waiting
FLOODING = 256  # connections
LEAD = 2  # seconds, until the queue is full
REFUSAL = 35  # milliseconds until it is read, as long as there is a flood
REFUSED = (429, 503)
QUIET = 2  # seconds, until it has given back what it hashed with


@dataclass(frozen=True)
class Flood:
    """One work, idle and flooded. Rates are a second, times milliseconds.

    offered, statuses: log-ins a second that were sent, and how they were answered.
    generators: cores that all three of them were busy with.
    """

    idle: float
    flooded: float
    idle_p99: float
    flooded_p99: float
    offered: float
    generators: float
    statuses: dict[str, float]


def expect(progress: Progress, rounds: int, seconds: int) -> None:
    progress.expect(1, seconds)
    progress.expect(len(WORKS) * rounds, 2 * seconds + 3 * LEAD)


def measure(subject: Served, progress: Progress, rounds: int, seconds: int) -> dict[str, Any]:
    """By work, one Flood a round; and megabytes before and after. Raises BenchmarkError."""
    progress.step(f"log-ins that {subject.title} can do", seconds)
    capacity = subject.measure("login", seconds).rate
    time.sleep(QUIET)
    before = subject.memory()
    floods: dict[str, list[dict[str, Any]]] = {work: [] for work in WORKS}
    for number in range(1, rounds + 1):
        for work in WORKS:
            progress.step(
                f"flood, round {number} of {rounds}: {work}, {subject.title}",
                2 * seconds + 3 * LEAD,
            )
            floods[work].append(asdict(one(subject, work, capacity, seconds)))
    time.sleep(QUIET)
    return {
        "capacity": capacity,
        "memory_before": before,
        "memory_after": subject.memory(),
        **floods,
    }


def one(subject: Served, work: str, capacity: float, seconds: int) -> Flood:
    idle = subject.measure(work, seconds)
    states = subject.states(work, seconds)
    with flooded(subject, capacity, seconds + 2 * LEAD) as running:
        ran = subject.measure(work, seconds, states=states)
        log_ins = [each.result() for each in running]
    subject.rest(2 * WAITING / capacity)  # those that still wait must not disturb what comes next
    return Flood(
        idle.rate,
        ran.rate,
        idle.p99,
        ran.p99,
        sum(each.rate for each in log_ins),
        ran.generator + sum(each.cpu / each.seconds for each in log_ins),
        statuses_of(log_ins),
    )


@contextmanager
def flooded(subject: Served, capacity: float, seconds: int) -> Iterator[list[load.start]]:
    """Right and wrong passwords, each from half of the connections."""
    # Those that wait are not sending, and the others are refused.
    delay = max(0, round(1000 * (FLOODING - WAITING) / (TIMES * capacity)) - REFUSAL)
    right = from_everywhere(subject.contender.log_in)
    wrong = replace(
        right,
        body=right.body.replace(PASSWORD, "never their password"),
        status=401,
        contains="",
        sets="",
    )
    with ExitStack() as stack:
        both = [
            stack.enter_context(begin(subject, each, delay, seconds)) for each in (right, wrong)
        ]
        time.sleep(LEAD)
        yield both


def from_everywhere(request: Request) -> Request:
    """Each from a network of its own."""
    return replace(request, headers={**request.headers, "X-Forwarded-For": "{address}"})


def begin(subject: Served, request: Request, delay: int, seconds: int) -> load.start:
    connections = FLOODING // 2
    return load.start(
        subject.server.port,
        request,
        [{}] * connections,
        seconds=seconds,
        users=subject.users,
        connections=connections,
        delay=delay,
        also=REFUSED,
    )


def statuses_of(loads: Sequence[Load]) -> dict[str, float]:
    """A second, by status."""
    statuses: dict[str, float] = {}
    for each in loads:
        for status, number in each.statuses.items():
            statuses[str(status)] = statuses.get(str(status), 0) + number / each.seconds
    return dict(sorted(statuses.items()))
