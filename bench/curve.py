"""How long an answer takes as more and more ask at the same time: who am I."""

from dataclasses import asdict
from typing import Any

from bench.load import BenchmarkError
from bench.progress import Progress
from bench.rounds import OVERHEAD
from bench.stage import Stage

NAMES = ("ours", "better_auth", "fastapi_users_jwt", "simplejwt")
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)


def expect(stage: Stage, progress: Progress, seconds: int) -> None:
    there = sum(stage.served(name) is not None for name in NAMES)
    progress.expect(there * len(CONNECTIONS), seconds + OVERHEAD)


def measure(stage: Stage, progress: Progress, seconds: int) -> dict[str, dict[str, Any]]:
    """By contender and number of connections."""
    curves: dict[str, dict[str, Any]] = {}
    failed = set()
    for number in CONNECTIONS:
        for name in NAMES:
            subject = stage.served(name)
            if subject is None or name in failed:
                continue
            progress.step(f"{number} connections: who am I, {subject.title}", seconds + OVERHEAD)
            try:
                figures = subject.measure("me", seconds, number)
            except BenchmarkError as error:
                progress.say(f"{subject.title} with {number} connections: no figures. {error}")
                failed.add(name)
                curves.pop(name, None)
                continue
            curves.setdefault(name, {})[str(number)] = asdict(figures)
    return curves
