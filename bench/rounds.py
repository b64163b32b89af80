"""Rounds, in which all do a work in turn: what disturbs the machine disturbs each of them.

Ratios are made within a round, so they hold even where the machine is faster in the next one.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from bench.compare import LIMITS, ONE_THREAD, OURS
from bench.load import BenchmarkError
from bench.progress import Progress
from bench.stage import Stage
from bench.subjects import Figures

WORK_TITLES = {
    "login": "log in",
    "refresh": "refresh",
    "refresh_young": "refresh with a young token",
    "me": "who am I",
    "check": "access check",
    "async": "async GET",
    "def": "def GET",
    "cookies": "def POST with two cookies",
    "one_thread": "hash on one thread",
    "all_threads": "hash on all threads",
}
CHOSEN = ("login", "refresh", "refresh_young", "me", "check")  # by --works
OVERHEAD = 1.2  # seconds: wrk's start, tokens, log-ins
LONGER = {"login": 3}  # times: of what is slow, what is under way at the end counts too much


@dataclass
class Outcome:
    """figures: by contender and work, one a round. failures: a sentence for each that has none."""

    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def expect(
    stage: Stage, progress: Progress, works: Collection[str], rounds: int, seconds: int
) -> None:
    for work, _ in in_turn(stage, works, 0):
        progress.expect(1, 1 + OVERHEAD)
        progress.expect(rounds, seconds * LONGER.get(work, 1) + OVERHEAD)


def in_turn(stage: Stage, works: Collection[str], number: int) -> list[tuple[str, str]]:
    """Work after work, with each limit right behind what is held against it: a machine that others
    share changes its speed. In each round, by its number, somebody else is first.

    works: those of servers that are wanted; the limits' own are always.
    """
    subjects = deque(stage.subjects.items())
    subjects.rotate(-number)
    turns = [
        (work, name)
        for work in WORK_TITLES
        for name, subject in subjects
        if work in subject.works and (not works or work in works or work not in CHOSEN)
    ]
    for place, limit in (*((OURS[work], LIMITS[work]) for work in OURS), ONE_THREAD):
        ahead, behind = place[::-1], limit[::-1]
        if ahead in turns and behind in turns:
            turns.remove(behind)
            turns.insert(turns.index(ahead) + 1, behind)
    return turns


def measure(
    stage: Stage, progress: Progress, works: Collection[str], rounds: int, seconds: int
) -> Outcome:
    """The round before the first one warms up, and is not counted."""
    outcome = Outcome()
    for number in range(rounds + 1):
        for work, name in in_turn(stage, works, number):
            if f"{name} {work}" in outcome.failures:
                continue
            subject = stage.subjects[name]
            duration = seconds * LONGER.get(work, 1) if number else 1
            which = f"round {number} of {rounds}" if number else "warming up"
            progress.step(f"{which}: {WORK_TITLES[work]}, {subject.title}", duration + OVERHEAD)
            rows = outcome.figures.setdefault(name, {}).setdefault(work, [])
            try:
                figures = subject.measure(work, duration)
            except BenchmarkError as error:
                if not number:  # where it matters, it will fail again
                    continue
                progress.say(f"{subject.title}, {WORK_TITLES[work]}: no figures. {error}")
                outcome.failures[f"{name} {work}"] = str(error)
                del outcome.figures[name][work]
                continue
            if number:
                rows.append(figures)
    return outcome
