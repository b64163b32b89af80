"""What a link in a mail carries: 256 random bits that work once, for a while, for one purpose."""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from sqlalchemy import delete
from sqlmodel import Session, col, select

from app.core.refusals import Reason, Refusal
from app.models.mail import OneTimeToken, Purpose

LIFETIMES = {
    Purpose.VERIFY_EMAIL: timedelta(hours=24),  # the most that NIST SP 800-63B-4, 4.2.1 allows
    Purpose.RESET_PASSWORD: timedelta(hours=1),
    Purpose.CONFIRM_EMAIL: timedelta(hours=1),
}
INVITATION_LIFETIME = timedelta(hours=24)


def mint(
    session: Session,
    user_id: UUID,
    purpose: Purpose,
    email: str,
    lifetime: timedelta | None = None,
) -> str:
    """A new one. It is returned here and never again: the row has only its hash."""
    token = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    session.add(
        OneTimeToken(
            token_hash=fingerprint(token),
            user_id=user_id,
            purpose=purpose,
            email=email,
            created_at=now,
            expires_at=now + (lifetime or LIFETIMES[purpose]),
        )
    )
    return token


def find(session: Session, token: str, purpose: Purpose) -> OneTimeToken:
    """Without using it up. Wrong, used, expired and foreign are one refusal.

    Raises Refusal(INVALID_ONE_TIME_TOKEN).
    """
    alive = select(OneTimeToken).where(
        col(OneTimeToken.token_hash) == fingerprint(token),
        col(OneTimeToken.purpose) == purpose,
        col(OneTimeToken.expires_at) > datetime.now(UTC),
    )
    found = session.exec(alive).first()
    if found is None:
        raise Refusal(Reason.INVALID_ONE_TIME_TOKEN)
    return found


def use(session: Session, token: OneTimeToken) -> None:
    """Of several at the same time exactly one deletes the row.

    Lock the user before, as everybody does who touches both. Raises
    Refusal(INVALID_ONE_TIME_TOKEN).
    """
    this = delete(OneTimeToken).where(col(OneTimeToken.token_hash) == token.token_hash)
    if session.connection().execute(this).rowcount != 1:
        raise Refusal(Reason.INVALID_ONE_TIME_TOKEN)


def void(session: Session, user_id: UUID, purpose: Purpose | None = None) -> None:
    """All of a user's, or those for one purpose: what they were for has changed."""
    theirs = delete(OneTimeToken).where(col(OneTimeToken.user_id) == user_id)
    if purpose:
        theirs = theirs.where(col(OneTimeToken.purpose) == purpose)
    session.connection().execute(theirs)


def fingerprint(token: str) -> str:
    """Looked up by this, so no comparison tells by its time how many characters were right."""
    return sha256(token.encode()).hexdigest()
