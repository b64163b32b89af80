"""Nothing that people do makes PostgreSQL read a whole table: ten million rows cost what ten do.

Where it is told to avoid that, it does so only when no index helps, however few rows there are. To
walk through a whole index is not forbidden: of two rows that is a good plan.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from app.db.postgres import Spelled
from app.db.session import Database
from app.db.statement import Statement
from tests.actions import ACTIONS, ME, Stage, set_up
from tests.admins import USERS, url_of
from tests.conftest import ClientFactory, make_settings, migrate
from tests.links import database_of
from tests.people import BOB, log_in, refresh
from tests.postgres import fresh_database
from tests.rows import execute

WHOLE_TABLE = re.compile(r"Seq Scan on (\w+)")
SMALL = {"outbox"}  # what has been sent is gone; it is searched where a link becomes void


pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def migrated_postgresql(postgresql_server: str) -> Iterator[str]:
    """One of our own, for it is told what to avoid."""
    with fresh_database(postgresql_server) as url:
        migrate(url)
        database = Database(make_settings(url))
        name = database.engine.url.database
        database.run_write(execute, text(f'ALTER DATABASE "{name}" SET enable_seqscan = off'))
        database.close()
        yield url


class Plans:
    """Of everything that is asked of PostgreSQL."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.prepared: dict[str, Statement] = {}

    def note(self, connection: Any, _c: object, asked: str, values: Any, *_: object) -> None:
        words = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
        if not asked.startswith(words) or asked in self.found:
            return
        with connection.connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {asked}", values)
            self.found[asked] = "\n".join(line for (line,) in cursor.fetchall())

    def explain_prepared(self, database: Database) -> None:
        with database.engine.connect() as connection, connection.connection.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = force_generic_plan")
            for statement in self.prepared.values():
                spelled = Spelled.of(statement, connection.dialect)
                cursor.execute(spelled.prepare)
                cursor.execute(f"EXPLAIN {spelled.execute}", [None] * len(spelled.values))
                self.found[spelled.prepare] = "\n".join(line for (line,) in cursor.fetchall())

    def of_whole_tables(self) -> list[str]:
        assert self.found
        return [
            f"{asked}\n{plan}"
            for asked, plan in self.found.items()
            if {*WHOLE_TABLE.findall(plan)} - SMALL
        ]


@pytest.fixture
def stage(make_mailing_client: ClientFactory) -> Stage:
    return set_up(make_mailing_client)


@pytest.fixture
def plans(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plans]:
    """From here on."""
    plans, rows = Plans(), Database.rows

    async def note_prepared(
        database: Database, statement: Statement, values: dict[str, Any]
    ) -> Any:
        plans.prepared[statement.name] = statement
        return await rows(database, statement, values)

    monkeypatch.setattr(Database, "rows", note_prepared)
    event.listen(Engine, "before_cursor_execute", plans.note)
    yield plans
    event.remove(Engine, "before_cursor_execute", plans.note)


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_reads_no_whole_table(stage: Stage, plans: Plans, name: str) -> None:
    action = ACTIONS[name]
    action.prepare(stage)
    assert action.act(stage).status_code == action.status
    plans.explain_prepared(database_of(stage.ada))
    assert plans.of_whole_tables() == []


def test_to_log_in_again_in_a_browser_reads_no_whole_table(stage: Stage, plans: Plans) -> None:
    assert log_in(stage.bob, BOB).status_code == 200
    assert refresh(stage.bob).status_code == 200
    plans.explain_prepared(database_of(stage.ada))
    assert any(asked.startswith("DELETE FROM logins") for asked in plans.found)
    assert plans.of_whole_tables() == []


@pytest.mark.parametrize(
    "path",
    [ME, f"{ME}/sessions", f"{ME}/activity", f"{ME}/export", USERS, "/api/v1/audit-events"],
)
def test_a_page_reads_no_whole_table(stage: Stage, plans: Plans, path: str) -> None:
    assert stage.ada.get(path).status_code == 200
    assert stage.ada.get(url_of(stage.ada, BOB)).status_code == 200
    plans.explain_prepared(database_of(stage.ada))
    assert plans.of_whole_tables() == []
