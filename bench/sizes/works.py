"""What is asked of the service at every size, and what an answer costs."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import load, ours
from bench.contender import PASSWORD, Request
from bench.conversation import Conversation
from bench.load import BenchmarkError
from bench.machine import Processes, Server
from bench.sizes.fill import Content
from bench.subjects import LOGGING_IN, Figures

CONNECTIONS = 8  # as many as the service has to PostgreSQL
SPREAD = 8192  # logins that a round is about: more than it gets through
BUSY = 503
MOST_BUSY = 0.02  # of all answers
ACCESS = {"Cookie": "__Host-access={access}"}
ASKED = {
    "refresh": ours.REFRESH,
    "me": Request("GET", "/api/v1/users/me", ACCESS, contains="@example.com"),
    "list": Request("GET", "/api/v1/users/me/sessions", ACCESS, contains='"current":true'),
}
LOG_IN = "log in"
LOGGING_IN_AS = Request(
    "POST",
    "/api/v1/auth/login",
    ours.JSON,
    f'{{"email":"{{user}}","password":"{PASSWORD}"}}',
    contains="@example.com",
)


@dataclass(frozen=True)
class Place:
    """The service with one database of one size. postgres: its processes, if it is one."""

    database: str
    content: Content
    inside: Conversation
    server: Server
    postgres: Processes | None

    def measure(self, work: str, seconds: float) -> Figures:
        """Raises BenchmarkError where an answer was wrong."""
        logs_in = work == LOG_IN
        states = self._emails() if logs_in else self._tokens(work)
        server, database = self._busy()
        ran = load.run(
            self.server.port,
            LOGGING_IN_AS if logs_in else ASKED[work],
            states,
            seconds=seconds,
            users=self.content.users,
            connections=LOGGING_IN if logs_in else CONNECTIONS,
            also=(BUSY,) if work == "refresh" else (),
        )
        if ran.statuses.get(BUSY, 0) > MOST_BUSY * ran.requests:
            raise BenchmarkError(f"The machine is too busy: {ran.statuses} at {self.database}.")
        server, database = (
            (now - before) * 1000 / ran.requests
            for now, before in zip(self._busy(), (server, database), strict=True)
        )
        generator = ran.cpu / ran.seconds
        return Figures(ran.rate, ran.p50, ran.p95, ran.p99, server, database, generator)

    # All over the database, and other ones in every round: no page is in memory by chance.

    def _tokens(self, work: str) -> Sequence[Mapping[str, str]]:
        token = "refresh" if work == "refresh" else "access"
        states: Sequence[Mapping[str, str]]
        states = self.inside.ask("states", count=SPREAD, token=token)
        return states

    def _emails(self) -> Sequence[Mapping[str, str]]:
        numbers = (random.randrange(self.content.users) for _ in range(SPREAD))
        return [{"user": f"user{number}@example.com"} for number in numbers]

    def _busy(self) -> tuple[float, float]:
        return self.server.cpu(), self.postgres.cpu() if self.postgres else 0.0
