"""The statements of nearly every request: they run without a session and its objects."""

from typing import Any, Protocol, TypeVar

from sqlalchemy.orm import class_mapper
from sqlmodel import SQLModel

Row = list[Any]
T = TypeVar("T", bound=SQLModel)


class Statement:
    """`name` is what PostgreSQL calls it once it is prepared. Its values are bindparam()s."""

    def __init__(self, name: str, clause: Any) -> None:
        self.name = name
        self.clause = clause
        self.writes = clause.is_dml or bool(getattr(clause, "_independent_ctes", ()))
        self.columns = [*clause.exported_columns]


class Runner(Protocol):
    """Runs one statement at a time, which is committed when it returns."""

    async def rows(self, statement: Statement, values: dict[str, Any]) -> list[Row]: ...

    def close(self) -> None: ...


def columns_of(table: type[SQLModel]) -> list[Any]:
    """In the order in which load() takes their values."""
    return [getattr(table, name) for name, _ in class_mapper(table).columns.items()]


def load(table: type[T], row: Row) -> T:
    """An object as the ORM loads it, and in no session. row: the values of columns_of(table)."""
    mapper = class_mapper(table)
    loaded: T = mapper.class_manager.new_instance()
    vars(loaded).update(zip(mapper.columns.keys(), row, strict=True))
    return loaded
