"""Prints the figures of docs/rotation.md: `python -m tests.rotation`. Seeds are fixed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from statistics import median

from .model import (
    EVERYDAY,
    GRACE,
    HOUR,
    MINUTE,
    SECOND,
    STUCK,
    WORST,
    Life,
    World,
    bursting_tabs,
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
from .thieves import (
    STRATEGIES,
    Pursuit,
    Strategy,
    at_the_users_pace,
    fast,
    once,
    pursue,
    successes_after_the_victims_pause,
)

Start = Callable[[int], Login]


def evidence_rule(first: int) -> Login:
    return EvidenceRule(first, GRACE)


RULES: dict[str, Start] = {
    "strict single use": lambda first: EvidenceRule(first, grace=0),
    "30 s window, replays the answer": lambda first: ReplayWindow(first, 30 * SECOND),
    "60 s window, forks a chain": lambda first: ForkWindow(first, 60 * SECOND),
    "previous token always accepted": PreviousAccepted,
    "evidence rule": evidence_rule,
}


def compare_rules(logins: int = 300) -> None:
    print(f"{logins} everyday browsers (3 tabs, 200 refreshes); as many with a thief at their pace")
    print(f"  {'rule':32} {'honest ended':>12} {'thief ended in 24 h':>20} {'tokens got':>14}")
    for name, start in RULES.items():
        ended = 0
        for seed in range(logins):
            life = Life(start, EVERYDAY, Random(seed))
            paced_tabs(life.browser, tabs=3, refreshes=200)
            life.run()
            ended += life.login.ended
        pursuits = [pursue(start, at_the_users_pace, Random(seed)) for seed in range(logins)]
        thefts = [pursuit for pursuit in pursuits if pursuit.stolen]
        caught = sum(theft.ended for theft in thefts)
        got = [theft.got for theft in thefts]
        print(
            f"  {name:32} {ended / logins:12.1%} {caught / len(thefts):20.1%}"
            f" {median(got):5.0f}, max {max(got):2}"
        )


def frantic(world: World, logins: int, set_back: bool = False) -> tuple[int, int, int]:
    ended = decided = stale = 0
    for seed in range(logins):
        life = Life(evidence_rule, world, Random(seed))
        frantic_tabs(life.browser, tabs=8, refreshes=400, gaps=(SECOND // 100, 2 * HOUR))
        if set_back:
            for _ in range(3):
                moment = life.rng.randint(0, 8 * HOUR)
                life.timeline.after(moment, partial(life.fleet.set_clocks_back, HOUR))
        life.run()
        ended += life.login.ended
        decided += len(life.fleet.decisions)
        stale += life.fleet.refused_as_stale
    return ended, decided, stale


def crashing(
    world: World, logins: int, tabs: Callable[[Life], None], chance: float
) -> tuple[int, int]:
    ended = crashes = 0
    for seed in range(logins):
        life = Life(evidence_rule, replace(world, flush=30 * SECOND), Random(seed))
        tabs(life)

        def perhaps_crash(_: object, life: Life = life) -> None:
            if life.rng.random() < chance:
                life.timeline.after(life.rng.randint(0, 40 * SECOND), life.browser.crash)

        life.fleet.listeners.append(perhaps_crash)
        life.run()
        ended += life.login.ended
        crashes += life.browser.life
    return ended, crashes


def stress_the_honest_jar() -> None:
    print("\nHonest logins: 8 tabs, 400 refreshes, gaps 10 ms to 2 h, 10% of answers lost")
    ended, decided, _ = frantic(WORST, 250)
    print(f"  ways up to half of G each:          {ended} of 250 ended ({decided:,} decisions)")
    ended, decided, _ = frantic(WORST, 100, set_back=True)
    print(f"  and clocks set back 1 h, 3 times:   {ended} of 100 ended ({decided:,} decisions)")
    ended, decided, stale = frantic(STUCK, 100)
    print(
        f"  requests stuck in queues:           {ended} of 100 ended ({decided:,} decisions,"
        f" {stale:,} stale ones refused)"
    )
    print("Honest logins with crashes that lose up to 30 s of cookie writes")
    shapes: list[tuple[str, World, Callable[[Life], None], float]] = [
        ("everyday, 3 tabs:", EVERYDAY, lambda life: paced_tabs(life.browser, 3, 200), 0.3),
        (
            "bursts of refreshes and crashes:",
            WORST,
            lambda life: bursting_tabs(life.browser, 200, restart=(2 * GRACE, 8 * HOUR)),
            0.0,
        ),
        (
            "8 frantic tabs (outside the proof):",
            WORST,
            lambda life: frantic_tabs(life.browser, 8, 400, (SECOND // 100, 2 * HOUR)),
            0.01,
        ),
    ]
    for name, world, tabs, chance in shapes:
        ended, crashes = crashing(world, 200, tabs, chance)
        print(f"  {name:35} {ended} of 200 ended ({crashes:,} crashes)")
    print("Everyday honest logins, one server of four with a wrong clock (outside the proof)")
    for minutes in (-60, -5, 60):
        print(f"  {minutes:+} minutes: {with_a_wrong_clock(minutes * MINUTE)} of 200 ended")


def with_a_wrong_clock(by: int, logins: int = 200) -> int:
    ended = 0
    for seed in range(logins):
        life = Life(evidence_rule, EVERYDAY, Random(seed))
        life.fleet.offsets[0] += by
        paced_tabs(life.browser, tabs=3, refreshes=200)
        life.run()
        ended += life.login.ended
    return ended


def check_schedules() -> None:
    print("\nEvery schedule of one jar, small numbers (request + response + skew = G exactly)")
    jars = [
        Jar(grace=1, request=1, response=0, in_flight=3, ticks=8),
        Jar(grace=2, request=1, response=1, in_flight=3, ticks=7),
        Jar(grace=2, request=1, response=1, ticks=8, step=-5),
        Jar(grace=2, request=1, response=1, ticks=6, restore=True),
        Jar(grace=2, request=1, response=0, skew=1, ticks=9),
        Jar(grace=3, request=2, response=1, ticks=8),
        Jar(grace=3, request=1, response=2, ticks=8),
        Jar(grace=3, request=1, response=1, skew=1, ticks=8),
    ]
    surveys = [survey_jar(jar) for jar in jars]
    schedules, states = sum(s.schedules for s in surveys), sum(s.states for s in surveys)
    wrong = sum(bool(s.counterexample) for s in surveys)
    print(f"  {schedules:.1e} schedules over {states:,} states: {wrong} of {len(jars)} went wrong")
    chases = [
        survey_chase(chase)
        for chase in (Chase(grace=1, pause=3, ticks=10), Chase(grace=2, pause=6, ticks=9))
    ]
    schedules, states = sum(s.schedules for s in chases), sum(s.states for s in chases)
    wrong = sum(bool(s.counterexample) for s in chases)
    print("Every schedule of a victim and a thief: success after a pause of more than 3 G")
    print(f"  {schedules:,} schedules over {states:,} states: {wrong} of {len(chases)} went wrong")
    print("The same checks with the rule broken: the first schedule that goes wrong")
    small = Jar(grace=2, request=1, response=1)
    for comparison in ("n < witness.at - grace", "candidate.n < now - grace"):
        steps = survey_jar(small, or_equal(comparison)).counterexample
        print(f"  {comparison.replace('<', '<=')}: " + "; ".join(steps))
    steps = survey_chase(Chase(grace=1, pause=3, ticks=8), no_candidate).counterexample
    print("  no candidate: " + "; ".join(steps))


def chase_thieves(thieves_of_a_kind: int = 150) -> None:
    kinds = " ".join(strategy.__name__ for strategy in STRATEGIES)
    print(f"\nThieves who come back, 8 hours, {thieves_of_a_kind} of each: {kinds}")
    for name, start in (
        ("evidence rule", evidence_rule),
        ("without the candidate", lambda first: EvidenceRule(first, GRACE, no_candidate)),
    ):
        thefts = [
            pursue(start, strategy, Random(seed), horizon=8 * HOUR)
            for strategy in STRATEGIES
            for seed in range(thieves_of_a_kind)
        ]
        winners = [theft for theft in thefts if theft.got]
        unseen = sum(not theft.ended for theft in winners)
        late = sum(successes_after_the_victims_pause(theft) > 0 for theft in thefts)
        print(
            f"  {name:22} {unseen:4} of {len(winners)} that got a token stayed unseen;"
            f" {late} succeeded after the victim's pause"
        )
    print_strategy("a fast thief (1 to 30 s)", fast)
    print_strategy("a thief who uses it once", once)


def print_strategy(name: str, strategy: Strategy, thieves: int = 300) -> None:
    thefts: list[Pursuit] = [
        pursue(evidence_rule, strategy, Random(seed)) for seed in range(thieves)
    ]
    lasted = [theft.lasted / MINUTE for theft in thefts if theft.ended] or [0.0]
    unseen = sum(1 for theft in thefts if theft.got and not theft.ended)
    print(
        f"  {name}: {sum(t.ended for t in thefts)} of {thieves} ended, after"
        f" {median(lasted):.0f} minutes, at most {max(lasted):.0f}; {unseen} passed unseen"
    )


if __name__ == "__main__":
    compare_rules()
    stress_the_honest_jar()
    check_schedules()
    chase_thieves()
