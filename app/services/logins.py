"""Logins: start, refresh, end. A login is a row, and ending it deletes the row."""

import logging
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, delete, or_
from sqlmodel import Session, col, select

from app.core.config import Settings
from app.core.logs import log_event
from app.core.moments import MICROSECOND, to_microseconds
from app.core.refusals import Reason, Refusal
from app.core.rotation import Verdict, judge
from app.core.tokens import AccessToken, ClientId, RefreshToken
from app.models.login import LONGEST_USER_AGENT, Login
from app.models.user import User
from app.services.backend import Backend

LONGEST_LIST = 100  # logins
PURGE_BATCH = 1000  # rows: short enough that nobody waits for its locks


# The two statements of nearly every request. To build one takes as long as to run it.
CURRENT = (
    select(User, Login)
    .join(Login)
    .where(col(Login.id) == bindparam("login_id"), col(User.id) == bindparam("user_id"))
)
LOCKED = (
    select(Login, User.is_active)
    .join(User)
    .where(col(Login.id) == bindparam("login_id"))
    .with_for_update(of=Login)
)


class Client(NamedTuple):
    """Where a request comes from."""

    ip_address: str
    user_agent: str


async def start(
    backend: Backend,
    user: User,
    client: Client,
    client_id: ClientId,
    *,
    replacing: Collection[UUID] = (),
) -> Login:
    """Log in: always a new login. The one that the request brought along ends.

    Raises Refusal(INVALID_CREDENTIALS) where the account changed while its password was hashed.
    """
    now = datetime.now(UTC)
    login = Login(
        user_id=user.id,
        client_id=client_id,
        user_agent=client.user_agent[:LONGEST_USER_AGENT],
        ip_address=client.ip_address,
        created_at=now,
        expires_at=now + backend.settings.absolute_lifetime,
        last=to_microseconds(now),
    )
    await backend.database.write(insert_login, login, user.hashed_password, replacing)
    log_event("login_started", user_id=user.id, login_id=login.id, ip_address=client.ip_address)
    return login


def insert_login(
    session: Session, login: Login, verified_hash: str, replacing: Collection[UUID]
) -> None:
    """Hashing takes a while, and nothing is locked meanwhile: the account is looked at again.

    The lock makes a password change or a deletion wait until this login is there to be ended.
    """
    unchanged = select(User.id).where(
        col(User.id) == login.user_id,
        col(User.hashed_password) == verified_hash,
        col(User.is_active),
    )
    if session.exec(unchanged.with_for_update(read=True)).first() is None:
        raise Refusal(Reason.INVALID_CREDENTIALS)
    if replacing:
        delete_logins(session, col(Login.id).in_(replacing))
    session.add(login)


async def refresh(
    backend: Backend, token: RefreshToken, client_id: ClientId, received_at: float
) -> Login:
    """Rotate: judge what the token proves, and move the login on to its next token, `last`.

    received_at: when the request arrived, on the monotonic clock. Raises Refusal(BUSY,
    TOKEN_REUSED, SESSION_EXPIRED or SESSION_REVOKED).
    """
    if token.client_id != client_id:
        raise Refusal(Reason.NOT_AUTHENTICATED)
    outcome = await backend.database.write(rotate, token, backend.settings, received_at)
    if isinstance(outcome, Login):
        return outcome
    stolen = outcome.reason is Reason.TOKEN_REUSED
    log_event(
        outcome.reason,
        logging.WARNING if stolen else logging.INFO,
        user_id=outcome.user_id,
        login_id=token.login_id,
    )
    raise Refusal(outcome.reason)


class Refused(NamedTuple):
    reason: Reason
    user_id: UUID | None = None


