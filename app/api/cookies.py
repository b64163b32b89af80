"""The two cookies of a browser's login: names and attributes in one list, set and cleared alike.

`__Host-` makes the browser insist on Secure, Path=/ and no Domain: no sibling host can plant
one. With DEBUG=true they go without the prefix and Secure, so that plain http clients work.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import Request, Response

from app.core.config import Settings
from app.core.refusals import Reason, Refusal
from app.core.tokens import ClientId, InvalidToken, RefreshToken
from app.models.login import Login
from app.services.backend import Backend

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  # not "now": some clients keep a cookie for that second


def access_cookie(settings: Settings) -> str:
    return "auth-access" if settings.debug else "__Host-access"


def refresh_cookie(settings: Settings) -> str:
    return "auth-refresh" if settings.debug else "__Host-refresh"


def attributes(settings: Settings) -> dict[str, Any]:
    return {"path": "/", "secure": not settings.debug, "httponly": True, "samesite": "lax"}


def set_cookies(response: Response, backend: Backend, login: Login) -> None:
    settings, tokens = backend.settings, backend.tokens
    access = tokens.issue_access(login.user_id, login.id, ClientId.BROWSER)
    refresh = tokens.issue_refresh(login.id, ClientId.BROWSER, login.last, login.expires_at)
    lifetime = int(settings.access_lifetime.total_seconds())
    remaining = int((login.expires_at - datetime.now(UTC)).total_seconds())
    shared = attributes(settings)
    response.set_cookie(access_cookie(settings), access, max_age=lifetime, **shared)
    response.set_cookie(refresh_cookie(settings), refresh, max_age=remaining, **shared)


def presented_refresh_token(request: Request, backend: Backend) -> RefreshToken:
    """Raises Refusal(NOT_AUTHENTICATED)."""
    cookie = request.cookies.get(refresh_cookie(backend.settings), "")
    try:
        return backend.tokens.read_refresh(cookie)
    except InvalidToken:
        raise Refusal(Reason.NOT_AUTHENTICATED) from None


def presented_logins(request: Request, backend: Backend) -> set[UUID]:
    """The logins that this request's cookies belong to, expired or not."""
    names = (refresh_cookie(backend.settings), access_cookie(backend.settings))
    found = (backend.tokens.login_of(request.cookies.get(name, "")) for name in names)
    return {login_id for login_id in found if login_id}


def clear_cookies(response: Response, settings: Settings) -> None:
    """Only a log-out does this: a late, losing refresh would wipe out the winner's cookies."""
    for name in (access_cookie(settings), refresh_cookie(settings)):
        response.set_cookie(name, "", max_age=0, expires=LONG_AGO, **attributes(settings))
