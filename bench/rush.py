"""Refreshes while 64 people log in at a time, again and again: ours, and peers that refresh.

As many may wait in our queue, so nobody is refused here; in the others' there is no end.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import load
from bench.flood import REFUSED, from_everywhere
from bench.load import BenchmarkError, NoAnswer
from bench.progress import Progress
from bench.stage import Stage
from bench.subjects import Served

NAMES = ("ours", "simplejwt", "allauth", "authx", "better_auth")
LOGGING_IN = 64  # connections
LEAD = 2  # seconds, until all of them wait
LONGER = 3  # times: a refresh may take seconds
LONGEST_REST = 60  # seconds, until those are done that wait at the end


@dataclass(frozen=True)
class Rush:
    """Rates are a second, times milliseconds; rushed_p99: None where no answer came."""

    idle: float
    rushed: float
    idle_p99: float
    rushed_p99: float | None
    log_ins: float


def expect(stage: Stage, progress: Progress, seconds: int) -> None:
    there = sum(stage.served(name) is not None for name in NAMES)
    progress.expect(there, duration(seconds))


def duration(seconds: int) -> float:
    return seconds + LEAD + LONGER * seconds + LONGEST_REST / 4


def measure(stage: Stage, progress: Progress, seconds: int) -> dict[str, dict[str, Any]]:
    """By contender."""
    rushes = {}
    for name in NAMES:
        subject = stage.served(name)
        if subject is None:
            continue
        progress.step(f"a rush of log-ins: refresh, {subject.title}", duration(seconds))
        try:
            rushes[name] = asdict(one(subject, seconds))
        except BenchmarkError as error:
            progress.say(f"{subject.title} in a rush of log-ins: no figures. {error}")
    return rushes


def one(subject: Served, seconds: int) -> Rush:
    idle = subject.measure("refresh", seconds)
    states = subject.states("refresh", LONGER * seconds)
    with load.start(
        subject.server.port,
        from_everywhere(subject.contender.log_in),
        [{}] * LOGGING_IN,
        seconds=LEAD + LONGER * seconds,
        users=subject.users,
        connections=LOGGING_IN,
        also=REFUSED,
    ) as rush:
        time.sleep(LEAD)
        rushed, p99 = refreshes(subject, LONGER * seconds, states)
        log_ins = rush.result()
    subject.rest(LONGEST_REST)
    return Rush(idle.rate, rushed, idle.p99, p99, log_ins.rate)


def refreshes(
    subject: Served, seconds: int, states: Sequence[load.State]
) -> tuple[float, float | None]:
    try:
        ran = subject.measure("refresh", seconds, states=states)
    except NoAnswer:
        return 0.0, None
    return ran.rate, ran.p99
