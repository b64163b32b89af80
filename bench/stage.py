"""Everything that is measured, brought up side by side: databases, servers, and what drives them.

Idle servers cost nothing but memory, and side by side they can be measured in turn.
"""

import fnmatch
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import urlsplit

from bench import ours
from bench.contender import PASSWORD, Contender
from bench.load import BenchmarkError, find_wrk
from bench.machine import Server, free_port, running
from bench.peers.contenders import PEERS
from bench.pgbench import Pgbench
from bench.postgres import connected, processes
from bench.progress import Progress
from bench.subjects import Hashing, Served, Subject
from tests.postgres import PostgresError, postgres_server

STARTS = 3  # before the one that stays


class Stage:
    """subjects: what came up, by name. failures: a sentence for what did not."""

    def __init__(
        self, progress: Progress, *, users: int, logins: int, only: Collection[str] = ()
    ) -> None:
        self.subjects: dict[str, Subject] = {}
        self.failures: dict[str, str] = {}
        self._progress = progress
        self._users = users
        self._logins = logins
        self._only = only
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            with self._stack:
                self._set_up()
                self._stack = self._stack.pop_all()
        except PostgresError as error:
            raise BenchmarkError(str(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.doing("Ending the servers ...")
        self._stack.close()
        self._progress.end()

    def served(self, name: str) -> Served | None:
        subject = self.subjects.get(name)
        return subject if isinstance(subject, Served) else None

    def _set_up(self) -> None:
        find_wrk()
        self._look_for_names()
        folder = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="fastapi-auth-bench-", ignore_cleanup_errors=True
                )
            )
        )
        os.environ.pop("TEST_DATABASE_URL", None)  # a server elsewhere cannot be watched
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or our start is one that compiles
        self._progress.doing("Starting PostgreSQL ...")
        self.server_url = self._stack.enter_context(postgres_server(durable=True)).replace(
            "postgresql+psycopg2://", "postgresql://"
        )
        self.postgres = processes(self.server_url)
        scratch = folder / "ours"  # where no .env is
        scratch.mkdir()
        self._set_up_ours(scratch)
        for peer in PEERS:
            if self._wanted(peer.name):
                self._set_up_peer(peer, folder)
        self._set_up_limits(scratch)

    def _look_for_names(self) -> None:
        nowhere = Path()
        contenders = (*ours.contenders("", "", nowhere), *PEERS, *ours.limits(nowhere))
        names = [contender.name for contender in contenders] + ["argon2", "pgbench"]
        unknown = [pattern for pattern in self._only if not fnmatch.filter(names, pattern)]
        if unknown:
            raise BenchmarkError(f"{', '.join(unknown)}: the names are {', '.join(names)}.")

    def _wanted(self, name: str) -> bool:
        return not self._only or any(fnmatch.fnmatchcase(name, pattern) for pattern in self._only)

    def _set_up_ours(self, folder: Path) -> None:
        self._progress.doing(
            f"Filling our databases: {self._users} users, {self._logins} logins ..."
        )
        postgres = self._create_database("ours")
        sqlite = f"sqlite:///{(folder / 'ours.db').as_posix()}"
        ours.prepare(postgres, folder, self._users, self._logins)
        self._asked = self._inside(postgres, folder)
        asked_sqlite = None
        for contender in ours.contenders(postgres, sqlite, folder):
            if not self._wanted(contender.name):
                continue
            if contender.environment["DATABASE_URL"] == postgres:
                self._start(contender, folder, database="ours", inside=self._asked)
                continue
            if asked_sqlite is None:
                ours.prepare(sqlite, folder, self._users, self._logins)
                asked_sqlite = self._inside(sqlite, folder)
            self._start(contender, folder, inside=asked_sqlite)

    def _inside(self, url: str, folder: Path) -> ours.Inside:
        return self._stack.enter_context(ours.inside(url, folder, folder / "inside.log"))

    def _create_database(self, name: str) -> str:
        """Its URL. Nobody drops it: the server is thrown away."""
        with connected(self.server_url) as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        return urlsplit(self.server_url)._replace(path=f"/{name}").geturl()

    def _set_up_peer(self, peer: Contender, folder: Path) -> None:
        if missing := lacks(peer):
            self._skip(peer, f"{missing} is missing")
            return
        self._progress.doing(f"Filling the database of {peer.title} ...")
        values = {
            "python": sys.executable,
            "users": str(self._users),
            "password": PASSWORD,
            "port": str(free_port()),
        }
        try:
            if any("{database}" in value for value in peer.environment.values()):
                values["database"] = self._create_database(peer.name)
            settings = {
                name: peer.filled(value, values) for name, value in peer.environment.items()
            }
            for command in peer.prepare:
                ours.run_once(
                    [peer.filled(part, values) for part in command], peer.folder, settings
                )
        except BenchmarkError as error:
            self._skip(peer, str(error))
            return
        self._start(peer, folder, values=values, database=peer.name if "database" in values else "")

    def _set_up_limits(self, folder: Path) -> None:
        for limit in ours.limits(folder):
            if self._wanted(limit.name):
                self._start(limit, folder)
        if self._wanted("argon2"):
            self.subjects["argon2"] = Hashing(self._asked)
        if self._wanted("pgbench"):
            self._progress.doing("Filling the database of pgbench ...")
            copy = self._create_database("pgbench")
            ours.prepare(copy, folder, self._users, self._logins)
            self.subjects["pgbench"] = Pgbench(
                copy, self._asked.statements(), self.postgres, self._users, folder
            )

    def _start(
        self,
        contender: Contender,
        folder: Path,
        *,
        values: Mapping[str, str] = MappingProxyType({}),
        database: str = "",
        inside: ours.Inside | None = None,
    ) -> None:
        self._progress.doing(f"Starting {contender.title} ...")
        values = {"port": str(free_port()), **values}
        starts = []
        try:
            for _ in range(STARTS):
                with self._run(contender, folder, values) as server:
                    starts.append(server.start_seconds)
            server = self._stack.enter_context(self._run(contender, folder, values))
        except (BenchmarkError, OSError) as error:
            self._skip(contender, str(error))
            return
        self.subjects[contender.name] = Served(
            contender,
            server,
            starts=[*starts[1:], server.start_seconds],  # the first one had to compile
            users=self._users,
            database=database,
            postgres=self.postgres if database else None,
            inside=inside,
        )

    def _run(
        self, contender: Contender, folder: Path, values: Mapping[str, str]
    ) -> AbstractContextManager[Server]:
        return running(
            [contender.filled(part, values) for part in contender.serve],
            folder=contender.folder,
            environment={
                name: contender.filled(value, values)
                for name, value in contender.environment.items()
            },
            port=int(values["port"]),
            ready=contender.ready,
            log=folder / f"{contender.name}.log",
        )

    def _skip(self, contender: Contender, why: str) -> None:
        self.failures[contender.name] = why
        self._progress.say(f"{contender.title} is left out: {why}")


def lacks(contender: Contender) -> str:
    """The first thing that it needs and that is not there."""
    for need in contender.needs:
        kind, _, name = need.partition(":")
        if kind == "python" and importlib.util.find_spec(name) is None:
            return f"the Python package {name}"
        if kind == "node" and shutil.which("node") is None:
            return "Node"
        if kind == "node" and not (contender.folder / "node_modules" / name).is_dir():
            return f"the Node package {name}"
    return ""
