"""The service on one database: as a server, and as what can be asked from inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import ours
from bench.conversation import Conversation, conversation
from bench.machine import Server, free_port, running

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


@contextmanager
def inside(url: str, folder: Path, log: Path) -> Iterator[Conversation]:
    with conversation(
        ours.PYTHON, "bench.sizes.inside", folder=folder, environment=environment(url), log=log
    ) as asked:
        yield asked
