"""Refreshes while 64 people log in at a time, again and again: ours, and peers that refresh.

As many may wait in our queue, so nobody is refused here; in the others' there is no end. Each is
measured once, as the slowest take half a minute, and differ by more than rounds do.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import load
from bench.flood import from_everywhere
from bench.load import BenchmarkError, NoAnswer, State
from bench.progress import Progress
from bench.stage import Stage
from bench.subjects import Figures, Served

NAMES = ("ours", "simplejwt", "allauth", "authx", "better_auth")
LOGGING_IN = 64  # connections
LEAD = 2  # seconds, until all of them wait
SECONDS = 20  # longer than the slowest needs for 64 log-ins: who waits behind them is answered
LONGEST_REST = 60  # seconds, until those are done that wait at the end


@dataclass(frozen=True)
class Rush:
    """Refreshes without log-ins, and beside them: None where no answer came. log_ins: a second."""

    idle: Figures
    rushed: Figures | None
    log_ins: float


def expect(stage: Stage, progress: Progress, seconds: int) -> None:
    there = sum(stage.served(name) is not None for name in NAMES)
    progress.expect(there, duration(seconds))


def duration(seconds: int) -> float:
    return seconds + 2 * LEAD + SECONDS + LONGEST_REST / 4


def measure(
    stage: Stage, progress: Progress, seconds: int, failures: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """By contender. failures: to which a sentence is added for each that has no figures."""
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
            failures[f"{name} in a rush of log-ins"] = str(error)
    return rushes


def one(subject: Served, seconds: int) -> Rush:
    idle = subject.measure("refresh", seconds)
    states = subject.states("refresh", SECONDS)
    try:
        with load.start(
            subject.server.port,
            from_everywhere(subject.contender.log_in),
            [{}] * LOGGING_IN,
            seconds=LEAD + SECONDS + LEAD,
            users=subject.users,
            connections=LOGGING_IN,
        ) as rush:
            time.sleep(LEAD)
            rushed = refreshes(subject, states)
            log_ins = rush.result()
    finally:
        subject.rest(LONGEST_REST)
    return Rush(idle, rushed, log_ins.rate)


def refreshes(subject: Served, states: Sequence[State]) -> Figures | None:
    try:
        return subject.measure("refresh", SECONDS, states=states)
    except NoAnswer:
        return None
