"""Tokens for programs and for Swagger UI's Authorize: RFC 6749 and RFC 7009, and no cookie."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.api.dependencies import BackendDep, ClientDep
from app.api.errors import note_refusal
from app.api.problems import PROBLEMS, RETRY_AFTER, problems
from app.api.routes import V1, Route, group
from app.core.client import Client
from app.core.jws import LONGEST_TOKEN, InvalidToken
from app.core.moments import seconds_until
from app.core.passwords import LONGEST_PASSWORD
from app.core.refusals import Reason, Refusal
from app.core.tokens import ClientId
from app.models.login import Login, TokenPair
from app.models.user import (
    EXAMPLE_EMAIL,
    EXAMPLE_PASSWORD,
    LONGEST_EMAIL,
    Password,
    canonical_email,
)
from app.services import authentication, logins, new_logins
from app.services.backend import Backend

FORM = "application/x-www-form-urlencoded"


class OAuth2Problem(BaseModel):
    """RFC 6749, 5.2."""

    error: Literal[
        "invalid_request", "invalid_grant", "unsupported_grant_type", "temporarily_unavailable"
    ]
    error_description: str = Field(description="For the developer, not for the user.")


class OAuth2Error(Exception):
    def __init__(self, error: str, description: str) -> None:
        self.error = error
        self.description = description


class OAuth2Route(Route):
    """Whatever goes wrong inside is said as RFC 6749 says it, not as problem+json."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_in_oauth2_terms(request: Request) -> Response:
            try:
                refuse_other_forms(request)
                return await handle(request)
            except OAuth2Error as error:
                request.state.code = error.error
                return oauth2_answer(error.error, error.description)
            except RequestValidationError:
                request.state.code = Reason.VALIDATION_FAILED
                return oauth2_answer("invalid_request", "A parameter has a wrong form.")
            except HTTPException as error:
                if error.status_code == 413:
                    raise
                request.state.code = Reason.BAD_REQUEST
                return oauth2_answer("invalid_request", "The form could not be read.")
            except Refusal as refusal:
                return answer_refusal(request, refusal)

        return handle_in_oauth2_terms


def refuse_other_forms(request: Request) -> None:
    """RFC 6749, 3.2: before it is read. A multipart form may name the codec of its text, and to
    decode 64 KiB as punycode takes seconds.
    """
    media_type = request.headers.get("content-type", FORM).partition(";")[0]
    if media_type.strip().lower() != FORM:
        raise OAuth2Error("invalid_request", f"Send the parameters as {FORM}.")


def answer_refusal(request: Request, refusal: Refusal) -> JSONResponse:
    note_refusal(request, refusal)
    problem = PROBLEMS[refusal.reason]
    retry_after = refusal.members.get("retry_after", problem.retry_after)
    if retry_after is None:
        return oauth2_answer("invalid_grant", problem.detail)
    answer = oauth2_answer("temporarily_unavailable", problem.detail, problem.status)
    answer.headers["Retry-After"] = str(retry_after)
    return answer


def oauth2_answer(error: str, description: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": error, "error_description": description}, status)


router = group(f"{V1}/auth", tags=["tokens"], route_class=OAuth2Route)

LATER: dict[str, Any] = {
    "model": OAuth2Problem,
    "description": "Try again after `Retry-After` seconds",
    "headers": RETRY_AFTER,
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": OAuth2Problem, "description": "The request or its credentials are not valid"},
    503: LATER,
    **problems(Reason.CROSS_ORIGIN, Reason.CONTENT_TOO_LARGE),
}


@router.post("/token", responses=ERRORS | {429: LATER})
async def token(
    request: Request,
    response: Response,
    backend: BackendDep,
    client: ClientDep,
    grant_type: Annotated[
        str,
        Form(examples=["password"], json_schema_extra={"enum": ["password", "refresh_token"]}),
    ] = "",
    username: Annotated[
        str,
        Form(description="The email address", max_length=LONGEST_EMAIL, examples=[EXAMPLE_EMAIL]),
    ] = "",
    password: Annotated[
        Password, Form(max_length=LONGEST_PASSWORD, examples=[EXAMPLE_PASSWORD])
    ] = "",
    refresh_token: Annotated[
        str, Form(description="For `refresh_token`", max_length=LONGEST_TOKEN)
    ] = "",
) -> TokenPair:
    """Get tokens, as a program does.

    With a password, or with the refresh token that it holds. Each answer to `refresh_token`
    brings a new refresh token: store it in place of the old one. A refresh token that two
    programs share is a stolen one here; give each its own login. A session that was started
    with cookies cannot be continued here.
    """
    await refuse_repeated_parameters(request)
    if grant_type == "password":
        login = await password_grant(backend, client, username, password)
    elif grant_type == "refresh_token":
        login = await refresh_grant(backend, refresh_token, client, request.state.received_at)
    elif grant_type:
        raise OAuth2Error("unsupported_grant_type", "Use password or refresh_token.")
    else:
        raise OAuth2Error("invalid_request", "The parameter grant_type is missing.")
    response.headers["Pragma"] = "no-cache"  # RFC 6749, 5.1
    return token_pair(backend, login)


async def refuse_repeated_parameters(request: Request) -> None:
    """RFC 6749, 3.2. Otherwise a proxy and this service could each read another one."""
    form = await request.form()
    if len(form.multi_items()) > len(form):
        raise OAuth2Error("invalid_request", "A parameter is repeated.")


async def password_grant(backend: Backend, client: Client, username: str, password: str) -> Login:
    if not username or not password:
        raise OAuth2Error("invalid_request", "The parameters username and password are needed.")
    try:
        email = canonical_email(username)
    except ValueError:
        raise Refusal(Reason.INVALID_CREDENTIALS) from None
    authenticated = await authentication.authenticate(backend, email, password, client)
    return await new_logins.start(backend, authenticated, client, ClientId.PROGRAM)


async def refresh_grant(
    backend: Backend, refresh_token: str, client: Client, received_at: float
) -> Login:
    if not refresh_token:
        raise OAuth2Error("invalid_request", "The parameter refresh_token is missing.")
    try:
        presented = backend.tokens.read_refresh(refresh_token)
    except InvalidToken:
        raise OAuth2Error("invalid_grant", "This refresh token is not valid.") from None
    return await logins.refresh(backend, presented, ClientId.PROGRAM, client, received_at)


def token_pair(backend: Backend, login: Login) -> TokenPair:
    tokens = backend.tokens
    access_token, expires_at = tokens.issue_access(
        login.user_id, login.id, ClientId.PROGRAM, login.expires_at
    )
    return TokenPair(
        access_token=access_token,
        expires_in=seconds_until(expires_at),
        refresh_token=tokens.issue_refresh(
            login.id, ClientId.PROGRAM, login.last, login.expires_at
        ),
    )


@router.post("/revoke", response_class=Response, responses=ERRORS)
async def revoke(
    backend: BackendDep,
    client: ClientDep,
    token: Annotated[str, Form(description="An access or a refresh token")] = "",
    token_type_hint: Annotated[str, Form(description="Not needed")] = "",
) -> None:
    """Log out, as a program does.

    It ends the session that a token belongs to. The answer is 200 whether or not there was
    such a session (RFC 7009).
    """
    if login_id := backend.tokens.login_of(token):
        await logins.end(backend, {login_id}, client)
