"""Ratios of what was measured in the same round, and the targets that they are held against."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

Results = Mapping[str, Any]  # as results/*.json has them
Place = tuple[str, str]  # contender and work


class Spread(NamedTuple):
    """Over the rounds."""

    median: float
    low: float
    high: float


OURS: Mapping[str, Place] = {
    "login": ("ours", "login"),
    "refresh": ("ours", "refresh"),
    "me": ("ours", "me"),
    "check": ("ours_application", "check"),
}
# Something trivial on the same parts that does as little as a work can be made of.
LIMITS: Mapping[str, Place] = {
    "login": ("argon2", "all_threads"),
    "refresh": ("trivial", "cookies"),
    "me": ("trivial", "def"),
    "check": ("pyjwt_hs256", "check"),
}
# By default we hash on every core, and all else takes its share of them.
ONE_THREAD: tuple[Place, Place] = ("ours_one_thread", "login"), ("argon2", "one_thread")


class Target(NamedTuple):
    """at_least: whether more is better. measured: None where it was not."""

    what: str
    wanted: float
    moonshot: float | None
    measured: Spread | None
    at_least: bool = True
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.moonshot is not None and self._reaches(self.moonshot):
            return "moonshot reached"
        return "reached" if self._reaches(self.wanted) else "not reached"

    def _reaches(self, wanted: float) -> bool:
        assert self.measured
        value = self.measured.median
        return value >= wanted if self.at_least else value <= wanted


def targets(results: Results) -> list[Target]:
    def against_limit(what: str, work: str, wanted: float, moonshot: float) -> Target:
        return Target(what, wanted, moonshot, ratio(results, OURS[work], LIMITS[work]))

    def against_peer(what: str, work: str, peer: str, wanted: float) -> Target:
        return Target(what, wanted, None, ratio(results, OURS[work], (peer, work)), unit="times")

    def asked(what: str, work: str, wanted: float, moonshot: float | None) -> Target:
        measured = count_of(results, work)
        return Target(what, wanted, moonshot, measured, at_least=False)

    return [
        Target("log in / argon2, both on one thread", 0.90, 0.97, ratio(results, *ONE_THREAD)),
        against_limit("log in / argon2, both on as many threads as cores", "login", 0.90, 0.97),
        against_limit("refresh / FastAPI `def` POST with two cookies", "refresh", 0.50, 0.80),
        against_peer("refresh / better-auth", "refresh", "better_auth", 3),
        against_peer("refresh / simplejwt", "refresh", "simplejwt", 10),
        against_limit("who am I / FastAPI `def` GET", "me", 0.45, 0.75),
        against_peer("who am I / better-auth", "me", "better_auth", 2),
        against_peer("who am I / fastapi-users, JWT", "me", "fastapi_users_jwt", 3),
        against_peer("who am I / fastapi-users, database", "me", "fastapi_users_database", 3),
        against_limit("access check / FastAPI and PyJWT, HS256", "check", 0.70, 1.0),
        asked("statements of a log-in", "login", 3, None),
        asked("statements of a refresh", "refresh", 2, 1),
        asked("statements of who am I", "me", 1, None),
        *flood_targets(results),
        server_target(results, "memory of a worker after load", "memory", 130, 100, "MB"),
        server_target(results, "start to first answer", "start", 1.5, 0.8, "s"),
    ]


def count_of(results: Results, work: str) -> Spread | None:
    asked = results["contenders"].get("ours", {}).get("statements", {}).get(work)
    return constant(asked["statements"]) if asked else None


def flood_targets(results: Results) -> list[Target]:
    made = []
    for work, title in (("refresh", "refresh"), ("me", "who am I")):
        floods = (results["flood"] or {}).get(work, [])
        shares = spread([each["flooded"] / each["idle"] for each in floods])
        slowest = spread([each["flooded_p99"] for each in floods])
        made.append(Target(f"{title} during a flood of log-ins / idle", 0.50, None, shares))
        made.append(
            Target(f"{title} during the flood, p99", 250, 100, slowest, at_least=False, unit="ms")
        )
    return made


def server_target(
    results: Results, what: str, name: str, wanted: float, moonshot: float, unit: str
) -> Target:
    found = results["contenders"].get("ours", {}).get(name)
    values = found if isinstance(found, list) else [found] if found else []
    return Target(what, wanted, moonshot, spread(values), at_least=False, unit=unit)


def ratio(results: Results, above: Place, below: Place) -> Spread | None:
    """Round by round."""
    pairs = zip(rates(results, above), rates(results, below), strict=False)
    return spread([first / second for first, second in pairs])


def rates(results: Results, place: Place) -> list[float]:
    return [each["rate"] for each in figures(results, place)]


def figures(results: Results, place: Place) -> Sequence[Mapping[str, float]]:
    """One a round; none where it failed, or was left out."""
    name, work = place
    found: Sequence[Mapping[str, float]] = (
        results["contenders"].get(name, {}).get("works", {}).get(work, [])
    )
    return found


def spread(values: Sequence[float]) -> Spread | None:
    return Spread(median(values), min(values), max(values)) if values else None


def constant(value: float) -> Spread:
    return Spread(value, value, value)
