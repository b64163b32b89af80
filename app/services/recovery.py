"""What a mailbox proves: that an address is somebody's, and who may choose a new password.

Asking is the same work for every address, and answers the same: the courier finds out later
whether there is an account, and sends a link or nothing.
"""

from datetime import UTC, datetime

from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.refusals import Reason, Refusal
from app.models.audit import Event
from app.models.login import Login
from app.models.mail import Purpose, Template
from app.models.user import User
from app.services import audit, logins, one_time_tokens, outbox, throttle
from app.services.backend import Backend
from app.services.notices import notify


async def ask_for_verification(backend: Backend, email: str, client: Client) -> None:
    """Raises Refusal(TOO_MANY_ATTEMPTS)."""
    event = Event.VERIFICATION_REQUESTED
    await backend.database.write(ask, backend, Template.VERIFY_EMAIL, event, email, client)


async def ask_for_reset(backend: Backend, email: str, client: Client) -> None:
    """Raises Refusal(TOO_MANY_ATTEMPTS)."""
    event = Event.PASSWORD_RESET_REQUESTED
    await backend.database.write(ask, backend, Template.RESET_PASSWORD, event, email, client)


def ask(
    session: Session,
    backend: Backend,
    template: Template,
    event: Event,
    email: str,
    client: Client,
) -> None:
    claims = backend.throttle.ask_for_mail(template, email, client)
    throttle.take_and_note(session, claims, client)
    outbox.enqueue(session, backend.settings, template, email, client)
    audit.record(session, event, client)


async def verify_email(backend: Backend, token: str, client: Client) -> None:
    """Raises Refusal(INVALID_ONE_TIME_TOKEN)."""
    await backend.database.write(mark_verified, token, client)


def mark_verified(session: Session, token: str, client: Client) -> None:
    user = use_token(session, token, Purpose.VERIFY_EMAIL)
    user.email_verified = True
    audit.record(session, Event.EMAIL_VERIFIED, client, user_id=user.id)


async def reset_password(backend: Backend, token: str, password: str, client: Client) -> None:
    """A password that is not taken leaves the link as it was.

    Raises Refusal(INVALID_ONE_TIME_TOKEN, BUSY, or why the password is not taken).
    """
    owner = await backend.database.read(find_owner, token)
    await backend.policy.check(password, owner.email, owner.full_name)
    if owner.must_change_password:  # somebody else may know the one of now
        same = await backend.passwords.verify(password, owner.hashed_password, client.network)
        if same.correct:
            raise Refusal(Reason.PASSWORD_UNCHANGED)
    hashed_password = await backend.passwords.hash(password, client.network)
    await backend.database.write(replace_password, backend, token, hashed_password, client)


def find_owner(session: Session, token: str) -> User:
    """Raises Refusal(INVALID_ONE_TIME_TOKEN)."""
    found = one_time_tokens.find(session, token, Purpose.RESET_PASSWORD)
    owner = session.exec(select(User).where(col(User.id) == found.user_id)).first()
    if owner is None:  # deleted just now
        raise Refusal(Reason.INVALID_ONE_TIME_TOKEN)
    return owner


def replace_password(
    session: Session, backend: Backend, token: str, hashed_password: str, client: Client
) -> None:
    """It was read in their mailbox, so the address is theirs, too."""
    user = use_token(session, token, Purpose.RESET_PASSWORD)
    set_password(session, backend, user, hashed_password, client)
    user.email_verified = True
    audit.record(session, Event.PASSWORD_RESET, client, user_id=user.id)


def use_token(session: Session, token: str, purpose: Purpose) -> User:
    """Whose it was, their row locked.

    A disabled user stays out, whatever they hold. Raises Refusal(INVALID_ONE_TIME_TOKEN).
    """
    found = one_time_tokens.find(session, token, purpose)
    owner = select(User).where(col(User.id) == found.user_id, col(User.is_active))
    user = session.exec(owner.with_for_update()).first()
    if user is None:
        raise Refusal(Reason.INVALID_ONE_TIME_TOKEN)
    one_time_tokens.use(session, found)
    return user


def set_password(
    session: Session, backend: Backend, user: User, hashed_password: str, client: Client
) -> None:
    """Every login ends, every link is void, every device is a stranger again; a mail says so."""
    user.hashed_password = hashed_password
    user.password_changed_at = datetime.now(UTC)
    user.must_change_password = False
    logins.delete_logins(session, col(Login.user_id) == user.id)
    one_time_tokens.void(session, user.id)
    outbox.void_links(session, user.email, user.id)
    notify(session, backend, Template.PASSWORD_CHANGED, user.email, client, user.id)
    throttle.begin_anew(session, backend.throttle.guesses_at(user))
