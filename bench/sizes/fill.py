"""Fills databases of any size with logins as they are in life, faster than the service could.

A login's row has some 230 bytes: user agents have about 100 characters, ids are in the order of
time, every user has five logins, and four of five have been refreshed. All have one password.
"""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench.postgres import connected

LOGINS_PER_USER = 5
LIFETIME = timedelta(days=30)  # SESSION_MAX_DAYS
OLDEST = timedelta(days=29)
IDLE = timedelta(days=6)  # at most: REFRESH_TOKEN_EXPIRE_DAYS is 7
ACCESS_LIFETIME = 15 * 60 * 1_000_000  # microseconds between two refreshes
PRIME = 7919  # one after the other becomes all over the place
ID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
USER_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/150.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/150.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/26.1 Safari/605.1.15",
)


@dataclass(frozen=True)
class Content:
    """logins: those that are alive. expired: what the purge finds, besides.

    hashed: everybody's password. refreshed: whether four of five have been, or none.
    """

    logins: int
    hashed: str
    expired: int = 0
    refreshed: bool = True

    @property
    def users(self) -> int:
        return self.logins // LOGINS_PER_USER

    @property
    def rows(self) -> int:
        return self.logins + self.expired

    def parameters(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "hashed": self.hashed,
            "refreshed": self.refreshed,
            "user_agents": list(USER_AGENTS),
            "lifetime": LIFETIME,
            "idle": IDLE,
        }


# PostgreSQL makes the rows itself.

# A UUID version 7: the milliseconds of a moment, and the random part of one of version 4.
ID = """(lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7'
            || substr(gen_random_uuid()::text, 16))::uuid"""

USERS = f"""
    INSERT INTO users (id, email, full_name, hashed_password, is_active, is_admin, created_at,
                       email_verified, must_change_password, password_changed_at, last_login_at)
    SELECT {ID}, 'user' || n || '@example.com', NULL, %(hashed)s, true, false, moment,
           true, false, moment, now()
    FROM generate_series(0, %(users)s - 1) AS n,
         LATERAL (SELECT now() - interval '90 days' + n * interval '1 ms') AS a (moment)"""

LOGINS = f"""
    INSERT INTO logins (id, user_id, client_id, user_agent, ip_address, created_at, expires_at,
                        last, witness_n, witness_at)
    SELECT {ID},
           (SELECT array_agg(id) FROM users)[n * {PRIME} %% %(users)s + 1],
           'browser',
           (%(user_agents)s)[n %% {len(USER_AGENTS)} + 1],
           '198.51.' || n %% 256 || '.' || n / 256 %% 256,
           moment,
           moment + %(lifetime)s,
           last,
           CASE WHEN refreshed THEN last - {ACCESS_LIFETIME} END,
           CASE WHEN refreshed THEN last END
    FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(count)s - 1) AS n,
         LATERAL (SELECT now() - %(oldest)s + (n - %(first)s) * (%(period)s / %(count)s))
            AS a (moment),
         LATERAL (SELECT greatest(moment, now() - random() * %(idle)s)) AS b (used_at),
         LATERAL (SELECT (extract(epoch FROM used_at) * 1000000)::bigint) AS c (last),
         LATERAL (SELECT %(refreshed)s AND n %% 5 > 0) AS d (refreshed)"""

INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE tablename IN ('users', 'logins') AND indexname LIKE 'ix_%'"""


def fill_postgres(url: str, content: Content, *, indexes_last: bool) -> None:
    """indexes_last: makes those anew that new rows do not just extend at their right end. It takes
    a tenth of the time, and leaves them denser than they become in life.
    """
    with connected(url) as cursor:
        cursor.execute("SET session_replication_role = replica")  # foreign keys are not looked up
        cursor.execute("SET maintenance_work_mem = '512MB'")
        cursor.execute(INDEXES)
        indexes = cursor.fetchall() if indexes_last else []
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        cursor.execute(USERS, content.parameters())
        if content.expired:
            day_before = OLDEST + timedelta(days=2)
            insert_logins(cursor, content, 0, content.expired, day_before, timedelta(hours=23))
        insert_logins(cursor, content, 0, content.logins, OLDEST, OLDEST)
        for _, definition in indexes:
            cursor.execute(definition)
        for table in ("users", "logins"):
            cursor.execute(f"VACUUM (FREEZE, ANALYZE) {table}")
        cursor.execute("CHECKPOINT")


def insert_logins(
    cursor: Any, content: Content, first: int, count: int, oldest: timedelta, period: timedelta
) -> None:
    """first: number of the first one, which decides whose they are. oldest: how long ago it began.
    period: from then until the last one begins.
    """
    values = {"first": first, "count": count, "oldest": oldest, "period": period}
    cursor.execute(LOGINS, content.parameters() | values)


# SQLite gets the same rows.


def copy_to_sqlite(url: str, file: Path) -> float:
    """Says how many bytes of the file a login takes, indexes included."""
    with connected(url) as cursor, closing(sqlite3.connect(file)) as copy:
        cursor.execute("SET timezone = 'UTC'")
        copy_table(cursor, copy, "users")
        before = size_of(copy)
        copy_table(cursor, copy, "logins")
        (logins,) = copy.execute("SELECT count(*) FROM logins").fetchone()
        return float((size_of(copy) - before) / logins)


def copy_table(cursor: Any, copy: sqlite3.Connection, name: str) -> None:
    cursor.execute(f"SELECT * FROM {name} ORDER BY id")
    columns = [column.name for column in cursor.description]
    places = ", ".join("?" * len(columns))
    rows = ([as_in_sqlite(value) for value in row] for row in cursor)
    with copy:
        copy.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({places})", rows)


def as_in_sqlite(value: object) -> object:
    """As SQLAlchemy writes it. psycopg2 gives an id as text."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ", "microseconds")
    if isinstance(value, str) and ID_TEXT.fullmatch(value):
        return value.replace("-", "")
    return value


def size_of(copy: sqlite3.Connection) -> int:
    (pages,), (bytes_each,) = (
        copy.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
    )
    return int(pages * bytes_each)
