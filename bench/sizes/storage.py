"""What logins take on PostgreSQL's disk: after very many refreshes, and after months of use."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.conversation import Conversation
from bench.load import BenchmarkError
from bench.postgres import connected, database
from bench.progress import Progress
from bench.sizes.fill import Content, fill_postgres, insert_logins
from bench.sizes.service import inside, migrate
from tests.postgres import postgres_server

CLIENTS = 4
ROTATE = """
CREATE PROCEDURE rotate_some(times integer) LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[] := (SELECT array_agg(id) FROM logins);
    chosen uuid; newest bigint; moment timestamptz; clock bigint; moved record;
BEGIN
    FOR turn IN 1..times LOOP
        chosen := ids[1 + floor(random() * cardinality(ids))];
        SELECT last INTO newest FROM logins WHERE id = chosen;
        moment := clock_timestamp();
        clock := extract(epoch FROM moment) * 1000000;
        {refresh} INTO moved;
        COMMIT;
    END LOOP;
END $$"""
NAMES = {  # of the statement's values
    "login_id": "chosen",
    "last_then": "newest",
    "idle_since": "0",
    "now": "moment",
    "new_last": "clock",
    "new_witness_n": "newest",
    "new_witness_at": "clock",
    "new_candidate_n": "NULL",
    "new_candidate_at": "NULL",
}

LOGINS_USED = 20_000
DAYS = 30  # that a login lives
REFRESHES = 9  # of a login in its life: far fewer than most have, so little is smoothed over
MONTHS = 2
VACUUM_SECONDS = 60  # that a vacuum may take to come and go


@dataclass(frozen=True)
class Storage:
    """parts: bytes for a login of the table (its maps included) and of each index.

    hot: which part of all refreshes so far changed no index.
    wal: bytes that a refresh since the last look wrote to the log.
    """

    rotations: int
    parts: dict[str, float]
    pages: dict[str, int]
    hot: float | None = None
    wal: float | None = None

    @property
    def total(self) -> float:
        return sum(self.parts.values())


Variant = Mapping[str, str]  # storage parameters, beside those of the migrations


def measure(
    logins: int, rotations: int, variants: Mapping[str, Variant], folder: Path, progress: Progress
) -> dict[str, Any]:
    """On a PostgreSQL of its own, for it is told to look for garbage more often."""
    results: dict[str, Any] = {"logins": logins, "logins_used": LOGINS_USED, "variants": {}}
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server()).replace("+psycopg2", "")
        for name, variant in variants.items():
            progress.doing(f"Refreshing {rotations:,} times: {name} ...")
            with ready(server, Content(logins, "", refreshed=False), variant, folder) as url:
                looks = [asdict(look) for look in refreshed(url, logins, rotations)]
            results["variants"][name] = {"refreshed": looks}
        look_often(server)
        for name, variant in variants.items():
            progress.doing(f"Living through {MONTHS} months: {name} ...")
            content = Content(LOGINS_USED, "", refreshed=False)
            with ready(server, content, variant, folder) as url:
                results["variants"][name]["used"] = [asdict(look) for look in used(url, content)]
    return results


@contextmanager
def ready(server: str, content: Content, variant: Variant, folder: Path) -> Iterator[str]:
    """The URL of a database with such logins, and with a procedure that refreshes them."""
    with (
        database(server, "storage") as url,
        inside(url, folder, folder / "storage.log") as asked,
    ):
        migrate(url, folder)
        with connected(url) as cursor:
            for name, value in variant.items():
                cursor.execute(f"ALTER TABLE logins SET ({name} = {value})")
        fill_postgres(url, content, indexes_last=False)
        prepare_rotations(url, asked)
        yield url


def prepare_rotations(url: str, inside: Conversation) -> None:
    """A procedure that refreshes logins by lot, by the service's own statement, each in a
    transaction of its own, as fast as the database can.
    """
    with connected(url) as cursor:
        cursor.execute(ROTATE.format(refresh=inside.ask("rotation", **NAMES)))


def rotate(url: str, times: int) -> None:
    def call(_: int) -> None:
        with connected(url) as cursor:
            # Whether a commit waits for the disk changes nothing about what is stored.
            cursor.execute("SET synchronous_commit = off")
            cursor.execute("CALL rotate_some(%s)", [times // CLIENTS])

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(call, range(CLIENTS)))


def refreshed(url: str, logins: int, rotations: int) -> Iterator[Storage]:
    """At the beginning, and as often as a tenth of the refreshes has been made."""
    yield look(url, logins)
    written = log_position(url)
    for done in range(rotations // 10, rotations + 1, rotations // 10):
        rotate(url, rotations // 10)
        before, written = written, log_position(url)
        yield look(url, logins, done, wal=(written - before) / (rotations // 10))


def used(url: str, content: Content) -> Iterator[Storage]:
    """Every day the oldest logins go, as many come, and all are refreshed now and then."""
    daily = content.logins // DAYS
    rotations = content.logins * REFRESHES // DAYS
    for day in range(DAYS * MONTHS):
        with connected(url) as cursor:
            cursor.execute("SET session_replication_role = replica")
            cursor.execute(
                "DELETE FROM logins WHERE id IN (SELECT id FROM logins ORDER BY id LIMIT %s)",
                [daily],
            )
            insert_logins(cursor, content, day * daily, daily, timedelta(0), timedelta(0))
        rotate(url, rotations)
        wait_for_vacuum(url)
        yield look(url, content.logins, (day + 1) * rotations)


DUE = """
    SELECT n_dead_tup > current_setting('autovacuum_vacuum_threshold')::int + reltuples * coalesce(
        (SELECT option_value::float FROM pg_options_to_table(reloptions)
         WHERE option_name = 'autovacuum_vacuum_scale_factor'),
        current_setting('autovacuum_vacuum_scale_factor')::float)
        OR EXISTS (SELECT FROM pg_stat_activity
                   WHERE backend_type = 'autovacuum worker' AND datname = current_database())
    FROM pg_class JOIN pg_stat_user_tables ON oid = relid WHERE oid = 'logins'::regclass"""


def wait_for_vacuum(url: str) -> None:
    """Until the automatic one has been, if it is due. A day is a second here, and in life a vacuum
    does not take the better part of a day.
    """
    until = time.monotonic() + VACUUM_SECONDS
    with connected(url) as cursor:
        while True:
            cursor.execute(DUE)
            if cursor.fetchone() == (False,):
                return
            if time.monotonic() > until:
                raise BenchmarkError(f"No vacuum came within {VACUUM_SECONDS} seconds.")
            time.sleep(0.05)


SIZES = """
    SELECT relname, pg_table_size(oid), pg_relation_size(oid) / current_setting('block_size')::int
    FROM pg_class
    WHERE oid = 'logins'::regclass
       OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'logins'::regclass)
    ORDER BY relkind DESC, relname"""
UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'logins'"


def look(url: str, logins: int, rotations: int = 0, wal: float | None = None) -> Storage:
    with connected(url) as cursor:
        cursor.execute(SIZES)
        rows = cursor.fetchall()
        cursor.execute(UPDATES)
        updates, hot = cursor.fetchone()
    return Storage(
        rotations,
        {name: size / logins for name, size, _ in rows},
        {name: pages for name, _, pages in rows},
        hot / updates if updates else None,
        wal,
    )


def log_position(url: str) -> int:
    with connected(url) as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
        return int(cursor.fetchone()[0])


def look_often(server: str) -> None:
    """Let the autovacuum look every second."""
    with connected(server) as cursor:
        cursor.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        cursor.execute("SELECT pg_reload_conf()")
