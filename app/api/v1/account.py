"""The current user's own account."""

from fastapi import Request, Response, status

from app.api.cookies import clear_cookies, presented_device, set_cookies, set_device_cookie
from app.api.dependencies import BackendDep, ClientDep, CurrentLogin, CurrentUser, IdentifiedLogin
from app.api.problems import (
    AUTHENTICATED,
    DATABASE,
    IDENTIFIED,
    NEW_PASSWORD,
    WITH_BODY,
    problems,
)
from app.api.routes import V1, group
from app.api.strict_json import StrictJsonRoute
from app.api.v1.oauth2 import token_pair
from app.core.refusals import Reason
from app.core.tokens import ClientId
from app.models.export import AccountExport
from app.models.login import SessionStarted, SessionTimes, TokenPair
from app.models.mail import LinkToken
from app.models.user import (
    Accepted,
    Confirmation,
    EmailChange,
    PasswordChange,
    User,
    UserPublic,
    UserUpdate,
)
from app.services import authentication, profile

router = group(f"{V1}/users/me", tags=["account"], route_class=StrictJsonRoute)

STEP_UP = (Reason.WRONG_PASSWORD, Reason.TOO_MANY_ATTEMPTS)


@router.get("", response_model=UserPublic, responses=problems(*IDENTIFIED, *DATABASE))
async def read_me(current: IdentifiedLogin) -> User:
    """Who am I?"""
    return current.user


@router.patch(
    "",
    response_model=UserPublic,
    responses=problems(*AUTHENTICATED, Reason.TOO_MANY_ATTEMPTS, *WITH_BODY),
)
async def update_me(
    changes: UserUpdate, user: CurrentUser, backend: BackendDep, client: ClientDep
) -> User:
    """Change my name.

    Password and email address have ways of their own, which ask for the password.
    """
    return await profile.change(backend, user, changes, client)


@router.put(
    "/password",
    responses=problems(*IDENTIFIED, *STEP_UP, *NEW_PASSWORD, Reason.PASSWORD_UNCHANGED, *WITH_BODY),
)
async def change_password(
    change: PasswordChange,
    request: Request,
    response: Response,
    current: IdentifiedLogin,
    backend: BackendDep,
    client: ClientDep,
) -> SessionStarted | TokenPair:
    """Change my password.

    Every session ends, this one too, and a new one starts: its cookies come with the answer, or
    its tokens to a program. Links that were mailed before are void.
    """
    user, login = await profile.change_password(
        backend, current, change.current_password, change.new_password, client
    )
    if login.client_id == ClientId.PROGRAM:
        return token_pair(backend, login)
    access_expires_at = set_cookies(response, backend, login)
    device = presented_device(request, backend)
    known = device if device and authentication.is_known(device, current.user) else None
    set_device_cookie(response, backend, login.user_id, known)
    return SessionStarted(
        user=UserPublic.model_validate(user),
        session=SessionTimes.of(login, access_expires_at, backend.settings),
    )


@router.put(
    "/email",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problems(*AUTHENTICATED, *STEP_UP, *WITH_BODY),
)
async def change_email(
    change: EmailChange, user: CurrentUser, backend: BackendDep, client: ClientDep
) -> Accepted:
    """Change my email address.

    A link is mailed to the new address, and nothing changes before it is used. The answer is the
    same whether or not somebody has an account with that address.
    """
    await profile.ask_to_change_email(backend, user, change.password, change.email, client)
    return Accepted()


@router.post(
    "/email/confirm",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(Reason.INVALID_ONE_TIME_TOKEN, *WITH_BODY),
)
async def confirm_email(link: LinkToken, backend: BackendDep, client: ClientDep) -> None:
    """Confirm a new email address, with the token of the mailed link.

    Nobody has to be logged in for it. The former address is told.
    """
    await profile.confirm_email(backend, link.token, client)


@router.get("/export", responses=problems(*AUTHENTICATED, Reason.TOO_MANY_ATTEMPTS, *DATABASE))
async def export_me(current: CurrentLogin, backend: BackendDep, client: ClientDep) -> AccountExport:
    """What is stored about me? Everything, as JSON.

    Of the activity the newest 10,000 events; `GET /users/me/activity` has the rest, in pages.
    """
    return await profile.export(backend, current, client)


@router.post(
    "/delete",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(*AUTHENTICATED, *STEP_UP, Reason.LAST_ADMIN, *WITH_BODY),
)
async def delete_me(
    confirmation: Confirmation,
    response: Response,
    current: CurrentLogin,
    backend: BackendDep,
    client: ClientDep,
) -> None:
    """Delete my account, for good.

    Every session ends at once. The only administrator cannot go.
    """
    await profile.delete(backend, current.user, confirmation.password, client)
    if current.login.client_id == ClientId.BROWSER:
        clear_cookies(response, backend.settings, device=True)
