"""What goes wrong between this service and its database, and what is done about it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Dialect
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core.refusals import Reason, Refusal
from app.db.hosts import Silence

T = TypeVar("T")


ATTEMPTS = 3
READ_ONLY = "25006"
PREPARED_ELSEWHERE = ("26000", "42P05")  # unknown, or known already
CONFLICTS = ("40001", "40P01")  # not serializable, or a deadlock: PostgreSQL has undone it all


class OutcomeUnknown(Exception):
    """The connection broke while something was committed, or it was committed on the primary
    alone: it may have happened, so it is not tried again.
    """


class PoolsTransactions(Exception):
    """Whoever is told so may have to change DATABASE_URL, and nothing has happened."""

    def __init__(self) -> None:
        super().__init__(
            "What was prepared is known to another connection: DATABASE_URL leads to a pooler that "
            "pools transactions. Let it pool sessions, or name the database itself."
        )


def retried(attempt: Callable[[], T]) -> T:
    """Again where nothing has been done: a connection that broke while it was idle is found out by
    its next user, and of two transactions in each other's way one has to give in.
    """
    with faults_refused():
        for _ in range(ATTEMPTS - 1):
            try:
                return attempt()
            except DBAPIError as error:
                broken = error.connection_invalidated and not isinstance(error.orig, Silence)
                if not (broken or is_conflict(error)):
                    raise
        return attempt()


@contextmanager
def faults_refused() -> Iterator[None]:
    """Raises Refusal(DATABASE_UNAVAILABLE) for faults that pass or are no request's, and
    NOT_READY.
    """
    try:
        yield
    except DBAPIError as error:
        if lacks_migration(error):
            raise Refusal(Reason.NOT_READY) from error
        if code_of(error.orig) in PREPARED_ELSEWHERE:
            raise Refusal(Reason.DATABASE_UNAVAILABLE) from PoolsTransactions()
        passing = isinstance(error, OperationalError | InterfaceError | InternalError)
        if passing or type(error) is DatabaseError:  # SQLite: the file is damaged
            raise Refusal(Reason.DATABASE_UNAVAILABLE) from error
        raise
    except (PoolTimeout, OutcomeUnknown) as error:
        raise Refusal(Reason.DATABASE_UNAVAILABLE) from error


def lacks_migration(error: DBAPIError) -> bool:
    """A table or a column that this code knows is not there yet."""
    undefined = code_of(error.orig) in ("42P01", "42703")
    return undefined or str(error.orig).startswith(("no such table", "no such column"))


def is_conflict(error: DBAPIError) -> bool:
    return code_of(error.orig) in CONFLICTS


def is_read_only(error: BaseException) -> bool:
    return code_of(error) == READ_ONLY


def code_of(error: BaseException | None) -> str | None:
    """PostgreSQL's, of a driver's error."""
    return getattr(error, "pgcode", None)


def warnings_of(connection: Any) -> list[str]:
    """A driver's connection. PostgreSQL warns of a commit that waited for a standby until somebody
    cancelled it. It answers as if all were well; but if the primary fails, the commit is lost.
    """
    return getattr(connection, "notices", [])


def described(error: Exception, dialect: Dialect) -> Exception:
    """A driver's error as SQLAlchemy raises it."""
    return DBAPIError.instance(
        None,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        dialect=dialect,
    )
