"""Where the time of a refresh goes: each layer and each step by itself, in one process.

    .venv/bin/python -m bench.anatomy

DATABASE_URL has to name a migrated database of PostgreSQL that may be written to, and SECRET_KEY to
be set. What is printed is processor time of this process in microseconds: without uvicorn's and
PostgreSQL's. Each figure is that of the fastest of many batches, so that what else the machine
does counts little.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop
from fastapi import Response
from sqlalchemy import update
from sqlmodel import Session, col, select

from app.api.boundary import Boundary
from app.api.cookies import set_cookies, take_cookies
from app.api.cors import Cors
from app.api.csrf import SameOriginGate
from app.api.envelope import Envelope
from app.api.queued import Queue
from app.core.logs import configure_logging
from app.core.moments import to_microseconds
from app.core.rotation import Lineage
from app.core.tokens import ClientId, RefreshToken
from app.main import app
from app.models.login import Login, SessionRefreshed, SessionTimes, lineage_columns
from app.services import logins
from app.services.backend import Backend
from bench.seed import seed

BATCHES = 60
BATCH = 50  # refreshes, each of a login of its own

BACKEND: Backend = app.state.backend
MINUTES_AGO = to_microseconds(datetime.now(UTC) - timedelta(minutes=10))
Step = Callable[[int], Any]


def main() -> None:
    rows = BACKEND.database.run_read(some_logins)
    if len(rows) < BATCH:
        seed(BATCH, BATCH)
        rows = BACKEND.database.run_read(some_logins)
    configure_logging()
    with Path(os.devnull).open("w") as nowhere:
        logging.root.handlers[0].setStream(nowhere)  # type: ignore[attr-defined]
        uvloop.run(show(rows))
    BACKEND.close()


def some_logins(session: Session) -> list[Login]:
    return list(session.exec(select(Login).order_by(col(Login.id)).limit(BATCH)).all())


async def show(rows: list[Login]) -> None:
    presented = [
        BACKEND.tokens.issue_refresh(row.id, ClientId.BROWSER, MINUTES_AGO, row.expires_at)
        for row in rows
    ]
    scopes = [scope_of(token) for token in presented]
    BACKEND.database.run_write(wind_back, rows)
    await ask(app, dict(scopes[0]))  # builds the stack
    layers: list[tuple[str, Step]] = [("all of it", lambda number: ask(app, dict(scopes[number])))]
    for layer in (Envelope, Cors, Queue, Boundary, SameOriginGate):
        inner, taken = layer_of(layer).app, layer in (Boundary, SameOriginGate)
        given = [within(scope, cookies_taken=taken) for scope in scopes]
        below: Step = lambda number, i=inner, g=given: ask(i, dict(g[number]))  # noqa: E731
        layers.append((layer.__name__, below))
    steps: list[tuple[str, Step]] = [
        ("read the refresh token", lambda number: BACKEND.tokens.read_refresh(presented[number])),
        ("rotate: one statement", lambda number: rotate(rows[number])),
        ("sign two tokens, set two cookies", lambda number: sign(rows[number])),
        ("the body", lambda number: body(rows[number])),
    ]
    costs = await measure(rows, [step for _, step in layers + steps])
    whole, *inside = costs[: len(layers)]
    found = list(zip([name for name, _ in steps], costs[len(layers) :], strict=True))
    rest = inside[-1] - sum(cost for _, cost in found)
    own = [above - below for above, below in pairwise([whole, *inside])]
    found = [
        *zip([name for name, _ in layers[1:]], own, strict=True),
        *found,
        ("FastAPI: route, dependencies, response", rest),
        ("all of it", whole),
    ]
    for name, microseconds in found:
        sys.stdout.write(f"{name:40} {microseconds:6.0f}\n")


async def measure(rows: list[Login], steps: list[Step]) -> list[float]:
    """Microseconds of each, in turn, so that a slower minute of the machine meets all of them."""
    best = [float("inf")] * len(steps)
    for _ in range(BATCHES):
        for number, step in enumerate(steps):
            best[number] = min(best[number], await cost(rows, step))
    return best


async def cost(rows: list[Login], step: Step) -> float:
    """Of one, in a batch."""
    BACKEND.database.run_write(wind_back, rows)
    start = time.process_time()
    for number in range(BATCH):
        outcome = step(number)
        if asyncio.iscoroutine(outcome):
            await outcome
    return (time.process_time() - start) / BATCH * 1e6


def wind_back(session: Session, rows: list[Login]) -> None:
    """As if the newest token had been issued ten minutes ago."""
    ids = [row.id for row in rows]
    anew = lineage_columns(Lineage(MINUTES_AGO))
    session.connection().execute(update(Login).where(col(Login.id).in_(ids)).values(anew))


def scope_of(token: str) -> MutableMapping[str, Any]:
    cookie = f"__Host-refresh={token}".encode()
    path = "/api/v1/auth/refresh"
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 40000),
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"bench"), (b"cookie", cookie)],
    }


def within(scope: MutableMapping[str, Any], *, cookies_taken: bool) -> MutableMapping[str, Any]:
    """As the layers above would hand it on."""
    # Received long from now, so that it has never waited for too long.
    state = {"request_id": "bench", "received_at": float("inf"), "client": "127.0.0.1"}
    inner = {**scope, "app": app, "state": state}
    if cookies_taken:
        take_cookies(inner, BACKEND.settings)
    return inner


async def ask(asgi: Any, scope: MutableMapping[str, Any]) -> None:
    messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await asgi(scope, receive, send)
    assert messages[0]["status"] == 200, messages


def layer_of(kind: type[Any]) -> Any:
    layer: Any = app.middleware_stack
    while not isinstance(layer, kind):
        layer = layer.app
    return layer


async def rotate(row: Login) -> None:
    token = RefreshToken(row.id, ClientId.BROWSER, MINUTES_AGO)
    assert await logins.rotate_unlocked(BACKEND, token, time.monotonic())


def sign(row: Login) -> None:
    set_cookies(Response(), BACKEND, row)


def body(row: Login) -> None:
    times = SessionTimes.of(row, datetime.now(UTC), BACKEND.settings)
    SessionRefreshed(session=times).model_dump_json()


if __name__ == "__main__":
    main()
