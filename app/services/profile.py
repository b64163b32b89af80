"""The current user's own account: name, password, address, export, deletion."""

from sqlalchemy import or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.hashing import normalise
from app.core.refusals import Reason, Refusal
from app.core.tokens import ClientId
from app.models.audit import ActivityPublic, AuditEvent, Event
from app.models.export import AccountExport, PendingLink, PendingMail
from app.models.login import Login, SessionPublic
from app.models.mail import Mail, OneTimeToken, Purpose, Template
from app.models.user import User, UserPublic, UserUpdate
from app.services import (
    accounts,
    audit,
    authentication,
    new_logins,
    one_time_tokens,
    outbox,
    recovery,
    throttle,
)
from app.services.backend import Backend
from app.services.logins import Current
from app.services.notices import notify

LONGEST_ACTIVITY = 10_000  # events: an export is one answer, made in memory


async def change(backend: Backend, user: User, changes: UserUpdate, client: Client) -> User:
    """Raises Refusal(TOO_MANY_ATTEMPTS)."""
    return await backend.database.write(apply_changes, backend, user, changes, client)


def apply_changes(
    session: Session, backend: Backend, user: User, changes: UserUpdate, client: Client
) -> User:
    row = session.exec(select(User).where(col(User.id) == user.id).with_for_update()).first()
    if row is None:
        raise Refusal(Reason.SESSION_REVOKED)
    given = changes.model_dump(exclude_unset=True)
    changed = [name for name, value in given.items() if getattr(row, name) != value]
    if changed:
        row.sqlmodel_update(given)
        whose = {"user_id": row.id, "actor_id": row.id}
        audit.record(session, Event.USER_UPDATED, client, **whose, fields=changed)
        throttle.take_and_note(session, backend.throttle.change(row.id), client, user_id=row.id)
    return row


async def change_password(
    backend: Backend, current: Current, current_password: str, new_password: str, client: Client
) -> Current:
    """Every login of the user ends, this one too, and a new one starts, which is returned.

    Raises Refusal(WRONG_PASSWORD, TOO_MANY_ATTEMPTS, BUSY, or why the new one is not taken).
    """
    user = current.user
    await authentication.confirm_password(backend, user, current_password, client)
    if normalise(new_password) == normalise(current_password):
        raise Refusal(Reason.PASSWORD_UNCHANGED)
    await backend.policy.check(new_password, user.email, user.full_name)
    hashed_password = await backend.passwords.hash(new_password, client.network)
    login = new_logins.new_login(user, client, ClientId(current.login.client_id), backend.settings)
    return await backend.database.write(
        exchange_password, backend, user, hashed_password, login, client
    )


def exchange_password(
    session: Session,
    backend: Backend,
    user: User,
    hashed_password: str,
    login: Login,
    client: Client,
) -> Current:
    row = authentication.lock_unchanged(session, user)
    recovery.set_password(session, backend, row, hashed_password, client)
    session.add(login)
    whose = {"user_id": row.id, "actor_id": row.id, "login_id": login.id}
    audit.record(session, Event.PASSWORD_CHANGED, client, **whose)
    return Current(row, login)


async def ask_to_change_email(
    backend: Backend, user: User, password: str, email: str, client: Client
) -> None:
    """Nothing changes before the new address has confirmed it, and the answer is always the same:
    whether that address has an account is for its mailbox to know.

    Raises Refusal(WRONG_PASSWORD, TOO_MANY_ATTEMPTS or BUSY).
    """
    await authentication.confirm_password(backend, user, password, client)
    await backend.database.write(enqueue_confirmation, backend, user, email, client)


def enqueue_confirmation(
    session: Session, backend: Backend, user: User, email: str, client: Client
) -> None:
    authentication.lock_unchanged(
        session, user
    )  # or the wish would outlive a change of the password
    template = Template.CONFIRM_EMAIL
    claims = backend.throttle.ask_for_mail(template, email, client)
    throttle.take_and_note(session, claims, client, user_id=user.id)
    outbox.enqueue(session, backend.settings, template, email, client, user_id=user.id)
    whose = {"user_id": user.id, "actor_id": user.id}
    audit.record(session, Event.EMAIL_CHANGE_REQUESTED, client, **whose)


