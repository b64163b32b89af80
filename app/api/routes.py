"""Groups of routes. Each declares whole paths, so the application has one flat list of routes:
FastAPI matches a router that is included in another anew at every level.
"""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from app.api.problems import problems
from app.core.refusals import Reason

V1 = "/api/v1"


def group(prefix: str = "", **options: Any) -> APIRouter:
    return APIRouter(
        prefix=prefix,
        responses=problems(Reason.INTERNAL_ERROR),
        generate_unique_id_function=operation_id,
        **options,
    )


def operation_id(route: APIRoute) -> str:
    """Generated clients name their functions by it: it stays as it is when a path changes."""
    return route.name
