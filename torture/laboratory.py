"""What an experiment is given, and what it finds."""

import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.progress import Progress
from tests.postgres import fresh_database, postgres_server

ROOT = Path(__file__).resolve().parents[1]
DATABASES = ("sqlite", "postgresql")


class Finding(NamedTuple):
    """A promise, how often it was put to the test, and how often it was broken."""

    promise: str
    cases: int
    broken: int = 0
    remark: str = ""


class Missing(Exception):
    """One sentence: what this machine lacks, and how to get it. The experiment is left out."""


@dataclass(frozen=True)
class Laboratory:
    """folder: an empty one of this experiment's own, without .env, which is removed afterwards.

    scale: 1 is what docs/torture.md reports; less is a shorter run. left_out: parts, each with a
    sentence that says what this machine lacks.
    """

    folder: Path
    scale: float
    progress: Progress
    left_out: list[str] = field(default_factory=list)

    def scaled(self, number: int, least: int = 1) -> int:
        return max(least, round(number * self.scale))

    def say(self, sentence: str) -> None:
        self.progress.doing(sentence)

    def leave_out(self, sentence: str) -> None:
        """A part of the experiment."""
        if sentence not in self.left_out:
            self.left_out.append(sentence)
            self.progress.say(sentence)

    @contextmanager
    def database(self, kind: str, *, durable: bool = True) -> Iterator[str]:
        """The URL of a new and migrated one. kind: of DATABASES."""
        if kind == "sqlite":
            url = f"sqlite:///{(self.folder / 'torture.db').as_posix()}"
            migrate(url, self.folder)
            yield url
            return
        with postgres_server(durable=durable) as server, fresh_database(server) as url:
            migrate(url, self.folder)
            yield url


def migrate(url: str, folder: Path, revision: str = "head") -> None:
    """Up to a revision. Raises CalledProcessError."""
    run(
        folder,
        environment(url),
        "-m",
        "alembic",
        "-c",
        str(ROOT / "alembic.ini"),
        "upgrade",
        revision,
    )


def run(folder: Path, variables: Mapping[str, str], *arguments: str) -> str:
    """This interpreter, in a folder without .env. Its output; raises CalledProcessError."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=dict(variables), check=True, capture_output=True, text=True
    ).stdout


def environment(url: str, **settings: str) -> dict[str, str]:
    """Of a service, and of the commands beside it. Load may come from one address."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": url,
        "SECRET_KEY": SECRET_KEY,
        "LOGIN_ATTEMPTS_PER_ACCOUNT": "1000",
        "LOGIN_ATTEMPTS_PER_NETWORK": "100000",
        "SIGN_UPS_PER_NETWORK": "100000",
        **settings,
    }


SECRET_KEY = secrets.token_hex(32)
