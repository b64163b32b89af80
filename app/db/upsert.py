"""The statements that are not portable: both databases have them, SQLAlchemy spells them apart."""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel


def insert(dialect: str, table: type[SQLModel]) -> Any:
    """INSERT with on_conflict_do_update."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
