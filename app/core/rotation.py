"""The evidence rule: what a presented refresh token proves. Pure; proved in docs/rotation.md.

An honest browser keeps one refresh cookie, so two different tokens that are both older
than the grace period can never both come from it. When the second one turns up, somebody
else holds a copy, and the login ends. Every time is an integer of microseconds since 1970.
"""

from dataclasses import dataclass, replace
from enum import StrEnum, auto
from typing import NamedTuple


class Presentation(NamedTuple):
    """That a token was presented: the token, by its issue time `n`, and when, `at`."""

    n: int
    at: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """What one login remembers of its refresh tokens, however many there have been.

    last: the newest token issued.
    witness: the last *old* token that was presented.
    candidate: a *young* token that was presented; the witness once it is old. Without it,
        a thief who refreshes so fast that no token of theirs grows old is never seen.
    """

    last: int
    witness: Presentation | None = None
    candidate: Presentation | None = None


class Verdict(StrEnum):
    ROTATE = auto()
    THEFT = auto()


def judge(lineage: Lineage, n: int, *, clock: int, grace: int) -> tuple[Verdict, Lineage]:
    """Judge token `n`, presented at `clock`; `grace` is in microseconds, 0 is strict single use.

    On ROTATE the new lineage's `last` is the token to issue. On THEFT the lineage is returned
    as it was: the caller ends the login, and commits that, before anything else happens.
    """
    # Time never runs backwards within a login, whatever the servers' clocks do.
    now = max(clock, lineage.last + 1, n + 1)

    if grace == 0:
        if n != lineage.last:
            return Verdict.THEFT, lineage
        return Verdict.ROTATE, replace(lineage, last=now)

    witness, candidate = lineage.witness, lineage.candidate
    if candidate and candidate.n < now - grace:
        witness, candidate = candidate, None

    if witness and witness.n != n and n < witness.at - grace:
        return Verdict.THEFT, lineage

    if n < now - grace:
        witness, candidate = Presentation(n, now), None
    elif candidate is None and (witness is None or witness.at < now - grace):
        candidate = Presentation(n, now)

    return Verdict.ROTATE, Lineage(now, witness, candidate)


def judge_newest(n: int, *, clock: int, grace: int) -> Lineage | None:
    """The lineage that judge() makes of its own newest token, `last`, once that is old.

    It depends on nothing else that the lineage remembers, so nothing has to be read first. None:
    the token is young, and judge() has to see the lineage.
    """
    if grace and n < clock - grace:
        return Lineage(clock, witness=Presentation(n, clock))
    return None
