"""kill -9 at random moments, under every kind of load: nothing that was acknowledged is lost.

People refresh, log in and out, register, change passwords and use mailed links. The service, and
later only the process that hashes for it, is killed and started again; then everybody checks what
they had been told.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from statistics import median

import psutil
from sqlalchemy import create_engine

from app.services.courier import LEASE
from tests.mailbox import PUBLIC_URL, SENDER, Mailbox, smtp_server
from torture import honest, rotations
from torture.honest import (
    GRACE,
    Changer,
    Commuter,
    Ledger,
    Person,
    Street,
    Tabs,
    Town,
)
from torture.jar import few_at_a_time, new_session
from torture.laboratory import DATABASES, Finding, Laboratory
from torture.letterbox import Outbox, Post
from torture.service import Service

KILLS = 100  # of the service, on each database
HASHER_KILLS = 30
LONGEST_LIFE = 3.0  # seconds from ready to killed, at most
LONGEST_START = 1.0  # seconds from started to killed once more, one time in five
SLOW_STEPS = ("", "", "", "RCPT", "MESSAGE")  # of the mail server, at random

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
SETTINGS = {
    "ACCESS_TOKEN_EXPIRE_MINUTES": "1",
    "REFRESH_GRACE_SECONDS": str(GRACE),
    "MAILS_PER_ADDRESS": "1000",
    "TRUSTED_PROXIES": "127.0.0.1",  # so that each request has an address of its own
    "MAIL_FROM": SENDER,
    "PUBLIC_URL": PUBLIC_URL,
}


def run(laboratory: Laboratory) -> Iterator[Finding]:
    for kind in DATABASES:
        with laboratory.database(kind) as url:
            yield from torment(laboratory, url)


def torment(laboratory: Laboratory, url: str) -> Iterator[Finding]:
    """Of a service on this migrated database."""
    engine = create_engine(url)
    name = NAMES[engine.dialect.name]
    with smtp_server() as mailbox:
        settings = {**SETTINGS, "SMTP_URL": mailbox.url}
        with Service(url, laboratory.folder, **settings) as service:
            trial = Trial(laboratory, name, service, mailbox, Outbox(engine), rotations.Ledger(url))
            asyncio.run(trial.conduct())
    engine.dispose()
    yield from trial.findings()


class Trial:
    """One database, one crowd, and many kills."""

    def __init__(
        self,
        laboratory: Laboratory,
        name: str,
        service: Service,
        mailbox: Mailbox,
        outbox: Outbox,
        tokens: rotations.Ledger,
    ) -> None:
        self.laboratory = laboratory
        self.name = name
        self.service = service
        self.mailbox = mailbox
        self.outbox = outbox
        self.tokens = tokens
        self.post = Post(mailbox)
        self.ledger = Ledger()  # while the service was killed
        self.hashing = Ledger()  # while only what hashes was
        self.kills = self.kills_at_start = self.hasher_kills = 0
        self.starts: list[float] = []  # seconds
        self.resent = 0  # mails that were under way at a kill, and came when their lease ended
        self.leased = 0  # that still waited for that
        self.stuck = 0  # that would have waited for longer

    async def conduct(self) -> None:
        """Everybody lives, and the service does not, again and again."""
        async with new_session() as http:
            self.town = Town(http, self.service.address, self.post, self.ledger)
            self.street = Street(self.town, households=self.crowd(6))
            self.residents = self.move_in()
            await asyncio.gather(*(person.settle() for person in self.residents))
            for number in range(1, (kills := self.laboratory.scaled(KILLS)) + 1):
                self.laboratory.say(f"{self.name}: kill {number} of {kills}")
                await self.kill_under_load()
                await self.check()
            self.town.ledger = self.hashing
            self.laboratory.say(f"{self.name}: killing the process that hashes")
            await self.kill_hasher_under_load()
            await self.check()
            self.town.ledger = self.ledger
            self.laboratory.say(f"{self.name}: everything once more, and the last mails")
            await self.end()

    def move_in(self) -> list[Person]:
        return [
            *(Tabs(self.town, pace=0.4, presence=1) for _ in range(self.crowd(10))),
            *(Tabs(self.town, pace=60, presence=0.2) for _ in range(self.crowd(10))),
            *(Commuter(self.town) for _ in range(self.crowd(8))),
            *(Changer(self.town) for _ in range(self.crowd(6))),
        ]

    def crowd(self, number: int) -> int:
        """A short run has fewer kills before it has fewer people."""
        return max(2, round(number * min(1, 5 * self.laboratory.scale)))

    async def kill_under_load(self) -> None:
        async with self.load():
            await asyncio.sleep(random.uniform(0, LONGEST_LIFE))
            self.town.stopping.set()  # before the kill: what has no answer then was under way
            self.service.kill()
            self.kills += 1
        await self.start_again()

    async def start_again(self) -> None:
        while random.random() < 0.2:  # also in the middle of its start
            self.service.start(wait=False)
            await asyncio.sleep(random.uniform(0, LONGEST_START))
            self.service.kill()
            self.kills_at_start += 1
        start = time.monotonic()
        await asyncio.to_thread(self.service.start)
        self.starts.append(time.monotonic() - start)

    async def kill_hasher_under_load(self) -> None:
        async with self.load():
            while self.hasher_kills < self.laboratory.scaled(HASHER_KILLS):
                await asyncio.sleep(random.uniform(0.1, 0.6))
                self.hasher_kills += kill_hasher(self.service.pid)
            await asyncio.sleep(0.5)
            self.town.stopping.set()

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Until everybody has stopped, and knows what became of their last request, or does not."""
        self.town.stopping.clear()
        dawdling = asyncio.create_task(dawdle(self.mailbox))
        try:
            async with asyncio.TaskGroup() as living:
                for person in self.residents:
                    living.create_task(person.live())
                living.create_task(self.street.live())
                yield
        finally:
            dawdling.cancel()
            self.mailbox.held = ""

    async def check(self) -> None:
        self.town.compare(await asyncio.to_thread(self.tokens.take_out))
        await asyncio.gather(*(person.check() for person in self.town.everyone))

    async def end(self) -> None:
        """What was under way is sent again when its lease ends; here, as if that were now."""
        due = self.outbox.due_times()
        now = datetime.now(UTC)  # not before: the courier claims more of them all the time
        self.leased = sum(each > now for each in due)
        self.stuck = sum(each > now + LEASE for each in due)
        self.post.look()
        self.resent = self.post.waited(LEASE)
        self.outbox.end_leases()
        await self.outbox.until_empty()
        await self.street.finish()
        await self.check()
        await few_at_a_time(map(Person.is_still_there, self.town.everyone))
        await self.outbox.until_empty()
        self.post.look()

    def findings(self) -> Iterator[Finding]:
        ledger, lost = self.ledger, self.ledger.unanswered
        remarks = {
            honest.GOES_ON: f"{self.kills} kills under load, {self.kills_at_start} while starting; "
            f"ready again in {median(self.starts):.1f} s, {max(self.starts):.1f} at most. "
            f"{lost['refresh']} refreshes were under way, and {ledger.old_tokens:,} times a "
            "browser came back with a token older than the grace period",
            honest.ROTATED: "looked up one by one after each kill",
            honest.LOGGED_OUT: f"{lost['log-out']} more were under way at a kill",
            honest.REGISTERED: f"{lost['registration']} more were under way at a kill",
            honest.CHANGED: f"{lost['password change'] + lost['reset']} more were under way "
            "at a kill",
            honest.WHOLLY: f"all that was under way: {in_words(lost)}",
            honest.ONCE: f"{lost['verification'] + lost['reset']} uses were under way at a kill",
            honest.LINKS: "",
            honest.FAULTLESS: f"with 503: {in_words(ledger.refused) or 'none'}",
        }
        for promise, remark in remarks.items():
            yield from self.finding(promise, remark)
        remark = (
            f"{self.post.doubled} came twice; {self.resent} were under way at a kill and came "
            f"after three minutes, and {self.leased} more when these were cut short"
        )
        if missing := self.post.missing:
            remark += f". For example, none came after a {missing[0]}"
        if self.stuck:
            remark += f". {self.stuck} would have come later"
        yield Finding(
            f"{self.name}: no mail is lost that an answer promised",
            len(self.post.promised),
            len(missing) + self.stuck,
            remark,
        )
        yield from self.findings_without_hasher()

    def finding(self, promise: str, remark: str) -> Iterator[Finding]:
        cases, broken = self.ledger.cases[promise], self.ledger.broken[promise]
        if broken:
            remark += f". For example: {self.ledger.examples[promise]}"
        yield Finding(f"{self.name}: {promise}", cases, broken, remark)

    def findings_without_hasher(self) -> Iterator[Finding]:
        """The service was there all the time: a request without an answer is one too many."""
        ledger = self.hashing
        lost, faults = ledger.unanswered.total(), ledger.broken[honest.FAULTLESS]
        yield Finding(
            f"{self.name}: killing only the process that hashes loses nothing that was answered",
            ledger.cases.total() - ledger.cases[honest.FAULTLESS],
            ledger.broken.total() - faults,
            f"{self.hasher_kills} kills under load",
        )
        yield Finding(
            f"{self.name}: and everything is answered, by no server error but 503",
            ledger.asked.total() - ledger.given_up,
            faults + lost,
            f"{lost} without an answer; with 503: {in_words(ledger.refused) or 'none'}",
        )


def in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


async def dawdle(mailbox: Mailbox) -> None:
    """A mail server that is slow now and then, so that conversations are under way at a kill."""
    while True:
        mailbox.held = random.choice(SLOW_STEPS)
        await asyncio.sleep(random.uniform(0.05, 0.2))


def kill_hasher(server: int) -> int:
    """How many: one or two, unless they are just being started."""
    killed = 0
    for process in psutil.Process(server).children(recursive=True):
        with suppress(psutil.Error):
            if "app.core.hasher" in process.cmdline():
                process.kill()
                killed += 1
    return killed
