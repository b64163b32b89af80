"""Logins: refresh, identify, end. A login is a row, and ending it deletes the row."""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, update
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.config import Settings
from app.core.logs import log_event
from app.core.moments import MICROSECOND, to_microseconds
from app.core.refusals import Reason, Refusal
from app.core.rotation import Lineage, Verdict, judge, judge_newest
from app.core.tokens import AccessToken, ClientId, RefreshToken
from app.db.session import Database
from app.db.statement import Statement, columns_of, load
from app.models.audit import Event
from app.models.login import Login, lineage_columns
from app.models.mail import Template
from app.models.user import User
from app.services import audit
from app.services.backend import Backend
from app.services.notices import notify

LONGEST_LIST = 100  # logins


# The statements of nearly every request.
CURRENT = Statement(
    "current",
    select(*columns_of(User), *columns_of(Login))
    .join_from(User, Login)
    .where(col(Login.id) == bindparam("login_id"), col(User.id) == bindparam("user_id")),
)
UNLOCKED = Statement(
    "unlocked", select(*columns_of(Login)).where(col(Login.id) == bindparam("login_id"))
)
ROTATE = Statement(
    "rotate",
    update(Login)
    .where(
        col(Login.id) == bindparam("login_id"),
        col(Login.last) == bindparam("last_then"),
        col(Login.last) > bindparam("idle_since"),
        col(Login.expires_at) > bindparam("now"),
        exists().where(col(User.id) == col(Login.user_id), col(User.is_active)),
    )
    .values({name: bindparam(f"new_{name}") for name in lineage_columns(Lineage(0))})
    .returning(*columns_of(Login)),
)
LOCKED = (
    select(Login, User)
    .join(User)
    .where(col(Login.id) == bindparam("login_id"))
    .with_for_update(of=Login)
)


async def refresh(
    backend: Backend,
    token: RefreshToken,
    client_id: ClientId,
    client: Client,
    received_at: float,
) -> Login:
    """Rotate: judge what the token proves, and move the login on to its next token, `last`.

    received_at: when the request arrived, on the monotonic clock. Raises Refusal(BUSY,
    TOKEN_REUSED, SESSION_EXPIRED or SESSION_REVOKED).
    """
    if token.client_id != client_id:
        raise Refusal(Reason.NOT_AUTHENTICATED)
    outcome: Login | Refused | None = await rotate_unlocked(backend, token, received_at)
    if outcome is None:
        outcome = await backend.database.write(rotate, token, backend, client, received_at)
    if isinstance(outcome, Login):
        refuse_late(received_at, backend.settings)  # it waited to be written: as an answer lost
        return outcome
    if outcome.reason is not Reason.TOKEN_REUSED:  # which has left its trace with the audit
        log_event(outcome.reason, user_id=outcome.user_id, login_id=token.login_id)
    raise Refusal(outcome.reason)


async def rotate_unlocked(
    backend: Backend, token: RefreshToken, received_at: float
) -> Login | None:
    """Compare and swap: what was judged is written if no token has been issued since.

    None: nothing has been done. Why is for rotate() to find out, with the lock.
    """
    settings, now = backend.settings, datetime.now(UTC)
    if waited_too_long(received_at, settings):
        return None
    # As nearly always: the newest token, and its grace is over. Nothing has to be read for it.
    lineage = judge_newest(token.n, clock=to_microseconds(now), grace=grace_of(settings))
    if lineage and (rotated := await swap(backend, token.login_id, token.n, lineage, now)):
        return rotated
    row = await backend.database.first(UNLOCKED, login_id=token.login_id)
    if row is None or waited_too_long(received_at, settings):
        return None
    known, now = load(Login, row).lineage, datetime.now(UTC)
    verdict, lineage = judge(known, token.n, clock=to_microseconds(now), grace=grace_of(settings))
    if verdict is Verdict.THEFT:
        return None
    return await swap(backend, token.login_id, known.last, lineage, now)


async def swap(
    backend: Backend, login_id: UUID, last: int, lineage: Lineage, now: datetime
) -> Login | None:
    """last: the newest token that was known. Every rotation issues a newer one, so where it still
    is the newest, nothing that was judged has changed. None: it is not, or the login has ended.
    """
    row = await backend.database.first(
        ROTATE,
        login_id=login_id,
        last_then=last,
        idle_since=to_microseconds(now - backend.settings.idle_lifetime),
        now=now,
        **{f"new_{name}": value for name, value in lineage_columns(lineage).items()},
    )
    return None if row is None else load(Login, row)


class Refused(NamedTuple):
    reason: Reason
    user_id: UUID | None = None


