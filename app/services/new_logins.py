"""A login starts: in one statement where nothing is unusual, in a transaction otherwise."""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

from sqlalchemy import CTE, bindparam, func, insert, union_all, update
from sqlmodel import Session, SQLModel, col, select
from sqlmodel.sql.sqltypes import UTCDateTime

from app.core.client import Client
from app.core.config import Settings
from app.core.moments import to_microseconds
from app.core.refusals import Reason, Refusal
from app.core.tokens import ClientId
from app.db.statement import Statement, columns_of
from app.models.audit import AuditEvent, Event
from app.models.login import Login
from app.models.mail import Template
from app.models.user import User
from app.services import audit, logins, throttle
from app.services.authentication import Authenticated
from app.services.backend import Backend
from app.services.notices import notify

AS_IT_WAS = (
    col(User.id) == bindparam("user_id"),
    col(User.hashed_password) == bindparam("hashed_password_then"),
    col(User.is_active),
)
FAMILIAR = select(func.count(col(Login.id))).where(
    col(Login.user_id) == bindparam("user_id"),
    col(Login.ip_address) == bindparam("ip_address"),
    col(Login.user_agent) == bindparam("user_agent"),
)
UNCHANGED = (
    update(User)
    .where(*AS_IT_WAS)
    .values(last_login_at=bindparam("now"))
    .returning(FAMILIAR.scalar_subquery())
)


async def start(
    backend: Backend,
    authenticated: Authenticated,
    client: Client,
    client_id: ClientId,
    *,
    replacing: Collection[UUID] = (),
) -> Login:
    """Log in: always a new login. The one that the request brought along ends.

    Raises Refusal(INVALID_CREDENTIALS) where the account changed while its password was hashed.
    """
    login = new_login(authenticated.user, client, client_id, backend.settings)
    if not (
        is_usual(backend, authenticated, replacing)
        and await start_alone(backend, login, authenticated, client)
    ):
        await backend.database.write(insert_login, backend, login, authenticated, client, replacing)
    authenticated.user.last_login_at = login.created_at
    return login


def new_login(user: User, client: Client, client_id: ClientId, settings: Settings) -> Login:
    now = datetime.now(UTC)
    return Login(
        user_id=user.id,
        client_id=client_id,
        user_agent=client.user_agent,
        ip_address=client.ip_address,
        created_at=now,
        expires_at=now + settings.absolute_lifetime,
        last=to_microseconds(now),
    )


def is_usual(backend: Backend, authenticated: Authenticated, replacing: Collection[UUID]) -> bool:
    """Nothing ends, nobody is mailed, and PostgreSQL does in one statement what is to be done."""
    settings, logins = backend.settings, authenticated.logins
    return (
        backend.database.dialect == "postgresql"
        and not replacing
        and logins is not None
        and logins < settings.sessions_per_user
        and not (settings.sends_mail and is_stranger(authenticated))
    )


def is_stranger(authenticated: Authenticated) -> bool:
    """Somebody who has logged in before, and not from this device."""
    return authenticated.device is None and authenticated.user.last_login_at is not None


async def start_alone(
    backend: Backend, login: Login, authenticated: Authenticated, client: Client
) -> bool:
    """Without a transaction. False: the account is not as it was, and nothing has been done."""
    user = authenticated.user
    started = describe_start(login, authenticated, client)
    guesses = backend.throttle.guesses_at(user)
    parts = throttle.parts_of(authenticated.claims, guesses)
    values = {
        "user_id": user.id,
        "hashed_password_then": user.hashed_password,
        "last_login_then": user.last_login_at,
        **{f"login_{name}": value for name, value in login.model_dump().items()},
        **{f"event_{name}": value for name, value in started.model_dump().items()},
        **throttle.putting_back_values(parts),
    }
    if not await backend.database.rows(starting(len(parts)), values):
        return False
    audit.announce(started)
    return True


@cache
def starting(parts: int) -> Statement:
    """The account as it was, locked, and all that follows from it, for PostgreSQL.

    `last_login_at` moves with every login. So where it has not, nobody else has logged in, and
    there are as many logins as there were.
    """
    last_login = col(User.last_login_at).is_not_distinct_from(
        bindparam("last_login_then", type_=UTCDateTime())
    )
    account = (
        update(User)
        .where(*AS_IT_WAS, last_login)
        .values(last_login_at=bindparam("login_created_at"))
        .returning(col(User.id))
        .cte("account")
    )
    written = [
        inserting(Login, "login", account),
        inserting(AuditEvent, "event", account),
        throttle.putting_back("postgresql", parts, True, account).cte("budgets"),
    ]
    return Statement(f"start_{parts}", select(account.c.id).add_cte(*written))


def inserting(table: type[SQLModel], name: str, source: CTE) -> CTE:
    """A row, if there is one in the source."""
    columns = columns_of(table)
    values = [bindparam(f"{name}_{column.key}", type_=column.type) for column in columns]
    return insert(table).from_select(columns, select(*values).select_from(source)).cte(name)


def describe_start(login: Login, authenticated: Authenticated, client: Client) -> AuditEvent:
    return audit.describe(
        Event.LOGIN_STARTED,
        client,
        user_id=login.user_id,
        actor_id=login.user_id,
        login_id=login.id,
        client_id=login.client_id,
        known_device=authenticated.device is not None,
    )


def insert_login(
    session: Session,
    backend: Backend,
    login: Login,
    authenticated: Authenticated,
    client: Client,
    replacing: Collection[UUID],
) -> None:
    """Hashing takes a while, and nothing is locked meanwhile: the account is looked at again.

    The lock makes a password change or a deletion wait until this login is there to be ended.
    """
    user, settings = authenticated.user, backend.settings
    row = (
        session.connection()
        .execute(
            UNCHANGED,
            {
                "user_id": user.id,
                "hashed_password_then": user.hashed_password,
                "now": login.created_at,
                "ip_address": client.ip_address,
                "user_agent": client.user_agent,
            },
        )
        .first()
    )
    if row is None:
        raise Refusal(Reason.INVALID_CREDENTIALS)
    end_surplus(session, user, settings.sessions_per_user - 1, replacing, client)
    session.add(login)
    audit.add(session, describe_start(login, authenticated, client))
    # A program keeps no cookies, but it may have come from there before.
    known_place = login.client_id == ClientId.PROGRAM and row[0]
    if is_stranger(authenticated) and not known_place:
        notify(session, backend, Template.NEW_DEVICE, user.email, client, user.id)
    session.flush()
    # Last, because others wait for these rows. Whoever closed the account opens it so again.
    guesses = backend.throttle.guesses_at(user)
    throttle.note_success(session, authenticated.claims, guesses)


def end_surplus(
    session: Session, user: User, spared: int, replacing: Collection[UUID], client: Client
) -> None:
    """Those that the request brought along, and the least recently used above SESSIONS_PER_USER.

    A statement of its own: in one that waited for the lock, PostgreSQL would not see the logins
    that it waited for.
    """
    by_use = (
        select(Login.id)
        .where(col(Login.user_id) == user.id, col(Login.id).not_in(replacing))
        .order_by(col(Login.last).desc())
        .offset(spared)
        .subquery()  # SQLite orders no part of a UNION by itself
    )
    brought = select(Login.id).where(col(Login.id).in_(replacing))
    # One list of ids: with `or`, PostgreSQL would read the whole table.
    surplus = union_all(brought, select(by_use.c.id))
    logins.end_and_note(session, col(Login.id).in_(surplus), client)
