"""How much more do several processes do on this machine?

`python -m bench.scale`, or with `--rounds 1` for a short run. The same service with 1 to 7 workers,
side by side on one database and measured in turn. PostgreSQL and wrk take their part of the same
cores: beyond those, more processes do no more.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench import ours
from bench.command import PLOTS, interrupt, positive, processor, revision, store
from bench.load import BenchmarkError, find_wrk
from bench.machine import free_port, running
from bench.plots import INK, LINES, PALE, STYLE, keep, mpl, pyplot
from bench.postgres import database, processes
from bench.progress import Progress
from bench.subjects import Served
from tests.postgres import PostgresError, postgres_server

RESULTS = Path(__file__).resolve().parent / "results"
WORKERS = (1, 2, 3, 4, 7)
WORKS = {"refresh": "refresh", "me": "who am I", "login": "log in"}
USERS, LOGINS = 1_000, 100_000
OVERHEAD = 2  # seconds of a measurement, besides


def run(arguments: Sequence[str]) -> int:
    given = parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    progress = Progress()
    try:
        results = measure(given.rounds, given.seconds, progress)
    except (BenchmarkError, PostgresError) as error:
        progress.say(str(error))
        return 1
    except KeyboardInterrupt:
        progress.say("Interrupted: nothing was kept.")
        return 130
    progress.end()
    sys.stdout.write(table(results))
    store(results, RESULTS / "latest-scale.json")
    if given.publish:
        store(results, RESULTS / "scale.json")
        with mpl.rc_context(STYLE):
            keep(drawn(results), PLOTS / "scaling.svg")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    made.add_argument("--rounds", type=positive, default=5, help="(%(default)s)")
    made.add_argument("--seconds", type=positive, default=3, help="of a measurement (%(default)s)")
    made.add_argument(
        "--publish", action="store_true", help="keep the figures, and draw them into docs/plots"
    )
    return made


def measure(rounds: int, seconds: int, progress: Progress) -> dict[str, Any]:
    find_wrk()
    os.environ.pop("TEST_DATABASE_URL", None)  # a server elsewhere cannot be watched
    with (
        tempfile.TemporaryDirectory(
            prefix="fastapi-auth-bench-", ignore_cleanup_errors=True
        ) as temporary,
        ExitStack() as stack,
    ):
        places = start(stack, Path(temporary), progress)
        figures: dict[str, dict[str, list[dict[str, float]]]] = {}
        progress.expect(rounds * len(WORKS) * len(places), seconds + OVERHEAD)
        progress.begin()
        for turn in range(rounds):
            for work in WORKS:
                for offset in range(len(WORKERS)):  # in every round somebody else is first
                    workers = WORKERS[(turn + offset) % len(WORKERS)]
                    progress.step(f"{WORKS[work]}, {workers} processes", seconds + OVERHEAD)
                    found = places[workers].measure(work, seconds)
                    of_work = figures.setdefault(work, {})
                    of_work.setdefault(str(workers), []).append(asdict(found))
    return {
        "made": {
            "at": datetime.now(UTC).isoformat(timespec="minutes"),
            "code": revision(),
            "processor": processor(),
            "cores": psutil.cpu_count(),
            "rounds": rounds,
            "seconds": seconds,
        },
        "works": figures,
    }


def start(stack: ExitStack, folder: Path, progress: Progress) -> dict[int, Served]:
    """By their number of workers. Idle servers cost nothing but memory."""
    progress.doing("Filling a database ...")
    server = stack.enter_context(postgres_server(durable=True)).replace("+psycopg2", "")
    url = stack.enter_context(database(server, "scale"))
    ours.prepare(url, folder, USERS, LOGINS)
    inside = stack.enter_context(ours.inside(url, folder, folder / "inside.log"))
    one = ours.contenders(url, "sqlite:///unused.db", folder)[0]
    places = {}
    for workers in WORKERS:
        progress.doing(f"Starting {workers} processes ...")
        port = free_port()
        contender = replace(one, serve=(*one.serve[:-1], str(workers)), title=f"{workers} workers")
        started = stack.enter_context(
            running(
                [contender.filled(part, {"port": port}) for part in contender.serve],
                folder=folder,
                environment=contender.environment,
                port=port,
                ready=contender.ready,
                log=folder / f"server{workers}.log",
            )
        )
        places[workers] = Served(
            contender,
            started,
            starts=(),
            users=USERS,
            database="scale",
            postgres=processes(server),
            inside=inside,
        )
    return places


def table(results: Mapping[str, Any]) -> str:
    lines = [
        "| processes | " + " | ".join(f"{title} | p99 ms" for title in WORKS.values()) + " |",
        "|---:" * (1 + 2 * len(WORKS)) + "|",
    ]
    for workers in map(str, WORKERS):
        cells = [workers]
        for work in WORKS:
            rounds = results["works"][work][workers]
            rates = [found["rate"] for found in rounds]
            p99 = median(found["p99"] for found in rounds)
            cells.append(f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
            cells.append(f"{p99:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def drawn(results: Mapping[str, Any]) -> Any:
    """What several do, as a multiple of what one does in the same round."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for (work, title), colour in zip(WORKS.items(), LINES.values(), strict=False):
        rounds = {number: results["works"][work][str(number)] for number in WORKERS}
        ratios = [
            median(
                several["rate"] / alone["rate"]
                for several, alone in zip(rounds[number], rounds[1], strict=True)
            )
            for number in WORKERS
        ]
        axes.plot(WORKERS, ratios, "o-", ms=3, color=colour, label=title)
    cores = results["made"]["cores"]
    axes.axvline(cores, color=INK, linestyle="--", linewidth=1)
    axes.set_title("Throughput of several processes, one is 1", loc="left")
    axes.set_xlabel(f"processes; dashed: cores, which PostgreSQL and wrk use, too ({cores})")
    axes.set_xticks(WORKERS)
    axes.set_ylim(bottom=0)
    axes.grid(color=PALE, linewidth=0.5)
    axes.legend()
    return figure


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
