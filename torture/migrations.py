"""Migrates a million users and as many logins, there and back, while the service runs."""

import asyncio
import io
import random
import subprocess
import tarfile
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp
from alembic import command
from pydantic import SecretStr

from app.core.config import Settings
from app.core.hashing import context
from app.db.engine import create_database_engine
from app.db.migrations import alembic_config
from bench.postgres import connected
from bench.sizes.fill import Content, fill_postgres
from tests.postgres import libpq
from torture.crowd import Crowd, as_they_come, end, people
from torture.jar import PASSWORD, Jar, new_session
from torture.laboratory import ROOT, SECRET_KEY, Finding, Laboratory
from torture.service import Service

EVERY = 0.02  # seconds between two looks at the locks
NOTICEABLE = 0.1  # seconds that a lock is held
SETTLE = 2  # seconds before and after a migration

# To these one after the other. The first tune the database, and this version serves either way.
TUNED = ("0002", "0003")
# As docs/operations.md says that later ones are to be written.
RECIPE = ROOT / "torture" / "recipe"
WRITTEN = ("expand_1", "expand_2", "expand_3", "0003")
FILL = """
    UPDATE users SET display_name = full_name WHERE id IN
    (SELECT id FROM users WHERE display_name IS NULL AND full_name IS NOT NULL LIMIT 1000)
"""
# The former version serves while the database gets what it neither knows nor minds, and loses it.
EXPANDED = ("0001", "0002", "0003")
# Released as they are: 0002 writes every user while it has the table for itself.
PAUSING = {("0001", "0002"), ("0002", "0001"), ("0003", "0001")}
NEW, OLD = "this version", "0.1.0"
EXPANSION = "alembic/versions/0002_account_care.py"


def run(laboratory: Laboratory) -> Iterator[Finding]:
    with laboratory.database("postgresql") as url:
        yield from as_they_come(migrate_live(laboratory, url))


class OneEach(Content):
    """As many users as logins."""

    @property
    def users(self) -> int:
        return self.logins


async def migrate_live(laboratory: Laboratory, url: str) -> AsyncIterator[Finding]:
    rows = laboratory.scaled(1_000_000, least=1000)
    laboratory.say(f"{rows:,} users and logins are written")
    content = OneEach(rows, context().hash(PASSWORD))
    await asyncio.to_thread(fill_postgres, libpq(url), content, indexes_last=False)
    await asyncio.to_thread(give_names, libpq(url))
    former = former_version(laboratory.folder)
    async with new_session(keep_alive=False) as http:
        crowd = Crowd(people(http, "stays", laboratory.scaled(40, least=4)), [], pause=0.5)
        with Service(url, laboratory.folder) as service:
            crowd.addresses = [service.address]
            await crowd.sign_up()
            async with crowd.busy(), visited(crowd, http, rows):
                for revision in TUNED:
                    yield await migrate_under(laboratory, url, crowd, revision, NEW)
                for revision in WRITTEN:
                    yield await migrate_under(laboratory, url, crowd, revision, NEW)
                    if revision == "expand_2":
                        yield await fill_under(laboratory, url, crowd)
        if former is None:
            laboratory.leave_out("There is no history here that has the former version.")
            return
        with Service(url, former) as service:
            crowd.addresses = [service.address]
            async with crowd.busy(), visited(crowd, http, rows):
                for revision in EXPANDED:
                    yield await migrate_under(laboratory, url, crowd, revision, OLD)
                yield await replace(laboratory, url, crowd, service)


def give_names(url: str) -> None:
    """To be copied later."""
    with connected(url) as cursor:
        cursor.execute("UPDATE users SET full_name = 'Somebody'")
        cursor.execute("VACUUM users")


def former_version(folder: Path) -> Path | None:
    """The code of before, from the history. None where that is not at hand."""
    added = git("log", "--format=%H", "--diff-filter=A", "--", EXPANSION).decode().split()
    if not added:
        return None
    archive = git("archive", f"{added[0]}^", "app", "alembic", "alembic.ini")
    target = folder / "former"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return target


