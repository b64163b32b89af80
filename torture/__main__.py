"""`python -m torture [NAMES]`: one experiment after the other, and a table of what they found."""

import argparse
import importlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.command import interrupt
from bench.progress import Progress, in_words
from torture import __doc__ as description
from torture.laboratory import Finding, Laboratory, Missing

# A module of each name has run(laboratory), which yields findings. Its docstring's first line says
# what it does.
EXPERIMENTS = (
    "tabs",
    "fleet",
    "kill",
    "cluster",
    "outages",
    "failover",
    "overload",
    "backups",
    "migrations",
    "fuzz",
)


class Outcome(NamedTuple):
    """left_out: why, where it was."""

    name: str
    findings: list[Finding]
    seconds: float
    left_out: str = ""

    @property
    def broken(self) -> int:
        return sum(finding.broken for finding in self.findings)


def main(arguments: Sequence[str]) -> int:
    """1 where a promise was broken."""
    given = parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    progress = Progress()
    outcomes = []
    try:
        for name in given.names or EXPERIMENTS:
            outcomes.append(conduct(name, given.scale, progress))
            sys.stdout.write(table([outcomes[-1]], heading=len(outcomes) == 1))
            sys.stdout.flush()
    except KeyboardInterrupt:
        progress.say("Interrupted.")
        return 130
    if given.markdown:
        given.markdown.write_text(table(outcomes), encoding="utf-8")
    broken = sum(outcome.broken for outcome in outcomes)
    sys.stdout.write(f"\n{broken or 'No'} broken promise{'' if broken == 1 else 's'}.\n")
    return int(broken > 0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m torture", description=description)
    made.add_argument(
        "names", nargs="*", metavar="NAME", choices=[*EXPERIMENTS, []], help=", ".join(EXPERIMENTS)
    )
    made.add_argument("--scale", type=float, default=1, help="0.1: a tenth of it (%(default)s)")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    return made


def conduct(name: str, scale: float, progress: Progress) -> Outcome:
    experiment = importlib.import_module(f"torture.{name}")
    progress.say(f"== {name}: {experiment.__doc__.splitlines()[0]}")
    start = time.monotonic()
    findings = []
    left_out = ""
    with tempfile.TemporaryDirectory(
        prefix=f"torture-{name}-", ignore_cleanup_errors=True
    ) as folder:
        try:
            for finding in experiment.run(Laboratory(Path(folder), scale, progress)):
                findings.append(finding)
                progress.say(in_a_sentence(finding))
        except Missing as missing:
            left_out = str(missing)
            progress.say(f"{name} is left out: {left_out}")
    return Outcome(name, findings, time.monotonic() - start, left_out)


def in_a_sentence(found: Finding) -> str:
    verdict = f"broken {found.broken:,} times" if found.broken else "kept"
    return f"{found.promise}: {verdict}, of {found.cases:,}. {found.remark}"


def table(outcomes: Sequence[Outcome], *, heading: bool = True) -> str:
    lines = []
    if heading:
        lines += [
            "| experiment | promise | put to the test | broken | |",
            "|---|---|---:|---:|---|",
        ]
    for outcome in outcomes:
        if outcome.left_out:
            lines.append(f"| {outcome.name} | left out: {outcome.left_out} | | | |")
        for number, found in enumerate(outcome.findings):
            name = f"{outcome.name}, {in_words(outcome.seconds)}" if not number else ""
            cases, broken = f"{found.cases:,}", f"{found.broken:,}"
            lines.append(f"| {name} | {found.promise} | {cases} | {broken} | {found.remark} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
