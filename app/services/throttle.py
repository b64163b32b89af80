"""How often somebody may try: budgets in the database, so that they hold across processes.

A budget is a bucket that leaks. It holds `size` attempts and leaks as many an hour, so at most
`size` happen at once, and one more as soon as one has leaked. Every attempt takes its part before
the password is looked at, by one statement that lets exactly as many through as there is room
for, however many come at the same time; a success gives it back.

Locks: a transaction locks budgets in the order of their keys and after everything else, so no two
wait for each other.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, bindparam, case, delete, true, union_all
from sqlmodel import Session, col, select

from app.core.client import Client, Quota
from app.core.config import Settings
from app.core.keys import derive_key
from app.core.moments import MICROSECOND, to_microseconds
from app.core.refusals import Reason, Refusal
from app.db.session import Database
from app.db.statement import Statement
from app.db.upsert import insert
from app.models.audit import Event
from app.models.budget import Budget
from app.models.user import User
from app.services import audit

SECOND = 1_000_000  # microseconds
HOUR = 3600 * SECOND
MOST_FAILURES = 100  # in a row, then only a success elsewhere helps: NIST SP 800-63B-4, 3.2.2
BUDGETS_KEPT = timedelta(days=30)  # since they were empty: failures in a row count until then
CLOCKS_APART = HOUR  # what was written for a later time than that comes from a wrong clock


class Limit(NamedTuple):
    """name: also the policy's name in RateLimit headers, where it is the caller's own network.

    size: attempts at once, and an hour in the long run.
    consecutive: whether MOST_FAILURES without a success close it.
    own: whether it is about the caller's own network, who may know what is left of it.
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
    """The limits of one deployment, and whom they are about.

    Keys of budgets come from SECRET_KEY and not from its fallbacks, so a new one begins every
    budget anew. That happens rarely, and only an operator can do it.
    """

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
        account = self._claim(self._account, email)
        return (account, self._claim(self._login_network, client.network))

    def known_device(self, device_id: object) -> tuple[Claim, ...]:
        """A budget of its own, so that nobody else's attempts lock the owner's browser out."""
        return (self._claim(self._device, device_id),)

    def confirm_password(self, user_id: object) -> tuple[Claim, ...]:
        return (self._claim(self._password, user_id),)

    def guesses_at(self, user: User) -> tuple[Claim, ...]:
        """What counts guesses at somebody's password, wherever they come from."""
        return (self._claim(self._account, user.email), *self.confirm_password(user.id))

    def ask_for_mail(self, what: str, email: str, client: Client) -> tuple[Claim, ...]:
        """Nobody's mailbox is flooded, and no network floods many.

        what: signing up, or the mail that is asked for. Each has its own budget: whoever spends
        one on somebody else has just mailed them what they could ask for themselves.
        """
        return (self._claim(self._address, f"{what}:{email}"), *self.sign_up(client))

    def sign_up(self, client: Client) -> tuple[Claim, ...]:
        return (self._claim(self._sign_up_network, client.network),)

    def notice(self, kind: str, email: str) -> Claim:
        return self._claim(self._notices, f"{kind}:{email}")

    def change(self, user_id: object) -> tuple[Claim, ...]:
        """What anybody may do as often as they like, but not without end: each leaves an event."""
        return (self._claim(CHANGES, user_id),)

    def _claim(self, limit: Limit, subject: object) -> Claim:
        """The key is a keyed hash: the table tells nobody who tries to log in, or from where."""
        text = f"{limit.name}:{subject}".encode()
        return Claim(limit, hmac.digest(self._key, text, hashlib.sha256)[:16].hex())


CHANGES = Limit("changes", 60)


class UsedUp(NamedTuple):
    """A budget that an attempt was the last one of, for now or, closed, until further notice."""

    limit: str
    closed: bool


class Level(NamedTuple):
    """A budget after an attempt took its part: when it will be empty, and failures in a row."""

    drained_at: int
    attempts: int


def take(session: Session, claims: Sequence[Claim], client: Client) -> list[UsedUp]:
    """Take an attempt's part of every budget, or of none. Says which ones it has used up.

    Raises Refusal(TOO_MANY_ATTEMPTS), with `retry_after` in seconds. That rolls back what it took.
    """
    now = to_microseconds(datetime.now(UTC))
    levels = spend(session, claims, now)
    return settle(claims, levels, waits(session, claims, levels, now), client, now)


async def take_alone(database: Database, claims: Sequence[Claim], client: Client) -> list[UsedUp]:
    """The same in a statement of its own, without a transaction. If one budget has no room, the
    others get their parts back at once; until then they let rather too few through than too many.
    """
    now = to_microseconds(datetime.now(UTC))
    statement = spending(database.dialect, len(claims))
    levels = levels_of(await database.rows(statement, spending_values(claims, now)))
    waiting: dict[Claim, int] = {}
    if len(levels) < len(claims):
        waiting = await database.write(give_up, claims, levels, now)
    return settle(claims, levels, waiting, client, now)