def git(*arguments: str) -> bytes:
    """Nothing where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    except OSError:
        return b""
    return done.stdout if done.returncode == 0 else b""


@asynccontextmanager
async def visited(crowd: Crowd, http: aiohttp.ClientSession, users: int) -> AsyncIterator[None]:
    """Meanwhile people from among the million log in and out, too."""

    async def come_and_go() -> None:
        while True:
            jar = Jar(http, "", f"user{random.randrange(users)}@example.com")
            await crowd.insist(jar, "log in", jar.log_in)
            await crowd.insist(jar, "log out", jar.log_out)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(come_and_go())
    try:
        yield
    finally:
        await end([task])


async def migrate_under(
    laboratory: Laboratory, url: str, crowd: Crowd, revision: str, whose: str
) -> Finding:
    """Up or down to a revision, while everybody goes on."""
    with connected(libpq(url)) as cursor:
        cursor.execute("SELECT version_num FROM alembic_version")
        (before,) = cursor.fetchone()
    order = (*EXPANDED, *WRITTEN[:-1])
    direction = "upgrade" if order.index(revision) > order.index(before) else "downgrade"
    laboratory.say(f"{direction} from {before} to {revision} while {whose} serves")
    await asyncio.sleep(SETTLE)
    crowd.begin()
    start = time.monotonic()
    with Watch(libpq(url)) as watch:
        await asyncio.to_thread(alembic, url, direction, revision)
    took = time.monotonic() - start
    await asyncio.sleep(SETTLE)  # until those who waited have their answers
    if (before, revision) in PAUSING:
        promise = "who cannot be served is told to come back, and nobody is logged out"
        broken = crowd.disappointed - crowd.told_to_come_back
    else:
        promise = "no request fails"
        broken = crowd.disappointed
    return Finding(
        f"{direction} from {before} to {revision} while {whose} serves: {promise}",
        crowd.answers,
        broken,
        f"{took:.1f} s; {in_short(crowd, watch)}",
    )


async def fill_under(laboratory: Laboratory, url: str, crowd: Crowd) -> Finding:
    """What a migration must not do at once, in batches."""
    laboratory.say("a column is filled in batches")
    crowd.begin()
    start = time.monotonic()
    with Watch(libpq(url)) as watch:
        batches = await asyncio.to_thread(fill, libpq(url))
    took = time.monotonic() - start
    await asyncio.sleep(SETTLE)
    return Finding(
        "a column is filled in batches: no request fails",
        crowd.answers,
        crowd.disappointed,
        "; ".join([f"{batches:,} batches in {took:.1f} s", in_short(crowd, watch)]),
    )


def fill(url: str) -> int:
    """How many batches."""
    with connected(url) as cursor:
        cursor.execute(FILL)
        batches = 0
        while cursor.rowcount:
            batches += 1
            cursor.execute(FILL)
    return batches


def in_short(crowd: Crowd, watch: "Watch") -> str:
    waited = f"a request waited {crowd.slowest:.2f} s at most"
    return "; ".join([waited, str(watch), *crowd.complaints])


def alembic(url: str, direction: str, revision: str) -> None:
    """Within this process, so that nobody measures how long Python takes to start."""
    settings = Settings(secret_key=SecretStr(SECRET_KEY), database_url=SecretStr(url))
    config = alembic_config()
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{ROOT / 'alembic' / 'versions'}\n{RECIPE}")
    config.attributes["engine"] = engine = create_database_engine(settings)
    getattr(command, direction)(config, revision)
    engine.dispose()


class Watch:
    """Looks at the locks of tables that keep others from reading or writing, and for how long."""

    LOCKS = """
        SELECT relname, mode FROM pg_locks
        JOIN pg_class ON pg_class.oid = relation
        JOIN pg_stat_activity USING (pid)
        WHERE granted AND locktype = 'relation' AND relkind = 'r' AND relation > 16383
          AND backend_type = 'client backend'
          AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._held: dict[str, float] = defaultdict(float)  # seconds
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        long = {lock: seconds for lock, seconds in self._held.items() if seconds > NOTICEABLE}
        told = [f"{lock} for {seconds:.1f} s" for lock, seconds in sorted(long.items())]
        return ", ".join(told) or f"no such lock for more than {NOTICEABLE} s"

    def _look(self) -> None:
        with connected(self._url) as cursor:
            before = time.monotonic()
            while not self._over.wait(EVERY):
                cursor.execute(self.LOCKS)
                now = time.monotonic()
                for table, mode in cursor.fetchall():
                    self._held[f"{mode.removesuffix('Lock')} on {table}"] += now - before
                before = now


async def replace(laboratory: Laboratory, url: str, crowd: Crowd, former: Service) -> Finding:
    """The last step of a deployment: this version's process takes the place of the former one's."""
    laboratory.say("this version takes the place of the former one")
    with Service(url, laboratory.folder) as service:
        crowd.begin()
        crowd.addresses = [former.address, service.address]
        await asyncio.sleep(SETTLE)
        crowd.addresses = [service.address]
        await asyncio.sleep(SETTLE)
        await asyncio.to_thread(former.stop, check=False)  # 0.1.0 ends by the signal
        return Finding(
            "this version takes its place: no request fails",
            crowd.answers,
            crowd.disappointed,
            "; ".join(crowd.complaints),
        )
