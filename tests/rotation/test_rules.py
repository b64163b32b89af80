"""The evidence rule step by step, with its boundary values. Times are small integers here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.rotation import Lineage, Presentation, Verdict, judge, judge_newest

G = 60


def rotated(lineage: Lineage, n: int, clock: int, grace: int = G) -> Lineage:
    verdict, after = judge(lineage, n, clock=clock, grace=grace)
    assert verdict is Verdict.ROTATE
    return after


def is_theft(lineage: Lineage, n: int, clock: int, grace: int = G) -> bool:
    verdict, after = judge(lineage, n, clock=clock, grace=grace)
    if verdict is Verdict.THEFT:
        assert after == lineage, "theft must leave the row as evidence"
    return verdict is Verdict.THEFT


def test_the_issued_token_is_the_time_of_the_decision() -> None:
    assert rotated(Lineage(last=1000), 1000, clock=5000).last == 5000


@pytest.mark.parametrize("clock", [0, 999, 1000])
def test_time_never_runs_backwards_within_a_login(clock: int) -> None:
    assert rotated(Lineage(last=1000), 1000, clock=clock).last == 1001


def test_presentations_in_the_same_microsecond_get_different_tokens() -> None:
    lineage, issued = Lineage(last=1000), []
    for _ in range(50):
        lineage = rotated(lineage, 1000, clock=1000)
        issued.append(lineage.last)
    assert issued == list(range(1001, 1051))


def test_a_token_exactly_as_old_as_the_grace_period_is_still_young() -> None:
    after = rotated(Lineage(last=1000), 1000, clock=1000 + G)
    assert after.witness is None
    assert after.candidate == Presentation(1000, 1000 + G)


def test_a_token_one_microsecond_older_than_the_grace_period_becomes_the_witness() -> None:
    after = rotated(Lineage(last=1000), 1000, clock=1000 + G + 1)
    assert after.witness == Presentation(1000, 1000 + G + 1)
    assert after.candidate is None


def test_an_old_token_replaces_witness_and_candidate() -> None:
    before = Lineage(2000, Presentation(1000, 1100), Presentation(1990, 1995))
    after = rotated(before, 1900, clock=2000)
    assert after == Lineage(2001, Presentation(1900, 2001), None)


@pytest.mark.proves("10.4.5", "RT-05")
def test_a_second_old_token_ends_the_login() -> None:
    assert is_theft(Lineage(2000, witness=Presentation(1500, 2000)), 1000, clock=2001)


def test_the_same_old_token_may_come_again_and_again() -> None:
    lineage = Lineage(last=1000)
    for clock in range(2000, 9000, 500):
        lineage = rotated(lineage, 1000, clock=clock)
    assert lineage.witness == Presentation(1000, 8500)


def test_a_token_exactly_the_grace_period_before_the_witness_was_seen_is_no_evidence() -> None:
    before = Lineage(2000, witness=Presentation(1500, 2000))
    assert not is_theft(before, 2000 - G, clock=2500)
    assert is_theft(before, 2000 - G - 1, clock=2500)


def test_evidence_does_not_expire() -> None:
    years = 10**12
    assert is_theft(Lineage(2000, witness=Presentation(1500, 2000)), 1000, clock=2000 + years)


def test_the_newest_token_can_be_the_second_old_token() -> None:
    """The thief presented last; the user's own next refresh is what gives them away."""
    login = rotated(Lineage(last=1000), 1000, clock=2000)
    by_the_user = login.last
    by_the_thief = rotated(login, 1000, clock=2100)
    assert is_theft(by_the_thief, by_the_user, clock=3000)


def test_a_candidate_exactly_as_old_as_the_grace_period_is_not_ripe() -> None:
    before = Lineage(2000, candidate=Presentation(1950, 2000))
    after = rotated(before, 1980, clock=1950 + G)
    assert after.witness is None
    assert after.candidate == Presentation(1950, 2000)


def test_a_ripe_candidate_becomes_the_witness_as_of_when_it_was_presented() -> None:
    before = Lineage(2000, candidate=Presentation(1950, 2000))
    after = rotated(before, 1980, clock=1950 + G + 1)
    assert after.witness == Presentation(1950, 2000)


def test_a_candidate_that_ripens_is_evidence_at_once() -> None:
    before = Lineage(2000, candidate=Presentation(1950, 2000))
    assert is_theft(before, 2000 - G - 1, clock=3000)
    assert not is_theft(before, 2000 - G, clock=3000)


def test_a_ripe_candidate_takes_the_place_of_an_older_witness() -> None:
    before = Lineage(3000, Presentation(1000, 2000), Presentation(2980, 3000))
    assert rotated(before, 3000, clock=3050).witness == Presentation(2980, 3000)


def test_a_young_token_does_not_displace_a_candidate() -> None:
    before = Lineage(2000, candidate=Presentation(1990, 2000))
    assert rotated(before, 2000, clock=2010).candidate == Presentation(1990, 2000)


def test_a_young_token_becomes_no_candidate_while_the_witness_is_fresh() -> None:
    """A browser that was killed goes back one token; the burst it died in must not count."""
    before = Lineage(2000, witness=Presentation(1000, 2000))
    assert rotated(before, 1990 + G, clock=2000 + G).candidate is None
    assert rotated(before, 1990 + G, clock=2000 + G + 1).candidate == Presentation(2050, 2061)


