"""What does not come in: wrong hosts, large bodies, others' cookies; and no exception gets out."""

import asyncio
import ipaddress
import re

from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.cookies import take_cookies
from app.api.problems import problem_response
from app.core.config import Settings
from app.core.logs import logger
from app.core.refusals import Reason

LARGEST_BODY = 64 * 1024  # bytes
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


class Boundary:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.allowed_hosts = frozenset(host.lower() for host in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state, started = scope["state"], False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            reason = self.refuse(scope)
            if reason is None:
                take_cookies(scope, self.settings)
                await self.app(scope, limited(receive), send_and_note)
                return
        except asyncio.CancelledError:  # the process ends, and has waited for long enough
            if started:  # break off, so that nobody takes half an answer for a whole one
                raise
            reason = Reason.SHUTTING_DOWN
        except Exception:
            logger.exception("unexpected error")
            if started:
                raise
            reason = Reason.INTERNAL_ERROR
        state["code"] = reason
        await problem_response(reason, state["request_id"])(scope, receive, send)

    def refuse(self, scope: Scope) -> Reason | None:
        headers = Headers(scope=scope)
        if self.settings.debug and not is_loopback(scope.get("server")):
            return Reason.DEBUG_NOT_LOOPBACK
        if not self.answers_under(headers.get("host", ""), scope["path"]):
            return Reason.WRONG_HOST
        if CONTROL_CHARACTER.search(scope["path"]):  # the router would overlook a last line break
            return Reason.NOT_FOUND
        if b"%2f" in scope.get("raw_path", b"").lower():  # a slash here, a letter to a proxy
            return Reason.NOT_FOUND
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 9 or int(length) > LARGEST_BODY):
            return Reason.CONTENT_TOO_LARGE
        if scope["query_string"]:
            query = QueryParams(scope["query_string"])
            if len(query.multi_items()) > len(query):  # a proxy could read another one of them
                return Reason.BAD_REQUEST
        return None

    def answers_under(self, host: str, path: str) -> bool:
        """Load balancers and Prometheus ask by address: they know no name."""
        if not self.allowed_hosts or path.startswith("/health/") or path == "/metrics":
            return True
        return host_name(host) in self.allowed_hosts


def is_loopback(server: tuple[str, int | None] | None) -> bool:
    """Where the connection came in. What is no address is on no network: a socket file."""
    try:
        return server is None or ipaddress.ip_address(server[0]).is_loopback
    except ValueError:
        return True


def host_name(host: str) -> str:
    """Without the port; [::1]:8000 is [::1]."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def limited(receive: Receive) -> Receive:
    """A body without a Content-Length can be endless: it is counted as it comes."""
    received = 0

    async def receive_within_limit() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > LARGEST_BODY:
            raise HTTPException(413)
        return message

    return receive_within_limit
