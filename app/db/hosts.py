"""Where PostgreSQL is: the one of its hosts that is the primary. Nobody waits for ever for it.

libpq goes from host to host by itself; but without blocking, as it works here, it never leaves one
that keeps silent.
"""

import selectors
import time
from functools import partial
from threading import Lock
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, set_wait_callback
from sqlalchemy import URL

PATIENCE = 5  # seconds to wait for a thread, a connection or a lock before answering 503
SLOWEST_STATEMENT = 10  # seconds
MARGIN = 2  # seconds: a server that lives has ended by then what takes too long
SILENCE = SLOWEST_STATEMENT + MARGIN

# Its first eight digits count the promotions until the server became the primary.
WAL_FILE = "SELECT pg_walfile_name(pg_current_wal_lsn())"

# What libpq is told of every connection to PostgreSQL.
CONNECT_ARGUMENTS = {
    "application_name": "fastapi-auth",
    # A connection whose other end is gone is found out within seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
    # Warnings only: one that comes with a commit says that it may be lost (app/db/faults.py).
    "options": f"-c lock_timeout={PATIENCE}s -c statement_timeout={SLOWEST_STATEMENT}s"
    f" -c idle_in_transaction_session_timeout={SLOWEST_STATEMENT}s -c timezone=UTC"
    " -c client_min_messages=warning",
}


class Hosts:
    """The one that was the primary last time is asked first.

    A standby is not asked at all: it may not know yet who has logged out. A primary that was frozen
    thinks, when it thaws, that it still is one, and does not know that either. So when one
    connection is lost, all of the process are left; and of several hosts none is taken whose
    timeline is older than one that was seen.
    """

    def __init__(self, url: URL) -> None:
        told = url.get_dialect()().create_connect_args(url)[1]
        arguments = {"target_session_attrs": "primary", **told, **CONNECT_ARGUMENTS}
        hosts = arguments.pop("host", "").split(",")
        ports = str(arguments.pop("port", "")).split(",")
        ports *= len(hosts) if len(ports) == 1 else 1
        self._patience = PATIENCE / len(hosts)
        self._hosts = [
            {**arguments, "host": host or None, "port": port or None}
            for host, port in zip(hosts, ports, strict=True)
        ]
        comparable = arguments["target_session_attrs"] in ("primary", "read-write")
        self._compares = comparable and len(self._hosts) > 1
        self._lock = Lock()  # of what follows
        self._generation = 0
        self._timeline = 0

    def keeps(self, connection: "Connection") -> bool:
        return connection.generation == self._generation

    def leave(self, connection: "Connection") -> None:
        """It is lost, and so are all that are as old. Another host is asked first."""
        with self._lock:
            if self.keeps(connection):
                self._generation += 1
                self._hosts = [*self._hosts[1:], self._hosts[0]]

    def connect(self, **more: Any) -> "Connection":
        """Raises psycopg2.OperationalError: a FormerPrimary, or that of the last host."""
        generation = self._generation
        failures = []
        for host in self._hosts:
            try:
                connection = connect(self._patience, **host, **more)
                if self._compares:
                    generation = self._compare(connection, generation)
            except psycopg2.OperationalError as error:
                failures.append(error)
            else:
                connection.generation = generation
                connection.patience = SILENCE
                self._hosts = [host, *(other for other in self._hosts if other is not host)]
                return connection
        raise next((one for one in failures if isinstance(one, FormerPrimary)), failures[-1])

    def _compare(self, connection: "Connection", generation: int) -> int:
        """The generation that it belongs to: a new one where there is a new primary. Else the one
        of before it was opened: what was lost meanwhile may have been the same server.

        Raises FormerPrimary.
        """
        timeline, host = timeline_of(connection), connection.info.host
        with self._lock:
            newest = self._timeline
            if timeline >= newest:
                if newest and timeline > newest:
                    generation = self._generation = self._generation + 1
                self._timeline = timeline
                return generation
        connection.close()
        raise FormerPrimary(
            f"{host} was the primary on timeline {timeline}, and there is one on {newest}. If the "
            "database was replaced by an older one, restart this process."
        )


class Connection(psycopg2.extensions.connection):
    """prepared: the statements of OnLoop that it knows.

    patience: seconds to wait for what the server says next; None: for ever.
    """

    def __init__(self, patience: float, *args: Any, **kwargs: Any) -> None:
        self.patience: float | None = patience
        self.prepared: set[str] = set()
        self.generation = 0
        self.is_new = True
        super().__init__(*args, **kwargs)


class Silence(psycopg2.OperationalError):
    """The server does not answer. What it was told to do may have happened, or may yet happen."""


def connect(patience: float, **arguments: Any) -> Connection:
    factory = partial(Connection, patience)
    connection: Connection = psycopg2.connect(**arguments, connection_factory=factory)
    if connection.async_:
        wait_for(connection)
    return connection


class FormerPrimary(psycopg2.OperationalError):
    """It takes writes, and another one has been promoted since."""


def timeline_of(connection: Connection) -> int:
    """0 where the server does not tell: some that speak like PostgreSQL have none."""
    if not connection.async_:
        connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(WAL_FILE)
            if connection.async_:
                wait_for(connection)
            (name,) = cursor.fetchone() or ("0",)
            return int(name[:8], 16)
    except psycopg2.OperationalError:
        connection.close()
        raise
    except psycopg2.Error as error:
        if connection.closed:
            raise psycopg2.OperationalError(str(error)) from error
        return 0
    except (TypeError, ValueError):
        return 0
    finally:
        if not (connection.async_ or connection.closed):
            connection.autocommit = False


# Of those that there are, the one that takes no file descriptor: there may be none left.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def wait_for(connection: Any) -> None:
    """All of psycopg2 waits in here: one that blocks in libpq would wait as long as a server is
    frozen, or as a commit is for its standby. Raises Silence.
    """
    patience = getattr(connection, "patience", None)
    until = patience and time.monotonic() + patience
    with Selector() as selector:
        while (state := connection.poll()) != POLL_OK:
            event = selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE
            selector.register(connection.fileno(), event)
            if not selector.select(until and until - time.monotonic()):
                raise Silence("the server does not answer")  # and psycopg2 closes the connection
            selector.unregister(connection.fileno())


set_wait_callback(wait_for)
