"""JSON that everybody reads alike (RFC 8259; ASVS 5.0, 1.5.3).

Python's reader guesses UTF-16 and UTF-32, takes the last of two fields of one name, and knows NaN.
A filter in front of this service may do otherwise, and would then have checked something else.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response

from app.api.routes import Route


class StrictJsonRequest(Request):
    async def json(self) -> Any:
        """Raises ValueError, which FastAPI answers with 400 or 422."""
        text = (await self.body()).decode()
        return json.loads(text, object_pairs_hook=each_once, parse_constant=refuse)


class StrictJsonRoute(Route):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return handle_strictly


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field stands there twice")
    return fields


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
