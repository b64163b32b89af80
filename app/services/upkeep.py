"""What has expired goes by itself, a little at a time, after requests that wrote something.

So nobody sets up a scheduler, and no table grows for ever. `make purge` deletes all at once.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete
from sqlmodel import Session, SQLModel, col, select

from app.core.config import Settings
from app.core.identifiers import lowest_id
from app.core.logs import log_event, logger
from app.core.moments import to_microseconds
from app.core.refusals import Refusal
from app.db.session import Database
from app.models.audit import AuditEvent
from app.models.budget import Budget
from app.models.login import Login
from app.models.mail import Mail, OneTimeToken
from app.services.courier import GIVE_UP
from app.services.throttle import BUDGETS_KEPT

BATCH = 500  # rows of a table in a transaction: milliseconds, for SQLite has one writer
PAUSE = 60  # seconds between two batches of a process
SOON = 1  # second after a full batch: there is more
COURIER_LATE = timedelta(days=1)  # it gives mails up itself, and says so, unless it does not run
CLOCKS_APART = timedelta(hours=1)  # a trigger refuses by the database's clock what is too young


class Expired(NamedTuple):
    """Rows that nobody needs any more, found by an index in the order in which they expired."""

    kind: str
    table: type[SQLModel]
    key: Any
    which: ColumnElement[bool]
    order: Any
    lockable: bool = True


def expired(settings: Settings, now: datetime) -> Iterator[Expired]:
    yield Expired(
        "logins", Login, col(Login.id), col(Login.expires_at) <= now, col(Login.expires_at)
    )
    yield Expired(
        "one_time_tokens",
        OneTimeToken,
        col(OneTimeToken.token_hash),
        col(OneTimeToken.expires_at) <= now,
        col(OneTimeToken.expires_at),
    )
    yield Expired(
        "budgets",
        Budget,
        col(Budget.key),
        col(Budget.drained_at) <= to_microseconds(now - BUDGETS_KEPT),
        col(Budget.drained_at),
    )
    abandoned = lowest_id(now - GIVE_UP - COURIER_LATE)
    yield Expired("mails", Mail, col(Mail.id), col(Mail.id) < abandoned, col(Mail.id))
    oldest = lowest_id(now - timedelta(days=settings.audit_retention_days) - CLOCKS_APART)
    yield Expired(
        "audit_events",
        AuditEvent,
        col(AuditEvent.id),
        col(AuditEvent.id) < oldest,
        col(AuditEvent.id),
        lockable=False,
    )


def idle_logins(settings: Settings, now: datetime) -> Expired:
    """No index finds them, so only `make purge` looks; else they go at their absolute end."""
    last = to_microseconds(now - settings.idle_lifetime)
    return Expired("logins", Login, col(Login.id), col(Login.last) <= last, col(Login.id))


def purge_batch(session: Session, rows: Expired) -> int:
    """Delete up to BATCH of them; says how many.

    Two processes at once take different ones, and wait for nobody. Not so with audit events: who
    may not change rows may not lock them, so the later process finds them gone.
    """
    batch = select(rows.key).where(rows.which).order_by(rows.order).limit(BATCH)
    if rows.lockable:
        batch = batch.with_for_update(skip_locked=True)
    keys = session.exec(batch).all()
    if not keys:
        return 0
    return session.connection().execute(delete(rows.table).where(rows.key.in_(keys))).rowcount


def purge(database: Database, settings: Settings) -> Counter[str]:
    """Everything that has expired, batch by batch; says how much of each kind."""
    now = datetime.now(UTC)
    deleted: Counter[str] = Counter()
    for rows in (*expired(settings, now), idle_logins(settings, now)):
        deleted[rows.kind] += 0
        while count := database.run_write(purge_batch, rows):
            deleted[rows.kind] += count
    return deleted


class Upkeep:
    """One process's share: a batch of each kind, at most once a minute."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._due = time.monotonic() + PAUSE

    def after_write(self) -> None:
        """A comparison, until it is due; and then a database thread does it, for nobody waits."""
        if time.monotonic() >= self._due:
            self._due = math.inf
            self.database.submit(self.run)

    def run(self) -> None:
        deleted = {}
        for rows in expired(self.settings, datetime.now(UTC)):
            try:
                if count := self.database.run_write(purge_batch, rows):
                    deleted[rows.kind] = count
            except Refusal as refusal:  # requests are refused likewise
                cause = str(refusal.__cause__ or refusal)
                log_event("upkeep_failed", logging.WARNING, kind=rows.kind, cause=cause)
            except Exception:
                logger.exception("upkeep failed: %s", rows.kind)
        if deleted:
            log_event("purged", **deleted)
        self._due = time.monotonic() + (SOON if BATCH in deleted.values() else PAUSE)
