"""What goes wrong between this service and its database, and what is done about it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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

T = TypeVar("T")


class OutcomeUnknown(Exception):
    """The connection broke while something was committed: it may have happened, so it is not
    tried again.
    """


def retried_once(attempt: Callable[[], T]) -> T:
    """A connection that broke while it was idle is found out by its next user; that one retries."""
    with faults_refused():
        try:
            return attempt()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return attempt()


@contextmanager
def faults_refused() -> Iterator[None]:
    """Raises Refusal(DATABASE_UNAVAILABLE) for faults that pass, and NOT_READY."""
    try:
        yield
    except DBAPIError as error:
        if lacks_migration(error):
            raise Refusal(Reason.NOT_READY) from error
        passing = isinstance(error, OperationalError | InterfaceError | InternalError)
        if passing or type(error) is DatabaseError:  # SQLite: the file is damaged
            raise Refusal(Reason.DATABASE_UNAVAILABLE) from error
        raise
    except (PoolTimeout, OutcomeUnknown) as error:
        raise Refusal(Reason.DATABASE_UNAVAILABLE) from error


def lacks_migration(error: DBAPIError) -> bool:
    """A table or a column that this code knows is not there yet."""
    undefined = getattr(error.orig, "pgcode", None) in ("42P01", "42703")
    return undefined or str(error.orig).startswith(("no such table", "no such column"))


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
