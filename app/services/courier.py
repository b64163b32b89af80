"""Sends the mails of the outbox, on a thread of its own.

Every process has a courier, and the database keeps them apart: to claim a mail is to make it due
again later, after the longest time that sending it may take. Whoever dies meanwhile, or fails,
has only delayed it; who sends it deletes it. So a mail is never lost, at most one attempt is
under way at a time, and it comes twice only where nobody learned that it was sent: the server's
last word was lost, or the process died, or the database did, before the row was deleted.

What a mail has to be is decided here and not in the request that asked for it: there, the answer
or its time would tell who has an account.
"""

import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from random import SystemRandom
from threading import Event, Thread
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.config import Settings
from app.core.hashing import NO_PASSWORD
from app.core.logs import log_event, logger
from app.core.metrics import count_mail
from app.core.refusals import Refusal
from app.core.smtp import Conversation, Undelivered, Unreachable
from app.models.audit import Event as AuditEvent
from app.models.mail import PURPOSES, Mail, Template
from app.models.user import User
from app.services import audit, one_time_tokens
from app.services.accounts import find_by_email
from app.services.backend import Backend
from app.services.letters import Letter, Link, compose

LOOK = 1  # second between two looks into the outbox
LONGEST_WAIT = 60  # seconds between two attempts to reach the mail server
LEASE = timedelta(minutes=3)  # longer than a conversation may take: core/smtp.py
FIRST_PAUSE = timedelta(seconds=10)  # doubled with each failure of the same mail
LONGEST_PAUSE = timedelta(hours=1)
GIVE_UP = timedelta(days=3)
MAILS_PER_CONNECTION = 50  # some servers hang up after a hundred
FAREWELL = 5  # seconds that a stopping process gives a conversation under way
ATTEMPTS_TO_DELETE = 30  # a second apart: a mail that was sent must not be sent again


class Carrier(Protocol):
    def open(self) -> None: ...
    def send(self, message: EmailMessage) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    @property
    def is_open(self) -> bool: ...


