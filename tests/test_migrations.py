"""Migrations build every database, and the README's commands work as written."""

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text
from sqlmodel import SQLModel

from app.db.engine import create_database_engine
from app.db.migrations import REVISIONS, alembic_config
from tests.conftest import make_settings

ROOT = Path(__file__).parents[1]
TABLES = {"users", "logins", "audit_events", "budgets", "one_time_tokens", "outbox"}


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = create_database_engine(make_settings(empty_url))
    yield engine
    engine.dispose()


@pytest.fixture
def config(engine: Engine) -> Config:
    config = alembic_config()
    config.attributes["engine"] = engine
    return config


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def columns(engine: Engine, table: str) -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns(table)}


def known_to(config: Config) -> list[str]:
    """Alembic's own list, newest first."""
    script = ScriptDirectory.from_config(config)
    return [each.revision for each in script.walk_revisions()]


def test_the_service_reads_the_revisions_as_alembic_does(config: Config) -> None:
    known = known_to(config)
    assert (set(known), {known[0]}) == REVISIONS


def revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def test_the_migrations_build_every_table(config: Config, engine: Engine) -> None:
    command.upgrade(config, "head")
    assert tables(engine) == TABLES == set(SQLModel.metadata.tables)
    assert {revision(engine)} == REVISIONS.newest


def test_the_migrations_can_be_undone_and_done_again(config: Config, engine: Engine) -> None:
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    assert tables(engine) == set()
    assert left_over(engine) == []
    command.upgrade(config, "head")
    assert tables(engine) == TABLES


def left_over(engine: Engine) -> list[str]:
    """On PostgreSQL a type outlives its table, and then fails the next upgrade."""
    if engine.dialect.name == "sqlite":
        return []
    return [enum["name"] for enum in inspect(engine).get_enums()]  # type: ignore[attr-defined]


def test_each_migration_can_be_undone_by_itself(config: Config, engine: Engine) -> None:
    for target in reversed(known_to(config)):
        command.upgrade(config, target)
        command.downgrade(config, "-1")
        command.upgrade(config, target)
        assert revision(engine) == target


def test_upgrading_twice_changes_nothing(config: Config, engine: Engine) -> None:
    command.upgrade(config, "head")
    with engine.begin() as connection:
        connection.execute(text(A_USER))
    command.upgrade(config, "head")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM users")).scalar() == 1


# As the first version of the service inserts it, which may still run beside this one.
A_USER = """
    INSERT INTO users (id, email, full_name, hashed_password, is_active, is_admin, created_at)
    VALUES ('01a207028cff79b48a586b37b30e9129', 'ada@example.com', NULL, '!', true, false,
            '2026-11-23 12:00:00')
"""


def test_right_after_an_upgrade_autogenerate_finds_nothing_to_do(
    config: Config, engine: Engine
) -> None:
    command.upgrade(config, "head")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_every_constraint_has_the_name_that_a_migration_would_look_for(
    config: Config, engine: Engine
) -> None:
    command.upgrade(config, "head")
    inspector = inspect(engine)
    named = {
        table: {
            inspector.get_pk_constraint(table)["name"],
            *(found["name"] for found in inspector.get_unique_constraints(table)),
            *(found["name"] for found in inspector.get_foreign_keys(table)),
            *(found["name"] for found in inspector.get_check_constraints(table)),
            *(found["name"] for found in inspector.get_indexes(table)),
        }
        for table in TABLES
    }
    for table in TABLES:
        model = SQLModel.metadata.tables[table]
        expected = {constraint.name for constraint in model.constraints}
        expected |= {index.name for index in model.indexes}
        assert expected <= named[table]


@pytest.mark.proves("14.2.7")
def test_one_user_is_deleted_with_their_logins(config: Config, engine: Engine) -> None:
    command.upgrade(config, "head")
    with engine.begin() as connection:
        connection.execute(text(A_USER))
        connection.execute(
            text(
                "INSERT INTO logins (id, user_id, client_id, user_agent, ip_address, created_at,"
                " expires_at, last) SELECT id, id, 'browser', '', '', created_at, created_at, 1"
                " FROM users"
            )
        )
        connection.execute(text("DELETE FROM users"))
        assert connection.execute(text("SELECT count(*) FROM logins")).scalar() == 0


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_postgresql_is_told_to_vacuum_logins_early_while_somebody_writes(
    config: Config, engine: Engine
) -> None:
    command.upgrade(config, "0002")
    with engine.connect() as connection:
        connection.execute(text("UPDATE logins SET last = last"))  # its lock is held until the end
        command.upgrade(config, "0003")
    assert storage_parameters(engine, "logins") == ["autovacuum_vacuum_scale_factor=0.05"]
    command.downgrade(config, "0002")
    assert storage_parameters(engine, "logins") is None


