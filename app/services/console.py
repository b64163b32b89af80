"""What is done by whoever may use this machine: they own the database anyway."""

from sqlalchemy import delete
from sqlmodel import Session, col, select

from app.core.client import HERE
from app.core.refusals import Reason, Refusal
from app.models.audit import Event
from app.models.mail import PURPOSES, Mail, OneTimeToken, Purpose
from app.models.user import User, UserCreate
from app.services import accounts, audit, one_time_tokens, recovery
from app.services.backend import Backend


async def promote(backend: Backend, email: str) -> bool:
    """Make an account an administrator, as it stands.

    False where there is none, or where anybody could have signed up for it: its password may be a
    stranger's, who waits for this. Raises Refusal(FORBIDDEN) for a disabled account.
    """
    return await backend.database.write(promote_verified, email)


def promote_verified(session: Session, email: str) -> bool:
    user = lock(session, email)
    if user is None or not user.email_verified:
        return False
    grant(session, user)
    return True


async def create_admin(backend: Backend, new_user: UserCreate) -> None:
    """An administrator with this password, whether or not there is an account.

    Raises Refusal(FORBIDDEN for a disabled account, BUSY, or why the password is not taken).
    """
    await backend.policy.check(new_user.password, new_user.email, new_user.full_name)
    hashed_password = await backend.passwords.hash(new_user.password, network="")
    await backend.database.write(install_admin, backend, new_user, hashed_password)


def install_admin(
    session: Session, backend: Backend, new_user: UserCreate, hashed_password: str
) -> None:
    user = lock(session, new_user.email)
    if user is None:
        values = {"hashed_password": hashed_password, "is_admin": True, "email_verified": True}
        user = User.model_validate(new_user, update=values)
        accounts.insert_user(session, backend, user, HERE)
        return
    recovery.set_password(session, backend, user, hashed_password, HERE)
    user.email_verified = True
    audit.record(session, Event.PASSWORD_RESET, HERE, user_id=user.id)
    grant(session, user)


def grant(session: Session, user: User) -> None:
    user.is_admin = True
    audit.record(session, Event.ADMIN_GRANTED, HERE, user_id=user.id)


async def make_reset_link(backend: Backend, email: str) -> str | None:
    """To hand over, where mail does not reach somebody. None: no such account.

    Who hands it over vouches for them, as their mailbox does otherwise. Raises
    Refusal(FORBIDDEN) for a disabled account.
    """
    token = await backend.database.write(mint_reset_token, email)
    return token and f"{backend.settings.pages_url}/reset-password#token={token}"


def mint_reset_token(session: Session, email: str) -> str | None:
    user = lock(session, email)
    if user is None:
        return None
    audit.record(session, Event.PASSWORD_RESET_REQUESTED, HERE, user_id=user.id)
    return one_time_tokens.mint(session, user.id, Purpose.RESET_PASSWORD, email)


def void_restored_links(session: Session) -> dict[str, int]:
    """After a backup was restored: links that were used since, or became void, work no more.

    Nobody knows which those are, so all of them go. So do mails with links that waited in the
    backup: they were sent since. Says how many of each kind.
    """
    links = delete(OneTimeToken)
    mails = delete(Mail).where(col(Mail.template).in_([*PURPOSES]))
    execute = session.connection().execute
    return {"one_time_tokens": execute(links).rowcount, "mails": execute(mails).rowcount}


def lock(session: Session, email: str) -> User | None:
    """Raises Refusal(FORBIDDEN) for a disabled account: that is to be enabled first."""
    this = select(User).where(col(User.email) == email).with_for_update()
    user = session.exec(this).first()
    if user and not user.is_active:
        raise Refusal(Reason.FORBIDDEN)
    return user