def rotate(
    session: Session, token: RefreshToken, settings: Settings, received_at: float
) -> Login | Refused:
    """Refused is returned, not raised, so that the end of a stolen login is committed."""
    row = session.exec(LOCKED, params={"login_id": token.login_id}).first()
    # A token that waited says when it was presented no longer: stale work is not evidence.
    if settings.grace and time.monotonic() - received_at > settings.grace.total_seconds() / 3:
        raise Refusal(Reason.BUSY)
    if row is None:
        return Refused(Reason.SESSION_REVOKED)
    login, is_active = row

    now = datetime.now(UTC)
    verdict, lineage = judge(
        login.lineage, token.n, clock=to_microseconds(now), grace=settings.grace // MICROSECOND
    )
    if verdict is Verdict.THEFT:
        session.delete(login)
        return Refused(Reason.TOKEN_REUSED, login.user_id)
    if not is_active:
        return Refused(Reason.SESSION_REVOKED, login.user_id)
    if login.has_expired(now, settings.idle_lifetime):
        return Refused(Reason.SESSION_EXPIRED, login.user_id)
    login.lineage = lineage
    return login


class Current(NamedTuple):
    """Who is asking, and by which login."""

    user: User
    login: Login


async def identify(backend: Backend, token: AccessToken) -> Current:
    """Raises Refusal(SESSION_REVOKED or SESSION_EXPIRED), at the first request after it ended."""
    current = await backend.database.read(find_current, token)
    if current is None or not current.user.is_active:
        raise Refusal(Reason.SESSION_REVOKED)
    if current.login.has_expired(datetime.now(UTC), backend.settings.idle_lifetime):
        raise Refusal(Reason.SESSION_EXPIRED)
    return current


def find_current(session: Session, token: AccessToken) -> Current | None:
    """User, login and revocation in one query."""
    row = session.exec(CURRENT, params=token._asdict()).first()
    return Current(*row) if row else None


async def list_alive(backend: Backend, user: User) -> Sequence[Login]:
    """The newest LONGEST_LIST, most recently used first."""
    return await backend.database.read(select_alive, user.id, backend.settings.idle_lifetime)


def select_alive(session: Session, user_id: UUID, idle_lifetime: timedelta) -> Sequence[Login]:
    now = datetime.now(UTC)
    alive = (
        col(Login.user_id) == user_id,
        col(Login.expires_at) > now,
        col(Login.last) > to_microseconds(now - idle_lifetime),
    )
    newest = select(Login).where(*alive).order_by(col(Login.last).desc()).limit(LONGEST_LIST)
    return session.exec(newest).all()


async def end(backend: Backend, login_ids: Collection[UUID]) -> None:
    """Log out of whatever is still there of these."""
    if not login_ids:
        return
    ended = await backend.database.write(delete_logins, col(Login.id).in_(login_ids))
    if ended:
        log_event("login_ended", login_ids=[*login_ids])


async def end_one(backend: Backend, user: User, login_id: UUID) -> None:
    """Raises Refusal(NOT_FOUND), also for another user's login: nobody learns that it exists."""
    theirs = and_(col(Login.id) == login_id, col(Login.user_id) == user.id)
    if not await backend.database.write(delete_logins, theirs):
        raise Refusal(Reason.NOT_FOUND)
    log_event("login_ended", user_id=user.id, login_ids=[login_id])


async def end_all(backend: Backend, user: User, *, sparing: UUID | None = None) -> int:
    """Log out everywhere, but for the login spared. Says how many ended."""
    theirs = col(Login.user_id) == user.id
    if sparing:
        theirs = and_(theirs, col(Login.id) != sparing)
    ended = await backend.database.write(delete_logins, theirs)
    log_event("logins_ended", user_id=user.id, count=ended)
    return ended


def delete_logins(session: Session, which: ColumnElement[bool]) -> int:
    return session.connection().execute(delete(Login).where(which)).rowcount


def purge(session: Session, idle_lifetime: timedelta) -> int:
    """Delete up to PURGE_BATCH logins that can never be used again; says how many."""
    now = datetime.now(UTC)
    dead = or_(
        col(Login.expires_at) <= now,
        col(Login.last) <= to_microseconds(now - idle_lifetime),
    )
    oldest = select(Login.id).where(dead).order_by(col(Login.id)).limit(PURGE_BATCH)
    return delete_logins(session, col(Login.id).in_(oldest))
