"""The part that runs in the service's own environment: `python -m bench.inside`. ours.py asks."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlmodel import col, func, select

from app.core.config import load_settings
from app.core.hashing import context
from app.core.identifiers import new_id
from app.core.moments import to_microseconds
from app.core.tokens import ClientId, Tokens
from app.db.engine import create_database_engine
from app.db.statement import Statement
from app.models.login import Login
from app.services import authentication, logins, new_logins, throttle
from bench.contender import PASSWORD
from bench.conversation import answer

SETTINGS = load_settings()
TOKENS = Tokens(SETTINGS)
# Each statement for itself, as in the service: one that reads must not wait for those that write.
ENGINE = create_database_engine(SETTINGS, isolation_level="AUTOCOMMIT")


def sessions(count: int, unused: float, access: bool) -> list[dict[str, str]]:
    """What browsers have of logins drawn by lot.

    unused: for how many seconds, at least, these have not been used. access: all cookies. Else the
    refresh token alone.
    """
    before = to_microseconds(datetime.now(UTC) - timedelta(seconds=unused))
    columns = (Login.id, Login.user_id, Login.last, Login.expires_at)
    drawn = (
        select(*map(col, columns))
        .where(col(Login.last) < before)
        .order_by(func.random())
        .limit(count)
    )
    with ENGINE.connect() as connection:
        rows = connection.execute(drawn).all()
    return [cookies(login, access) for login in rows]


def cookies(login: Any, access: bool) -> dict[str, str]:
    browser = ClientId.BROWSER
    refresh = TOKENS.issue_refresh(login.id, browser, login.last, login.expires_at)
    if not access:
        return {"refresh": refresh}
    return {
        "refresh": refresh,
        "access": TOKENS.issue_access(login.user_id, login.id, browser, login.expires_at)[0],
        "device": TOKENS.issue_device(login.user_id, new_id(), datetime.now(UTC)),
    }


def hashes(threads: int, seconds: float) -> float:
    """Passwords that are checked a second, with as many at a time, and nothing else."""
    stored = context().hash(PASSWORD)
    until = time.monotonic() + seconds

    def check() -> tuple[int, float]:
        done = 0
        while time.monotonic() < until:
            assert context().verify(PASSWORD, stored)
            done += 1
        return done, time.monotonic()

    start = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        ended = [job.result() for job in [pool.submit(check) for _ in range(threads)]]
    return sum(done / (end - start) for done, end in ended)


def statements() -> Mapping[str, list[str]]:
    """What who am I, a refresh and a log-in ask, with `:name` for the values that vary."""
    asked = {
        "me": [logins.CURRENT],
        "refresh": [logins.ROTATE],
        "login": [
            authentication.WHO_TRIES,
            throttle.spending("postgresql", 2),
            new_logins.starting(3),
        ],
    }
    return {work: [as_text(statement) for statement in each] for work, each in asked.items()}


def as_text(statement: Statement) -> str:
    compiled: Any = statement.clause.compile(dialect=ENGINE.dialect)
    values = {
        name: f":{name}" if value is None else f"'{value}'"
        for name, value in compiled.params.items()
    }
    return str(compiled.string % values)


QUESTIONS = {question.__name__: question for question in (sessions, hashes, statements)}


if __name__ == "__main__":
    answer(QUESTIONS.__getitem__)
