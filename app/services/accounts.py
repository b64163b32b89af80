"""Accounts begin and end."""

from uuid import UUID

from sqlalchemy import and_, delete, union
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.hashing import NO_PASSWORD
from app.core.refusals import Reason, Refusal
from app.db.upsert import insert
from app.models.audit import Event
from app.models.mail import OneTimeToken, Template
from app.models.user import User, UserCreate
from app.services import audit, outbox, throttle
from app.services.backend import Backend
from app.services.notices import notify


async def register(backend: Backend, new_user: UserCreate, client: Client) -> User | None:
    """Sign somebody up. None where the answer must not tell whether the address was free.

    Raises Refusal(REGISTRATION_CLOSED, TOO_MANY_ATTEMPTS, EMAIL_TAKEN, BUSY, or why the
    password is not taken).
    """
    settings = backend.settings
    if not settings.registration_open:
        raise Refusal(Reason.REGISTRATION_CLOSED)
    await backend.policy.check(new_user.password, new_user.email, new_user.full_name)
    if settings.sends_mail:
        claims = backend.throttle.ask_for_mail("sign-up", new_user.email, client)
    else:
        claims = backend.throttle.sign_up(client)
    with backend.passwords.place(client.network) as place:
        await backend.database.write(throttle.take_and_note, claims, client)
        hashed_password = await place.hash(new_user.password)
    user = User.model_validate(new_user, update={"hashed_password": hashed_password})
    if settings.require_verified_email:
        await backend.database.write(insert_or_replace, backend, user, client)
        return None
    await backend.database.write(insert_user, backend, user, client, welcome=True)
    return user


def insert_or_replace(session: Session, backend: Backend, user: User, client: Client) -> None:
    """The same statements whether or not the address has an account, so that nobody learns it.

    Who signs up again for an address that was never verified, nor used, replaces the password
    and voids the links that were sent before: otherwise somebody could wait there with a
    password for the owner of the address. The courier looks which mail it has to be.
    """
    never_verified = (
        col(User.email) == user.email,
        col(User.email_verified).is_(False),
        col(User.hashed_password) != NO_PASSWORD,  # invited: their mailbox decides
        col(User.last_login_at).is_(None),  # in use, from when nobody had to be verified
        col(User.is_admin).is_(False),
    )
    statement = insert(session.get_bind().dialect.name, User).values(**user.model_dump())
    new = statement.excluded
    replaced = {name: new[name] for name in ("hashed_password", "full_name", "password_changed_at")}
    statement = statement.on_conflict_do_update(
        index_elements=["email"], set_=replaced, where=and_(*never_verified[1:])
    )
    whose_now = session.connection().execute(statement.returning(col(User.id))).scalar()
    # Under the lock on the user's row, which the courier takes before it makes a token: otherwise
    # a link that it was just making for the former password would confirm the new one.
    whose = select(User.id).where(*never_verified).scalar_subquery()
    session.connection().execute(delete(OneTimeToken).where(col(OneTimeToken.user_id) == whose))
    outbox.void_verifications(session, user.email)
    outbox.enqueue(session, backend.settings, Template.VERIFY_EMAIL, user.email, client, new=True)
    event = Event.USER_CREATED if whose_now == user.id else Event.REGISTRATION_REQUESTED
    audit.record(session, event, client, user_id=whose_now)


def insert_user(
    session: Session,
    backend: Backend,
    user: User,
    client: Client,
    *,
    actor_id: UUID | None = None,
    welcome: bool = False,
) -> None:
    """The unique constraint decides, so that of two at the same time exactly one wins."""
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise Refusal(Reason.EMAIL_TAKEN) from None
    audit.record(
        session,
        Event.USER_CREATED,
        client,
        user_id=user.id,
        actor_id=actor_id,
        is_admin=user.is_admin,
    )
    if welcome:
        template = Template.VERIFY_EMAIL
        outbox.enqueue(session, backend.settings, template, user.email, client, user_id=user.id)


def find_by_email(session: Session, email: str) -> User | None:
    return session.exec(select(User).where(col(User.email) == email)).first()


def keep_an_admin(session: Session, backend: Backend, user: User) -> None:
    """Call it before `user` is demoted, disabled or deleted, in the same transaction.

    Locks the row of every active administrator, and that of `user`, in one order: of two who
    demote each other at the same moment the second one waits, and is then the last. Who cannot
    log in does not count. Raises Refusal(LAST_ADMIN).
    """
    active_admin = and_(
        col(User.is_admin), col(User.is_active), col(User.hashed_password) != NO_PASSWORD
    )
    if backend.settings.require_verified_email:
        active_admin &= col(User.email_verified)
    # Two searches by an index: of their OR, SQLite would make a walk through all users.
    admins_and_user = union(
        select(User.id).where(active_admin), select(User.id).where(col(User.id) == user.id)
    )
    locked = (
        select(User.id, active_admin)
        .where(col(User.id).in_(admins_and_user))
        .order_by(col(User.id))
        .with_for_update()
    )
    admins = [user_id for user_id, counts in session.exec(locked) if counts]
    if admins == [user.id]:
        raise Refusal(Reason.LAST_ADMIN)


def remove(
    session: Session, backend: Backend, user: User, client: Client, *, actor_id: UUID | None
) -> None:
    """With everything that is theirs, but for the ids in the audit trail; a last mail says so.

    Notices that were not sent yet still go out: a thief who changes the address and then deletes
    the account must not silence them. Links find nobody, and are dropped.
    """
    audit.record(session, Event.USER_DELETED, client, user_id=user.id, actor_id=actor_id)
    session.connection().execute(delete(User).where(col(User.id) == user.id))
    notify(session, backend, Template.ACCOUNT_DELETED, user.email, client)
