"""The current user's logins, which the API calls sessions: one on each device."""

from uuid import UUID

from fastapi import Response, status

from app.api.cookies import clear_cookies
from app.api.dependencies import BackendDep, ClientDep, CurrentLogin
from app.api.problems import AUTHENTICATED, DATABASE, UNSAFE, problems
from app.api.routes import V1, group
from app.core.refusals import Reason
from app.core.tokens import ClientId
from app.models.login import SessionPublic
from app.services import logins
from app.services.backend import Backend
from app.services.logins import Current

router = group(f"{V1}/users/me/sessions", tags=["sessions"])


@router.get("", responses=problems(*AUTHENTICATED, *DATABASE))
async def list_sessions(current: CurrentLogin, backend: BackendDep) -> list[SessionPublic]:
    """Where am I logged in?

    The most recently used first, at most 100.
    """
    alive = await logins.list_alive(backend, current.user)
    return [
        SessionPublic.model_validate(login, update={"current": login.id == current.login.id})
        for login in alive
    ]


@router.delete(
    "",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(*AUTHENTICATED, Reason.BAD_REQUEST, Reason.VALIDATION_FAILED, *UNSAFE),
)
async def end_sessions(
    response: Response,
    current: CurrentLogin,
    backend: BackendDep,
    client: ClientDep,
    include_current: bool = False,
) -> None:
    """Log out on all other devices.

    With `include_current=true` on this one too.
    """
    spared = None if include_current else current.login.id
    await logins.end_all(backend, current.user.id, client, actor_id=current.user.id, sparing=spared)
    if include_current:
        forget(response, current, backend)


@router.delete(
    "/{session_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(*AUTHENTICATED, Reason.NOT_FOUND, Reason.VALIDATION_FAILED, *UNSAFE),
)
async def end_session(
    session_id: UUID,
    response: Response,
    current: CurrentLogin,
    backend: BackendDep,
    client: ClientDep,
) -> None:
    """Log out on one device, which may be this one."""
    await logins.end_one(backend, current.user, session_id, client)
    if session_id == current.login.id:
        forget(response, current, backend)


def forget(response: Response, current: Current, backend: Backend) -> None:
    """Not for a program: cookies that came along with its token are somebody else's login."""
    if current.login.client_id == ClientId.BROWSER:
        clear_cookies(response, backend.settings)
