"""What a request asks of PostgreSQL, as the database's own log tells it."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.load import BenchmarkError
from bench.postgres import connected
from bench.progress import Progress
from bench.stage import Stage
from bench.subjects import Served

TIMES = 3  # each request; what upkeep does by the way is not in all of them
LINE = re.compile(r"^bench\|(?P<database>[^|]*)\|LOG:  (?:statement|execute [^:]*): (?P<text>.*)")
TRANSACTION = re.compile(r"\W*(BEGIN|START|COMMIT|ROLLBACK|END|SAVEPOINT|RELEASE)\b", re.IGNORECASE)
LOGGED = {"log_statement": "all", "log_line_prefix": "bench|%d|"}
PATIENCE = 5  # seconds
SETTLED = 0.05  # seconds: some end their transaction after the answer


class Asked(NamedTuple):
    """statements: without BEGIN, COMMIT and the like. trips: to the database and back."""

    statements: int
    trips: int


def count(stage: Stage, progress: Progress) -> dict[str, dict[str, Asked]]:
    """By contender and work, for those that have a database in PostgreSQL."""
    counts: dict[str, dict[str, Asked]] = {}
    with logged(stage.server_url) as log:
        for name, subject in stage.subjects.items():
            if isinstance(subject, Served) and subject.database:
                progress.doing(f"Counting the statements of {subject.title} ...")
                try:
                    counts[name] = {work: asked(subject, work, log) for work in subject.works}
                except BenchmarkError as error:
                    progress.say(f"The statements of {subject.title} were not counted: {error}")
    return counts


class Log:
    """PostgreSQL's, from which lines are taken as far as a mark that we set ourselves."""

    def __init__(self, file: Path, cursor: Any) -> None:
        self._cursor = cursor
        self._file = file
        self._read = 0
        self._marks = 0
        self.until_now()

    def until_now(self) -> list[str]:
        self._marks += 1
        mark = f"bench mark {self._marks}."
        self._cursor.execute(f"SELECT '{mark}'")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with self._file.open(errors="replace") as file:
                file.seek(self._read)
                text = file.read()
                if mark in text:
                    self._read = file.tell()
                    return text.splitlines()
            time.sleep(0.02)
        raise BenchmarkError("PostgreSQL's log does not show what is asked.")


@contextmanager
def logged(server_url: str) -> Iterator[Log]:
    with connected(server_url) as cursor:
        cursor.execute("SHOW data_directory")
        (data,) = cursor.fetchone()
        try:
            change(cursor, LOGGED)
            yield Log(Path(data).with_name("log"), cursor)
        finally:
            change(cursor, dict.fromkeys(LOGGED))


def change(cursor: Any, settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        how = f"RESET {name}" if value is None else f"SET {name} = '{value}'"
        cursor.execute(f"ALTER SYSTEM {how}")
    cursor.execute("SELECT pg_reload_conf()")
    time.sleep(0.5)  # every backend reads it before its next statement


def asked(subject: Served, work: str, log: Log) -> Asked:
    found = []
    for _ in range(TIMES):
        state = subject.prepared(work)
        log.until_now()
        subject.once(work, state)
        time.sleep(SETTLED)
        found.append(read(log.until_now(), subject.database))
    return min(found)


def read(lines: list[str], database: str) -> Asked:
    texts = [
        found["text"]
        for line in lines
        if (found := LINE.match(line)) and found["database"] == database
    ]
    return Asked(sum(not TRANSACTION.match(text) for text in texts), len(texts))
