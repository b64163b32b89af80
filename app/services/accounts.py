"""Accounts: sign up, and find out who somebody is by their password."""

from uuid import UUID

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from app.core.logs import log_event
from app.core.passwords import check_new_password
from app.core.refusals import Reason, Refusal
from app.models.user import User, UserCreate
from app.services.backend import Backend


async def register(backend: Backend, new_user: UserCreate) -> User:
    """Sign somebody up.

    Raises Refusal(REGISTRATION_CLOSED, PASSWORD_TOO_SHORT, PASSWORD_TOO_COMMON, EMAIL_TAKEN
    or BUSY).
    """
    if not backend.settings.registration_open:
        raise Refusal(Reason.REGISTRATION_CLOSED)
    return await create_user(backend, new_user)


async def create_user(backend: Backend, new_user: UserCreate, *, is_admin: bool = False) -> User:
    """Raises Refusal(PASSWORD_TOO_SHORT, PASSWORD_TOO_COMMON, EMAIL_TAKEN or BUSY)."""
    check_new_password(new_user.password, backend.settings.password_min_length)
    hashed_password = await backend.passwords.hash(new_user.password)
    user = User.model_validate(
        new_user, update={"hashed_password": hashed_password, "is_admin": is_admin}
    )
    await backend.database.write(insert_user, user)
    log_event("user_created", user_id=user.id, is_admin=is_admin)
    return user


def insert_user(session: Session, user: User) -> None:
    """The unique constraint decides, so that of two at the same time exactly one wins."""
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise Refusal(Reason.EMAIL_TAKEN) from None


async def promote(backend: Backend, email: str) -> bool:
    """Make the account with this address an administrator; False where there is none."""
    user_id = await backend.database.write(set_admin, email)
    if user_id:
        log_event("user_promoted", user_id=user_id)
    return user_id is not None


def set_admin(session: Session, email: str) -> UUID | None:
    user = find_by_email(session, email)
    if user is None:
        return None
    user.is_admin = True
    return user.id


async def authenticate(backend: Backend, email: str, password: str) -> User:
    """Who this is, by address and password; an older hash is replaced on the way.

    Unknown address, wrong password and disabled account are one and the same refusal after
    the same work. Raises Refusal(INVALID_CREDENTIALS or BUSY).
    """
    user = await backend.database.read(find_by_email, email)
    stored = user.hashed_password if user else None
    verification = await backend.passwords.verify(password, stored)
    if user is None or not verification.correct or not user.is_active:
        log_event("login_failed", user_id=user.id if user else None)
        raise Refusal(Reason.INVALID_CREDENTIALS)
    if replacement := verification.replacement:
        if not await backend.database.write(replace_hash, user, replacement):
            return await authenticate(backend, email, password)  # it changed meanwhile: look again
        user.hashed_password = replacement
    return user


def find_by_email(session: Session, email: str) -> User | None:
    return session.exec(select(User).where(col(User.email) == email)).first()


def replace_hash(session: Session, user: User, replacement: str) -> bool:
    """Not where the password was changed, or its hash replaced, meanwhile: then that stands."""
    unchanged = (col(User.id) == user.id, col(User.hashed_password) == user.hashed_password)
    replaced = update(User).where(*unchanged).values(hashed_password=replacement)
    return session.connection().execute(replaced).rowcount == 1
