"""SQL is compiled once for all the applications that tests build.

SQLAlchemy keeps it with each engine, by the engine's own dialect. A service has one, and tests have
thousands that live for a few statements each: to compile these took a sixth of their time.
"""

from typing import Any

from sqlalchemy import Connection, Dialect, Engine, event
from sqlmodel import SQLModel

from app.db.postgres import Spelled
from app.db.statement import Statement


class Shared(dict[Any, Any]):
    """In the place of SQLAlchemy's caches, whose keys begin with the dialect."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(by_name(key), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__(by_name(key), compiled)


def by_name(key: Any) -> Any:
    dialect, *statement = key
    return (dialect.name, *statement)


def share() -> None:
    """From now on."""
    compiled = Shared()
    for mapper in SQLModel._sa_registry.mappers:
        mapper._compiled_cache = compiled  # type: ignore[attr-defined]

    @event.listens_for(Engine, "engine_connect")
    def use(connection: Connection) -> None:
        connection.engine._compiled_cache = compiled

    spell, spelled = Spelled.of, dict[Statement, Spelled]()

    def spell_once(statement: Statement, dialect: Dialect) -> Spelled:
        if statement not in spelled:
            spelled[statement] = spell(statement, dialect)
        return spelled[statement]

    Spelled.of = spell_once  # type: ignore[method-assign, assignment]
