"""Of the experiment with unwanted clients: a few of them, and would it notice?"""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from app.main import create_app
from tests.conftest import make_settings, running_server
from torture.laboratory import Finding
from torture.overload import Siege, bodies, headers
from torture.rude import CUT, OPEN, Rudeness, befall

ENDS = ("413", "431", "400", CUT)


def test_endless_clients_are_refused_or_cut_off(migrated_sqlite: Path) -> None:
    """All at once."""
    kinds = [*bodies(ENDS), *headers(ENDS)]

    async def all_of_them(port: int) -> list[Counter[str]]:
        return await asyncio.gather(*(befall(replace(kind, count=2), port) for kind in kinds))

    with running_server(create_app(make_settings(f"sqlite:///{migrated_sqlite}"))) as address:
        ends = asyncio.run(all_of_them(int(address.rpartition(":")[2])))
    assert [end.total() for end in ends] == [2] * len(kinds)
    assert all(set(end) <= set(kind.ends) for end, kind in zip(ends, kinds, strict=True))


@pytest.mark.parametrize(("end", "broken"), [("413", 0), (CUT, 0), (OPEN, 3), ("200", 3)])
def test_who_is_served_or_kept_is_seen(end: str, broken: int) -> None:
    siege = Siege(Rudeness("a body", "", ends=("413", CUT)), "directly")
    siege.ends, siege.times, siege.memory = Counter({end: 3}), [0.1], [100]
    found: Finding = siege.ended()
    assert (found.cases, found.broken) == (3, broken)