def rotate(
    session: Session, token: RefreshToken, backend: Backend, client: Client, received_at: float
) -> Login | Refused:
    """Whatever there is to be judged, with the lock.

    Refused is returned, not raised, so that the end of a stolen login is committed.
    """
    settings = backend.settings
    # Before the database is asked: a queue of late work is put away so quickly that what comes
    # after it is in time. And once more with the lock.
    refuse_late(received_at, settings)
    row = session.exec(LOCKED, params={"login_id": token.login_id}).first()
    refuse_late(received_at, settings)
    if row is None:
        return Refused(Reason.SESSION_REVOKED)
    login, user = row

    now = datetime.now(UTC)
    verdict, lineage = judge(
        login.lineage, token.n, clock=to_microseconds(now), grace=grace_of(settings)
    )
    if verdict is Verdict.THEFT:
        session.delete(login)
        audit.record(session, Event.TOKEN_REUSED, client, user_id=user.id, login_id=login.id)
        notify(session, backend, Template.TOKEN_REUSED, user.email, client, user.id)
        return Refused(Reason.TOKEN_REUSED, user.id)
    if not user.is_active:
        return Refused(Reason.SESSION_REVOKED, login.user_id)
    if login.has_expired(now, settings.idle_lifetime):
        return Refused(Reason.SESSION_EXPIRED, login.user_id)
    login.lineage = lineage
    return login


def refuse_late(received_at: float, settings: Settings) -> None:
    if waited_too_long(received_at, settings):
        raise Refusal(Reason.BUSY)


def waited_too_long(received_at: float, settings: Settings) -> bool:
    """Then a token says no longer when it was presented: stale work is not evidence."""
    waited = time.monotonic() - received_at
    return bool(settings.grace) and waited > settings.grace.total_seconds() / 3


def grace_of(settings: Settings) -> int:
    """In microseconds."""
    return settings.grace // MICROSECOND


class Current(NamedTuple):
    """Who is asking, and by which login."""

    user: User
    login: Login


async def identify(backend: Backend, token: AccessToken) -> Current:
    """Raises Refusal(SESSION_REVOKED or SESSION_EXPIRED), at the first request after it ended."""
    current = await find_current(backend.database, token)
    if current is None or not current.user.is_active:
        raise Refusal(Reason.SESSION_REVOKED)
    if current.login.has_expired(datetime.now(UTC), backend.settings.idle_lifetime):
        raise Refusal(Reason.SESSION_EXPIRED)
    return current


async def find_current(database: Database, token: AccessToken) -> Current | None:
    """User, login and revocation in one query."""
    row = await database.first(CURRENT, user_id=token.user_id, login_id=token.login_id)
    if row is None:
        return None
    border = len(columns_of(User))
    return Current(load(User, row[:border]), load(Login, row[border:]))


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


async def end(backend: Backend, login_ids: Collection[UUID], client: Client) -> None:
    """Log out of whatever is still there of these."""
    if login_ids:
        await backend.database.write(end_presented, login_ids, client)


def end_presented(session: Session, login_ids: Collection[UUID], client: Client) -> None:
    end_and_note(session, col(Login.id).in_(login_ids), client)


def end_and_note(session: Session, which: ColumnElement[bool], client: Client) -> None:
    ended = delete(Login).where(which).returning(col(Login.id), col(Login.user_id))
    for login_id, user_id in session.connection().execute(ended).all():
        note_end(session, user_id, login_id, client)


async def end_one(backend: Backend, user: User, login_id: UUID, client: Client) -> None:
    """Raises Refusal(NOT_FOUND), also for another user's login: nobody learns that it exists."""
    await backend.database.write(end_theirs, user.id, login_id, client)


def end_theirs(session: Session, user_id: UUID, login_id: UUID, client: Client) -> None:
    theirs = and_(col(Login.id) == login_id, col(Login.user_id) == user_id)
    if not delete_logins(session, theirs):
        raise Refusal(Reason.NOT_FOUND)
    note_end(session, user_id, login_id, client)


def note_end(session: Session, user_id: UUID, login_id: UUID, client: Client) -> None:
    whose = {"user_id": user_id, "actor_id": user_id, "login_id": login_id}
    audit.record(session, Event.LOGIN_ENDED, client, **whose)


async def end_all(
    backend: Backend,
    user_id: UUID,
    client: Client,
    *,
    actor_id: UUID,
    sparing: UUID | None = None,
) -> None:
    """Log out everywhere, but for the login spared."""
    await backend.database.write(delete_all, user_id, client, actor_id, sparing)


def delete_all(
    session: Session, user_id: UUID, client: Client, actor_id: UUID | None, sparing: UUID | None
) -> None:
    theirs = col(Login.user_id) == user_id
    if sparing:
        theirs = and_(theirs, col(Login.id) != sparing)
    if ended := delete_logins(session, theirs):
        whose = {"user_id": user_id, "actor_id": actor_id}
        audit.record(session, Event.LOGINS_ENDED, client, **whose, count=ended)


def delete_logins(session: Session, which: ColumnElement[bool]) -> int:
    return session.connection().execute(delete(Login).where(which)).rowcount
