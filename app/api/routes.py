"""Groups of routes. Each declares whole paths, so the application has one flat list of routes:
FastAPI matches a router that is included in another anew at every level.
"""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.api.problems import problems
from app.core.refusals import Reason

V1 = "/api/v1"


class Route(APIRoute):
    """A request is compared with one route after the other, so most comparisons are in vain."""

    def __init__(self, path: str, *args: Any, **options: Any) -> None:
        super().__init__(path, *args, **options)
        self.beginning = path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if not scope.get("root_path") and not scope["path"].startswith(self.beginning):
            return Match.NONE, {}
        return super().matches(scope)


def group(prefix: str = "", *, route_class: type[Route] = Route, **options: Any) -> APIRouter:
    return APIRouter(
        prefix=prefix,
        route_class=route_class,
        responses=problems(Reason.INTERNAL_ERROR),
        generate_unique_id_function=operation_id,
        **options,
    )


def operation_id(route: APIRoute) -> str:
    """Generated clients name their functions by it: it stays as it is when a path changes."""
    return route.name