PATIENT = """
from alembic import op
revision, down_revision = "patient", "{newest}"
def upgrade():
    op.execute("SET lock_timeout = 0")
    with op.get_context().autocommit_block():
        op.execute("CREATE TABLE patience (of varchar, lock_timeout varchar)")
        op.execute("INSERT INTO patience VALUES ('the patient', current_setting('lock_timeout'))")
"""
NEXT = """
from alembic import op
revision, down_revision = "next", "patient"
def upgrade():
    op.execute("INSERT INTO patience VALUES ('the next', current_setting('lock_timeout'))")
"""


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_a_migration_may_wait_for_locks_for_long_and_the_next_one_does_not(
    config: Config, engine: Engine, tmp_path: Path
) -> None:
    (newest,) = REVISIONS.newest
    (tmp_path / "patient.py").write_text(PATIENT.format(newest=newest))
    (tmp_path / "next.py").write_text(NEXT)
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{ROOT / 'alembic' / 'versions'}\n{tmp_path}")
    command.upgrade(config, "next")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM patience")).all()
    assert set(map(tuple, rows)) == {("the patient", "0"), ("the next", "1s")}


def storage_parameters(engine: Engine, table: str) -> list[str] | None:
    query = text("SELECT reloptions FROM pg_class WHERE oid = to_regclass(:name)")
    with engine.connect() as connection:
        found: list[str] | None = connection.execute(query, {"name": table}).scalar()
        return found


def test_the_statements_can_be_printed_instead_of_run(
    empty_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For databases that only somebody else may change."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    config = alembic_config()
    config.output_buffer = StringIO()
    command.upgrade(config, "head", sql=True)
    script = config.output_buffer.getvalue()
    assert "CREATE TABLE users" in script
    assert ("SET lock_timeout = '1s'" in script) == empty_url.startswith("postgresql")
    assert tables(engine) == set()


# As in the README, by somebody whose folder has a space in its name


class Copy:
    """A copy of the project, and its commands."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "static", "*.db")
        for name in ("app", "alembic"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "alembic.ini", folder)
        (folder / ".env").write_text(
            f"SECRET_KEY={secrets.token_hex(32)}\nDATABASE_URL={database_url}\n"
        )

    def alembic(self, *arguments: str) -> None:
        program = Path(sys.executable).with_name("alembic")
        settings = {"SECRET_KEY", "DATABASE_URL", "PYTHONPATH"}
        environment = {key: value for key, value in os.environ.items() if key not in settings}
        done = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def change_a_model(self) -> None:
        path = self.folder / "app" / "models" / "user.py"
        before = "    is_active: bool = True\n    is_admin: bool = False\n    created_at"
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1
        changed = "    nickname: str | None = Field(default=None, max_length=50)\n" + before
        path.write_text(text.replace(before, changed), encoding="utf-8")

    def migrations(self) -> set[Path]:
        return set((self.folder / "alembic" / "versions").glob("*.py"))


def test_the_readmes_commands_work_as_written(
    empty_url: str, engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "my project"
    folder.mkdir()
    copy = Copy(folder, empty_url)
    copy.alembic("upgrade", "head")
    assert tables(engine) == TABLES

    copy.change_a_model()
    known = copy.migrations()
    copy.alembic("revision", "--autogenerate", "-m", "add nickname")
    (new,) = copy.migrations() - known
    assert new.stem.endswith("add_nickname")
    done = re.findall(r"op\.(\w+)", new.read_text(encoding="utf-8"))
    assert [name for name in done if name != "batch_alter_table"] == ["add_column", "drop_column"]

    copy.alembic("upgrade", "head")
    assert "nickname" in columns(engine, "users")
    copy.alembic("downgrade", "-1")
    assert "nickname" not in columns(engine, "users")
    assert tables(engine) == TABLES


def test_the_readme_names_these_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in (
        'alembic revision --autogenerate -m "message"',
        "alembic upgrade head",
        "alembic downgrade -1",
    ):
        assert f"\n{line}" in readme