def give_up(
    session: Session, claims: Sequence[Claim], levels: Mapping[str, Level], now: int
) -> dict[Claim, int]:
    """What was taken leaves nothing behind: or a network that is refused could fill the table, with
    addresses that it makes up.
    """
    if taken := [claim for claim in claims if claim.key in levels]:
        give_back(session, taken)
        by_now = to_microseconds(datetime.now(UTC))  # later than of whoever has come in between
        empty = (col(Budget.drained_at) <= by_now) & (col(Budget.attempts) == 0)
        those = col(Budget.key).in_([claim.key for claim in taken])
        session.connection().execute(delete(Budget).where(those & empty))
    return waits(session, claims, levels, now)


def waits(
    session: Session, claims: Iterable[Claim], levels: Mapping[str, Level], now: int
) -> dict[Claim, int]:
    """How long for those that had no room, in seconds."""
    return {
        claim: seconds_to_wait(session, claim, now) for claim in claims if claim.key not in levels
    }


def settle(
    claims: Iterable[Claim],
    levels: Mapping[str, Level],
    waiting: Mapping[Claim, int],
    client: Client,
    now: int,
) -> list[UsedUp]:
    for claim in claims:
        if claim.limit.own:
            client.quota = quota(claim, levels.get(claim.key), now, waiting)
    if waiting:
        raise Refusal(Reason.TOO_MANY_ATTEMPTS, retry_after=max(waiting.values()))
    return [used_up for claim in claims if (used_up := last_one(claim, levels[claim.key], now))]


def last_one(claim: Claim, level: Level, now: int) -> UsedUp | None:
    closed = level.attempts >= MOST_FAILURES
    if closed or level.drained_at + claim.cost > now + HOUR:
        return UsedUp(claim.limit.name, closed)
    return None


def take_and_note(
    session: Session, claims: Sequence[Claim], client: Client, *, user_id: UUID | None = None
) -> None:
    """For what counts whether or not it succeeds. Raises Refusal(TOO_MANY_ATTEMPTS)."""
    note_used_up(session, take(session, claims, client), client, user_id=user_id)


def note_used_up(
    session: Session, used_up: Iterable[UsedUp], client: Client, *, user_id: UUID | None
) -> None:
    for limit, closed in used_up:
        audit.record(
            session, Event.LIMIT_REACHED, client, user_id=user_id, limit=limit, closed=closed
        )


def take_if_free(session: Session, claim: Claim) -> bool:
    """For what is left out, rather than refused, when there is too much of it."""
    return bool(spend(session, [claim], to_microseconds(datetime.now(UTC))))


def spend(session: Session, claims: Sequence[Claim], now: int) -> dict[str, Level]:
    """The budgets that had room, by their keys, as they are then."""
    statement = spending(session.get_bind().dialect.name, len(claims))
    values = spending_values(claims, now)
    return levels_of(session.connection().execute(statement.clause, values).all())


def levels_of(rows: Iterable[Sequence[Any]]) -> dict[str, Level]:
    return {key: Level(drained_at, attempts) for key, drained_at, attempts in rows}


