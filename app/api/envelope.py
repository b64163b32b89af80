"""What every answer travels in: a request id, the security headers, and a line in the log."""

import logging
import re
import time
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.client import client_address, unnamed_proxy
from app.api.metrics import route_template
from app.api.telemetry import give_back_query
from app.core import metrics
from app.core.client import Client
from app.core.config import Settings
from app.core.logs import current_request_id, log_event, logger

REQUEST_ID = "X-Request-ID"
REQUEST_ID_HEADER = REQUEST_ID.lower().encode()
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)

# Unless a response sets its own. In lower case, as ASGI has them.
SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (b"vary", b"Origin"),
    (b"x-content-type-options", b"nosniff"),
]


class Envelope:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.trusted_proxies = settings.trusted_proxies
        self.counts = settings.enable_metrics
        self.has_warned = False  # once a process is enough

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received_at = time.monotonic()
        give_back_query(scope)
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        current_request_id.set(request_id)
        state = scope.setdefault("state", {})
        state |= {
            "request_id": request_id,
            "received_at": received_at,
            "client": client_address(scope, headers, self.trusted_proxies),
        }
        if not self.has_warned:
            self.warn_of_proxy(scope, headers)
        status = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_headers(message["headers"], request_id)
                tell_quota(message, state.get("caller"))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            duration = time.monotonic() - received_at
            if "counted" not in state:  # by whoever refused it
                log_request(scope, status, duration)
            if self.counts:
                metrics.count_request(scope["method"], route_template(scope), status, duration)

    def warn_of_proxy(self, scope: Scope, headers: Headers) -> None:
        if proxy := unnamed_proxy(scope, headers, self.trusted_proxies):
            self.has_warned = True
            logger.warning(
                "%s sends X-Forwarded-For and is not believed: put it into TRUSTED_PROXIES if it "
                "is your proxy, or all its clients share the limits of one network.",
                proxy,
            )


def request_id_of(headers: Headers) -> str:
    """A caller's own is kept where it is harmless in a log."""
    sent = headers.get(REQUEST_ID)
    return sent if sent and ACCEPTABLE_ID.fullmatch(sent) else token_hex(8)


def add_headers(headers: list[tuple[bytes, bytes]], request_id: str) -> None:
    """Those that every answer has."""
    sent = {name for name, _ in headers}
    headers += [pair for pair in SECURITY_HEADERS if pair[0] not in sent]
    headers.append((REQUEST_ID_HEADER, request_id.encode()))


def log_request(scope: Scope, status: int | None, seconds: float) -> None:
    state = scope["state"]
    log_event(
        "request",
        logging.ERROR if (status or 500) >= 500 else logging.INFO,
        method=scope["method"],
        path=scope["path"],  # never the query
        status=status,
        code=state.get("code"),
        duration_ms=round(seconds * 1000, 2),
        client=state["client"],
        user_id=state.get("user_id"),
        login_id=state.get("login_id"),
    )


def tell_quota(message: Message, caller: Client | None) -> None:
    """What is left to the caller's own network (draft-ietf-httpapi-ratelimit-headers).

    Never what is left of an account: that would tell what others tried.
    """
    if caller and (quota := caller.quota):
        answer = MutableHeaders(scope=message)
        reset = "" if quota.reset is None else f";t={quota.reset}"
        answer["RateLimit-Policy"] = f'"{quota.limit}";q={quota.size};w=3600'
        answer["RateLimit"] = f'"{quota.limit}";r={quota.remaining}{reset}'
