"""How often somebody may try: budgets in the database, so that they hold across processes.

A budget is a bucket that leaks. It holds `size` attempts and leaks as many an hour, so at most
`size` happen at once, and one more as soon as one has leaked. Every attempt takes its part before
the password is looked at, by one statement that lets exactly as many through as there is room
for, however many come at the same time; a success gives it back.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, case, cast
from sqlmodel import Session, col, select

from app.core.client import Client, Quota
from app.core.config import Settings
from app.core.keys import derive_key
from app.core.moments import to_microseconds
from app.core.refusals import Reason, Refusal
from app.db.upsert import insert
from app.models.audit import Event
from app.models.budget import Budget
from app.services import audit

SECOND = 1_000_000  # microseconds
HOUR = 3600 * SECOND
MOST_FAILURES = 100  # in a row, then only a success elsewhere helps: NIST SP 800-63B-4, 3.2.2
A_DAY = 24 * 3600  # seconds


class Limit(NamedTuple):
    """name: also the policy's name in RateLimit headers, where it is the caller's own network.

    size: attempts at once, and an hour in the long run.
    consecutive: whether MOST_FAILURES without a success close it.
    """

    name: str
    size: int
    consecutive: bool = False
    own: bool = False


class Claim(NamedTuple):
    """An attempt's part of one budget."""

    limit: Limit
    key: str

    @property
    def cost(self) -> int:
        """Microseconds until it has leaked away."""
        return HOUR // self.limit.size


class Throttle:
    """The limits of one deployment, and whom they are about."""

    def __init__(self, settings: Settings) -> None:
        account, network = settings.login_attempts_per_account, settings.login_attempts_per_network
        self._account = Limit("login-account", account, consecutive=True)
        self._device = Limit("login-device", account, consecutive=True)
        self._password = Limit("password", account, consecutive=True)
        self._login_network = Limit("login", network, own=True)
        self._address = Limit("mail-address", settings.mails_per_address)
        self._notices = Limit("notice-address", settings.mails_per_address)
        self._sign_up_network = Limit("sign-up", settings.sign_ups_per_network, own=True)
        self._key = derive_key(settings.secret_key.get_secret_value(), "throttle")

    def log_in(self, email: str, client: Client) -> tuple[Claim, ...]:
        """From an unknown device. An address has a budget whether or not it has an account."""
        return (self.account(email), self._claim(self._login_network, client.network))

    def account(self, email: str) -> Claim:
        return self._claim(self._account, email)

    def known_device(self, device_id: object) -> tuple[Claim, ...]:
        """A budget of its own, so that nobody else's attempts lock the owner's browser out."""
        return (self._claim(self._device, device_id),)

    def confirm_password(self, user_id: object) -> tuple[Claim, ...]:
        return (self._claim(self._password, user_id),)

    def ask_for_mail(self, email: str, client: Client) -> tuple[Claim, ...]:
        """Nobody's mailbox is flooded, and no network floods many."""
        return (self._claim(self._address, email), *self.sign_up(client))

    def sign_up(self, client: Client) -> tuple[Claim, ...]:
        return (self._claim(self._sign_up_network, client.network),)

    def notice(self, email: str) -> Claim:
        return self._claim(self._notices, email)

    def _claim(self, limit: Limit, subject: object) -> Claim:
        """The key is a keyed hash: the table tells nobody who tries to log in, or from where."""
        text = f"{limit.name}:{subject}".encode()
        return Claim(limit, hmac.digest(self._key, text, hashlib.sha256)[:16].hex())


def take(
    session: Session, claims: Sequence[Claim], client: Client, *, user_id: UUID | None = None
) -> None:
    """Take an attempt's part of every budget, or of none.

    Raises Refusal(TOO_MANY_ATTEMPTS), with `retry_after` in seconds.
    """
    now = to_microseconds(datetime.now(UTC))
    taken = spend(session, claims, now)
    waits = {
        claim: seconds_to_wait(session, claim, now) for claim in claims if claim.key not in taken
    }
    for claim in claims:
        if claim.limit.own:
            client.quota = quota(claim, taken.get(claim.key), now, waits.get(claim, 0))
    if waits:  # raised, so that what the other budgets lost is rolled back
        raise Refusal(Reason.TOO_MANY_ATTEMPTS, retry_after=max(waits.values()))
    for claim in claims:
        if taken[claim.key] + claim.cost > now + HOUR:  # this was the last one
            limit = claim.limit.name
            audit.record(session, Event.LIMIT_REACHED, client, user_id=user_id, limit=limit)


def take_if_free(session: Session, claim: Claim) -> bool:
    """For what is left out, rather than refused, when there is too much of it."""
    return bool(spend(session, [claim], to_microseconds(datetime.now(UTC))))


def spend(session: Session, claims: Sequence[Claim], now: int) -> dict[str, int]:
    """The budgets that had room, and when they will be empty again.

    In the order of their keys, so that two attempts never wait for each other.
    """
    rows = [
        {"key": claim.key, "drained_at": now + claim.cost, "attempts": int(claim.limit.consecutive)}
        for claim in sorted(claims, key=lambda claim: claim.key)
    ]
    statement = insert(session, Budget).values(rows)
    new = statement.excluded
    filled = later(col(Budget.drained_at), now) + (new.drained_at - now)
    statement = statement.on_conflict_do_update(
        index_elements=["key"],
        set_={"drained_at": filled, "attempts": col(Budget.attempts) + new.attempts},
        where=(filled <= now + HOUR) & (col(Budget.attempts) < MOST_FAILURES),
    ).returning(col(Budget.key), col(Budget.drained_at))
    return {row.key: row.drained_at for row in session.connection().execute(statement)}


def give_back(session: Session, claims: Sequence[Claim]) -> None:
    """After a success: what counts failures in a row begins anew, the rest gets its part back."""
    now = to_microseconds(datetime.now(UTC))
    rows = [
        {
            "key": claim.key,
            "drained_at": now if claim.limit.consecutive else now - claim.cost,
            "attempts": 0,
        }
        for claim in sorted(claims, key=lambda claim: claim.key)
    ]
    statement = insert(session, Budget).values(rows)
    new = statement.excluded
    less = col(Budget.drained_at) + (new.drained_at - now)
    statement = statement.on_conflict_do_update(
        index_elements=["key"],
        set_={
            "drained_at": case((new.drained_at < now, less), else_=new.drained_at),
            "attempts": 0,
        },
    )
    session.connection().execute(statement)


def later(moment: Any, now: int) -> Any:
    return case((moment > now, moment), else_=cast(now, BigInteger))


def seconds_to_wait(session: Session, claim: Claim, now: int) -> int:
    row = session.exec(select(Budget).where(col(Budget.key) == claim.key)).first()
    if row is None:
        return 1
    if row.attempts >= MOST_FAILURES:
        return A_DAY
    return max(1, -((now + HOUR - row.drained_at - claim.cost) // SECOND))


def quota(claim: Claim, drained_at: int | None, now: int, wait: int) -> Quota:
    """drained_at: None where there was no room, and one has to wait so many seconds for it."""
    if drained_at is None:
        return Quota(claim.limit.name, claim.limit.size, 0, wait)
    level = drained_at - now
    until_one_leaks = level % claim.cost or claim.cost
    return Quota(
        claim.limit.name,
        claim.limit.size,
        remaining=(HOUR - level) // claim.cost,
        reset=-(-until_one_leaks // SECOND),
    )
