"""One browser, whatever its tabs, network and servers do, is never logged out."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.core.rotation import Lineage, Verdict, judge

from .model import (
    EVERYDAY,
    GRACE,
    HOUR,
    SECOND,
    STUCK,
    WORST,
    Life,
    World,
    bursting_tabs,
    frantic_tabs,
    paced_tabs,
)
from .rules import EvidenceRule, Login


class HonestJar(RuleBasedStateMachine):
    """Hypothesis plays network and scheduler, and looks for any order that ends the login.

    It may hold every message back for as long as the proof allows, lose it, let it overtake
    others, and read any server's clock. Request, response and skew together take exactly G.
    """

    request, response, skew = 25 * SECOND, 30 * SECOND, 5 * SECOND

    def __init__(self) -> None:
        super().__init__()
        self.time = 10**15
        self.decided_at = self.time
        self.behind = 0
        self.jar = self.time
        self.lineage = Lineage(self.jar)
        self.issued = [self.jar]
        self.requests: list[tuple[int, int]] = []
        self.responses: list[tuple[int, int]] = []

    @precondition(lambda self: len(self.requests) < 4)
    @rule(wait=st.sampled_from([0, 1, 20 * SECOND]))
    def a_tab_sends(self, wait: int) -> None:
        self.pass_time(wait)
        self.requests.append((self.jar, self.time))

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 3), late=st.booleans(), ahead=st.booleans())
    def a_server_decides(self, which: int, late: bool, ahead: bool) -> None:
        token, sent = self.requests[which % len(self.requests)]
        # Two decisions on one login are at least a microsecond apart.
        soon = max(self.time, self.decided_at + 1)
        if soon > sent + self.request:
            return
        self.pass_time((sent + self.request if late else soon) - self.time)
        self.decided_at = self.time
        self.requests.remove((token, sent))
        clock = self.time + (self.skew if ahead else 0) - self.behind
        verdict, self.lineage = judge(self.lineage, token, clock=clock, grace=GRACE)
        assert verdict is Verdict.ROTATE, "an honest browser was logged out"
        self.issued.append(self.lineage.last)
        self.responses.append((self.lineage.last, self.time))

    @precondition(lambda self: self.responses)
    @rule(which=st.integers(0, 3), late=st.booleans())
    def an_answer_enters_the_jar(self, which: int, late: bool) -> None:
        token, issued = self.responses[which % len(self.responses)]
        if late:
            self.pass_time(issued + self.response - self.time)
        self.responses.remove((token, issued))
        self.jar = token

    @precondition(lambda self: self.requests and self.responses)
    @rule(which=st.integers(0, 3), answer=st.booleans())
    def a_message_is_lost_or_answered_503(self, which: int, answer: bool) -> None:
        messages = self.responses if answer else self.requests
        del messages[which % len(messages)]

    @rule(by=st.sampled_from([SECOND, GRACE + 1, 2 * HOUR]))
    def time_passes(self, by: int) -> None:
        self.pass_time(by)

    def pass_time(self, by: int) -> None:
        """Messages that have been under way for as long as they may are lost."""
        self.time += by
        self.requests = [r for r in self.requests if self.time - r[1] <= self.request]
        self.responses = [r for r in self.responses if self.time - r[1] <= self.response]

    @precondition(lambda self: not self.behind and len(self.issued) > 8)
    @rule()
    def all_clocks_are_set_back_an_hour(self) -> None:
        self.behind = HOUR

    @invariant()
    def tokens_are_unique_and_increasing(self) -> None:
        assert self.issued[-2:] == sorted(set(self.issued[-2:]))
        assert self.lineage.last == self.issued[-1]


class SlowerJar(HonestJar):
    """A control: messages take longer than the grace period."""

    request, response = 45 * SECOND, 45 * SECOND


thorough = settings(
    derandomize=True, deadline=None, max_examples=300, stateful_step_count=50, database=None
)
TestHonestJar = HonestJar.TestCase
TestHonestJar.settings = thorough


def test_the_stateful_model_notices_messages_that_take_longer_than_the_grace_period() -> None:
    # Where it looks first depends on what else is imported, and it stops at the first one.
    once_found = settings(thorough, max_examples=3000, print_blob=False, phases=[Phase.generate])
    with pytest.raises(AssertionError, match="an honest browser was logged out"):
        run_state_machine_as_test(SlowerJar, settings=once_found)


def evidence_rule(first: int) -> Login:
    return EvidenceRule(first, GRACE)


def lived(life: Life) -> list[int]:
    """Run a life to its end and return its tokens; the login must still stand."""
    life.run()
    assert not life.login.ended
    return [d.issued for d in life.fleet.decisions if d.issued is not None]


@pytest.mark.parametrize("world", [EVERYDAY, WORST, STUCK], ids=["everyday", "worst", "stuck"])
def test_the_simulated_worlds_stay_within_what_the_proof_assumes(world: World) -> None:
    assert world.room > 0


@pytest.mark.proves("RT-06")
@pytest.mark.parametrize("seed", range(40))
def test_eight_frantic_tabs_that_lose_one_answer_in_ten_stay_logged_in(seed: int) -> None:
    life = Life(evidence_rule, WORST, Random(seed))
    frantic_tabs(life.browser, tabs=8, refreshes=400, gaps=(SECOND // 100, 2 * HOUR))
    issued = lived(life)
    assert len(issued) == 400
    assert all(earlier < later for earlier, later in pairwise(issued))


@pytest.mark.parametrize("seed", range(20))
def test_requests_that_outlive_their_clients_patience_do_no_harm(seed: int) -> None:
    life = Life(evidence_rule, STUCK, Random(seed))
    frantic_tabs(life.browser, tabs=8, refreshes=400, gaps=(SECOND // 100, 2 * HOUR))
    issued = lived(life)
    assert life.fleet.refused_as_stale == 400 - len(issued) > 50


@pytest.mark.parametrize("seed", range(20))
def test_clocks_that_are_set_back_an_hour_do_no_harm(seed: int) -> None:
    life = Life(evidence_rule, WORST, Random(seed))
    frantic_tabs(life.browser, tabs=8, refreshes=300, gaps=(SECOND // 100, HOUR))
    for _ in range(4):
        moment = life.rng.randint(0, 4 * HOUR)
        life.timeline.after(moment, lambda: life.fleet.set_clocks_back(HOUR))
    issued = lived(life)
    assert life.fleet.behind == 4 * HOUR
    assert all(earlier < later for earlier, later in pairwise(issued))


@pytest.mark.parametrize("seed", range(20))
def test_everyday_tabs_stay_logged_in(seed: int) -> None:
    life = Life(evidence_rule, EVERYDAY, Random(seed))
    paced_tabs(life.browser, tabs=3, refreshes=200)
    assert len(lived(life)) == 200


@pytest.mark.parametrize("world", [EVERYDAY, WORST, STUCK], ids=["everyday", "worst", "stuck"])
@pytest.mark.parametrize("seed", range(15))
def test_crashes_that_lose_the_last_cookie_writes_do_no_harm(seed: int, world: World) -> None:
    """As docs/rotation.md says: bursts shorter than G, and more than G between them."""
    flushing = replace(world, flush=30 * SECOND)
    life = Life(evidence_rule, flushing, Random(seed))
    bursting_tabs(life.browser, refreshes=200, restart=(2 * GRACE, 8 * HOUR))
    lived(life)
    assert life.browser.life > 10


@pytest.mark.parametrize("seed", range(15))
def test_an_everyday_browser_that_restarts_at_once_after_a_crash_stays_logged_in(seed: int) -> None:
    life = Life(evidence_rule, replace(EVERYDAY, flush=30 * SECOND), Random(seed))
    bursting_tabs(life.browser, refreshes=200, restart=(SECOND, HOUR))
    lived(life)
    assert life.browser.life > 10


@pytest.mark.parametrize("seed", range(20))
def test_a_database_that_is_put_back_an_hour_carries_on(seed: int) -> None:
    life = Life(evidence_rule, WORST, Random(seed))
    frantic_tabs(life.browser, tabs=8, refreshes=300, gaps=(SECOND // 100, HOUR))
    login = life.login
    assert isinstance(login, EvidenceRule)
    saved: list[Lineage] = []
    life.timeline.after(HOUR, lambda: saved.append(login.lineage))

    def restore() -> None:
        login.lineage = saved[0]

    life.timeline.after(2 * HOUR, restore)
    issued = lived(life)
    assert saved
    assert len(set(issued)) == len(issued)