def test_a_browser_that_lost_two_refreshes_in_a_crash_stays_logged_in() -> None:
    login = rotated(Lineage(last=1000), 1000, clock=2000)
    login = rotated(login, login.last, clock=2010)
    login = rotated(login, login.last, clock=2030)
    assert not is_theft(login, 1000, clock=9000)


def test_two_tabs_that_refresh_at_once_stay_logged_in() -> None:
    login = rotated(Lineage(last=1000), 1000, clock=2000)
    first_answer = login.last
    login = rotated(login, 1000, clock=2001)
    login = rotated(login, first_answer, clock=2005)
    assert login.last == 2005


def test_an_answer_that_was_lost_does_not_matter_however_late_the_next_try() -> None:
    login = rotated(Lineage(last=1000), 1000, clock=2000)
    assert not is_theft(login, 1000, clock=2000 + 10**9)


@pytest.mark.parametrize("clock", [0, 1500, 5000, 5001, 90_000])
def test_a_restored_backup_carries_on_with_a_newer_token(clock: int) -> None:
    restored = Lineage(1500, Presentation(1000, 1500))
    after = rotated(restored, 5000, clock=clock)
    assert after.last == max(clock, 5001)


def test_a_restored_backup_still_recognises_theft() -> None:
    restored = Lineage(1500, Presentation(1000, 1500))
    by_the_user = rotated(restored, 5000, clock=6000)
    assert is_theft(by_the_user, 1200, clock=6001)


def test_strict_mode_accepts_the_newest_token_only() -> None:
    lineage = Lineage(last=1000)
    after = rotated(lineage, 1000, clock=1001, grace=0)
    assert after.last == 1001
    assert is_theft(after, 1000, clock=1001, grace=0)
    assert not is_theft(after, 1001, clock=1001, grace=0)


def test_strict_mode_fails_closed_after_a_restore() -> None:
    assert is_theft(Lineage(last=1000), 2000, clock=3000, grace=0)


def test_strict_mode_never_issues_a_token_twice() -> None:
    assert rotated(Lineage(last=1000), 1000, clock=0, grace=0).last == 1001


def test_the_state_of_a_login_is_at_most_five_numbers_however_often_it_refreshes() -> None:
    lineage, clock = Lineage(last=1000), 1000
    for step in range(5000):
        clock += (step * 37) % 150
        lineage = rotated(lineage, lineage.last, clock=clock)
        assert isinstance(lineage.last, int)
        for remembered in (lineage.witness, lineage.candidate):
            assert remembered is None or [type(number) for number in remembered] == [int, int]


def test_judging_changes_nothing_that_it_was_given() -> None:
    before = Lineage(2000, Presentation(1000, 1900), Presentation(1990, 1995))
    judge(before, 1990, clock=5000, grace=G)
    assert before == Lineage(2000, Presentation(1000, 1900), Presentation(1990, 1995))


def test_two_tabs_as_in_the_documentation() -> None:
    """The first timeline of docs/rotation.md, in tenths of a second."""
    login = rotated(Lineage(last=0), 0, clock=9000, grace=600)
    assert login == Lineage(9000, Presentation(0, 9000))
    login = rotated(login, 0, clock=9002, grace=600)
    assert login == Lineage(9002, Presentation(0, 9002))
    login = rotated(login, 9000, clock=18000, grace=600)
    assert login == Lineage(18000, Presentation(9000, 18000))


def test_a_thief_as_in_the_documentation() -> None:
    """The second timeline, in seconds."""
    login = rotated(Lineage(last=0), 0, clock=400)
    login = rotated(login, 0, clock=900)
    assert login == Lineage(900, Presentation(0, 900))
    assert is_theft(login, 400, clock=1300)


def test_a_fast_thief_as_in_the_documentation() -> None:
    """The third timeline, in seconds: the thief uses the token of 900 every 20 seconds."""
    login, thiefs = Lineage(900, Presentation(0, 900)), 900
    seen = {}
    for clock in range(930, 1800, 20):
        login = rotated(login, thiefs, clock=clock)
        thiefs, seen[clock] = login.last, login
    assert seen[950].candidate is None
    assert seen[970].candidate == Presentation(950, 970)
    assert seen[1010].witness == Presentation(0, 900)
    assert seen[1030].witness == Presentation(950, 970)
    assert is_theft(login, 900, clock=1800)


# The newest token: what one statement may do without reading first


@pytest.mark.proves("10.4.5", "RT-05")
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20))), st.integers(0, 200))
def test_the_newest_token_once_old_is_judged_the_same_whatever_was_before(
    presentations: list[tuple[int, int]], pause: int
) -> None:
    """Any tokens of a login, presented in any order, by anybody, at any pace and any clock."""
    lineage, issued, clock = Lineage(last=1000), [1000], 1000
    for step, which in presentations:
        clock += step - 50
        verdict, lineage = judge(lineage, issued[which % len(issued)], clock=clock, grace=G)
        if verdict is Verdict.ROTATE:
            issued.append(lineage.last)
    clock += pause
    after = judge_newest(lineage.last, clock=clock, grace=G)
    if after is None:
        assert clock <= lineage.last + G
    else:
        assert judge(lineage, lineage.last, clock=clock, grace=G) == (Verdict.ROTATE, after)


@pytest.mark.parametrize("grace", [0, G])
def test_a_young_token_and_strict_single_use_need_the_lineage(grace: int) -> None:
    assert judge_newest(1000, clock=1000 + G, grace=grace) is None
