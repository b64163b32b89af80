"""This project under test, as shipped, and the limits: trivial servers on the same parts.

Both run in the service's own environment, from a folder without .env.
"""

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.command import surroundings
from bench.contender import PASSWORD, Contender, Request
from bench.conversation import Conversation, conversation
from bench.load import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
PYTHON = str(ROOT / ".venv" / "bin" / "python")
GRACE_SECONDS = 60  # REFRESH_GRACE_SECONDS: until then a token is young

JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": "Bearer {access}"}
COOKIES = {"Cookie": "__Host-access={access}; __Host-refresh={refresh}; __Host-device={device}"}
LOG_IN = Request(
    "POST",
    "/api/v1/auth/login",
    JSON,
    f'{{"email":"{{email}}","password":"{PASSWORD}"}}',
    contains="@example.com",
    sets="__Host-device",
)
REFRESH = Request(
    "POST",
    "/api/v1/auth/refresh",
    {"Cookie": "__Host-refresh={refresh}"},
    contains="access_expires_at",
    take={"refresh": "cookie:__Host-refresh"},
    renews="refresh",
)
WORKS = {
    "login": LOG_IN,
    "refresh": REFRESH,
    "refresh_young": REFRESH,
    "me": Request("GET", "/api/v1/users/me", COOKIES, contains="@example.com"),
}
CHECK = Request("GET", "/check", COOKIES, contains='"user"')
HELLO = '{"hello":"world"}'
ALGORITHMS = ("HS256", "RS256", "EdDSA", "ES256")


def environment(url: str) -> dict[str, str]:
    """As in production, but that the load may come from one address, or say from which."""
    return {
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": url,
        "SECRET_KEY": SECRET_KEY,
        "DEBUG": "false",
        "LOGIN_ATTEMPTS_PER_NETWORK": "100000",
        "TRUSTED_PROXIES": "127.0.0.1",
    }


SECRET_KEY = secrets.token_hex(32)
HASHER = {"MALLOC_ARENA_MAX": "1"}  # as app/core/hasher.py has it


def contenders(postgres: str, sqlite: str, folder: Path) -> tuple[Contender, ...]:
    """folder: one without .env. postgres, sqlite: the URLs of databases that are filled."""
    run = (PYTHON, "-m", "app", "run", "--port", "{port}", "--workers")

    def ours(name: str, title: str, url: str, workers: int, **given: Any) -> Contender:
        usual = {"works": WORKS, "environment": environment(url)}
        return Contender(
            name=name,
            title=title,
            serve=(*run, str(workers)),
            folder=folder,
            log_in=LOG_IN,
            ready="/health/ready",
            **usual | given,
        )

    one_thread = ours(
        "ours_one_thread",
        "FastAPI Auth, one hashing thread",
        postgres,
        1,
        works={"login": LOG_IN},
        environment={**environment(postgres), "HASHING_THREADS": "1"},
    )

    application = Contender(
        name="ours_application",
        title="an application on FastAPI Auth",
        serve=(PYTHON, "-m", "bench.ours_check", "{port}"),
        folder=folder,
        log_in=LOG_IN,
        works={"check": CHECK},
        environment=environment(postgres),
        ready="/health/ready",
        note="FastAPI Auth itself always asks the database, so that a log-out takes effect at "
        "once. A route of yours may ask the token only, by `TokenHolder`.",
    )
    as_shipped = (
        "With the settings of production, but LOGIN_ATTEMPTS_PER_NETWORK, which is raised: all "
        "load comes from one address. No mail server: with one, a log-in from an unknown device "
        "writes a notice, too."
    )
    return (
        ours("ours", "FastAPI Auth", postgres, 1, note=as_shipped),
        ours("ours_2", "FastAPI Auth, two workers", postgres, 2),
        one_thread,
        ours("ours_sqlite", "FastAPI Auth on SQLite", sqlite, 1),
        ours("ours_sqlite_2", "FastAPI Auth on SQLite, two workers", sqlite, 2),
        application,
    )


def limits(folder: Path) -> tuple[Contender, ...]:
    def serve(app: str) -> tuple[str, ...]:
        address = ("--host", "127.0.0.1", "--port", "{port}")
        return (PYTHON, "-m", "uvicorn", f"bench.limits:{app}", *address, "--no-access-log")

    def limit(
        name: str, title: str, app: str, works: dict[str, Request], log_in: Request
    ) -> Contender:
        return Contender(
            name=name,
            title=title,
            serve=serve(app),
            folder=folder,
            log_in=log_in,
            works=works,
            environment={"PYTHONPATH": str(ROOT)},
            ready="/async",
        )

    nothing = Request("GET", "/async", contains=HELLO)
    trivial = {
        "async": nothing,
        "def": Request("GET", "/def", contains=HELLO),
        "cookies": Request("POST", "/cookies", contains=HELLO, sets="__Host-refresh"),
    }
    return (
        limit("asgi", "bare ASGI on uvicorn", "bare", {"async": nothing}, nothing),
        limit("trivial", "FastAPI, trivial", "app", trivial, nothing),
        *(
            limit(
                f"pyjwt_{algorithm.lower()}",
                f"FastAPI and PyJWT, {algorithm}",
                "app",
                {"check": Request("GET", f"/{algorithm}/check", BEARER, contains='"ada"')},
                Request(
                    "POST",
                    f"/{algorithm}/token",
                    contains="access_token",
                    take={"access": "json:access_token"},
                ),
            )
            for algorithm in ALGORITHMS
        ),
    )


def prepare(url: str, folder: Path, users: int, logins: int) -> None:
    """Migrate and fill. Raises BenchmarkError."""
    seed = ("bench.seed", str(users), str(logins))
    for arguments in (("app", "migrate"), seed):
        run_once((PYTHON, "-m", *arguments), folder, environment(url))


def run_once(command: Sequence[str], folder: Path, settings: dict[str, str]) -> None:
    """Raises BenchmarkError, with the end of what it said, where it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=surroundings() | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        what = " ".join(command[1:4])
        raise BenchmarkError(f"{what} failed: {done.stdout.strip()[-500:]}")


class Inside:
    """inside.py on one database."""

    def __init__(self, conversation: Conversation) -> None:
        self._ask = conversation.ask

    def sessions(self, count: int, *, unused: float, access: bool) -> list[dict[str, str]]:
        found = self._ask("sessions", count=count, unused=unused, access=access)
        if len(found) < count:
            raise BenchmarkError(
                f"{count} sessions are needed that have rested for {unused:g} seconds, and there "
                f"are {len(found)}: seed more by --logins, or measure for fewer --seconds."
            )
        return list(found)

    def hashes(self, threads: int, seconds: float) -> float:
        return float(self._ask("hashes", threads=threads, seconds=seconds))

    def statements(self) -> dict[str, list[str]]:
        """By work."""
        return dict(self._ask("statements"))


@contextmanager
def inside(url: str, folder: Path, log: Path) -> Iterator[Inside]:
    settings = {**environment(url), **HASHER}
    with conversation(
        PYTHON, "bench.inside", folder=folder, environment=settings, log=log
    ) as asked:
        yield Inside(asked)
