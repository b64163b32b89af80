"""What operators and other services ask: is it alive, is it ready, which keys does it sign with?"""

from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel

from app.api.dependencies import BackendDep
from app.api.problems import problems
from app.api.routes import group
from app.core.refusals import Reason, Refusal
from app.db.migrations import is_migrated

router = group(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health/live")
async def live() -> Health:
    """The process answers. Restart it when this fails."""
    return Health()


@router.get("/health/ready", responses=problems(Reason.DATABASE_UNAVAILABLE, Reason.NOT_READY))
async def ready(backend: BackendDep) -> Health:
    """The database answers and no migration is missing. Send no requests while this fails."""
    if not await backend.database.read(is_migrated):
        raise Refusal(Reason.NOT_READY)
    return Health()


@router.get("/.well-known/jwks.json")
async def jwks(response: Response, backend: BackendDep) -> dict[str, list[dict[str, Any]]]:
    """The public keys that verify access tokens (RFC 7517). Empty under HS256."""
    response.headers["Cache-Control"] = "public, max-age=300"
    return backend.tokens.access_keys.jwks
