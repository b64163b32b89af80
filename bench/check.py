"""Has this project become slower? A short run against the ratios that were published.

Ratios to what the machine's parts can do: those move little from one machine to the next.
"""

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import rounds
from bench.compare import LIMITS, OURS, Results, ratio
from bench.load import BenchmarkError
from bench.progress import Progress
from bench.rounds import WORK_TITLES
from bench.stage import Stage

ROUNDS = 3
SECONDS = 2
USERS = 2000
LOGINS = 60_000
FALL = 0.15  # of a ratio
NAMES = ("ours", "ours_application", "argon2", "trivial", "pyjwt_hs256")


def check(progress: Progress, published: Path) -> int:
    """1 where a ratio has fallen, and was as low when measured again: a machine that others share
    falls by itself. Raises BenchmarkError.
    """
    if not published.exists():
        raise BenchmarkError(
            "Nothing has been published yet, so there is nothing to compare with: "
            "`.venv-bench/bin/python -m bench --publish` does it."
        )
    before = json.loads(published.read_text(encoding="utf-8"))
    works = list(OURS)
    with Stage(progress, users=USERS, logins=LOGINS, only=NAMES) as stage:
        progress.begin()
        for _ in range(2):
            rounds.expect(stage, progress, works, ROUNDS, SECONDS)
            now = measure(stage, progress, works)
            works = [work for work in works if has_fallen(work, before, now, progress)]
            if not works:
                return 0
    return 1


def measure(stage: Stage, progress: Progress, works: Collection[str]) -> dict[str, Any]:
    """As bench/results has it, as far as ratio() reads it."""
    outcome = rounds.measure(stage, progress, works, ROUNDS, SECONDS)
    if outcome.failures:
        raise BenchmarkError("Not everything could be measured: see above.")
    return {
        "contenders": {
            name: {"works": {work: [asdict(each) for each in rows] for work, rows in found.items()}}
            for name, found in outcome.figures.items()
        }
    }


def has_fallen(work: str, before: Results, now: Results, progress: Progress) -> bool:
    ours, limit = OURS[work], LIMITS[work]
    old, new = ratio(before, ours, limit), ratio(now, ours, limit)
    title = before["contenders"].get(limit[0], {}).get("title", limit[0])
    name = f"{WORK_TITLES[work]} / {title}, {WORK_TITLES[limit[1]]}"
    if old is None or new is None:
        raise BenchmarkError(f"{name}: {'not measured' if old else 'not published'}.")
    # And not in a single round as high as then: less is noise.
    falls = new.median < old.median * (1 - FALL) and new.high < old.median
    verdict = f", which is a fall of more than {FALL:.0%}" if falls else ""
    progress.say(f"{name}: {old.median:.2f} published, {new.median:.2f} now{verdict}")
    return falls