def spending_values(claims: Iterable[Claim], now: int) -> dict[str, Any]:
    rows = [
        (claim.key, now + claim.cost, int(claim.limit.consecutive))
        for claim in sorted(claims, key=lambda claim: claim.key)
    ]
    return {
        "now": now,
        # Whoever waited for a row sees it filled by somebody who came a moment later.
        "full": now + HOUR + min(SECOND, *(claim.cost // 2 for claim in claims)),
        "forgotten": now - BUDGETS_KEPT // MICROSECOND,
        "latest": now + HOUR + CLOCKS_APART,
        **values_of(rows),
    }


@cache
def spending(dialect: str, claims: int) -> Statement:
    """Built once: that takes longer than to run it."""
    statement = upserting(dialect, claims)
    new, now = statement.excluded, bindparam("now", type_=BigInteger)
    drained_at, failures = believed(now)
    filled = drained_at + (new.drained_at - now)
    statement = statement.on_conflict_do_update(
        index_elements=["key"],
        set_={"drained_at": filled, "attempts": failures + new.attempts},
        where=(filled <= bindparam("full", type_=BigInteger)) & (failures < MOST_FAILURES),
    ).returning(col(Budget.key), col(Budget.drained_at), col(Budget.attempts))
    return Statement(f"spend_{claims}", statement)


COLUMNS: tuple[Any, ...] = (Budget.key, Budget.drained_at, Budget.attempts)


def upserting(dialect: str, rows: int, *sources: Any) -> Any:
    """In the order of its rows, which is the order of their locks. sources: what each row needs.

    The rows come from a SELECT, because SQLAlchemy compiles an INSERT of several rows anew each
    time, which takes longer than to run it.
    """
    selected = [
        select(*(bindparam(f"row{row}_{c.key}", type_=c.type).label(c.key) for c in COLUMNS))
        .select_from(*sources)
        .where(true())  # without it, SQLite would take ON CONFLICT for a JOIN's ON
        for row in range(rows)
    ]
    return insert(dialect, Budget).from_select(list(COLUMNS), union_all(*selected))


def values_of(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    return {
        f"row{number}_{column.key}": value
        for number, row in enumerate(rows)
        for column, value in zip(COLUMNS, row, strict=True)
    }


def believed(now: Any) -> tuple[Any, Any]:
    """When the budget is empty, now or later, and its failures in a row: SQL.

    Failures from long ago are forgotten. So is what a clock wrote that was wrong then, or a clock
    that is wrong now would refuse everybody until it is right.
    """
    moment, latest = col(Budget.drained_at), bindparam("latest", type_=BigInteger)
    known = moment.between(bindparam("forgotten", type_=BigInteger), latest)
    drained_at = case((moment.between(now, latest), moment), else_=now)
    return drained_at, case((known, col(Budget.attempts)), else_=0)


def give_back(session: Session, claims: Iterable[Claim]) -> None:
    """Of an attempt that nobody looked at after all."""
    put_back(session, {claim.key: claim.cost for claim in claims}, successful=False)


def note_success(session: Session, claims: Iterable[Claim], related: Iterable[Claim] = ()) -> None:
    """It gives its part back, and failures in a row are counted anew, also in related budgets."""
    put_back(session, parts_of(claims, related), successful=True)


def parts_of(claims: Iterable[Claim], related: Iterable[Claim]) -> dict[str, int]:
    return {claim.key: 0 for claim in related} | {claim.key: claim.cost for claim in claims}


def put_back(session: Session, parts: Mapping[str, int], *, successful: bool) -> None:
    if parts:
        statement = putting_back(session.get_bind().dialect.name, len(parts), successful)
        session.connection().execute(statement, putting_back_values(parts))


def putting_back_values(parts: Mapping[str, int]) -> dict[str, Any]:
    now = to_microseconds(datetime.now(UTC))
    rows = [(key, now - part, 0) for key, part in sorted(parts.items())]
    return {"now": now, **values_of(rows)}


@cache
def putting_back(dialect: str, parts: int, successful: bool, *sources: Any) -> Any:
    """An upsert, as it locks in the order of its rows; UPDATE has none. What it may insert where
    a budget was purged meanwhile is an empty one.
    """
    statement = upserting(dialect, parts, *sources)
    now = bindparam("now", type_=BigInteger)
    less = col(Budget.drained_at) + (statement.excluded.drained_at - now)
    one_less = case((col(Budget.attempts) > 0, col(Budget.attempts) - 1), else_=0)
    return statement.on_conflict_do_update(
        index_elements=["key"],
        set_={"drained_at": less, "attempts": 0 if successful else one_less},
    )


def begin_anew(session: Session, claims: Iterable[Claim]) -> None:
    """As if nobody had ever tried: what was guessed at is another password now.

    Lock the user before, as whoever notes a success has done.
    """
    keys = [claim.key for claim in claims]
    session.connection().execute(delete(Budget).where(col(Budget.key).in_(keys)))


def seconds_to_wait(session: Session, claim: Claim, now: int) -> int:
    row = session.exec(select(Budget).where(col(Budget.key) == claim.key)).first()
    if row is None:
        return 1
    opens_at = row.drained_at + claim.cost - HOUR
    if row.attempts >= MOST_FAILURES:
        opens_at = row.drained_at + BUDGETS_KEPT // MICROSECOND
    return max(1, round_up(opens_at - now))


def quota(claim: Claim, level: Level | None, now: int, waits: Mapping[Claim, int]) -> Quota:
    """level: None where there was no room. waits: why the attempt was refused, if it was."""
    limit = claim.limit
    if level is None:
        return Quota(limit.name, limit.size, 0, waits[claim])
    filled = level.drained_at - now
    if waits:  # by another budget: this one keeps its part, and Retry-After is about the other
        return Quota(limit.name, limit.size, (HOUR - filled + claim.cost) // claim.cost)
    remaining = max(0, HOUR - filled) // claim.cost
    until_one_more = filled + (remaining + 1) * claim.cost - HOUR
    return Quota(limit.name, limit.size, remaining, round_up(until_one_more))


def round_up(microseconds: int) -> int:
    """To seconds."""
    return -(-microseconds // SECOND)
