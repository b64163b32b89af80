"""Statements without a session, on a database thread.

For SQLite; and for PostgreSQL on Windows, whose event loop cannot wait for libpq's connections.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Engine

from app.db.faults import OutcomeUnknown, faults_refused, retried, warnings_of
from app.db.statement import Row, Statement


class OnThreads:
    def __init__(
        self,
        engine: Engine,
        on_thread: Callable[..., Awaitable[Any]],
        turn_to_write: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._engine = engine
        self._on_thread = on_thread
        self._turn_to_write = turn_to_write

    async def rows(self, statement: Statement, values: dict[str, Any]) -> list[Row]:
        run = self._write if statement.writes else self._read
        rows: list[Row] = await self._on_thread(run, statement, values)
        return rows

    def close(self) -> None:
        """The engine closes its connections."""

    def _read(self, statement: Statement, values: dict[str, Any]) -> list[Row]:
        return retried(lambda: self._execute(statement, values))

    def _write(self, statement: Statement, values: dict[str, Any]) -> list[Row]:
        with faults_refused(), self._turn_to_write():
            return self._execute(statement, values)

    def _execute(self, statement: Statement, values: dict[str, Any]) -> list[Row]:
        with self._engine.connect() as connection:
            warnings = warnings_of(connection.connection.dbapi_connection)
            warnings.clear()
            rows = [list(row) for row in connection.execute(statement.clause, values)]
        if warnings:
            raise OutcomeUnknown
        return rows
