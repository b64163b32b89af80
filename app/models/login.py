"""A login is a row: logging in creates it, logging out deletes it.

The API calls it a session, as people do; in the code `session` is the database's.
"""

from datetime import datetime, timedelta
from typing import Literal, Self
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint
from sqlmodel import Field, SQLModel

from app.core.client import LONGEST_USER_AGENT
from app.core.config import Settings
from app.core.identifiers import new_id
from app.core.moments import from_microseconds
from app.core.passwords import LONGEST_PASSWORD
from app.core.rotation import Lineage, Presentation
from app.models.base import Input
from app.models.user import (
    EXAMPLE_EMAIL,
    EXAMPLE_PASSWORD,
    LONGEST_EMAIL,
    EmailAddress,
    Password,
    UserPublic,
)


class Login(SQLModel, table=True):
    """The same size however often it refreshes, and no token can be made from it."""

    __tablename__ = "logins"
    __table_args__ = (
        CheckConstraint("client_id IN ('browser', 'program')", name="client_id"),
        CheckConstraint("(witness_n IS NULL) = (witness_at IS NULL)", name="witness"),
        CheckConstraint("(candidate_n IS NULL) = (candidate_at IS NULL)", name="candidate"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    user_id: UUID = Field(foreign_key="users.id", ondelete="CASCADE", index=True)
    client_id: str = Field(max_length=7)
    user_agent: str = Field(max_length=LONGEST_USER_AGENT)
    ip_address: str = Field(max_length=45)
    created_at: datetime
    expires_at: datetime = Field(index=True)  # for the purge

    # The evidence rule's memory (app/core/rotation.py), in microseconds since 1970.
    last: int = Field(sa_type=BigInteger)
    witness_n: int | None = Field(default=None, sa_type=BigInteger)
    witness_at: int | None = Field(default=None, sa_type=BigInteger)
    candidate_n: int | None = Field(default=None, sa_type=BigInteger)
    candidate_at: int | None = Field(default=None, sa_type=BigInteger)

    @property
    def lineage(self) -> Lineage:
        return Lineage(
            self.last,
            presentation(self.witness_n, self.witness_at),
            presentation(self.candidate_n, self.candidate_at),
        )

    @lineage.setter
    def lineage(self, lineage: Lineage) -> None:
        for name, value in lineage_columns(lineage).items():
            setattr(self, name, value)

    @property
    def last_used_at(self) -> datetime:
        return from_microseconds(self.last)

    def has_expired(self, now: datetime, idle_lifetime: timedelta) -> bool:
        return now >= self.expires_at or now >= self.last_used_at + idle_lifetime


def presentation(n: int | None, at: int | None) -> Presentation | None:
    return None if n is None or at is None else Presentation(n, at)


def lineage_columns(lineage: Lineage) -> dict[str, int | None]:
    witness_n, witness_at = lineage.witness or (None, None)
    candidate_n, candidate_at = lineage.candidate or (None, None)
    return {
        "last": lineage.last,
        "witness_n": witness_n,
        "witness_at": witness_at,
        "candidate_n": candidate_n,
        "candidate_at": candidate_at,
    }


class Credentials(Input):
    email: EmailAddress = Field(
        max_length=LONGEST_EMAIL, schema_extra={"examples": [EXAMPLE_EMAIL]}
    )
    password: Password = Field(
        min_length=1,
        max_length=LONGEST_PASSWORD,
        schema_extra={"examples": [EXAMPLE_PASSWORD]},
    )


class SessionPublic(SQLModel):
    """One login, on one device."""

    id: UUID
    current: bool = Field(description="Whether this request came by it.")
    client_id: str = Field(description="`browser`: cookies. `program`: Bearer tokens.")
    user_agent: str
    ip_address: str
    created_at: datetime
    last_used_at: datetime = Field(description="Its log-in or its latest refresh.")
    expires_at: datetime = Field(description="It ends then, however often it refreshes.")


class SessionTimes(SQLModel):
    id: UUID
    access_expires_at: datetime = Field(description="Refresh shortly before.")
    idle_expires_at: datetime = Field(description="It ends then, unless it refreshes before.")
    expires_at: datetime = Field(description="It ends then, however often it refreshes.")

    @classmethod
    def of(cls, login: Login, access_expires_at: datetime, settings: Settings) -> Self:
        return cls(
            id=login.id,
            access_expires_at=access_expires_at,
            idle_expires_at=min(login.last_used_at + settings.idle_lifetime, login.expires_at),
            expires_at=login.expires_at,
        )


class SessionStarted(SQLModel):
    """Cookie mode: the tokens themselves are in HTTP-only cookies."""

    user: UserPublic
    session: SessionTimes


class SessionRefreshed(SQLModel):
    session: SessionTimes


class TokenPair(SQLModel):
    """RFC 6749, 5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int = Field(description="Seconds until the access token expires.")
    refresh_token: str
