"""Long lists, a page at a time. Ids are in the order of time (app/core/identifiers.py)."""

from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from app.models.audit import AuditEvent
from app.models.base import PageQuery
from app.models.user import User

Row = TypeVar("Row", User, AuditEvent)


class Page(NamedTuple, Generic[Row]):
    """next: the last id here, where another page follows."""

    items: list[Row]
    next: UUID | None


def newest_first(
    session: Session, table: type[Row], wanted: list[ColumnElement[bool]], query: PageQuery
) -> Page[Row]:
    """Walks down the index of ids, and stops when the page is full."""
    if query.after:
        wanted = [*wanted, col(table.id) < query.after]
    one_more = select(table).where(*wanted).order_by(col(table.id).desc()).limit(query.limit + 1)
    found = list(session.exec(one_more))
    items = found[: query.limit]
    return Page(items, items[-1].id if len(found) > query.limit else None)
