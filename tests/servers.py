"""`python -m app run` in a process of its own, as operators start it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]
START_SECONDS = 60


class Server(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    temporary: Path  # where it puts temporary files

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(
    database_url: str, folder: Path, *, workers: int = 1, command: str = "app run", **settings: str
) -> Iterator[Server]:
    """command: what `python -m` starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {
        "SECRET_KEY": os.environ["SECRET_KEY"],
        "DATABASE_URL": database_url,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        **settings,
    }
    arguments = [*command.split(), "--port", str(port), "--workers", str(workers)]
    path = folder / "server.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )
    server = Server(process, port, path, temporary)
    try:
        wait_until_it_answers(server)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_it_answers(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(f"{server.address}/health/live", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.05)
    pytest.fail(f"the server did not start:\n{server.log.read_text()}")
