"""What is measured, and how: servers, and what is not one. Each has works, by names."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from bench import load
from bench.client import ask
from bench.contender import Contender
from bench.load import BenchmarkError, State
from bench.machine import Processes, Server
from bench.ours import GRACE_SECONDS, Inside

CONNECTIONS = 16
LOGGING_IN = 4  # connections: hashing is what takes the time
STATE_SECONDS = 120  # access tokens of the peers live for 5 minutes or more
REFRESHES = 5000  # a second, as long as nobody knows
REST, LONGEST_REST = 0.2, 5  # seconds
IDLE = 0.02  # seconds of processor time in a rest
SPARE = 3  # times as many sessions as may be needed: connections are not served evenly


@dataclass(frozen=True)
class Figures:
    """One measurement. server, database: milliseconds of processor time for a request.

    generator: cores that wrk was busy with, or pgbench. Times are milliseconds.
    """

    rate: float
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    server: float = 0.0
    database: float = 0.0
    generator: float = 0.0


class Subject(Protocol):
    """Raises BenchmarkError where it fails to do its work."""

    @property
    def title(self) -> str: ...

    @property
    def works(self) -> Sequence[str]: ...

    def measure(self, work: str, seconds: int) -> Figures: ...


class Served:
    """A contender that runs.

    starts: seconds to the first answer. database: its name in PostgreSQL. inside: for ours, who
    has tokens.
    """

    def __init__(
        self,
        contender: Contender,
        server: Server,
        *,
        starts: Sequence[float],
        users: int,
        database: str,
        postgres: Processes | None,
        inside: Inside | None,
    ) -> None:
        self.contender = contender
        self.server = server
        self.starts = starts
        self.database = database
        self.postgres = postgres
        self.users = users
        self._inside = inside
        self._states: list[State] = []
        self._states_until = 0.0
        self._fastest = 0.0  # refreshes a second
        self._numbers = itertools.count()  # of users who log in

    @property
    def title(self) -> str:
        return self.contender.title

    @property
    def works(self) -> Sequence[str]:
        return tuple(self.contender.works)

    def measure(
        self,
        work: str,
        seconds: int,
        connections: int = 0,
        states: Sequence[State] | None = None,
    ) -> Figures:
        """states: what states() has said, where that had to be known before."""
        connections = connections or (LOGGING_IN if work == "login" else CONNECTIONS)
        states = self.states(work, seconds, connections) if states is None else states
        before = self._busy()
        try:
            ran = load.run(
                self.server.port,
                self.contender.works[work],
                states,
                seconds=seconds,
                users=self.users,
                connections=connections,
            )
            after = self._busy()
        finally:
            if work == "login":
                self.rest()
        if work == "refresh" and self._inside:
            self._note_refreshes(ran)
        server, database = (
            (late - early) * 1000 / ran.requests for early, late in zip(before, after, strict=True)
        )
        generator = ran.cpu / ran.seconds
        return Figures(ran.rate, ran.p50, ran.p95, ran.p99, server, database, generator)

    def states(self, work: str, seconds: int, connections: int = CONNECTIONS) -> Sequence[State]:
        """What the connections need for this work."""
        if work == "login":
            return [{}] * connections
        if self._inside and work == "refresh":
            # As in life: a session is renewed once in a while, by a token that is no longer young.
            many = connections * 100 + int((self._fastest * SPARE or REFRESHES) * seconds)
            return self._inside.sessions(many, unused=GRACE_SECONDS + 2, access=False)
        if self._inside:
            return self._inside.sessions(connections, unused=0, access=True)
        if work == "refresh" or not self._states or time.monotonic() > self._states_until:
            self._states = self._log_in(CONNECTIONS)
            self._states_until = time.monotonic() + STATE_SECONDS
        states = self._states
        if work == "refresh":  # which makes them void
            self._states = []
        return states

    def rest(self, longest: float = LONGEST_REST) -> None:
        """wrk hangs up, and the server goes on hashing for it: not while others are measured."""
        end, before = time.monotonic() + longest, -1.0
        while time.monotonic() < end and self._busy()[0] - before > IDLE:
            before = self._busy()[0]
            time.sleep(REST)

    def _note_refreshes(self, ran: load.Load) -> None:
        """Raises BenchmarkError where sessions were few, so that some came twice."""
        self._fastest = max(self._fastest, ran.rate)
        if ran.laps > 1:
            raise BenchmarkError("A session was refreshed twice: there were too few of them.")

    def _log_in(self, count: int) -> list[State]:
        request = self.contender.log_in
        numbers = (next(self._numbers) % self.users for _ in range(count))
        return [ask(self.server.port, request, {}, number=number) for number in numbers]

    def prepared(self, work: str) -> State:
        """What one request needs."""
        if work == "login":
            return {"number": str(next(self._numbers) % self.users)}
        if not self._inside:
            return self._log_in(1)[0]
        if work == "refresh":
            return self._inside.sessions(1, unused=GRACE_SECONDS + 2, access=False)[0]
        state = self._inside.sessions(1, unused=0, access=True)[0]
        return self.once(work, state) if work == "refresh_young" else state

    def once(self, work: str, state: State) -> State:
        """One request, and nothing is measured. What the connection has kept afterwards."""
        number = int(state.get("number", 0))
        return ask(self.server.port, self.contender.works[work], state, number=number)

    def memory(self) -> float:
        return self.server.memory()

    def _busy(self) -> tuple[float, float]:
        try:
            return self.server.cpu(), self.postgres.cpu() if self.postgres else 0.0
        except psutil.NoSuchProcess:
            raise BenchmarkError(f"{self.title} has ended by itself.") from None


def hashing_threads() -> int:
    """As many as the service has with one worker."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Hashing:
    """argon2 as the service has it, and nothing around it."""

    title = "argon2 alone"

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._threads: Mapping[str, int] = {"one_thread": 1, "all_threads": hashing_threads()}

    @property
    def works(self) -> Sequence[str]:
        return tuple(self._threads)

    def measure(self, work: str, seconds: int) -> Figures:
        return Figures(self._inside.hashes(self._threads[work], seconds))
