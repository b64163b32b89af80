"""/metrics, for Prometheus. Proxies keep it from the public (deploy/, docs/operations.md)."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from fastapi import Response
from starlette.types import Scope

from app.api.dependencies import BackendDep
from app.api.routes import group
from app.core import metrics
from app.core.metrics import Backlog
from app.core.refusals import Refusal
from app.services import outbox

LONGEST_WAIT = 3  # seconds for the database: less than Prometheus waits for the whole answer

router = group(include_in_schema=False)


@router.get("/metrics")
async def read_metrics(backend: BackendDep) -> Response:
    """What was counted is told even while the database does not answer."""
    backlog = None
    with suppress(Refusal, TimeoutError):
        async with asyncio.timeout(LONGEST_WAIT):
            pending, oldest = await backend.database.read(outbox.backlog)
        waits = datetime.now(UTC) - oldest if oldest else None
        backlog = Backlog(pending, max(0.0, waits.total_seconds()) if waits else 0.0)
    text = await asyncio.to_thread(metrics.exposition, backlog)
    return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})


def route_template(scope: Scope) -> str:
    """`/api/v1/users/{user_id}`, never the path itself: whoever asks for paths makes no labels."""
    return getattr(scope.get("route"), "path_format", "unmatched")
