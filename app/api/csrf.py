"""Same-origin gate: a page elsewhere cannot act with somebody's cookies.

Unsafe requests must come from an allowed origin, from our own, or from no browser at all. The
rule is that of Go's http.CrossOriginProtection: every current browser says where a request
comes from, in Sec-Fetch-Site or in Origin, and no page can change that. There is no token that
a front end would have to carry. SameSite is the second line, not the first.
"""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.core.refusals import Reason

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class SameOriginGate:
    def __init__(self, app: ASGIApp, allowed_origins: Collection[str]) -> None:
        self.app = app
        self.allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["method"] not in SAFE_METHODS
            and is_cross_origin(Headers(scope=scope), self.allowed_origins)
        ):
            scope["state"]["code"] = Reason.CROSS_ORIGIN
            response = problem_response(Reason.CROSS_ORIGIN, scope["state"]["request_id"])
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)


def is_cross_origin(headers: Headers, allowed_origins: Collection[str]) -> bool:
    origins = headers.getlist("origin")
    fetch_sites = headers.getlist("sec-fetch-site")
    if len(origins) == 1 and origins[0] in allowed_origins:
        return False
    if fetch_sites:
        return fetch_sites not in (["same-origin"], ["none"])
    if origins:
        # Only the host is compared: behind a proxy that ends TLS we do not know our scheme.
        # "null" (a sandboxed frame, a data: page) is nobody's host.
        _, _, host = origins[0].partition("://")
        return len(origins) > 1 or not host or host != headers.get("host")
    return False  # not a browser, so nobody's cookies are sent unknowingly
