"""The audit trail: all of it for administrators, and for everybody what concerns their account."""

from typing import Annotated

from fastapi import Query

from app.api.dependencies import BackendDep, CurrentAdmin, CurrentUser
from app.api.problems import ADMINISTRATOR, AUTHENTICATED, DATABASE, problems
from app.api.routes import V1, group
from app.core.refusals import Reason
from app.models.audit import ActivityPage, ActivityPublic, AuditEvent, AuditPage, AuditQuery
from app.models.base import PageQuery
from app.services import audit
from app.services.paging import Page

router = group(V1)

LIST = (Reason.BAD_REQUEST, Reason.VALIDATION_FAILED, *DATABASE)


@router.get("/users/me/activity", tags=["account"], responses=problems(*AUTHENTICATED, *LIST))
async def list_activity(
    query: Annotated[PageQuery, Query()], user: CurrentUser, backend: BackendDep
) -> ActivityPage:
    """What has happened to my account? The newest first.

    Log-ins, failed ones too, changes, and what administrators did. For the next page, give `next`
    as `after`; at the last page it is null.
    """
    page = await backend.database.read(audit.read_activity, user.id, query)
    return ActivityPage(items=[ActivityPublic.of(event) for event in page.items], next=page.next)


@router.get(
    "/audit-events",
    tags=["administration"],
    response_model=AuditPage,
    responses=problems(*ADMINISTRATOR, *LIST),
)
async def list_audit_events(
    query: Annotated[AuditQuery, Query()], admin: CurrentAdmin, backend: BackendDep
) -> Page[AuditEvent]:
    """What has happened, by whom, from where? The newest first.

    Nobody can change these, and they outlive the accounts they are about. For the next page, give
    `next` as `after`; at the last page it is null.
    """
    return await backend.database.read(audit.read_trail, query)
