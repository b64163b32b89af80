"""What operators and other services ask: is it alive, is it ready, which keys does it sign with?"""

import asyncio
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel

from app.api.dependencies import BackendDep
from app.api.problems import problems
from app.api.routes import group
from app.core.refusals import Reason, Refusal
from app.db.migrations import is_migrated
from app.db.session import takes_changes

LONGEST_WAIT = 3  # seconds for the database: less than a load balancer waits

router = group(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health/live")
async def live() -> Health:
    """The process answers. Restart it when this fails."""
    return Health()


@router.get(
    "/health/ready",
    responses=problems(Reason.BUSY, Reason.DATABASE_UNAVAILABLE, Reason.NOT_READY),
)
async def ready(backend: BackendDep) -> Health:
    """The database answers, takes changes, and no migration is missing. Send no requests while
    this fails.
    """
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            migrated = await backend.database.read(is_migrated)
            writable = await backend.database.read(takes_changes)
    except TimeoutError:
        raise Refusal(Reason.DATABASE_UNAVAILABLE) from None
    if not migrated:
        raise Refusal(Reason.NOT_READY)
    if not writable:
        raise Refusal(Reason.DATABASE_UNAVAILABLE)
    return Health()


@router.get("/.well-known/jwks.json")
async def jwks(response: Response, backend: BackendDep) -> dict[str, list[dict[str, Any]]]:
    """The public keys that verify access tokens (RFC 7517). Empty under HS256."""
    response.headers["Cache-Control"] = "public, max-age=300"
    return backend.tokens.access_keys.jwks
