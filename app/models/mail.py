"""Mails that wait to be sent, and the one-time tokens that their links carry."""

from datetime import datetime
from enum import StrEnum, auto
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint
from sqlmodel import Field, SQLModel

from app.core.identifiers import new_id
from app.core.passwords import LONGEST_PASSWORD
from app.models.base import Input
from app.models.user import EXAMPLE_PASSWORD, LONGEST_EMAIL, NewPassword

LONGEST_ONE_TIME_TOKEN = 200  # characters; ours have 43
EXAMPLE_TOKEN = "dGhpcyBpcyBub3QgYSB0b2tlbiBvZiBhbnlib2R5IQ"


class Template(StrEnum):
    """The files of app/mails/."""

    # with a link
    VERIFY_EMAIL = auto()
    RESET_PASSWORD = auto()
    CONFIRM_EMAIL = auto()
    INVITATION = auto()
    # notices
    ADDRESS_TAKEN = auto()
    NEW_DEVICE = auto()
    PASSWORD_CHANGED = auto()
    EMAIL_CHANGED = auto()
    TOKEN_REUSED = auto()
    ACCOUNT_DELETED = auto()


class Purpose(StrEnum):
    VERIFY_EMAIL = auto()
    RESET_PASSWORD = auto()
    CONFIRM_EMAIL = auto()


PURPOSES = {
    Template.VERIFY_EMAIL: Purpose.VERIFY_EMAIL,
    Template.RESET_PASSWORD: Purpose.RESET_PASSWORD,
    Template.INVITATION: Purpose.RESET_PASSWORD,
    Template.CONFIRM_EMAIL: Purpose.CONFIRM_EMAIL,
}


class LinkToken(Input):
    token: str = Field(
        min_length=1,
        max_length=LONGEST_ONE_TIME_TOKEN,
        description="From the mailed link, behind `#token=`.",
        schema_extra={"examples": [EXAMPLE_TOKEN]},
    )


class NewPasswordByLink(LinkToken):
    password: NewPassword = Field(
        max_length=LONGEST_PASSWORD, schema_extra={"examples": [EXAMPLE_PASSWORD]}
    )


class Mail(SQLModel, table=True):
    """A mail from its cause to its delivery, which deletes the row.

    It holds no token: one is made when the mail is sent, so it is never stored in clear, and its
    time begins to run when somebody can read it.
    """

    __tablename__ = "outbox"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    template: str = Field(max_length=20)
    recipient: str = Field(max_length=LONGEST_EMAIL, index=True)
    user_id: UUID | None = Field(default=None)  # none where only the address is known yet
    context: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    created_at: datetime
    due_at: datetime = Field(index=True)  # while it is being sent: when others may try
    attempts: int = 0


class OneTimeToken(SQLModel, table=True):
    """256 random bits that were mailed, by their SHA-256: a fast hash does for what nobody guesses.

    email: where it was sent, which is what it proves.
    """

    __tablename__ = "one_time_tokens"
    __table_args__ = (
        CheckConstraint(
            "purpose IN ('verify_email', 'reset_password', 'confirm_email')", name="purpose"
        ),
    )

    token_hash: str = Field(max_length=64, primary_key=True)
    user_id: UUID = Field(foreign_key="users.id", ondelete="CASCADE", index=True)
    purpose: str = Field(max_length=14)
    email: str = Field(max_length=LONGEST_EMAIL)
    created_at: datetime
    expires_at: datetime = Field(index=True)
