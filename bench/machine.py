"""Servers under test: started, waited for, and what they cost in processor time and memory."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bench.command import surroundings
from bench.conversation import end_of
from bench.load import BenchmarkError

START_SECONDS = 60
STOP_SECONDS = 25


class Processes:
    """A process and all its children: a server with its workers, or PostgreSQL's backends."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)

    def is_alive(self) -> bool:
        return self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE

    def all(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds of processor time so far, also of children that have ended."""
        total = 0.0
        for process in self.all():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
                total += times.children_user + times.children_system
        return total

    def memory(self) -> float:
        """Megabytes, what these processes share counted once.

        PSS would leave out what other servers share with them that run beside, such as libraries.
        """
        own, shared = 0, 0
        for process in self.all():
            with suppress(psutil.NoSuchProcess):
                info = process.memory_full_info()
                own += info.uss
                shared = max(shared, info.rss - info.uss)
        return (own + shared) / 1e6


class Server(Processes):
    """start_seconds: from the command to the first answer."""

    def __init__(self, pid: int, port: int, start_seconds: float) -> None:
        super().__init__(pid)
        self.port = port
        self.start_seconds = start_seconds


@contextmanager
def running(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    port: int,
    ready: str,
    log: Path,
) -> Iterator[Server]:
    """Raises BenchmarkError, with the end of its log, where it does not answer."""
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=surroundings() | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            while not answers(f"http://127.0.0.1:{port}{ready}"):
                if process.poll() is not None or time.monotonic() > start + START_SECONDS:
                    raise BenchmarkError(f"{command[0]} did not start: {end_of(log)}")
                time.sleep(0.01)
            yield Server(process.pid, port, time.monotonic() - start)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
