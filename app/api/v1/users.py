"""Administration: other people's accounts. Nobody reads or chooses a password here."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Response, status
from starlette.convertors import StringConvertor, register_url_convertor

from app.api.dependencies import BackendDep, ClientDep, CurrentAdmin
from app.api.problems import ADMINISTRATOR, DATABASE, UNSAFE, WITH_BODY, problems
from app.api.routes import V1, group
from app.api.strict_json import StrictJsonRoute
from app.core.refusals import Reason
from app.models.user import (
    Accepted,
    User,
    UserInvite,
    UserPage,
    UserPublic,
    UserQuery,
    UserUpdateByAdmin,
)
from app.services import administration
from app.services.paging import Page


class OtherThanMe(StringConvertor):
    """`me` is nobody's id: what is not there under /users/me is 404 or 405, and none of these."""

    regex = "(?!me(?:/|$))[^/]+"


register_url_convertor("other", OtherThanMe())

router = group(f"{V1}/users", tags=["administration"], route_class=StrictJsonRoute)

ONE_USER = (*ADMINISTRATOR, Reason.NOT_FOUND, Reason.VALIDATION_FAILED)


@router.get(
    "",
    response_model=UserPage,
    responses=problems(*ADMINISTRATOR, Reason.BAD_REQUEST, Reason.VALIDATION_FAILED, *DATABASE),
)
async def list_users(
    query: Annotated[UserQuery, Query()], admin: CurrentAdmin, backend: BackendDep
) -> Page[User]:
    """Who has an account? The newest first.

    For the next page, give `next` as `after`; at the last page it is null.
    """
    return await administration.list_users(backend, query)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=UserPublic,
    responses=problems(
        *ADMINISTRATOR,
        Reason.EMAIL_TAKEN,
        Reason.MAIL_NOT_CONFIGURED,
        Reason.TOO_MANY_ATTEMPTS,
        *WITH_BODY,
    ),
)
async def invite_user(
    new_user: UserInvite, admin: CurrentAdmin, backend: BackendDep, client: ClientDep
) -> User:
    """Invite somebody.

    A mail brings them a link, by which they choose their password. Nobody else can choose it. It
    works for 24 hours; `POST /users/{user_id}/password-reset` sends another one.
    """
    return await administration.invite(backend, new_user, client, admin=admin)


@router.get("/{user_id:other}", response_model=UserPublic, responses=problems(*ONE_USER, *DATABASE))
async def read_user(user_id: UUID, admin: CurrentAdmin, backend: BackendDep) -> User:
    """Look at one account."""
    return await administration.read_user(backend, user_id)


@router.patch(
    "/{user_id:other}",
    response_model=UserPublic,
    responses=problems(*ADMINISTRATOR, Reason.NOT_FOUND, Reason.LAST_ADMIN, *WITH_BODY),
)
async def change_user(
    user_id: UUID,
    changes: UserUpdateByAdmin,
    admin: CurrentAdmin,
    backend: BackendDep,
    client: ClientDep,
) -> User:
    """Disable somebody, make them an administrator, or demand a new password.

    What is left out stays as it is. See that `email_verified` is true before you make somebody
    an administrator: otherwise anybody may have signed up with that address. Disabling ends
    every session and makes every mailed link void, at once and for good: enabling brings none
    of them back. The last active administrator can be neither demoted nor disabled, and one who
    cannot log in does not count.
    """
    return await administration.change(backend, user_id, changes, client, admin=admin)


@router.delete(
    "/{user_id:other}",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(*ONE_USER, Reason.OWN_ACCOUNT, Reason.LAST_ADMIN, *UNSAFE),
)
async def delete_user(
    user_id: UUID, admin: CurrentAdmin, backend: BackendDep, client: ClientDep
) -> None:
    """Delete somebody's account, and everything that is stored about them.

    A mail tells them. The audit trail stays: it holds ids and no names. Your own goes with
    `POST /users/me/delete`, which asks for your password.
    """
    await administration.delete(backend, user_id, client, admin=admin)


@router.post(
    "/{user_id:other}/password-reset",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Accepted,
    responses=problems(*ONE_USER, Reason.MAIL_NOT_CONFIGURED, Reason.TOO_MANY_ATTEMPTS, *UNSAFE),
)
async def start_password_reset(
    user_id: UUID, admin: CurrentAdmin, backend: BackendDep, client: ClientDep
) -> Accepted:
    """Mail somebody a link, by which they choose a new password.

    The old one works until they do. Whoever was invited and has not come yet is invited again.
    Nothing is sent to a disabled account.
    """
    await administration.start_reset(backend, user_id, client, admin=admin)
    return Accepted()


@router.delete(
    "/{user_id:other}/sessions",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(*ONE_USER, *UNSAFE),
)
async def end_user_sessions(
    user_id: UUID, admin: CurrentAdmin, backend: BackendDep, client: ClientDep
) -> None:
    """Log somebody out everywhere."""
    await administration.end_logins(backend, user_id, client, admin=admin)
