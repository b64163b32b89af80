"""What administrators do with other people's accounts. They never learn or choose a password."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, or_
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.hashing import NO_PASSWORD
from app.core.refusals import Reason, Refusal
from app.models.audit import Event
from app.models.base import PageQuery
from app.models.login import Login
from app.models.mail import Template
from app.models.user import User, UserInvite, UserQuery, UserUpdateByAdmin
from app.services import accounts, audit, logins, one_time_tokens, outbox, throttle
from app.services.backend import Backend
from app.services.paging import Page, newest_first

# Every other change is USER_UPDATED.
EVENTS: dict[tuple[str, Any], Event] = {
    ("is_active", False): Event.USER_DISABLED,
    ("is_active", True): Event.USER_ENABLED,
    ("is_admin", True): Event.ADMIN_GRANTED,
    ("is_admin", False): Event.ADMIN_REVOKED,
    ("must_change_password", True): Event.PASSWORD_CHANGE_REQUIRED,
}


async def list_users(backend: Backend, query: UserQuery) -> Page[User]:
    return await backend.database.read(select_users, query)


def select_users(session: Session, query: UserQuery) -> Page[User]:
    flags = query.model_dump(exclude_none=True, exclude={"search", *PageQuery.model_fields})
    wanted: list[ColumnElement[bool]] = [
        col(getattr(User, name)) == value for name, value in flags.items()
    ]
    if query.search:
        wanted.append(matches(query.search))
    return newest_first(session, User, wanted, query)


def matches(text: str) -> ColumnElement[bool]:
    """% and _ stand for themselves. Addresses are stored in lower case.

    SQLite, and PostgreSQL under some locales, know the two cases of ASCII only; so Python writes
    the others in all the ways that a name is written.
    """
    spellings = {text.lower(), text.upper(), text.title()} if not text.isascii() else {text}
    return or_(
        col(User.email).contains(text.lower(), autoescape=True),
        *(col(User.full_name).icontains(one, autoescape=True) for one in sorted(spellings)),
    )


async def read_user(backend: Backend, user_id: UUID) -> User:
    """Raises Refusal(NOT_FOUND)."""
    return await backend.database.read(find, user_id)


def find(session: Session, user_id: UUID) -> User:
    user = session.exec(select(User).where(col(User.id) == user_id)).first()
    if user is None:
        raise Refusal(Reason.NOT_FOUND)
    return user


async def invite(backend: Backend, new_user: UserInvite, client: Client, *, admin: User) -> User:
    """An account without a password: the mailed link is how its owner chooses the first one.

    Raises Refusal(MAIL_NOT_CONFIGURED, EMAIL_TAKEN or TOO_MANY_ATTEMPTS).
    """
    if not backend.settings.sends_mail:
        raise Refusal(Reason.MAIL_NOT_CONFIGURED)
    user = User.model_validate(new_user, update={"hashed_password": NO_PASSWORD})
    await backend.database.write(insert_invited, backend, user, client, admin)
    return user


def insert_invited(
    session: Session, backend: Backend, user: User, client: Client, admin: User
) -> None:
    accounts.insert_user(session, backend, user, client, actor_id=admin.id)
    mail_link(session, backend, user, client)


async def change(
    backend: Backend, user_id: UUID, changes: UserUpdateByAdmin, client: Client, *, admin: User
) -> User:
    """Raises Refusal(NOT_FOUND or LAST_ADMIN)."""
    return await backend.database.write(apply, backend, user_id, changes, client, admin)


def apply(
    session: Session,
    backend: Backend,
    user_id: UUID,
    changes: UserUpdateByAdmin,
    client: Client,
    admin: User,
) -> User:
    given = changes.model_dump(exclude_unset=True)
    if False in (given.get("is_active"), given.get("is_admin")):
        accounts.keep_an_admin(session, backend, find(session, user_id))
    user = lock(session, user_id)
    changed = {name: value for name, value in given.items() if getattr(user, name) != value}
    user.sqlmodel_update(changed)
    others = [name for name, value in changed.items() if (name, value) not in EVENTS]
    if others:
        note(session, Event.USER_UPDATED, client, user, admin, fields=others)
    for event in filter(None, map(EVENTS.get, changed.items())):
        details = shut_out(session, user) if event is Event.USER_DISABLED else {}
        note(session, event, client, user, admin, **details)
    return user


def shut_out(session: Session, user: User) -> dict[str, int]:
    """Nothing of this comes back when the account is enabled again (ASVS 5.0, 7.4.2)."""
    ended = logins.delete_logins(session, col(Login.user_id) == user.id)
    one_time_tokens.void(session, user.id)
    outbox.void_links(session, user.email, user.id)
    return {"count": ended}


async def start_reset(backend: Backend, user_id: UUID, client: Client, *, admin: User) -> None:
    """The link goes to the user and to nobody else (ASVS 5.0, 6.4.6).

    Raises Refusal(MAIL_NOT_CONFIGURED, NOT_FOUND or TOO_MANY_ATTEMPTS).
    """
    if not backend.settings.sends_mail:
        raise Refusal(Reason.MAIL_NOT_CONFIGURED)
    await backend.database.write(request_reset, backend, user_id, client, admin)


def request_reset(
    session: Session, backend: Backend, user_id: UUID, client: Client, admin: User
) -> None:
    user = lock(session, user_id)
    note(session, Event.PASSWORD_RESET_REQUESTED, client, user, admin)
    mail_link(session, backend, user, client)


def mail_link(session: Session, backend: Backend, user: User, client: Client) -> None:
    """Administrators flood nobody's mailbox, either; and whoever spends the budget of the
    forgotten password on somebody does not keep an administrator from helping.
    """
    claim = backend.throttle.notice("link", user.email)
    throttle.take_and_note(session, [claim], client, user_id=user.id)
    first = user.hashed_password == NO_PASSWORD
    template = Template.INVITATION if first else Template.RESET_PASSWORD
    outbox.enqueue(session, backend.settings, template, user.email, client, user_id=user.id)


async def end_logins(backend: Backend, user_id: UUID, client: Client, *, admin: User) -> None:
    """Raises Refusal(NOT_FOUND)."""
    await backend.database.write(delete_logins, user_id, client, admin)


def delete_logins(session: Session, user_id: UUID, client: Client, admin: User) -> None:
    """The lock makes a log-in that is under way finish first, and end as well."""
    lock(session, user_id)
    logins.delete_all(session, user_id, client, actor_id=admin.id, sparing=None)


async def delete(backend: Backend, user_id: UUID, client: Client, *, admin: User) -> None:
    """Not one's own: that asks for the password (ASVS 5.0, 7.5.1).

    Raises Refusal(NOT_FOUND, LAST_ADMIN or OWN_ACCOUNT).
    """
    if user_id == admin.id:
        raise Refusal(Reason.OWN_ACCOUNT)
    await backend.database.write(delete_user, backend, user_id, client, admin)


def delete_user(
    session: Session, backend: Backend, user_id: UUID, client: Client, admin: User
) -> None:
    accounts.keep_an_admin(session, backend, find(session, user_id))
    accounts.remove(session, backend, lock(session, user_id), client, actor_id=admin.id)


def lock(session: Session, user_id: UUID) -> User:
    """Raises Refusal(NOT_FOUND)."""
    this = select(User).where(col(User.id) == user_id).with_for_update()
    user = session.exec(this, execution_options={"populate_existing": True}).first()
    if user is None:
        raise Refusal(Reason.NOT_FOUND)
    return user


def note(
    session: Session, event: Event, client: Client, user: User, admin: User, **details: Any
) -> None:
    audit.record(session, event, client, user_id=user.id, actor_id=admin.id, **details)
