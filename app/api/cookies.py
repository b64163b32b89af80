"""The cookies of a browser: names and attributes in one list, set and cleared alike.

Two are a login. The third marks a browser that somebody has logged in with, and outlives it.

`__Host-` makes the browser insist on Secure, Path=/ and no Domain: no sibling host can plant
one. With DEBUG=true they go without the prefix and Secure, so that plain http clients work.
"""

from datetime import UTC, datetime
from uuid import UUID

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.types import Scope

from app.core.config import Settings
from app.core.identifiers import new_id
from app.core.jws import InvalidToken
from app.core.moments import seconds_until
from app.core.refusals import Reason, Refusal
from app.core.tokens import DEVICE_LIFETIME, ClientId, DeviceToken, RefreshToken
from app.models.login import Login
from app.services.backend import Backend

# Not "now": some clients keep a cookie for that second.
LONG_AGO = "; expires=Thu, 01 Jan 1970 00:00:00 GMT"


def access_cookie(settings: Settings) -> str:
    return "auth-access" if settings.debug else "__Host-access"


def refresh_cookie(settings: Settings) -> str:
    return "auth-refresh" if settings.debug else "__Host-refresh"


def device_cookie(settings: Settings) -> str:
    return "auth-device" if settings.debug else "__Host-device"


def put(response: Response, settings: Settings, name: str, value: str, max_age: int) -> None:
    """max_age: seconds; 0 deletes it. Starlette's set_cookie() would take ten times as long: our
    values are tokens, which need no quotes.
    """
    gone = "" if max_age else LONG_AGO
    secure = "" if settings.debug else "; Secure"
    response.headers.append(
        "Set-Cookie",
        f"{name}={value}; HttpOnly; Max-Age={max_age}; Path=/; SameSite=lax{secure}{gone}",
    )


def set_cookies(response: Response, backend: Backend, login: Login) -> datetime:
    """Says when the access token expires."""
    settings, tokens = backend.settings, backend.tokens
    access, access_expires_at = tokens.issue_access(
        login.user_id, login.id, ClientId.BROWSER, login.expires_at
    )
    refresh = tokens.issue_refresh(login.id, ClientId.BROWSER, login.last, login.expires_at)
    for name, token, expires_at in (
        (access_cookie(settings), access, access_expires_at),
        (refresh_cookie(settings), refresh, login.expires_at),
    ):
        put(response, settings, name, token, seconds_until(expires_at))
    return access_expires_at


def set_device_cookie(
    response: Response, backend: Backend, user_id: UUID, known: DeviceToken | None
) -> None:
    """Renewed at every log-in: a year without one, and the browser is a stranger."""
    now = datetime.now(UTC)
    token = backend.tokens.issue_device(user_id, known.device_id if known else new_id(), now)
    lifetime = int(DEVICE_LIFETIME.total_seconds())
    put(response, backend.settings, device_cookie(backend.settings), token, lifetime)


def take_cookies(scope: Scope, settings: Settings) -> None:
    """Take our cookies out of the request, and let nobody parse the others.

    They are other applications' or an attacker's, and Python's unquoting of a cookie takes
    quadratic time in some versions (CVE-2024-7592). Ours need none. One that comes twice with
    different values is nobody's.
    """
    names = (access_cookie(settings), refresh_cookie(settings), device_cookie(settings))
    found: dict[str, str] = {}
    for header in Headers(scope=scope).getlist("cookie"):
        for pair in header.split(";"):
            # Not strip(): to Python, some bytes that a browser takes for a letter are spaces, so a
            # sibling host could plant "\xa0__Host-refresh", which no browser takes for ours.
            name, _, value = pair.strip(" \t").partition("=")
            if name in names:
                found[name] = value if found.get(name, value) == value else ""
    scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]
    kinds = ("access_cookie", "refresh_cookie", "device_cookie")
    scope["state"] |= zip(kinds, map(found.get, names), strict=True)


def presented_refresh_token(request: Request, backend: Backend) -> RefreshToken:
    """Raises Refusal(NOT_AUTHENTICATED)."""
    try:
        return backend.tokens.read_refresh(request.state.refresh_cookie or "")
    except InvalidToken:
        raise Refusal(Reason.NOT_AUTHENTICATED) from None


def presented_device(request: Request, backend: Backend) -> DeviceToken | None:
    try:
        return backend.tokens.read_device(request.state.device_cookie or "")
    except InvalidToken:
        return None


def presented_logins(request: Request, backend: Backend, *others: str | None) -> set[UUID]:
    """The logins that this request's cookies, and `others`, belong to, expired or not."""
    tokens = {request.state.refresh_cookie, request.state.access_cookie, *others}
    found = (backend.tokens.login_of(token) for token in tokens if token)
    return {login_id for login_id in found if login_id}


def clear_cookies(response: Response, settings: Settings, *, device: bool = False) -> None:
    """Only a log-out does this: a late, losing refresh would wipe out the winner's cookies.

    device: also forget that this browser is known, as when the account is gone.
    """
    names = [access_cookie(settings), refresh_cookie(settings)]
    for name in [*names, device_cookie(settings)] if device else names:
        put(response, settings, name, "", 0)
