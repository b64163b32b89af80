"""The load generator: wrk, with a look at every answer (load.lua).

Its own CPU time is reported, so that it shows where it is what limits.
"""

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contender import Request

SCRIPT = Path(__file__).with_name("load.lua")
MISSING = (
    "wrk, the load generator, is missing: apt install wrk (Debian, Ubuntu), "
    "brew install wrk (macOS)."
)
UNUSUAL = re.compile(r"[^ !#-\[\]-~]")  # in a Lua string

State = Mapping[str, str]


class BenchmarkError(Exception):
    """One sentence that says why there are no figures."""


class NoAnswer(BenchmarkError):
    """Nothing was wrong, but the time was over."""


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw. Times are milliseconds, `cpu` is wrk's own, in seconds.

    laps: how often, at most, a connection has begun with its first state. In the second lap it asks
    with what it has asked with before.
    """

    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float
    cpu: float
    statuses: Mapping[int, int] = field(default_factory=dict)
    laps: int = 0

    @property
    def rate(self) -> float:
        """Requests per second that were answered as they had to be."""
        return self.requests / self.seconds


def find_wrk() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchmarkError(MISSING)
    return wrk


def run(*arguments: Any, **options: Any) -> Load:
    """As start(), and waits for its end."""
    with start(*arguments, **options) as running:
        return running.result()


class start:  # noqa: N801 - used like a function
    """Ask again and again, on each connection as soon as it is answered.

    In the background: `result()` waits for its end, and raises BenchmarkError where an answer was
    wrong.

    states: what the connections have kept, one each. Of more states than `connections`, each has
        its share and takes them in turn; of fewer, several have the same.
    delay: milliseconds before each request, on average. also: statuses that are right, too.
    """

    def __init__(
        self,
        port: int,
        request: Request,
        states: Sequence[State],
        *,
        seconds: float,
        users: int,
        connections: int = 0,
        delay: int = 0,
        also: Sequence[int] = (),
    ) -> None:
        connections = connections or len(states)
        # Each thread has one Lua state, which is what a connection that keeps something needs.
        threads = min(connections, 64) if any(states) else 1
        in_turn = threads == connections < len(states)
        texts = [request.path, request.body, *request.headers.values()]
        varies = any(name in text for text in texts for name in ("{email}", "{address}"))
        constant = not (request.take or in_turn or varies)
        plan = {
            "method": request.method,
            "path": request.path,
            "headers": dict(request.headers),
            "body": request.body,
            "status": request.status,
            "statuses": dict.fromkeys((request.status, *also), True),
            "contains": request.contains,
            "sets": request.sets,
            "take": dict(request.take),
            "renews": request.renews,
            "constant": constant,
            "delay": delay,
            "threads": threads,
            "users": users,
            "seed": random.randrange(2**30),
        }
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "plan.lua").write_text(f"return {lua(plan)}")
        for index in range(threads):
            share = states[index::threads] if in_turn else [states[index % len(states)]]
            (folder / f"states{index}.lua").write_text(f"return {lua([*map(dict, share)])}")
        command = [find_wrk(), f"-t{threads}", f"-c{connections}", f"-d{seconds:g}s"]
        command += ["--timeout=30s", f"-s{SCRIPT}", f"http://127.0.0.1:{port}", "--"]
        self._request = request
        self._process = subprocess.Popen(
            [*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self) -> "start":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def result(self) -> Load:
        assert self._process.stdout
        output = self._process.stdout.read()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        _, found, line = output.partition("FIGURES ")
        if not found:
            raise BenchmarkError(f"wrk failed: {output.strip()[-500:]}")
        words, _, sample = line.partition("SAMPLE ")
        figures = dict(word.split("=") for word in words.split())
        if int(figures["wrong"]) or int(figures["broken"]):
            raise BenchmarkError(
                f"{self._request.method} {self._request.path}: {figures['wrong']} wrong answers "
                f"and {figures['broken']} broken connections among {figures['requests']}: "
                f"{sample.strip()}"
            )
        if not int(figures["requests"]):
            raise NoAnswer(f"{self._request.method} {self._request.path}: no answer came.")
        return Load(
            requests=int(figures["requests"]),
            seconds=float(figures["seconds"]),
            p50=float(figures["p50"]),
            p95=float(figures["p95"]),
            p99=float(figures["p99"]),
            cpu=usage.ru_utime + usage.ru_stime,
            statuses={int(name[6:]): int(n) for name, n in figures.items() if name[:6] == "status"},
            laps=int(figures["laps"]),
        )


def lua(value: Any) -> str:
    """As Lua writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{UNUSUAL.sub(escape, value)}"'
    if isinstance(value, Mapping):
        return "{" + ",".join(f"[{lua(key)}]={lua(part)}" for key, part in value.items()) + "}"
    if isinstance(value, Sequence):
        return "{" + ",".join(map(lua, value)) + "}"
    return str(value)


def escape(found: re.Match[str]) -> str:
    return "".join(f"\\{byte:03}" for byte in found[0].encode())
