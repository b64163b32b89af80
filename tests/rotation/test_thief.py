"""Whoever copies a jar and uses the copy is found, as docs/rotation.md promises."""

from random import Random

import pytest

from .model import ACCESS_LIFETIME, DAY, EVERYDAY, GRACE, HOUR, MINUTE, STUCK, WORST, World
from .rules import EvidenceRule, Login
from .thieves import (
    STRATEGIES,
    Pursuit,
    Strategy,
    Thief,
    at_the_users_pace,
    fast,
    once,
    pursue,
    successes_after_the_victims_pause,
)

SEEDS = range(60)
strategies = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.__name__)


def evidence_rule(first: int) -> Login:
    return EvidenceRule(first, GRACE)


def pursuits(strategy: Strategy, world: World = EVERYDAY, horizon: int = DAY) -> list[Pursuit]:
    return [
        pursue(evidence_rule, strategy, Random(seed), world=world, horizon=horizon)
        for seed in SEEDS
    ]


@pytest.mark.proves("10.4.5")
@strategies
def test_every_thief_who_comes_back_is_found(strategy: Strategy) -> None:
    found = pursuits(strategy)
    assert any(p.got for p in found), "no thief of this kind got anything: nothing is tested"
    assert all(p.ended for p in found)


@pytest.mark.parametrize("world", [EVERYDAY, WORST, STUCK], ids=["everyday", "worst", "stuck"])
@strategies
def test_no_thief_succeeds_after_the_victim_came_back_from_a_pause(
    strategy: Strategy, world: World
) -> None:
    for pursuit in pursuits(strategy, world, horizon=12 * HOUR):
        assert successes_after_the_victims_pause(pursuit) == 0


def test_a_thief_at_the_users_pace_gets_one_token_and_at_most_two() -> None:
    got = sorted(p.got for p in pursuits(at_the_users_pace))
    assert got[len(got) // 2] == 1
    assert got[-1] <= 2


def test_a_fast_thief_is_found_within_eighteen_minutes() -> None:
    """An access lifetime, at whose end the victim comes back, and three grace periods."""
    assert 18 * MINUTE == ACCESS_LIFETIME + 3 * GRACE
    assert max(p.lasted for p in pursuits(fast)) <= 18 * MINUTE


def test_a_thief_who_uses_the_copy_once_has_nothing_left_an_hour_later() -> None:
    """A single use can look like a lost answer, so it may pass; the token it gave is worthless."""

    def once_and_again(thief: Thief) -> None:
        once(thief)
        thief.fleet.timeline.after(2 * HOUR, thief.use)

    for seed in SEEDS:
        pursuit = pursue(evidence_rule, once_and_again, Random(seed), horizon=3 * HOUR)
        assert pursuit.ended
        assert pursuit.got <= 1


def test_an_old_token_from_a_log_file_is_refused_at_its_first_use() -> None:
    def late(thief: Thief) -> None:
        thief.fleet.timeline.after(8 * HOUR, thief.use)

    for seed in SEEDS:
        pursuit = pursue(evidence_rule, late, Random(seed))
        assert pursuit.ended
        assert pursuit.got == 0
