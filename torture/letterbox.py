"""Mails that were promised, that came, and that wait to be sent."""

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import count

from sqlalchemy import Engine, update
from sqlmodel import Session, select

from app.models.mail import Mail
from tests.mailbox import LINK, Mailbox, text_of

PAUSE = 0.1  # seconds between two looks into the outbox
LOOKS = 6000  # ten minutes: a crowd's mails on a slow machine
FIRST_ORIGIN = int(IPv4Address("10.0.0.1"))
ORIGIN = re.compile(r"^From: ([0-9.]+),", re.MULTILINE)


class Post:
    """Every request has an address of its own, and every mail tells from where it was asked for.

    So each mail is known by its cause, and one that came twice does not hide one that never came.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.promised: dict[str, float] = {}  # when, by origin
        self.came: dict[str, list[float]] = {}
        self.asked: dict[str, str] = {}  # what for
        self._tokens: dict[str, str] = {}
        self._mailbox = mailbox
        self._seen = 0
        self._numbers = count(FIRST_ORIGIN)

    def new_origin(self, what: str) -> str:
        origin = str(IPv4Address(next(self._numbers)))
        self.asked[origin] = what
        return origin

    def promise(self, origin: str) -> None:
        self.promised.setdefault(origin, time.monotonic())

    def token(self, origin: str) -> str:
        """The newest one. Empty while none has come."""
        self.look()
        return self._tokens.get(origin, "")

    def look(self) -> None:
        for arrival in self._mailbox.arrivals[self._seen :]:
            self._seen += 1
            text = text_of(arrival.message)
            found = ORIGIN.search(text)
            assert found, text
            self.came.setdefault(found[1], []).append(time.monotonic())
            for link in LINK.findall(text):
                self._tokens[found[1]] = link.partition("#token=")[2]

    @property
    def missing(self) -> list[str]:
        """What had been asked for."""
        return [self.asked[origin] for origin in self.promised if origin not in self.came]

    @property
    def doubled(self) -> int:
        return sum(len(times) - 1 for times in self.came.values())

    def waited(self, least: timedelta) -> int:
        """How many came so long after they had been promised."""
        return sum(
            self.came[origin][0] - at >= least.total_seconds()
            for origin, at in self.promised.items()
            if origin in self.came
        )


class Outbox:
    """The service's own table."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    @property
    def is_empty(self) -> bool:
        with Session(self._database) as session:
            return session.exec(select(Mail.id).limit(1)).first() is None

    def due_times(self) -> Sequence[datetime]:
        with Session(self._database) as session:
            return session.exec(select(Mail.due_at)).all()

    def end_leases(self) -> None:
        """As if they had run out."""
        with Session(self._database) as session:
            session.connection().execute(update(Mail).values(due_at=datetime.now(UTC)))
            session.commit()

    async def until_empty(self) -> None:
        for _ in range(LOOKS):
            if self.is_empty:
                return
            await asyncio.sleep(PAUSE)
