"""The rule under test, the same rule broken on purpose, and the rules that others use.

Each is one login with a memory. The model presents tokens to it and never looks inside, so
every rule meets the same browsers and the same thieves.
"""

import ast
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.core import rotation
from app.core.rotation import Lineage, Verdict, judge

Judge = Callable[..., tuple[Verdict, Lineage]]


class Login(ABC):
    """One login, started at time `first`: its first token is `first`, and it ends at most once."""

    def __init__(self, first: int) -> None:
        self.last = first
        self.ended = False

    def present(self, n: int, clock: int) -> int | None:
        """Return the token to issue, or None once the login has ended."""
        if self.ended:
            return None
        issued = self.rotate(n, clock)
        self.ended = issued is None
        return issued

    @abstractmethod
    def rotate(self, n: int, clock: int) -> int | None: ...

    def next(self, clock: int) -> int:
        self.last = max(clock, self.last + 1)
        return self.last


class EvidenceRule(Login):
    def __init__(self, first: int, grace: int, rule: Judge = judge) -> None:
        super().__init__(first)
        self.lineage = Lineage(first)
        self.grace = grace
        self.rule = rule

    def rotate(self, n: int, clock: int) -> int | None:
        verdict, self.lineage = self.rule(self.lineage, n, clock=clock, grace=self.grace)
        return None if verdict is Verdict.THEFT else self.lineage.last


class ReplayWindow(Login):
    """A used token gets its stored answer again, for `window` after its use; then it is theft."""

    def __init__(self, first: int, window: int) -> None:
        super().__init__(first)
        self.window = window
        self.answers: dict[int, int] = {}

    def rotate(self, n: int, clock: int) -> int | None:
        if n not in self.answers:
            self.answers[n] = self.next(clock)
        elif clock > self.answers[n] + self.window:
            return None
        return self.answers[n]


class ForkWindow(Login):
    """A used token starts another chain, for `window` after its first use; then it is theft."""

    def __init__(self, first: int, window: int) -> None:
        super().__init__(first)
        self.window = window
        self.first_use: dict[int, int] = {}

    def rotate(self, n: int, clock: int) -> int | None:
        if clock > self.first_use.setdefault(n, clock) + self.window:
            return None
        return self.next(clock)


class PreviousAccepted(Login):
    """Tokens are a counter. The newest moves it on; the one before gets the newest again."""

    def rotate(self, n: int, clock: int) -> int | None:
        if n < self.last - 1:
            return None
        self.last = n + 1
        return self.last


def no_candidate(lineage: Lineage, n: int, *, clock: int, grace: int) -> tuple[Verdict, Lineage]:
    """The rule without its third part: a young token is never remembered."""
    verdict, after = judge(lineage, n, clock=clock, grace=grace)
    return verdict, replace(after, candidate=None)


def or_equal(comparison: str) -> Judge:
    """The rule with one `<` of its own source turned into `<=`.

    The source is changed, not a copy of it, so these controls cannot drift from the rule.
    """
    tree = ast.parse(inspect.getsource(judge))
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and ast.unparse(node) == comparison
    ]
    assert len(found) == 1, f"the rule no longer holds `{comparison}` exactly once"
    found[0].ops = [ast.LtE()]
    namespace: dict[str, Any] = dict(vars(rotation))
    exec(compile(ast.fix_missing_locations(tree), "<broken rule>", "exec"), namespace)
    broken: Judge = namespace["judge"]
    return broken
