"""Every schedule there is, for small numbers: one jar, or a victim and a thief.

Time is a handful of ticks. In each tick everything that can happen is tried, in every order;
only the decision is unique within a tick, because one login decides one request at a time.
Schedules that lead to the same state are counted and then followed together, so that the count
is that of all schedules while the work is that of the different states.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from app.core.rotation import Lineage, Verdict, judge

from .rules import Judge

Trace = tuple["Trace", str] | tuple[()]
State = TypeVar("State")


@dataclass(frozen=True)
class Survey:
    """What was tried, and the first schedule that went wrong, if any, step by step."""

    schedules: int
    states: int
    counterexample: tuple[str, ...] = ()


class Reached(Generic[State]):
    """States with the number of schedules that lead to each, and one of these schedules."""

    def __init__(self) -> None:
        self.ways: dict[State, tuple[int, Trace]] = {}

    def add(self, state: State, count: int, trace: Trace) -> None:
        known = self.ways.get(state)
        self.ways[state] = (count, trace) if known is None else (known[0] + count, known[1])

    def __iter__(self) -> Iterator[tuple[State, int, Trace]]:
        return ((state, count, trace) for state, (count, trace) in self.ways.items())

    @property
    def schedules(self) -> int:
        return sum(count for count, _ in self.ways.values())


def told(trace: Trace) -> tuple[str, ...]:
    steps = []
    while trace:
        trace, step = trace
        steps.append(step)
    return tuple(reversed(steps))


@dataclass(frozen=True)
class Jar:
    """The bounds of one honest jar, in ticks.

    request, response: the longest ways. A message that takes longer is lost.
    skew: each decision reads a clock that is ahead by anything from 0 to this.
    in_flight: requests under way at once, whichever tabs they come from.
    step: at any one moment, or never, all clocks jump by this (back when it is negative).
    restore: at any moment the row is saved, and at any later moment put back.
    """

    grace: int
    request: int
    response: int
    skew: int = 0
    in_flight: int = 2
    ticks: int = 8
    step: int = 0
    restore: bool = False


class JarState(NamedTuple):
    jar: int
    requests: tuple[tuple[int, int], ...]
    responses: tuple[tuple[int, int], ...]
    lineage: Lineage
    shift: int
    backup: Lineage | None
    restored: bool


class Violation(Exception):
    def __init__(self, trace: Trace) -> None:
        super().__init__(told(trace))
        self.steps = told(trace)


def survey_jar(bounds: Jar, rule: Judge = judge) -> Survey:
    """Try every schedule of one jar; it goes wrong when the login is ended, or a token repeats."""
    now: Reached[JarState] = Reached()
    now.add(JarState(0, (), (), Lineage(0), 0, None, False), 1, ())
    states = 0
    try:
        for tick in range(1, bounds.ticks + 1):
            later: Reached[JarState] = Reached()
            level: Reached[tuple[JarState, bool]] = Reached()
            for state, count, trace in now:
                level.add((state, False), count, trace)
                for changed, step in machine_steps(state, tick, bounds):
                    level.add((changed, False), count, (trace, step))
            while level.ways:
                states += len(level.ways)
                after: Reached[tuple[JarState, bool]] = Reached()
                for (state, decided), count, trace in level:
                    later.add(tick_ends(state, tick, bounds), count, trace)
                    for changed, step in jar_steps(state, tick, bounds):
                        after.add((changed, decided), count, (trace, step))
                    if not decided:
                        for changed, step in decisions(state, tick, bounds, rule, trace):
                            after.add((changed, True), count, (trace, step))
                level = after
            now = later
    except Violation as violation:
        return Survey(0, states, violation.steps)
    return Survey(now.schedules, states)


def machine_steps(state: JarState, tick: int, bounds: Jar) -> Iterator[tuple[JarState, str]]:
    if bounds.step and not state.shift:
        yield state._replace(shift=bounds.step), f"{tick}: all clocks jump by {bounds.step}"
    if bounds.restore and state.backup is None:
        yield state._replace(backup=state.lineage), f"{tick}: the row is saved"
    if bounds.restore and state.backup is not None and not state.restored:
        yield state._replace(lineage=state.backup, restored=True), f"{tick}: the row is put back"


def jar_steps(state: JarState, tick: int, bounds: Jar) -> Iterator[tuple[JarState, str]]:
    if len(state.requests) < bounds.in_flight:
        requests = tuple(sorted((*state.requests, (state.jar, tick))))
        yield state._replace(requests=requests), f"{tick}: a tab sends {state.jar}"
    for token, issued in dict.fromkeys(state.responses):
        responses = without(state.responses, (token, issued))
        yield state._replace(jar=token, responses=responses), f"{tick}: {token} enters the jar"


def decisions(
    state: JarState, tick: int, bounds: Jar, rule: Judge, trace: Trace
) -> Iterator[tuple[JarState, str]]:
    for token, sent in dict.fromkeys(state.requests):
        requests = without(state.requests, (token, sent))
        for ahead in range(bounds.skew + 1):
            clock = tick + ahead + state.shift
            verdict, lineage = rule(state.lineage, token, clock=clock, grace=bounds.grace)
            step = f"{tick}: {token} is decided"
            if verdict is Verdict.THEFT:
                raise Violation((trace, f"{step}: theft"))
            if lineage.last <= max(token, state.lineage.last, state.jar):
                raise Violation((trace, f"{step}: {lineage.last} is not new"))
            responses = tuple(sorted((*state.responses, (lineage.last, tick))))
            yield (
                state._replace(requests=requests, responses=responses, lineage=lineage),
                f"{step}: {lineage.last} is issued",
            )


def tick_ends(state: JarState, tick: int, bounds: Jar) -> JarState:
    """Drop what has been under way for as long as it may."""
    return state._replace(
        requests=tuple(r for r in state.requests if tick - r[1] < bounds.request),
        responses=tuple(r for r in state.responses if tick - r[1] < bounds.response),
    )


def without(
    messages: tuple[tuple[int, int], ...], message: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    index = messages.index(message)
    return messages[:index] + messages[index + 1 :]


@dataclass(frozen=True)
class Chase:
    """The bounds of a victim and a thief, in ticks.

    pause: a victim who comes back after more than this is what has to stop the thief.
    """

    grace: int
    pause: int
    ticks: int


class ChaseState(NamedTuple):
    jar: int
    quiet_since: int
    hoard: frozenset[int]
    stolen: bool
    paused: bool
    lineage: Lineage


def survey_chase(bounds: Chase, rule: Judge = judge) -> Survey:
    """Try every schedule of a victim and a thief who steals once, at any time.

    In each tick either may present a token and the thief any that it ever held, and the victim
    may lose the answer. It goes wrong when the thief succeeds after the victim came back from
    a pause with a token that only the victim ever held, or when the victim alone is ended.
    """
    now: Reached[ChaseState] = Reached()
    now.add(ChaseState(0, 0, frozenset(), False, False, Lineage(0)), 1, ())
    states = ended = 0
    for tick in range(1, bounds.ticks + 1):
        later: Reached[ChaseState] = Reached()
        for state, count, trace in thefts(now, tick):
            states += 1
            later.add(state, count, trace)
            for token in {state.jar, *state.hoard}:
                verdict, lineage = rule(state.lineage, token, clock=tick, grace=bounds.grace)
                if verdict is Verdict.THEFT:
                    if not state.stolen:
                        return Survey(0, states, told((trace, f"{tick}: the victim is ended")))
                    ended += count
                    continue
                if token == state.jar:
                    for changed, step in victim_steps(state, tick, bounds, lineage):
                        later.add(changed, count, (trace, step))
                if token in state.hoard:
                    step = f"{tick}: the thief presents {token}"
                    if state.paused:
                        return Survey(0, states, told((trace, f"{step} and gets a token")))
                    hoard = state.hoard | {lineage.last}
                    changed = state._replace(hoard=hoard, lineage=lineage)
                    later.add(changed, count, (trace, f"{step}, gets {lineage.last}"))
        now = later
    return Survey(now.schedules + ended, states)


def thefts(reached: Reached[ChaseState], tick: int) -> Iterator[tuple[ChaseState, int, Trace]]:
    for state, count, trace in reached:
        yield state, count, trace
        if not state.stolen:
            stolen = state._replace(stolen=True, hoard=frozenset((state.jar,)))
            yield stolen, count, (trace, f"{tick}: the thief copies {state.jar}")


def victim_steps(
    state: ChaseState, tick: int, bounds: Chase, lineage: Lineage
) -> Iterator[tuple[ChaseState, str]]:
    back = state.stolen and state.jar not in state.hoard and tick - state.quiet_since > bounds.pause
    after = state._replace(quiet_since=tick, paused=state.paused or back, lineage=lineage)
    step = f"{tick}: the victim presents {state.jar}"
    yield after._replace(jar=lineage.last), f"{step}, gets {lineage.last}"
    yield after, f"{step}, the answer is lost"
