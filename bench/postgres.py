"""PostgreSQL by hand, beside the service. URLs are those of libpq: postgresql://…"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2

from bench.load import BenchmarkError
from bench.machine import Processes


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """A cursor whose every statement is committed by itself."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """The URL of a new one, which is gone afterwards."""
    with connected(server) as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        cursor.execute(f'CREATE DATABASE "{name}"')
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        with connected(server) as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def processes(server: str) -> Processes:
    """All of the server's, to see what they cost. Raises BenchmarkError where it is elsewhere."""
    with connected(server) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
        try:
            backend = psutil.Process(pid)
            if backend.name() == "postgres" and backend.ppid():
                return Processes(backend.ppid())
        except psutil.Error:
            pass
        raise BenchmarkError(
            "PostgreSQL runs elsewhere, so its processor time cannot be seen: unset "
            "TEST_DATABASE_URL, and one is started here."
        )
