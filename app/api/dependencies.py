"""What the routes ask for, as Annotated aliases."""

import re
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection

from app.core.client import LONGEST_USER_AGENT, Client
from app.core.jws import InvalidToken
from app.core.refusals import Reason, Refusal
from app.core.tokens import AccessToken
from app.models.user import User
from app.services import logins
from app.services.backend import Backend
from app.services.logins import Current

BEARER = re.compile(r"\s*bearer\b", re.IGNORECASE)


async def get_backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


BackendDep = Annotated[Backend, Depends(get_backend)]


async def get_client(request: Request) -> Client:
    user_agent = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))
    user_agent = user_agent[:LONGEST_USER_AGENT]
    client = Client(request.state.client, user_agent, request.state.request_id)
    request.state.caller = client
    return client


ClientDep = Annotated[Client, Depends(get_client)]


class AccessTokenScheme(OAuth2PasswordBearer):
    """The Bearer header if there is one, else the access cookie. Never one after the other."""

    async def __call__(self, request: HTTPConnection) -> str | None:
        headers = request.headers.getlist("authorization")
        bearer = [header for header in headers if BEARER.match(header)]
        if not bearer:
            cookie: str | None = request.state.access_cookie
            return cookie
        well_formed = re.fullmatch(r"bearer +(\S+)", bearer[0], re.IGNORECASE)
        return well_formed[1] if well_formed and len(headers) == 1 else ""


access_token_scheme = AccessTokenScheme(
    tokenUrl="/api/v1/auth/token",
    refreshUrl="/api/v1/auth/token",
    scheme_name="Password",
    description="Log in with an email address (as username) and a password.",
    auto_error=False,
)


PresentedToken = Annotated[str | None, Depends(access_token_scheme)]


async def get_identified(request: Request, presented: PresentedToken) -> Current:
    return await logins.identify(request.app.state.backend, read_token(request, presented))


async def get_token_holder(request: Request, presented: PresentedToken) -> AccessToken:
    return read_token(request, presented)


# Who the access token was issued to, without asking the database: for routes of yours that may
# let somebody in until it expires, 15 minutes after they have logged out. None of ours does.
TokenHolder = Annotated[AccessToken, Depends(get_token_holder)]


def read_token(request: Request, presented: str | None) -> AccessToken:
    backend: Backend = request.app.state.backend
    try:
        token = backend.tokens.read_access(presented or "")
    except InvalidToken:
        raise Refusal(Reason.NOT_AUTHENTICATED) from None
    request.state.user_id, request.state.login_id = token
    return token


# Also while a new password is demanded: only for what helps to set one.
IdentifiedLogin = Annotated[Current, Depends(get_identified)]


async def get_current(current: IdentifiedLogin) -> Current:
    if current.user.must_change_password:
        raise Refusal(Reason.PASSWORD_CHANGE_REQUIRED)
    return current


CurrentLogin = Annotated[Current, Depends(get_current)]


async def get_current_user(current: CurrentLogin) -> User:
    return current.user


CurrentUser = Annotated[User, Depends(get_current_user)]


async def get_current_admin(user: CurrentUser) -> User:
    if not user.is_admin:
        raise Refusal(Reason.FORBIDDEN)
    return user


CurrentAdmin = Annotated[User, Depends(get_current_admin)]
