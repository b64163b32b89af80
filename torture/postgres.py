"""A PostgreSQL of an experiment's own: it can be stopped, frozen, moved and started again."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2
from sqlalchemy import make_url

from tests.postgres import libpq, running_server
from torture.laboratory import Missing

PATIENCE = 30  # seconds, for its start and for its end


class Postgres:
    """Durable, on a port that it keeps. url: of its superuser, past every proxy."""

    def __init__(self, url: str) -> None:
        """It runs already."""
        self.url = url
        self.data = Path(self.execute("SHOW data_directory")[0][0])
        self._process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        self._user = self._process.uids().real
        self._command = self._process.cmdline()  # as it is started again
        self._environment = self._process.environ()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        with running_server(durable=True) as url:
            server = cls(url)
            try:
                yield server
            finally:
                server.stop(signal.SIGQUIT)

    @property
    def plain_url(self) -> str:
        """As psycopg2 takes it."""
        return libpq(self.url)

    @property
    def port(self) -> int:
        return int(make_url(self.url).port or 0)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        return execute(self.plain_url, *statements)

    def is_running(self) -> bool:
        return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE

    def stop(self, by: signal.Signals) -> None:
        """SIGINT: fast, as by an operator. SIGQUIT: at once, as by a fault."""
        if self.is_running():
            self._process.send_signal(by)
            with suppress(psutil.TimeoutExpired):
                self._process.wait(PATIENCE)

    def start(self) -> None:
        """Where it does not run. It is up to the caller to wait until it answers."""
        if self.is_running():
            return
        command = [*self._command]
        command[command.index("-D") + 1] = str(self.data)
        started = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=self._user,
        )
        self._process = psutil.Process(started.pid)

    def restart(self, **settings: object) -> None:
        """settings: from now on."""
        self.stop(signal.SIGINT)
        for name, value in settings.items():
            self._command += ["-c", f"{name}={value}"]
        self.start()
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its connections stay, and nothing comes. The parent first: it begets no more."""
        family = [self._process]
        self._process.suspend()
        try:
            family += self._process.children(recursive=True)
            for each in family[1:]:
                with suppress(psutil.NoSuchProcess):
                    each.suspend()
            yield
        finally:
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.resume()

    def move(self, folder: Path) -> None:
        """Its data, onto another disk."""
        self.stop(signal.SIGINT)
        target = folder / "data"
        run("cp", "--archive", str(self.data), str(target))
        shutil.chown(folder, self._user)
        self.data = target
        self.start()
        self.wait_until_it_answers()


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Each by itself. The rows of the last one, where it has some."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk in memory, to be filled up. Raises Missing."""
    folder.mkdir()
    try:
        run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        raise Missing("Full disks need root, to mount small ones: run it with sudo.") from None
    try:
        yield folder
    finally:
        run("umount", "--lazy", str(folder))


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """To the last byte."""
    filler = disk / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
    finally:
        filler.unlink()


def remount(disk: Path, how: str) -> None:
    """how: ro or rw."""
    run("mount", "-o", f"remount,{how}", str(disk))


def run(*command: Any) -> None:
    subprocess.run(command, check=True, capture_output=True)