class Printer:
    """Where DEBUG=true stands in for a mail server. Not into the log: there is a token in it."""

    is_open = True

    def open(self) -> None: ...

    def send(self, message: EmailMessage) -> None:
        part = message.get_body(("plain",))
        assert part
        text = part.get_content().rstrip()
        head = f"Mail to {message['To']}: {message['Subject']}"
        sys.stderr.write(f"\n---- {head}\n{text}\n----\n\n")
        sys.stderr.flush()

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Courier:
    def __init__(self, backend: Backend) -> None:
        self._settings = backend.settings
        self._database = backend.database
        self._stopping = Event()
        self._thread: Thread | None = None
        self._carrier: Carrier | None = None
        self._carried = 0  # mails by this connection

    def start(self) -> None:
        if self._settings.sends_mail:
            self._thread = Thread(target=self._run, name="courier", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """What is being sent has a few seconds to end; else its lease does, and it is retried."""
        self._stopping.set()
        if self._thread is None:
            return
        self._thread.join(FAREWELL)
        if self._thread.is_alive() and (carrier := self._carrier):
            carrier.abort()
            self._thread.join(1)

    def _run(self) -> None:
        wait: float = LOOK
        while not self._stopping.wait(wait):
            failed_before = wait > LOOK
            wait = min(2 * wait, LONGEST_WAIT)
            try:
                self.deliver_due()
            except Unreachable as error:
                reason = str(error)
                log_event("mail_server_unreachable", logging.WARNING, reason=reason)
            except Refusal as refusal:  # no database, as every request will say
                if not failed_before:
                    log_event("outbox_unreachable", logging.WARNING, reason=refusal.reason)
            except Exception:
                logger.exception("The courier stumbled.")
            else:
                wait = LOOK

    def deliver_due(self) -> int:
        """Everything that is due now; returns how many went.

        Raises Unreachable, with no mail touched, and Refusal(DATABASE_UNAVAILABLE).
        """
        sent = 0
        try:
            while not self._stopping.is_set():
                now = datetime.now(UTC)
                due_since = self._database.run_read(find_due, now)
                if due_since is None:
                    break
                if due_since <= now - GIVE_UP:
                    self._abandon(now)
                    continue
                carrier = self._connected()
                mail = self._database.run_write(claim, datetime.now(UTC))
                if mail is None:  # others took what was due
                    break
                sent += self._deliver(mail, carrier)
        finally:
            self._hang_up()
        return sent

    def _connected(self) -> Carrier:
        if self._carrier and (not self._carrier.is_open or self._carried >= MAILS_PER_CONNECTION):
            self._hang_up()
        if self._carrier is None:
            self._carrier = carrier_for(self._settings)
            self._carrier.open()
            self._carried = 0
        self._carried += 1
        return self._carrier

    def _hang_up(self) -> None:
        if self._carrier:
            self._carrier.close()
            self._carrier = None

    def _deliver(self, mail: Mail, carrier: Carrier) -> bool:
        letter = self._database.run_write(prepare, mail)
        if letter is None:
            return False
        try:
            carrier.send(compose(letter, self._settings))
        except Undelivered as error:
            self._defer(mail, letter.template, str(error))
            return False
        except Exception as error:  # one that cannot be written must not stop the others
            logger.exception("The mail %s cannot be written.", letter.template)
            self._defer(mail, letter.template, type(error).__name__)
            return False
        note("sent", mail.id, letter.template)
        self._delete_sent(mail)
        return True

    def _defer(self, mail: Mail, template: Template, reason: str) -> None:
        pause = pause_after(mail.attempts)
        self._database.run_write(postpone, mail, datetime.now(UTC) + pause)
        more = {"attempts": mail.attempts, "reason": reason, "pause": round(pause.total_seconds())}
        note("retried", mail.id, template, logging.WARNING, **more)

    def _delete_sent(self, mail: Mail) -> None:
        """A database that is away just now must not make it go out again."""
        for _ in range(ATTEMPTS_TO_DELETE):
            try:
                return self._database.run_write(delete_claimed, mail)
            except Refusal:
                if self._stopping.wait(LOOK):
                    break
        return None

    def _abandon(self, now: datetime) -> None:
        for mail_id, template in self._database.run_write(abandon, now):
            note("abandoned", mail_id, template, logging.ERROR)


def deliver_due(backend: Backend) -> int:
    """For tests, and for whoever would rather not wait for the thread."""
    return Courier(backend).deliver_due()


def carrier_for(settings: Settings) -> Carrier:
    server = settings.smtp_server
    return Conversation(server, settings.sender) if server else Printer()


def note(result: str, mail_id: UUID, template: str, level: int = logging.INFO, **more: Any) -> None:
    """No address and no token: the log outlives the account."""
    log_event(f"mail_{result}", level, mail_id=mail_id, template=template, **more)
    count_mail(template, result)


def find_due(session: Session, now: datetime) -> datetime | None:
    """Since when the first one that is due waits. Only a read: SQLite has one writer at a time."""
    due = select(Mail.created_at).where(col(Mail.due_at) <= now)
    return session.exec(due.order_by(col(Mail.due_at)).limit(1)).first()


def claim(session: Session, now: datetime) -> Mail | None:
    """Nobody else's until its lease ends. It waits for no lock, so it is in no deadlock."""
    due = select(Mail).where(col(Mail.due_at) <= now).order_by(col(Mail.due_at)).limit(1)
    mail = session.exec(due.with_for_update(skip_locked=True)).first()
    if mail:
        mail.due_at = now + LEASE
        mail.attempts += 1
    return mail


def prepare(session: Session, mail: Mail) -> Letter | None:
    """What it has to be, with a new token if it has a link; None, and deleted, if nothing.

    The user's row is locked first, and the mail looked at again under that lock: who changes a
    password voids tokens and unsent links alike, and must not miss a token between the two.
    """
    template = Template(mail.template)
    if template not in PURPOSES:
        return Letter(template, mail.recipient, mail.context)
    user = lock_user(session, mail)
    if session.exec(select(Mail.id).where(*claimed(mail))).first() is None:  # void meanwhile
        return None
    decided = decide(session, mail, template, user)
    if decided is None:
        delete_claimed(session, mail)
        return None
    # A wish for a taken address leaves the same behind as one for a free address, a token that
    # nobody gets included: whoever wished would see the difference in their export.
    wished = template is Template.CONFIRM_EMAIL
    if user is None or (decided not in PURPOSES and not wished):
        return Letter(decided, mail.recipient, mail.context)
    what = template if wished else decided
    purpose = PURPOSES[what]
    if wished:  # the newest one is the one that counts
        one_time_tokens.void(session, user.id, purpose)
    lifetime = one_time_tokens.LIFETIMES[purpose]
    if decided is Template.INVITATION:
        lifetime = one_time_tokens.INVITATION_LIFETIME
    token = one_time_tokens.mint(session, user.id, purpose, mail.recipient, lifetime)
    if mail.attempts == 1:  # here it is known whose it is: they see who asked, and from where
        asked = Client(*(mail.context[key] for key in ("ip_address", "user_agent", "request_id")))
        audit.record(session, AuditEvent.LINK_SENT, asked, user_id=user.id, template=what)
    link = Link(token, lifetime) if decided in PURPOSES else None
    return Letter(decided, mail.recipient, mail.context, link)


def lock_user(session: Session, mail: Mail) -> User | None:
    """Whose account a link is for: with that address, or about to have it."""
    whose = [col(User.id) == mail.user_id] if mail.user_id else []
    if mail.template != Template.CONFIRM_EMAIL:
        whose.append(col(User.email) == mail.recipient)
    return session.exec(select(User).where(*whose).with_for_update()).first()


def decide(session: Session, mail: Mail, template: Template, user: User | None) -> Template | None:
    """None: there is nobody to write to, or nothing to say."""
    if user is None or not user.is_active:
        return None
    match template:
        case Template.CONFIRM_EMAIL:
            taken = find_by_email(session, mail.recipient) is not None
            return Template.ADDRESS_TAKEN if taken else template
        case Template.INVITATION:
            return template if user.hashed_password == NO_PASSWORD else None
        case Template.VERIFY_EMAIL if user.email_verified:
            return Template.ADDRESS_TAKEN if mail.context.get("new") else None
        case Template.VERIFY_EMAIL if user.hashed_password == NO_PASSWORD:
            return Template.INVITATION
    return template


def claimed(mail: Mail) -> Iterator[Any]:
    """The row, as long as the lease on it is ours."""
    yield col(Mail.id) == mail.id
    yield col(Mail.attempts) == mail.attempts


def delete_claimed(session: Session, mail: Mail) -> None:
    session.connection().execute(delete(Mail).where(*claimed(mail)))


def postpone(session: Session, mail: Mail, due_at: datetime) -> None:
    session.connection().execute(update(Mail).where(*claimed(mail)).values(due_at=due_at))


def abandon(session: Session, now: datetime) -> list[tuple[UUID, str]]:
    """Not one whose lease runs: it may yet go."""
    old = delete(Mail).where(col(Mail.due_at) <= now, col(Mail.created_at) <= now - GIVE_UP)
    deleted = session.connection().execute(old.returning(col(Mail.id), col(Mail.template)))
    return [(row.id, row.template) for row in deleted]


def pause_after(attempts: int) -> timedelta:
    """Twice as long after each failure, and less by chance: not all come back at once."""
    longest = min(FIRST_PAUSE * (1 << min(attempts - 1, 20)), LONGEST_PAUSE)
    return longest * SystemRandom().uniform(0.5, 1)
