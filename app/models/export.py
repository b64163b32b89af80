"""What a person gets who asks what is stored about them."""

from datetime import datetime

from sqlmodel import SQLModel

from app.models.audit import ActivityPublic
from app.models.login import SessionPublic
from app.models.mail import Purpose, Template
from app.models.user import StoredEmail, UserPublic


class PendingLink(SQLModel):
    """A link that was mailed and still works."""

    purpose: Purpose
    email: StoredEmail
    created_at: datetime
    expires_at: datetime


class PendingMail(SQLModel):
    """A mail that is still to be sent."""

    template: Template
    recipient: StoredEmail
    created_at: datetime


class AccountExport(SQLModel):
    user: UserPublic
    sessions: list[SessionPublic]
    links: list[PendingLink]
    mails: list[PendingMail]
    activity: list[ActivityPublic]
