"""Who somebody is, by their password: at a log-in, and once more before what matters."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import bindparam, func, update
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.identifiers import lowest_id
from app.core.moments import to_microseconds
from app.core.refusals import Reason, Refusal
from app.core.tokens import DeviceToken
from app.db.session import Database
from app.db.statement import Statement, columns_of, load
from app.models.audit import AuditEvent, Event
from app.models.login import Login
from app.models.user import User
from app.services import audit, throttle
from app.services.backend import Backend
from app.services.throttle import Claim, UsedUp

TIME_TO_LOG_IN = timedelta(hours=1)  # after a reset, from where it was made


class Authenticated(NamedTuple):
    """Who gave the right password, from which known device, and what the attempt took.

    logins: how many they had when their `last_login_at` was read. None: not known.
    """

    user: User
    device: DeviceToken | None
    claims: tuple[Claim, ...]
    logins: int | None


class Attempt(NamedTuple):
    """Before the password is looked at."""

    user: User | None
    device: DeviceToken | None
    claims: tuple[Claim, ...]
    used_up: list[UsedUp]
    logins: int | None


async def authenticate(
    backend: Backend, email: str, password: str, client: Client, device: DeviceToken | None = None
) -> Authenticated:
    """Who this is, by address and password; an older hash is replaced on the way.

    Unknown address, wrong password, disabled account and unverified address are one and the same
    refusal after the same work. Raises Refusal(INVALID_CREDENTIALS, TOO_MANY_ATTEMPTS or BUSY).
    """
    with backend.passwords.place(client.network) as place:
        attempt = await begin_attempt(backend, email, client, device)
        user, known_device, claims, used_up, logins = attempt
        while True:
            stored = user.hashed_password if user else None
            verification = await place.verify(password, stored)
            if user is None or not verification.correct or not may_log_in(backend, user):
                await backend.database.write(note_failure, user, client, used_up)
                raise Refusal(Reason.INVALID_CREDENTIALS)
            if verification.replacement is None:
                break
            if await backend.database.write(replace_hash, user, verification.replacement):
                user.hashed_password = verification.replacement
                break
            user = await backend.database.read(find_again, user)  # it changed meanwhile: look again
            logins = None
    return Authenticated(user, known_device, claims, logins)


async def begin_attempt(
    backend: Backend, email: str, client: Client, device: DeviceToken | None
) -> Attempt:
    """Taken before the password is looked at: of many at the same time no more get through."""
    user, reset_from, logins = await find_who_tries(backend.database, email)
    known = device if user and device and is_known(device, user) else None
    if known:
        claims = backend.throttle.known_device(known.device_id)
    elif user and reset_from == client.network:
        claims = backend.throttle.known_device(f"{user.id}:{client.network}")
    else:
        claims = backend.throttle.log_in(email, client)
    used_up = await throttle.take_alone(backend.database, claims, client)
    return Attempt(user, known, claims, used_up, logins)


def note_failure(
    session: Session, user: User | None, client: Client, used_up: list[UsedUp]
) -> None:
    user_id = user.id if user else None
    audit.record(session, Event.LOGIN_FAILED, client, user_id=user_id)
    throttle.note_used_up(session, used_up, client, user_id=user_id)


def is_known(device: DeviceToken, user: User) -> bool:
    """Not from before the password changed: a thief's browser would stay known."""
    return device.user_id == user.id and device.n >= to_microseconds(user.password_changed_at)


LATEST_RESET = (
    select(AuditEvent.ip_address)
    .where(
        col(AuditEvent.user_id) == User.id,
        col(AuditEvent.id) >= bindparam("lowest_id"),
        col(AuditEvent.event) == Event.PASSWORD_RESET,
    )
    .order_by(col(AuditEvent.id).desc())
    .limit(1)
    .scalar_subquery()
)
LOGINS = select(func.count()).where(col(Login.user_id) == User.id).scalar_subquery()
WHO_TRIES = Statement(
    "who_tries",
    select(*columns_of(User))
    .add_columns(LATEST_RESET, LOGINS)
    .where(col(User.email) == bindparam("email")),
)


async def find_who_tries(
    database: Database, email: str
) -> tuple[User | None, str | None, int | None]:
    """And the network from which they have just reset their password, if they have, and how many
    logins they have.

    A reset makes every device a stranger, and an attack on the account may still be going on:
    whoever has read the mail must not be shut out now. Their network stands in for the device.
    One statement, whether or not there is an account: nobody learns that by the work it takes.
    """
    since = lowest_id(datetime.now(UTC) - TIME_TO_LOG_IN)
    row = await database.first(WHO_TRIES, email=email, lowest_id=since)
    if row is None:
        return None, None, None
    *user, address, logins = row
    reset_from = None if address is None else Client(address, "").network
    return load(User, user), reset_from, logins


def may_log_in(backend: Backend, user: User) -> bool:
    verified = user.email_verified or not backend.settings.require_verified_email
    return user.is_active and verified


def find_again(session: Session, user: User) -> User | None:
    return session.get(User, user.id)


def replace_hash(session: Session, user: User, replacement: str) -> bool:
    """Not where the password was changed, or its hash replaced, meanwhile: then that stands."""
    unchanged = (col(User.id) == user.id, col(User.hashed_password) == user.hashed_password)
    replaced = update(User).where(*unchanged).values(hashed_password=replacement)
    return session.connection().execute(replaced).rowcount == 1


async def confirm_password(backend: Backend, user: User, password: str, client: Client) -> None:
    """Step-up: whoever is logged in says once more who they are (ASVS 5.0, 7.5.1).

    Raises Refusal(WRONG_PASSWORD, TOO_MANY_ATTEMPTS or BUSY).
    """
    claims = backend.throttle.confirm_password(user.id)
    with backend.passwords.place(client.network) as place:
        used_up = await backend.database.write(throttle.take, claims, client)
        verification = await place.verify(password, user.hashed_password)
    if not verification.correct:
        await backend.database.write(note_refusal, user, client, used_up)
        raise Refusal(Reason.WRONG_PASSWORD)
    await backend.database.write(throttle.note_success, claims)


def note_refusal(session: Session, user: User, client: Client, used_up: list[UsedUp]) -> None:
    whose = {"user_id": user.id, "actor_id": user.id}
    audit.record(session, Event.PASSWORD_REFUSED, client, **whose)
    throttle.note_used_up(session, used_up, client, user_id=user.id)


def lock_unchanged(session: Session, user: User) -> User:
    """The row itself, if its password is still the one that was confirmed.

    Raises Refusal(WRONG_PASSWORD): of two changes at the same time exactly one wins.
    """
    unchanged = select(User).where(
        col(User.id) == user.id,
        col(User.hashed_password) == user.hashed_password,
        col(User.is_active),
    )
    row = session.exec(unchanged.with_for_update()).first()
    if row is None:
        raise Refusal(Reason.WRONG_PASSWORD)
    return row
