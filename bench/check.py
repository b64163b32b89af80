"""Has this project become slower? A short run against the ratios that were published.

Ratios to what the machine's parts can do: those move little from one machine to the next.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import rounds
from bench.compare import LIMITS, OURS, ratio
from bench.load import BenchmarkError
from bench.progress import Progress
from bench.rounds import WORK_TITLES
from bench.stage import Stage

ROUNDS = 3
SECONDS = 2
USERS = 2000
LOGINS = 60_000
FALL = 0.15  # of a ratio: less is noise
NAMES = ("ours", "ours_application", "argon2", "trivial", "pyjwt_hs256")


def check(progress: Progress, published: Path) -> int:
    """1 where a ratio has fallen. Raises BenchmarkError."""
    if not published.exists():
        raise BenchmarkError(
            "Nothing has been published yet, so there is nothing to compare with: "
            "`.venv-bench/bin/python -m bench --publish` does it."
        )
    before = json.loads(published.read_text(encoding="utf-8"))
    now = measure(progress)
    fallen = 0
    for work, ours in OURS.items():
        limit = LIMITS[work]
        old, new = ratio(before, ours, limit), ratio(now, ours, limit)
        title = now["contenders"][limit[0]]["title"]
        name = f"{WORK_TITLES[work]} / {title}, {WORK_TITLES[limit[1]]}"
        if old is None or new is None:
            progress.say(f"{name}: not measured")
            continue
        change = new.median / old.median - 1
        falls = change < -FALL
        fallen += falls
        verdict = f", which is a fall of more than {FALL:.0%}" if falls else ""
        progress.say(f"{name}: {old.median:.2f} published, {new.median:.2f} now{verdict}")
    return int(fallen > 0)


def measure(progress: Progress) -> dict[str, Any]:
    """As bench/results has it, as far as ratio() reads it."""
    with Stage(progress, users=USERS, logins=LOGINS, only=NAMES) as stage:
        rounds.expect(stage, progress, list(OURS), ROUNDS, SECONDS)
        progress.begin()
        outcome = rounds.measure(stage, progress, list(OURS), ROUNDS, SECONDS)
        titles = {name: subject.title for name, subject in stage.subjects.items()}
    if outcome.failures:
        raise BenchmarkError("Not everything could be measured: see above.")
    return {
        "contenders": {
            name: {
                "title": title,
                "works": {
                    work: [asdict(each) for each in figures]
                    for work, figures in outcome.figures.get(name, {}).items()
                },
            }
            for name, title in titles.items()
        }
    }
