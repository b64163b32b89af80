"""Every error becomes problem+json here: refusals, invalid input, what the framework refuses."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.problems import PROBLEMS, problem_response
from app.core.logs import log_event
from app.core.refusals import Reason, Refusal


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Refusal, answer_refusal)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http_exception)


async def answer_refusal(request: Request, refusal: Exception) -> JSONResponse:
    assert isinstance(refusal, Refusal)
    note_refusal(request, refusal)
    headers = challenge(request, refusal.reason)
    return answer(request, refusal.reason, headers=headers, **refusal.members)


def note_refusal(request: Request, refusal: Refusal) -> None:
    """For the log. A cause means that the fault is not the request's."""
    request.state.code = refusal.reason
    if refusal.__cause__:
        log_event(refusal.reason, logging.ERROR, cause=str(refusal.__cause__))


async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own answer would echo what was sent, passwords included."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {
            "loc": [printable(part) for part in problem["loc"]],
            "msg": problem["msg"].removeprefix("Value error, "),
            "type": problem["type"],
        }
        for problem in error.errors()[:20]
    ]
    return answer(request, Reason.VALIDATION_FAILED, errors=errors)


async def answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: unknown paths and methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    reasons = {
        HTTPStatus.NOT_FOUND: Reason.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED: Reason.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Reason.CONTENT_TOO_LARGE,
    }
    reason = reasons.get(HTTPStatus(error.status_code), Reason.BAD_REQUEST)
    headers = dict(error.headers or {})
    if reason is Reason.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(allowed_methods(request))
    return answer(request, reason, headers=headers)


def allowed_methods(request: Request) -> list[str]:
    """Starlette lists those of one route only, and two routes can share a path."""
    return [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


def answer(
    request: Request, reason: Reason, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    request.state.code = reason
    return problem_response(reason, request.state.request_id, headers=headers, **more)


def challenge(request: Request, reason: Reason) -> dict[str, str]:
    """RFC 6750, 3: which scheme to use, and an error code only where a token was sent."""
    if PROBLEMS[reason].status != HTTPStatus.UNAUTHORIZED:
        return {}
    sent = "authorization" in request.headers
    return {"WWW-Authenticate": 'Bearer error="invalid_token"' if sent else "Bearer"}


def printable(part: str | int) -> str | int:
    """Names of unknown fields are the sender's: no lone surrogates, no kilobytes."""
    if isinstance(part, int):
        return part
    return part[:100].encode(errors="replace").decode()
