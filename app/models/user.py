"""The user: the table, and the shapes of requests and answers beside it."""

import unicodedata
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, StrictBool, WithJsonSchema
from sqlalchemy import Index, UniqueConstraint, false, text
from sqlmodel import Field, SQLModel

from app.core.identifiers import new_id
from app.core.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD
from app.core.smtp import ENCODED
from app.models.base import Input, PageQuery

LONGEST_EMAIL = 254  # characters: RFC 5321, 4.5.3.1.3, less the angle brackets

# Filled into Swagger UI: registering and logging in work there as they stand.
EXAMPLE_EMAIL = "ada@example.com"
EXAMPLE_PASSWORD = "nine tall herons at dawn"


def canonical_email(address: str) -> str:
    """One spelling for one mailbox: trimmed, NFC, lower case.

    Addresses are stored and compared in this form only. So no database collation has a say
    in who is who, and mail goes to the stored address whatever look-alike somebody typed.
    """
    try:
        checked = validate_email(address.strip(), check_deliverability=False)
        canonical = unicodedata.normalize("NFC", checked.normalized.lower())
        if canonical != checked.normalized:  # some letters grow in lower case
            validate_email(canonical, check_deliverability=False)
        if ENCODED in canonical:
            raise EmailNotValidError
    except EmailNotValidError:
        raise ValueError("must be an email address, such as ada@example.com") from None
    return canonical


def without_control_characters(text: str | None) -> str | None:
    """No NUL, which PostgreSQL cannot store, no line breaks, no lone surrogates. Trimmed."""
    if text is None:
        return None
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("must not hold control characters")
    return text.strip() or None


StoredEmail = Annotated[
    str, WithJsonSchema({"type": "string", "format": "email", "maxLength": LONGEST_EMAIL})
]
EmailAddress = Annotated[StoredEmail, AfterValidator(canonical_email)]
FullName = Annotated[str | None, AfterValidator(without_control_characters)]

# `format` hides it in forms, and `writeOnly` says that no answer holds it.
PASSWORD_SCHEMA = {
    "type": "string",
    "format": "password",
    "writeOnly": True,
    "minLength": 1,
    "maxLength": LONGEST_PASSWORD,
}
Password = Annotated[str, WithJsonSchema(PASSWORD_SCHEMA)]
NewPassword = Annotated[str, WithJsonSchema(PASSWORD_SCHEMA | {"minLength": SHORTEST_PASSWORD})]


class UserBase(SQLModel):
    email: EmailAddress = Field(
        max_length=LONGEST_EMAIL, schema_extra={"examples": [EXAMPLE_EMAIL]}
    )
    full_name: FullName = Field(
        default=None, max_length=200, schema_extra={"examples": ["Ada Lovelace"]}
    )


class User(UserBase, table=True):
    __tablename__ = "users"  # `user` is a function in PostgreSQL
    __table_args__ = (
        UniqueConstraint("email"),
        Index(  # few among many: the last one must not go
            "ix_users_admins",
            "id",
            postgresql_where=text("is_admin"),
            sqlite_where=text("is_admin = 1"),
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    hashed_password: str = Field(max_length=500)
    is_active: bool = True
    is_admin: bool = False
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    # With defaults in the database, for older code that inserts during a rolling deployment.
    email_verified: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    must_change_password: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    password_changed_at: datetime = Field(
        default_factory=lambda: datetime.now(UTC),
        sa_column_kwargs={"server_default": text("'1970-01-01 00:00:00'")},
    )
    last_login_at: datetime | None = None


class UserCreate(UserBase, Input):
    # PASSWORD_MIN_LENGTH and the list of common passwords are checked in the service.
    password: NewPassword = Field(
        max_length=LONGEST_PASSWORD, schema_extra={"examples": [EXAMPLE_PASSWORD]}
    )


class UserUpdate(Input):
    full_name: FullName = Field(
        default=None, max_length=200, schema_extra={"examples": ["Ada King, Countess of Lovelace"]}
    )


class UserUpdateByAdmin(UserUpdate):
    """No address and no password: those are for their owner alone. Left out is left as it is."""

    is_active: StrictBool = Field(
        default=None, description="`false` ends every session, and nobody can log in."
    )
    is_admin: StrictBool = Field(default=None)
    must_change_password: StrictBool = Field(
        default=None, description="`true`: until then, nothing else is allowed."
    )


class UserInvite(UserBase, Input):
    is_admin: StrictBool = False


class PasswordChange(Input):
    current_password: Password = Field(
        min_length=1,
        max_length=LONGEST_PASSWORD,
        schema_extra={"examples": [EXAMPLE_PASSWORD]},
    )
    new_password: NewPassword = Field(
        max_length=LONGEST_PASSWORD, schema_extra={"examples": ["seven loud geese on ice"]}
    )


class Confirmation(Input):
    password: Password = Field(
        min_length=1,
        max_length=LONGEST_PASSWORD,
        schema_extra={"examples": [EXAMPLE_PASSWORD]},
    )


class EmailChange(Confirmation):
    email: EmailAddress = Field(
        max_length=LONGEST_EMAIL, schema_extra={"examples": ["ada.king@example.com"]}
    )


class EmailOnly(Input):
    email: EmailAddress = Field(
        max_length=LONGEST_EMAIL, schema_extra={"examples": [EXAMPLE_EMAIL]}
    )


class Accepted(SQLModel):
    """The same answer whatever the address: nobody learns who has an account."""

    detail: str = "If this can be done, a mail says how to go on."


class UserPublic(SQLModel):
    # As stored, and so not checked once more: that would take longer than to read it.
    email: StoredEmail = Field(schema_extra={"examples": [EXAMPLE_EMAIL]})
    full_name: str | None = Field(
        default=None, max_length=200, schema_extra={"examples": ["Ada Lovelace"]}
    )
    id: UUID
    email_verified: bool = Field(description="Whether mail to this address has reached them.")
    is_active: bool
    is_admin: bool
    must_change_password: bool = Field(description="Until then, nothing else is allowed.")
    created_at: datetime
    password_changed_at: datetime
    last_login_at: datetime | None


class UserQuery(PageQuery):
    search: FullName = Field(
        default=None,
        max_length=LONGEST_EMAIL,
        description="A part of the address or the name, in upper or lower case.",
    )
    is_active: bool | None = None
    is_admin: bool | None = None
    email_verified: bool | None = None


class UserPage(SQLModel):
    items: list[UserPublic]
    next: UUID | None = Field(description="Give it as `after` for the next page.")
