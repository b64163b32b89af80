"""What each refusal says: RFC 9457 problem details, for the answers and for the documentation."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.core.refusals import Reason
from app.models.user import Accepted


class Problem(NamedTuple):
    status: HTTPStatus
    title: str
    detail: str
    retry_after: int | None = None  # seconds


PROBLEMS = {
    Reason.NOT_AUTHENTICATED: Problem(
        HTTPStatus.UNAUTHORIZED,
        "Not authenticated",
        "This needs a valid access token. Refresh, or log in.",
    ),
    Reason.INVALID_CREDENTIALS: Problem(
        HTTPStatus.UNAUTHORIZED,
        "Invalid credentials",
        "The email address or the password is wrong, or the account is disabled or not verified.",
    ),
    Reason.SESSION_EXPIRED: Problem(
        HTTPStatus.UNAUTHORIZED, "Session expired", "This session has expired. Log in again."
    ),
    Reason.SESSION_REVOKED: Problem(
        HTTPStatus.UNAUTHORIZED, "Session revoked", "This session was ended. Log in again."
    ),
    Reason.TOKEN_REUSED: Problem(
        HTTPStatus.UNAUTHORIZED,
        "Refresh token reused",
        "This session's refresh token was copied: two parties used it. The session has been "
        "ended for both. Log in again.",
    ),
    Reason.CROSS_ORIGIN: Problem(
        HTTPStatus.FORBIDDEN,
        "Cross-origin request refused",
        "A page on another origin may not send this request. If it is your front end, add its "
        "origin to BACKEND_CORS_ORIGINS.",
    ),
    Reason.DEBUG_NOT_LOOPBACK: Problem(
        HTTPStatus.FORBIDDEN,
        "Debug mode answers on loopback only",
        "With DEBUG=true this server answers on 127.0.0.1 and ::1 only. Set DEBUG=false to "
        "serve other machines.",
    ),
    Reason.FORBIDDEN: Problem(
        HTTPStatus.FORBIDDEN, "Forbidden", "Only administrators may do this."
    ),
    Reason.LAST_ADMIN: Problem(
        HTTPStatus.CONFLICT,
        "Last administrator",
        "This is the only active administrator. Make somebody else one first.",
    ),
    Reason.OWN_ACCOUNT: Problem(
        HTTPStatus.CONFLICT,
        "Own account",
        "Delete your own account with POST /users/me/delete, which asks for your password.",
    ),
    Reason.PASSWORD_CHANGE_REQUIRED: Problem(
        HTTPStatus.FORBIDDEN,
        "Password change required",
        "An administrator asks for a new password. Until it is changed, with "
        "PUT /users/me/password, nothing else is allowed.",
    ),
    Reason.REGISTRATION_CLOSED: Problem(
        HTTPStatus.FORBIDDEN, "Registration closed", "Nobody can sign up here at present."
    ),
    Reason.WRONG_HOST: Problem(
        HTTPStatus.MISDIRECTED_REQUEST,
        "Wrong host",
        "This service does not answer under that host name.",
    ),
    Reason.WRONG_PASSWORD: Problem(
        HTTPStatus.FORBIDDEN, "Wrong password", "The current password is not this one."
    ),
    Reason.BAD_REQUEST: Problem(
        HTTPStatus.BAD_REQUEST, "Bad request", "The request could not be read."
    ),
    Reason.CONTENT_TOO_LARGE: Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "Content too large",
        "The request body is larger than 64 KiB.",
    ),
    Reason.EMAIL_TAKEN: Problem(
        HTTPStatus.CONFLICT, "Email taken", "There is an account with this email address."
    ),
    Reason.INVALID_ONE_TIME_TOKEN: Problem(
        HTTPStatus.BAD_REQUEST,
        "Invalid link",
        "This link is wrong, was used before, or has expired. Ask for a new one.",
    ),
    Reason.MAIL_NOT_CONFIGURED: Problem(
        HTTPStatus.CONFLICT,
        "Mail not configured",
        "This needs to send a mail, and the service has no SMTP_URL.",
    ),
    Reason.METHOD_NOT_ALLOWED: Problem(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "Method not allowed",
        "The Allow header lists the methods that are.",
    ),
    Reason.NOT_FOUND: Problem(HTTPStatus.NOT_FOUND, "Not found", "There is nothing here."),
    Reason.PASSWORD_BREACHED: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Password breached",
        "This password has been stolen somewhere, and thieves try it everywhere. Several "
        "unrelated words make a good one.",
    ),
    Reason.PASSWORD_TOO_COMMON: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Password too common",
        "This password is on the list of those that are tried first. Several unrelated words "
        "make a good one.",
    ),
    Reason.PASSWORD_TOO_PERSONAL: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Password too personal",
        "This password is made of your name, your address or this service's name. Several "
        "unrelated words make a good one.",
    ),
    Reason.PASSWORD_TOO_SHORT: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Password too short",
        "This password has fewer than `min_length` characters. Several unrelated words make a "
        "good one.",
    ),
    Reason.PASSWORD_UNCHANGED: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Password unchanged",
        "This is the password of now, and a new one is needed.",
    ),
    Reason.PREFLIGHT_REFUSED: Problem(
        HTTPStatus.BAD_REQUEST,
        "Preflight refused",
        "This origin, method or header is not allowed. Origins are set by BACKEND_CORS_ORIGINS.",
    ),
    Reason.VALIDATION_FAILED: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Validation failed",
        "The request does not have the documented form; `errors` lists where.",
    ),
    Reason.BUSY: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Busy",
        "Too much is waiting. Nothing was changed; try again shortly.",
        retry_after=2,
    ),
    Reason.TOO_MANY_ATTEMPTS: Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many attempts",
        "Nothing was tried. Wait as many seconds as Retry-After says.",
    ),
    Reason.DATABASE_UNAVAILABLE: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Database unavailable",
        "The database does not answer at present. Try again shortly.",
        retry_after=5,
    ),
    Reason.NOT_READY: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Not ready",
        "The database lacks a migration: the operator must run `alembic upgrade head`.",
        retry_after=30,
    ),
    Reason.SHUTTING_DOWN: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Shutting down",
        "The process that was asked has to end. What was asked for may have happened or not: try "
        "again shortly.",
        retry_after=2,
    ),
    Reason.INTERNAL_ERROR: Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Internal error",
        "Something went wrong here, and was logged under the id in the X-Request-ID header.",
    ),
}


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str = Field(description="Names the kind of problem; `code` as a URN.")
    title: str
    status: int
    detail: str
    code: Reason = Field(description="Stable, for programs.")
    request_id: str = Field(description="As in the X-Request-ID header, and in the log.")


class InvalidField(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class ValidationProblem(ProblemDetails):
    errors: list[InvalidField] = Field(description="Where and why; never what was sent.")


def problem_response(
    reason: Reason, request_id: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    problem = PROBLEMS[reason]
    headers = dict(headers or {})
    retry_after = more.get("retry_after", problem.retry_after)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return JSONResponse(
        problem_body(reason, request_id) | more,
        problem.status,
        headers,
        media_type="application/problem+json",
    )


def problem_body(reason: Reason, request_id: str) -> dict[str, Any]:
    problem = PROBLEMS[reason]
    return {
        "type": f"urn:fastapi-auth:problem:{reason}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": reason,
        "request_id": request_id,
    }


RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}

# What can happen to every request that asks the database, that changes something, and so on.
DATABASE = (
    Reason.BUSY,
    Reason.DATABASE_UNAVAILABLE,
    Reason.NOT_READY,
    Reason.SHUTTING_DOWN,
)
UNSAFE = (Reason.CROSS_ORIGIN, *DATABASE)
WITH_BODY = (*UNSAFE, Reason.BAD_REQUEST, Reason.CONTENT_TOO_LARGE, Reason.VALIDATION_FAILED)
IDENTIFIED = (Reason.NOT_AUTHENTICATED, Reason.SESSION_EXPIRED, Reason.SESSION_REVOKED)
AUTHENTICATED = (*IDENTIFIED, Reason.PASSWORD_CHANGE_REQUIRED)
ADMINISTRATOR = (*AUTHENTICATED, Reason.FORBIDDEN)
NEW_PASSWORD = (
    Reason.PASSWORD_TOO_SHORT,
    Reason.PASSWORD_TOO_COMMON,
    Reason.PASSWORD_TOO_PERSONAL,
    Reason.PASSWORD_BREACHED,
)


ACCEPTED: dict[str, Any] = {"model": Accepted, "description": "Accepted; a mail says how to go on"}


def problems(*reasons: Reason) -> dict[int | str, dict[str, Any]]:
    """What an operation's documentation says about these refusals, an example for each.

    app/api/openapi.py adds the schemas.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for reason in reasons:
        problem = PROBLEMS[reason]
        example = problem_body(reason, "3f2a9c51d07b4e6f")
        if reason is Reason.VALIDATION_FAILED:
            missing = {"loc": ["body", "email"], "msg": "Field required", "type": "missing"}
            example |= {"errors": [missing]}
        if reason is Reason.PASSWORD_TOO_SHORT:
            example |= {"min_length": 15}
        if reason is Reason.TOO_MANY_ATTEMPTS:
            example |= {"retry_after": 360}
        response = responses.setdefault(
            int(problem.status),
            {
                "description": "",
                "content": {"application/problem+json": {"examples": {}}},
            },
        )
        titles = [*filter(None, response["description"].split(" · ")), problem.title]
        response["description"] = " · ".join(titles)
        media = response["content"]["application/problem+json"]
        media["examples"][reason.value] = {"summary": problem.title, "value": example}
        if problem.retry_after is not None or reason is Reason.TOO_MANY_ATTEMPTS:
            response["headers"] = RETRY_AFTER
    return responses
