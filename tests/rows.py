"""The database behind a client, looked at and changed as an operator could."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, delete, event, update
from sqlmodel import Session, col, select

from app.db import postgres
from app.db.session import Database
from app.models import AuditEvent, Budget, Login, User
from app.models.audit import Event


def all_logins(database: Database) -> list[Login]:
    return database.run_read(lambda session: list(session.exec(select(Login)).all()))


def the_login(database: Database) -> Login:
    """The only one there is."""
    (login,) = all_logins(database)
    return login


def the_user(database: Database, email: str) -> User:
    return database.run_read(
        lambda session: session.exec(select(User).where(col(User.email) == email)).one()
    )


def all_users(database: Database) -> list[User]:
    return database.run_read(lambda session: list(session.exec(select(User)).all()))


def audited(database: Database, what: Event) -> list[AuditEvent]:
    """What the audit trail holds of this, the oldest first."""
    such = select(AuditEvent).where(col(AuditEvent.event) == what).order_by(col(AuditEvent.id))
    return database.run_read(lambda session: list(session.exec(such).all()))


def all_budgets(database: Database) -> list[Budget]:
    return database.run_read(lambda session: list(session.exec(select(Budget)).all()))


def change_login(database: Database, **values: Any) -> None:
    """Every login there is: time and backups move by this."""
    database.run_write(lambda session: execute(session, update(Login).values(**values)))


def change_user(database: Database, email: str, **values: Any) -> None:
    changed = update(User).where(col(User.email) == email).values(**values)
    database.run_write(lambda session: execute(session, changed))


def change_password(session: Session, email: str, hashed_password: str) -> None:
    """As every way to change it does, in one transaction: all logins of before end."""
    user = session.exec(select(User).where(col(User.email) == email).with_for_update()).one()
    user.hashed_password = hashed_password
    session.flush()
    execute(session, delete(Login).where(col(Login.user_id) == user.id))


def execute(session: Session, statement: Any) -> None:
    session.connection().execute(statement)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Collects what is sent to the database meanwhile, but for beginnings of transactions."""
    sent: list[str] = []

    def note(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if connection.engine.url == database.engine.url and not statement.startswith("BEGIN"):
            sent.append(statement)

    async def execute(connection: Any, spelled: postgres.Spelled, values: Any) -> Any:
        sent.append(spelled.prepare.partition(" AS ")[2])
        return await unobserved(connection, spelled, values)

    unobserved = postgres.execute
    event.listen(Engine, "before_cursor_execute", note)  # whichever engine it is that is asked
    postgres.execute = execute
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        postgres.execute = unobserved
