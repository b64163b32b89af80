"""The outer wall of the application: what holds for every request, whatever its route.

It gives the request an id, turns away what must not come in, answers what nobody else caught,
puts the security headers on, and writes the access log.
"""

import ipaddress
import logging
import re
import time
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.client import client_address
from app.api.errors import problem_response
from app.api.headers import REQUEST_ID, add_headers
from app.core.config import Settings
from app.core.logs import current_request_id, log_event, logger
from app.core.refusals import Reason

LARGEST_BODY = 64 * 1024  # bytes
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


class Boundary:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.debug = settings.debug
        self.trusted_proxies = settings.trusted_proxies
        self.allowed_hosts = frozenset(host.lower() for host in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at = time.monotonic()
        headers = Headers(scope=scope)
        request_id = acceptable_id(headers.get(REQUEST_ID)) or token_hex(8)
        state = scope.setdefault("state", {})
        state |= {
            "request_id": request_id,
            "received_at": started_at,
            "client": client_address(scope, headers, self.trusted_proxies),
        }
        current_request_id.set(request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_headers(MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            if refused := self.refuse(scope, headers):
                state["code"] = refused
                response = problem_response(refused, request_id)
                await response(scope, receive, send_with_headers)
            else:
                await self.app(scope, limited(receive), send_with_headers)
        except Exception:
            logger.exception("unexpected error")
            if status:  # part of an answer is out: break off, so that nobody takes it for whole
                raise
            state["code"] = Reason.INTERNAL_ERROR
            response = problem_response(Reason.INTERNAL_ERROR, request_id)
            await response(scope, receive, send_with_headers)
        finally:
            log_event(
                "request",
                logging.ERROR if status >= 500 else logging.INFO,
                method=scope["method"],
                path=scope["path"],  # never the query
                status=status or None,
                code=state.get("code"),
                duration_ms=round((time.monotonic() - started_at) * 1000, 2),
                client=state["client"],
                user_id=state.get("user_id"),
                login_id=state.get("login_id"),
            )

    def refuse(self, scope: Scope, headers: Headers) -> Reason | None:
        if self.debug and not is_loopback(scope.get("server")):
            return Reason.DEBUG_NOT_LOOPBACK
        if self.allowed_hosts and host_name(headers.get("host", "")) not in self.allowed_hosts:
            return Reason.WRONG_HOST
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > LARGEST_BODY:
            return Reason.CONTENT_TOO_LARGE
        return None


def acceptable_id(sent: str | None) -> str | None:
    """A caller's own request id is kept where it is harmless in a log."""
    return sent if sent and ACCEPTABLE_ID.fullmatch(sent) else None


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
