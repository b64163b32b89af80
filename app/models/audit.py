"""The audit trail: every security event as a row that the service never changes."""

from datetime import datetime
from enum import StrEnum, auto
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app.core.client import LONGEST_USER_AGENT
from app.core.identifiers import new_id


class Event(StrEnum):
    """What can happen. docs/security.md says when, and who reads it."""

    # accounts
    USER_CREATED = auto()
    USER_UPDATED = auto()
    USER_DELETED = auto()
    USER_DISABLED = auto()
    USER_ENABLED = auto()
    ADMIN_GRANTED = auto()
    ADMIN_REVOKED = auto()
    REGISTRATION_REQUESTED = auto()
    DATA_EXPORTED = auto()
    # passwords and addresses
    PASSWORD_CHANGED = auto()
    PASSWORD_REFUSED = auto()
    PASSWORD_CHANGE_REQUIRED = auto()
    PASSWORD_RESET_REQUESTED = auto()
    PASSWORD_RESET = auto()
    VERIFICATION_REQUESTED = auto()
    EMAIL_VERIFIED = auto()
    EMAIL_CHANGE_REQUESTED = auto()
    EMAIL_CHANGED = auto()
    # logins
    LOGIN_STARTED = auto()
    LOGIN_FAILED = auto()
    LOGIN_ENDED = auto()
    LOGINS_ENDED = auto()
    TOKEN_REUSED = auto()
    # limits
    LIMIT_REACHED = auto()


Result = Literal["success", "failure"]


class AuditEvent(SQLModel, table=True):
    """Ids only, no address and no name: it outlives the account without naming a person.

    So `user_id` and the others are no foreign keys. A trigger refuses UPDATE, and DELETE of what
    is younger than 30 days (alembic/versions/0002).
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        CheckConstraint("result IN ('success', 'failure')", name="result"),
        Index("ix_audit_events_user_id_id", "user_id", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)  # in the order of time
    at: datetime
    event: str = Field(max_length=40)
    result: str = Field(max_length=7)
    user_id: UUID | None = Field(default=None)
    actor_id: UUID | None = Field(default=None)
    login_id: UUID | None = Field(default=None)
    ip_address: str = Field(max_length=45)
    user_agent: str = Field(max_length=LONGEST_USER_AGENT)
    request_id: str = Field(max_length=64)
    details: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class ActivityPublic(SQLModel):
    """One event of one account, as its owner sees it."""

    id: UUID
    at: datetime
    event: Event
    result: Result
    login_id: UUID | None = Field(description="The session that it happened by or to.")
    ip_address: str
    user_agent: str
    details: dict[str, Any]


class AuditEventPublic(ActivityPublic):
    user_id: UUID | None = Field(description="Whose account it is about, where that is known.")
    actor_id: UUID | None = Field(description="Who did it, where they were logged in.")
    request_id: str = Field(description="As in the log.")


class ActivityPage(SQLModel):
    items: list[ActivityPublic]
    next: UUID | None = Field(description="Give it as `after` for the next page.")


class AuditPage(SQLModel):
    items: list[AuditEventPublic]
    next: UUID | None = Field(description="Give it as `after` for the next page.")
