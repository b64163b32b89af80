"""Which test shows which requirement: docs/asvs.md beside the `proves` markers of the tests.

`python -m tests.proof` counts; `python -m tests.proof 6.2.4 RL-03` lists the tests of these.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum, auto
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "asvs.md"
# | 6.2.1 | 1 | asks | answer |, and without a level | RL-01 | attack | answer |
ROW = re.compile(
    r"\| (?P<id>\d+\.\d+\.\d+|[A-Z]\S*-\S+) \|(?: (?P<level>\d) \|)? .+ \| (?P<answer>.*) \|"
)
ATTACK = re.compile(r"[A-Z]{2,3}-\d\d")


class Status(StrEnum):
    MET = auto()
    DEVIATION = auto()
    LATER = auto()


class Requirement(NamedTuple):
    id: str
    level: int | None  # none where it is not of ASVS
    answer: str

    @property
    def status(self) -> Status:
        if "**Later.**" in self.answer:
            return Status.LATER
        return Status.DEVIATION if "**Deviation.**" in self.answer else Status.MET


@cache
def read_table() -> list[Requirement]:
    rows = map(ROW.fullmatch, TABLE.read_text(encoding="utf-8").splitlines())
    return [
        Requirement(row["id"], int(row["level"]) if row["level"] else None, row["answer"])
        for row in rows
        if row
    ]


@cache
def read_markers() -> dict[str, list[str]]:
    """The tests of each id, as pytest names them. Read, not run: it takes a second."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT).as_posix()
        for test, id_ in markers_in(module):
            found[id_].append(f"{name}::{test}")
    return found


def markers_in(module: ast.Module) -> Iterator[tuple[str, str]]:
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
                    yield from ((function.name, ast.literal_eval(id_)) for id_ in mark.args)


def without_test(table: list[Requirement], tests: dict[str, list[str]]) -> list[str]:
    return [row.id for row in table if row.status is Status.MET and row.id not in tests]


def summary() -> str:
    table, tests = read_table(), read_markers()
    parts = {
        "requirements": [row for row in table if row.level],
        "attack cases": [row for row in table if ATTACK.fullmatch(row.id)],
    }
    lines = []
    for name, rows in parts.items():
        shown = sum(row.id in tests for row in rows)
        deviations = sum(row.status is Status.DEVIATION for row in rows)
        later = sum(row.status is Status.LATER for row in rows)
        lines.append(
            f"{len(rows)} {name}: {shown} with tests, {deviations} deviations, {later} for later"
        )
    lines.append(f"{len({test for those in tests.values() for test in those})} tests name an id")
    return "\n".join(lines)


def main(ids: list[str]) -> int:
    if not ids:
        print(summary())
        open_ids = without_test(read_table(), read_markers())
        print(f"without a test: {' '.join(open_ids) or 'none'}")
        return int(bool(open_ids))
    known, tests = {row.id for row in read_table()}, read_markers()
    for id_ in ids:
        if id_ not in known:
            sys.exit(f"{id_} is not in docs/asvs.md")
        print(id_, *tests.get(id_, ["no test"]), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
