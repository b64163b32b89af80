"""Negative controls: a broken rule, or a broken assumption, must be noticed by these tests.

Without them a model too tame to hurt anything would look like a proof.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from app.core.rotation import Lineage, Verdict, judge

from .model import (
    DAY,
    EPOCH,
    EVERYDAY,
    GRACE,
    HOUR,
    SECOND,
    STUCK,
    WORST,
    Life,
    World,
    frantic_tabs,
    paced_tabs,
)
from .rules import (
    EvidenceRule,
    ForkWindow,
    Login,
    PreviousAccepted,
    ReplayWindow,
    no_candidate,
    or_equal,
)
from .schedules import Chase, Jar, survey_chase, survey_jar
from .thieves import at_the_users_pace, fast, once, pursue

Start = Callable[[int], Login]


def strict(first: int) -> Login:
    return EvidenceRule(first, grace=0)


def without_candidate(first: int) -> Login:
    return EvidenceRule(first, GRACE, no_candidate)


def honest_logins_ended(start: Start, logins: int = 30, world: World = EVERYDAY) -> int:
    ended = 0
    for seed in range(logins):
        life = Life(start, world, Random(seed))
        paced_tabs(life.browser, tabs=3, refreshes=200)
        life.run()
        ended += life.login.ended
    return ended


# The rule, broken


def test_without_the_candidate_a_fast_thief_is_never_seen() -> None:
    for seed in range(5):
        pursuit = pursue(without_candidate, fast, Random(seed), horizon=6 * HOUR)
        assert not pursuit.ended
        assert pursuit.got > 1000


def test_without_the_candidate_the_exhaustive_check_finds_the_fast_thief() -> None:
    assert survey_chase(Chase(grace=1, pause=3, ticks=8), no_candidate).counterexample


@pytest.mark.parametrize("comparison", ["n < witness.at - grace", "candidate.n < now - grace"])
def test_or_equal_in_the_rule_logs_an_honest_browser_out(comparison: str) -> None:
    bounds = Jar(grace=2, request=1, response=1, ticks=8)
    steps = survey_jar(bounds, or_equal(comparison)).counterexample
    assert steps[-1].endswith("theft")


@pytest.mark.parametrize("comparison", ["n < now - grace", "witness.at < now - grace"])
def test_or_equal_in_what_is_remembered_is_harmless(comparison: str) -> None:
    """So the two boundaries above are the ones that the proof rests on, and these are not."""
    bounds = Jar(grace=2, request=1, response=1, ticks=8)
    assert survey_jar(bounds, or_equal(comparison)).counterexample == ()


# The assumptions, broken


@pytest.mark.parametrize(
    "bounds",
    [
        Jar(grace=2, request=2, response=1),
        Jar(grace=2, request=1, response=2),
        Jar(grace=2, request=1, response=1, skew=1),
    ],
    ids=["request", "response", "skew"],
)
def test_one_tick_more_than_the_grace_period_logs_an_honest_browser_out(bounds: Jar) -> None:
    assert survey_jar(bounds).counterexample[-1].endswith("theft")


def test_a_clock_that_jumps_forward_by_more_than_the_grace_period_can_log_out() -> None:
    bounds = Jar(grace=2, request=1, response=1, step=3)
    assert survey_jar(bounds).counterexample[-1].endswith("theft")


def test_the_simulation_notices_ways_that_are_longer_than_the_grace_period() -> None:
    slower = replace(WORST, request=2 * GRACE, response=2 * GRACE)
    ended = 0
    for seed in range(10):
        life = Life(lambda first: EvidenceRule(first, GRACE), slower, Random(seed))
        frantic_tabs(life.browser, tabs=8, refreshes=400, gaps=(SECOND // 100, 2 * HOUR))
        life.run()
        ended += life.login.ended
    assert ended == 10


def test_stale_requests_that_are_decided_after_all_log_an_honest_browser_out() -> None:
    """Why a request that waited longer than a third of the grace period is answered 503."""
    patient = replace(STUCK, stale=2 * GRACE)
    ended = 0
    for seed in range(10):
        life = Life(lambda first: EvidenceRule(first, GRACE), patient, Random(seed))
        frantic_tabs(life.browser, tabs=8, refreshes=400, gaps=(SECOND // 100, 2 * HOUR))
        life.run()
        ended += life.login.ended
    assert ended > 5


@pytest.mark.parametrize("grace", [1, 2])
def test_a_pause_of_no_more_than_three_grace_periods_may_not_stop_a_thief(grace: int) -> None:
    bounds = Chase(grace=grace, pause=3 * grace - 1, ticks=9)
    assert survey_chase(bounds).counterexample[-1].endswith("gets a token")


def test_a_crash_that_loses_refreshes_more_than_the_grace_period_apart_can_log_out() -> None:
    """The limit that docs/rotation.md states: the third refresh in a row came too late."""
    login = Lineage(last=900_000)
    tokens = [900_000]
    for clock in (1_000_000, 1_000_050, 1_000_070):
        verdict, login = judge(login, tokens[-1], clock=clock, grace=60)
        assert verdict is Verdict.ROTATE
        tokens.append(login.last)
    verdict, _ = judge(login, tokens[1], clock=2_000_000, grace=60)
    assert verdict is Verdict.THEFT


def test_a_thief_who_uses_the_copy_once_before_the_victim_looks_like_a_lost_answer() -> None:
    unseen = 0
    for seed in range(60):
        pursuit = pursue(
            lambda first: EvidenceRule(first, GRACE), once, Random(seed), horizon=12 * HOUR
        )
        assert pursuit.got <= 1
        unseen += bool(pursuit.got) and not pursuit.ended
    assert unseen > 0


# The rules of others


def test_strict_single_use_logs_two_tabs_out() -> None:
    login = strict(EPOCH)
    assert login.present(EPOCH, EPOCH + SECOND) is not None
    assert login.present(EPOCH, EPOCH + SECOND + 1) is None


def test_strict_single_use_logs_everybody_out() -> None:
    assert honest_logins_ended(strict) == 30


def test_a_window_that_replays_the_answer_logs_honest_browsers_out() -> None:
    assert honest_logins_ended(lambda first: ReplayWindow(first, 30 * SECOND)) > 5


def test_a_window_that_forks_a_chain_logs_honest_browsers_out() -> None:
    assert honest_logins_ended(lambda first: ForkWindow(first, 60 * SECOND)) > 5


def test_a_rule_that_always_accepts_the_previous_token_misses_the_thief() -> None:
    assert honest_logins_ended(PreviousAccepted) == 0
    ended = sum(
        pursue(PreviousAccepted, at_the_users_pace, Random(seed), horizon=DAY).ended
        for seed in range(30)
    )
    assert ended < 5


def test_the_evidence_rule_does_neither_on_the_same_browsers() -> None:
    def start(first: int) -> Login:
        return EvidenceRule(first, GRACE)

    assert honest_logins_ended(start) == 0
    assert all(pursue(start, at_the_users_pace, Random(seed)).ended for seed in range(30))
