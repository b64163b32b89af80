"""A service of one or more processes, as operators start it, which can be killed and come back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil

from tests.processes import free_ports
from torture.laboratory import environment

START_SECONDS = 180


class ServiceError(Exception):
    """It did not start, or not end; with the end of its log."""


class Service:
    """`python -m app run` on a port that it keeps over its restarts, and with it its log."""

    def __init__(
        self, url: str, folder: Path, *, workers: int = 1, port: int | None = None, **settings: str
    ) -> None:
        self.port = port or free_ports(1)[0]
        self.log = folder / f"server-{self.port}.log"
        self._folder = folder
        self._environment = environment(url, **settings)
        self._command = [sys.executable, "-m", "app", "run", "--port", str(self.port)]
        self._command += ["--workers", str(workers)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self, *, wait: bool = True, **settings: str) -> None:
        """settings: from now on. Raises ServiceError where it does not become ready."""
        self._environment |= settings
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, to be killed as a whole
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        assert self._process
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.status("/health/ready") == 200:
                return
            time.sleep(0.02)
        raise ServiceError(f"The server did not start:\n{self.log.read_text()[-2000:]}")

    def status(self, path: str) -> int | None:
        """None: nobody answers."""
        try:
            with urlopen(f"{self.address}{path}", timeout=5) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, OSError):
            return None

    def kill(self) -> None:
        """By SIGKILL, with all its workers and the processes that hash."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self, seconds: float = 30, *, check: bool = True) -> None:
        """By SIGTERM, as in a deployment. Raises ServiceError where it ends badly."""
        assert self._process
        self._process.terminate()
        if self._process.wait(seconds) != 0 and check:
            raise ServiceError(f"The server ended badly:\n{self.log.read_text()[-2000:]}")

    def memory(self) -> float:
        """Of all its processes, in MB."""
        parent = psutil.Process(self.pid)
        family = [parent, *parent.children(recursive=True)]
        return sum(each.memory_info().rss for each in family) / 1e6
