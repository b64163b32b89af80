"""The compact auth router: sign up, log in, refresh and log out, with cookies."""

from typing import Annotated

from fastapi import Depends, Request, Response, status
from fastapi.responses import JSONResponse

from app.api.cookies import (
    clear_cookies,
    presented_device,
    presented_logins,
    presented_refresh_token,
    set_cookies,
    set_device_cookie,
)
from app.api.dependencies import BackendDep, ClientDep, access_token_scheme
from app.api.problems import ACCEPTED, NEW_PASSWORD, UNSAFE, WITH_BODY, problems
from app.api.queued import QueuedRoute
from app.api.routes import V1, group
from app.api.strict_json import StrictJsonRoute
from app.core.refusals import Reason
from app.core.tokens import ClientId
from app.models.login import Credentials, SessionRefreshed, SessionStarted, SessionTimes
from app.models.user import Accepted, User, UserCreate, UserPublic
from app.services import accounts, authentication, logins, new_logins

queued = group(f"{V1}/auth", tags=["auth"], route_class=QueuedRoute)
router = group(f"{V1}/auth", tags=["auth"], route_class=StrictJsonRoute)


@queued.post(
    "/register",
    status_code=status.HTTP_201_CREATED,
    response_model=UserPublic,
    responses=problems(
        Reason.REGISTRATION_CLOSED,
        Reason.EMAIL_TAKEN,
        Reason.TOO_MANY_ATTEMPTS,
        *NEW_PASSWORD,
        *WITH_BODY,
    )
    | {202: ACCEPTED},
)
async def register(new_user: UserCreate, backend: BackendDep, client: ClientDep) -> User | Response:
    """Sign up.

    A password may hold any characters; length is what makes it strong, and several unrelated
    words make a good one. It must not be on the list of common passwords, or made of your
    name. Where addresses are verified, the answer is always 202, whether or not the address has
    an account, and a mail says how to go on.
    """
    user = await accounts.register(backend, new_user, client)
    return user or JSONResponse(Accepted().model_dump(), status.HTTP_202_ACCEPTED)


@queued.post(
    "/login",
    responses=problems(Reason.INVALID_CREDENTIALS, Reason.TOO_MANY_ATTEMPTS, *WITH_BODY),
)
async def login(
    credentials: Credentials,
    request: Request,
    response: Response,
    backend: BackendDep,
    client: ClientDep,
) -> SessionStarted:
    """Log in, as a browser does.

    Sets two HTTP-only cookies, which the browser sends by itself from now on and no script can
    read. It always starts a new session, and ends the one that the request came with. A third
    one marks this browser as known, so that nobody else's attempts lock it out.
    """
    authenticated = await authentication.authenticate(
        backend,
        credentials.email,
        credentials.password,
        client,
        presented_device(request, backend),
    )
    started = await new_logins.start(
        backend,
        authenticated,
        client,
        ClientId.BROWSER,
        replacing=presented_logins(request, backend),
    )
    access_expires_at = set_cookies(response, backend, started)
    set_device_cookie(response, backend, started.user_id, authenticated.device)
    return SessionStarted(
        user=UserPublic.model_validate(authenticated.user),
        session=SessionTimes.of(started, access_expires_at, backend.settings),
    )


@router.post(
    "/refresh",
    responses=problems(
        Reason.NOT_AUTHENTICATED,
        Reason.SESSION_EXPIRED,
        Reason.SESSION_REVOKED,
        Reason.TOKEN_REUSED,
        *UNSAFE,
    ),
)
async def refresh(
    request: Request, response: Response, backend: BackendDep, client: ClientDep
) -> SessionRefreshed:
    """Renew both cookies.

    Call it shortly before `access_expires_at`, or after a 401 `not_authenticated`. Any number
    of tabs may do so at the same time. Where a refresh token was copied, `token_reused` ends
    the session for both holders.
    """
    token = presented_refresh_token(request, backend)
    refreshed = await logins.refresh(
        backend, token, ClientId.BROWSER, client, request.state.received_at
    )
    access_expires_at = set_cookies(response, backend, refreshed)
    session = SessionTimes.of(refreshed, access_expires_at, backend.settings)
    return SessionRefreshed(session=session)


@router.post(
    "/logout",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    openapi_extra={"security": [{}]},  # nobody has to be logged in for it
    responses=problems(*UNSAFE),
)
async def logout(
    request: Request,
    response: Response,
    backend: BackendDep,
    client: ClientDep,
    access_token: Annotated[str | None, Depends(access_token_scheme)],
) -> None:
    """Log out. The session ends at once, its tokens are void, its cookies are cleared.

    It succeeds whatever state the cookies, or the Bearer token, are in.
    """
    await logins.end(backend, presented_logins(request, backend, access_token), client)
    clear_cookies(response, backend.settings)


router.routes[:0] = queued.routes
