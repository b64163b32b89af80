"""What a mailed link is for, and how to get one. No login is needed, and none is started."""

from fastapi import Response, status

from app.api.dependencies import BackendDep, ClientDep
from app.api.problems import NEW_PASSWORD, WITH_BODY, problems
from app.api.routes import V1, group
from app.api.strict_json import StrictJsonRoute
from app.core.refusals import Reason
from app.models.mail import LinkToken, NewPasswordByLink
from app.models.user import Accepted, EmailOnly
from app.services import recovery

router = group(f"{V1}/auth", tags=["recovery"], route_class=StrictJsonRoute)

ASKING = problems(Reason.TOO_MANY_ATTEMPTS, *WITH_BODY)


@router.post(
    "/verify-email",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(Reason.INVALID_ONE_TIME_TOKEN, *WITH_BODY),
)
async def verify_email(link: LinkToken, backend: BackendDep, client: ClientDep) -> None:
    """Confirm an email address, with the token of the mailed link.

    It works once, for 24 hours. Opening the link does nothing yet: mail scanners do that, too.
    """
    await recovery.verify_email(backend, link.token, client)


@router.post("/verify-email/request", status_code=status.HTTP_202_ACCEPTED, responses=ASKING)
async def request_verification(
    whose: EmailOnly, backend: BackendDep, client: ClientDep
) -> Accepted:
    """Send the link that confirms an email address, once more.

    The answer is the same for every address.
    """
    await recovery.ask_for_verification(backend, whose.email, client)
    return Accepted()


@router.post("/forgot-password", status_code=status.HTTP_202_ACCEPTED, responses=ASKING)
async def forgot_password(whose: EmailOnly, backend: BackendDep, client: ClientDep) -> Accepted:
    """Send a link to choose a new password.

    The answer is the same for every address, and nothing changes until the link is used.
    """
    await recovery.ask_for_reset(backend, whose.email, client)
    return Accepted()


@router.post(
    "/reset-password",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problems(
        Reason.INVALID_ONE_TIME_TOKEN, *NEW_PASSWORD, Reason.PASSWORD_UNCHANGED, *WITH_BODY
    ),
)
async def reset_password(new: NewPasswordByLink, backend: BackendDep, client: ClientDep) -> None:
    """Choose a new password, with the token of the mailed link.

    The link works once, for an hour. Every session of the account ends; log in anew with the
    new password. A password that is refused leaves the link as it was.
    """
    await recovery.reset_password(backend, new.token, new.password, client)
