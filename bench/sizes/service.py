"""The service on one database: as a server, and as what can be asked from inside."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import ours
from bench.load import BenchmarkError
from bench.machine import Server, end_of, running

# Seconds. A refresh token is old when it is used, as in life, although each of a thousand logins is
# refreshed twice a second here. A third of it is what a refresh may wait, else it is told "busy".
GRACE = "0.3"


def environment(url: str) -> dict[str, str]:
    return ours.environment(url) | {"REFRESH_GRACE_SECONDS": GRACE}


def migrate(url: str, folder: Path) -> None:
    """folder: one without .env, here and below."""
    ours.run_once((ours.PYTHON, "-m", "app", "migrate"), folder, environment(url))


@contextmanager
def served(url: str, folder: Path, log: Path) -> Iterator[Server]:
    port = free_port()
    with running(
        (ours.PYTHON, "-m", "app", "run", "--port", str(port), "--workers", "1"),
        folder=folder,
        environment=environment(url),
        port=port,
        ready="/health/ready",
        log=log,
    ) as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Inside:
    """inside.py in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, name: str, **values: Any) -> Any:
        """Raises BenchmarkError, with the end of its log, where it fails."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([name, values]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchmarkError(f"{name} failed: {end_of(self._log)}")
        return json.loads(answer)


@contextmanager
def inside(url: str, folder: Path, log: Path) -> Iterator[Inside]:
    with log.open("wb") as errors:
        process = subprocess.Popen(
            (ours.PYTHON, "-m", "bench.sizes.inside"),
            cwd=folder,
            env=os.environ | environment(url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
    with process:  # closes its input, and so ends it
        yield Inside(process, log)
