"""`python -m torture [NAMES]`: one experiment after the other, and a table of what they found."""

import argparse
import importlib
import signal
import sys
import tempfile
import time
import traceback
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
    """left_out: parts of it, or all of it, and why."""

    name: str
    findings: list[Finding]
    seconds: float
    left_out: list[str]

    @property
    def broken(self) -> int:
        return sum(finding.broken for finding in self.findings)

    @property
    def untried(self) -> int:
        return sum(not finding.cases for finding in self.findings)


def main(arguments: Sequence[str]) -> int:
    """1 where a promise was broken, or a whole run did not put it to the test."""
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
    untried = sum(outcome.untried for outcome in outcomes)
    sys.stdout.write(f"\n{in_total(outcomes, broken, untried)}\n")
    return int(broken > 0 or (untried > 0 and given.scale >= 1))


def in_total(outcomes: Sequence[Outcome], broken: int, untried: int) -> str:
    left_out = sum(len(outcome.left_out) for outcome in outcomes)
    told = [f"{broken or 'No'} broken promise{'' if broken == 1 else 's'}"]
    told += [f"{untried} not put to the test"] * bool(untried)
    told += [f"{left_out} left out"] * bool(left_out)
    return ", ".join(told) + "."


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
    with tempfile.TemporaryDirectory(
        prefix=f"torture-{name}-", ignore_cleanup_errors=True
    ) as folder:
        laboratory = Laboratory(Path(folder), scale, progress)
        try:
            for finding in experiment.run(laboratory):
                findings.append(finding)
                progress.say(in_a_sentence(finding))
        except Missing as missing:
            laboratory.leave_out(str(missing))
        except Exception as error:  # what was found is kept, and the next experiment is begun
            traceback.print_exc()
            findings.append(Finding("the experiment comes to its end", 1, 1, repr(error)))
    return Outcome(name, findings, time.monotonic() - start, laboratory.left_out)


def in_a_sentence(found: Finding) -> str:
    verdict = f"broken {found.broken:,} times" if found.broken else "kept"
    if not found.cases:
        return f"{found.promise}: not put to the test. {found.remark}"
    return f"{found.promise}: {verdict}, of {found.cases:,}. {found.remark}"


def table(outcomes: Sequence[Outcome], *, heading: bool = True) -> str:
    lines = []
    if heading:
        lines += [
            "| experiment | promise | put to the test | broken | |",
            "|---|---|---:|---:|---|",
        ]
    for outcome in outcomes:
        lines += [f"| {outcome.name} | left out: {why} | | | |" for why in outcome.left_out]
        for number, found in enumerate(outcome.findings):
            name = f"{outcome.name}, {in_words(outcome.seconds)}" if not number else ""
            cases = f"{found.cases:,}" if found.cases else "not"
            broken = f"{found.broken:,}" if found.cases else ""
            lines.append(f"| {name} | {found.promise} | {cases} | {broken} | {found.remark} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
