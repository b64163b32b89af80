"""Security events: each is a row in the transaction of its cause, and then a line in the log."""

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import event
from sqlmodel import Session, col

from app.core import metrics
from app.core.client import Client
from app.core.logs import log_event
from app.models.audit import AuditEvent, AuditQuery, Event
from app.models.base import PageQuery
from app.services.paging import Page, newest_first

SERIOUS = {Event.TOKEN_REUSED, Event.LIMIT_REACHED}
FAILURES = {Event.LOGIN_FAILED, Event.PASSWORD_REFUSED, Event.TOKEN_REUSED, Event.LIMIT_REACHED}


def record(session: Session, what: Event, client: Client, /, **about: Any) -> None:
    """about: as describe() takes it. The line follows when the transaction is committed: what did
    not happen is in neither.
    """
    add(session, describe(what, client, **about))


def add(session: Session, recorded: AuditEvent) -> None:
    session.add(recorded)
    event.listen(session, "after_commit", lambda _: announce(recorded), once=True)


def describe(
    what: Event,
    client: Client,
    *,
    user_id: UUID | None = None,
    actor_id: UUID | None = None,
    login_id: UUID | None = None,
    **details: Any,
) -> AuditEvent:
    """user_id: whose account it is about. actor_id: who did it, as far as they were logged in.

    details: plain JSON, and nothing secret or personal.
    """
    return AuditEvent(
        at=datetime.now(UTC),
        event=what,
        result="failure" if what in FAILURES else "success",
        user_id=user_id,
        actor_id=actor_id,
        login_id=login_id,
        ip_address=client.ip_address,
        user_agent=client.user_agent,
        request_id=client.request_id,
        details=details,
    )


def announce(recorded: AuditEvent) -> None:
    metrics.count_event(recorded.event, recorded.result)
    log_event(
        recorded.event,
        logging.WARNING if recorded.event in SERIOUS else logging.INFO,
        request_id=recorded.request_id or None,
        result=recorded.result,
        user_id=recorded.user_id,
        actor_id=recorded.actor_id,
        login_id=recorded.login_id,
        ip_address=recorded.ip_address,
        user_agent=recorded.user_agent,
        **recorded.details,
    )


def read_trail(session: Session, query: AuditQuery) -> Page[AuditEvent]:
    filters = query.model_dump(exclude_none=True, exclude=set(PageQuery.model_fields))
    wanted = [col(getattr(AuditEvent, name)) == value for name, value in filters.items()]
    return newest_first(session, AuditEvent, wanted, query)


def read_activity(session: Session, user_id: UUID, query: PageQuery) -> Page[AuditEvent]:
    return newest_first(session, AuditEvent, [col(AuditEvent.user_id) == user_id], query)