async def confirm_email(backend: Backend, token: str, client: Client) -> None:
    """Raises Refusal(INVALID_ONE_TIME_TOKEN), also where the address was taken meanwhile."""
    await backend.database.write(replace_email, backend, token, client)


def replace_email(session: Session, backend: Backend, token: str, client: Client) -> None:
    new_address = one_time_tokens.find(session, token, Purpose.CONFIRM_EMAIL).email
    user = recovery.use_token(session, token, Purpose.CONFIRM_EMAIL)
    former_address = user.email
    user.email = new_address
    user.email_verified = True
    try:
        session.flush()  # before mails are touched: who signs up takes these locks in this order
    except IntegrityError:
        raise Refusal(Reason.INVALID_ONE_TIME_TOKEN) from None
    one_time_tokens.void(session, user.id)
    outbox.void_links(session, former_address, user.id)
    notify(session, backend, Template.EMAIL_CHANGED, former_address, client, user.id)
    audit.record(session, Event.EMAIL_CHANGED, client, user_id=user.id)


async def delete(backend: Backend, user: User, password: str, client: Client) -> None:
    """Raises Refusal(WRONG_PASSWORD, LAST_ADMIN, TOO_MANY_ATTEMPTS or BUSY)."""
    await authentication.confirm_password(backend, user, password, client)
    await backend.database.write(delete_account, backend, user, client)


def delete_account(session: Session, backend: Backend, user: User, client: Client) -> None:
    accounts.keep_an_admin(session, backend, user)
    row = authentication.lock_unchanged(session, user)
    accounts.remove(session, backend, row, client, actor_id=row.id)


async def export(backend: Backend, current: Current, client: Client) -> AccountExport:
    """Everything that is stored about somebody, but for what only secrets are made of.

    Raises Refusal(BUSY or TOO_MANY_ATTEMPTS).
    """
    if backend.exporting.locked():
        raise Refusal(Reason.BUSY)
    await backend.database.write(note_export, backend, current, client)
    return await backend.database.read(collect_alone, backend, current)


def note_export(session: Session, backend: Backend, current: Current, client: Client) -> None:
    user_id = current.user.id
    whose = {"user_id": user_id, "actor_id": user_id, "login_id": current.login.id}
    audit.record(session, Event.DATA_EXPORTED, client, **whose)
    throttle.take_and_note(session, backend.throttle.change(user_id), client, user_id=user_id)


def collect_alone(session: Session, backend: Backend, current: Current) -> AccountExport:
    """One at a time in each process: it keeps a thread, and perhaps one of the few connections for
    reading, for as long as ten thousand events take. Raises Refusal(BUSY).
    """
    if not backend.exporting.acquire(blocking=False):
        raise Refusal(Reason.BUSY)
    try:
        return collect(session, current)
    finally:
        backend.exporting.release()


def collect(session: Session, current: Current) -> AccountExport:
    user = current.user
    theirs = select(Login).where(col(Login.user_id) == user.id).order_by(col(Login.id))
    links = select(OneTimeToken).where(col(OneTimeToken.user_id) == user.id)
    mails = select(Mail).where(or_(col(Mail.user_id) == user.id, col(Mail.recipient) == user.email))
    events = select(AuditEvent).where(
        or_(col(AuditEvent.user_id) == user.id, col(AuditEvent.actor_id) == user.id)
    )
    newest = events.order_by(col(AuditEvent.id).desc()).limit(LONGEST_ACTIVITY)
    return AccountExport(
        user=UserPublic.model_validate(user),
        sessions=[
            SessionPublic.model_validate(login, update={"current": login.id == current.login.id})
            for login in session.exec(theirs)
        ],
        links=[PendingLink.model_validate(link) for link in session.exec(links)],
        mails=[PendingMail.model_validate(mail) for mail in session.exec(mails)],
        activity=[ActivityPublic.of(event) for event in session.exec(newest)],
    )
