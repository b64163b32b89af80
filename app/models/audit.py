"""The audit trail: every security event as a row that the service never changes."""

from datetime import datetime
from enum import StrEnum, auto
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, WithJsonSchema
from sqlalchemy import JSON, CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app.core.client import LONGEST_USER_AGENT, read_address
from app.core.identifiers import new_id
from app.models.base import PageQuery


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
    LINK_SENT = auto()
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


def canonical_address(text: str) -> str:
    """As it is stored: one spelling for one address."""
    address = read_address(text)
    if address is None:
        raise ValueError("must be an IP address, such as 192.0.2.1 or 2001:db8::1")
    return str(address)


IpAddress = Annotated[
    str,
    AfterValidator(canonical_address),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}
    ),
]


class ActivityPublic(SQLModel):
    """One event of one account, as its owner sees it."""

    id: UUID
    at: datetime
    event: str = Field(description="One of those that the filter of `/audit-events` lists.")
    result: Result
    login_id: UUID | None = Field(description="The session that it happened by or to.")
    ip_address: str = Field(description="Empty where an administrator did it.")
    user_agent: str = Field(description="Empty where an administrator did it.")
    details: dict[str, Any]

    @classmethod
    def of(cls, event: AuditEvent) -> Self:
        """Where somebody else was when they did it is theirs to know."""
        by_somebody_else = event.actor_id not in (None, event.user_id)
        hidden = {"ip_address": "", "user_agent": ""} if by_somebody_else else {}
        return cls.model_validate(event, update=hidden)


class AuditEventPublic(SQLModel):
    """One event of the service, as administrators see it."""

    id: UUID
    at: datetime
    event: str = Field(description="One of those that the filter lists.")
    result: Result
    login_id: UUID | None = Field(description="The session that it happened by or to.")
    ip_address: str
    user_agent: str
    details: dict[str, Any]
    user_id: UUID | None = Field(description="Whose account it is about, where that is known.")
    actor_id: UUID | None = Field(description="Who did it, where they were logged in.")
    request_id: str = Field(description="As in the log.")


class ActivityPage(SQLModel):
    items: list[ActivityPublic]
    next: UUID | None = Field(description="Give it as `after` for the next page.")


class AuditQuery(PageQuery):
    user_id: UUID | None = Field(default=None, description="Whose account it is about.")
    actor_id: UUID | None = Field(default=None, description="Who did it.")
    event: Event | None = None
    result: Result | None = None
    ip_address: IpAddress | None = None


class AuditPage(SQLModel):
    items: list[AuditEventPublic]
    next: UUID | None = Field(description="Give it as `after` for the next page.")
