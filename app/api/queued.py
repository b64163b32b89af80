"""Routes that hash a password, which takes far longer than all else: who waits, waits here.

In a flood of log-ins nearly all of them are refused, so a refusal must cost next to nothing: it
comes before the body is read, and leaves no line in the log.
"""

import asyncio
import logging
from collections.abc import Iterable

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.api.strict_json import StrictJsonRoute
from app.core.client import network_of
from app.core.logs import log_event
from app.core.passwords import Passwords
from app.core.refusals import Reason

TELL_SECONDS = 1  # between lines that say how many were refused


class QueuedRoute(StrictJsonRoute):
    """Whoever finds the queue full does not come in."""


class Queue:
    """Whom it has no room for, and how many those were."""

    def __init__(self, passwords: Passwords, routes: Iterable[BaseRoute]) -> None:
        self.passwords = passwords
        self.routes = {route.path: route for route in routes if isinstance(route, QueuedRoute)}
        self.refused = 0  # since the last line

    def is_full(self, client: str = "") -> bool:
        """For everybody, or for whoever comes from this address."""
        return self.passwords.is_full(network_of(client))

    def count(self) -> None:
        if not self.refused:
            asyncio.get_running_loop().call_later(TELL_SECONDS, self.tell)
        self.refused += 1

    def tell(self) -> None:
        if self.refused:
            log_event("queue_full", logging.ERROR, refused=self.refused)
        self.refused = 0


class QueueGate:
    """app/api/shortcut.py stands further out, and refuses nearly all of them."""

    def __init__(self, app: ASGIApp, queue: Queue) -> None:
        self.app = app
        self.queue = queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.route_of(scope)
        if route is None or not self.queue.is_full(scope["state"]["client"]):
            await self.app(scope, receive, send)
            return
        state = scope["state"]
        scope["route"] = route  # for the metrics
        state |= {"code": Reason.BUSY, "counted": True}
        self.queue.count()
        await problem_response(Reason.BUSY, state["request_id"])(scope, receive, send)

    def route_of(self, scope: Scope) -> QueuedRoute | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        return self.queue.routes.get(scope["path"].removeprefix(scope.get("root_path", "")))
