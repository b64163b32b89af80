"""The whole API against a model of it (machine.py, model.py), on both databases."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import Everybody, Fresh, copied, emptied

SHORT = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=6,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Fresh:
    if request.param == "sqlite":
        return partial(copied, request.getfixturevalue("migrated_sqlite"), tmp_path / "app.db")
    return partial(emptied, request.getfixturevalue("migrated_postgresql"))


pytestmark = pytest.mark.timeout(300)


def test_whatever_people_do_the_service_does_what_the_model_says(fresh: Fresh) -> None:
    run_state_machine_as_test(partial(Everybody, fresh), settings=SHORT)


def nothing(*_: Any, **__: Any) -> int:
    return 0


@pytest.mark.parametrize(
    "broken",
    [
        "app.services.logins.delete_logins",  # who is shut out stays
        "app.services.outbox.void_links",  # a link that was on its way works yet
        "app.services.logins.note_end",  # nobody can see what happened
    ],
)
def test_the_model_notices_a_service_that_leaves_something_out(
    broken: str, migrated_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken, nothing)
    fresh = partial(copied, migrated_sqlite, tmp_path / "app.db")
    once_found = settings(SHORT, max_examples=40, print_blob=False, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(partial(Everybody, fresh), settings=once_found)
