"""A small fleet on a bad network, for a second or two."""

import pytest
import uvloop

from app.main import create_app
from tests.conftest import make_settings, running_server
from tests.processes import ROOMY
from torture import fleet
from torture.fleet import Fleet, about_thefts, sail, thefts_on_record
from torture.proxy import Faults

SESSIONS, REFRESHES, THEFTS = 6, 8, 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """More goes wrong than in the long run, and sooner."""
    monkeypatch.setattr(fleet, "GRACE", 1)  # who is lost asks again after half of it
    monkeypatch.setattr(fleet, "SHORTEST_GAP", 0.01)
    monkeypatch.setattr(fleet, "LONGEST_GAP", 0.1)
    monkeypatch.setattr(fleet, "TOGETHER", 0.5)
    faults = Faults(lose_request=0.05, lose_answer=0.1, double=0.1, delay=(0, 0.02))
    monkeypatch.setattr(fleet, "FAULTS", faults)


def sailed(url: str, *, grace: float, thefts: int = 0) -> Fleet:
    changes = {"access_token_expire_minutes": max(4 * grace, 60) / 60}
    settings = make_settings(url, refresh_grace_seconds=grace, **changes, **ROOMY)
    with running_server(create_app(settings)) as address:
        ships = Fleet(address, REFRESHES)
        uvloop.run(sail(ships, SESSIONS, thefts, lambda _: None))
    return ships


def test_no_honest_session_ends(database_url: str) -> None:
    ships = sailed(database_url, grace=15)
    assert [browser.code for browser in ships.honest] == [None] * SESSIONS
    assert all(browser.answered >= REFRESHES for browser in ships.honest)
    assert thefts_on_record(database_url) == 0


def test_strict_single_use_logs_the_same_fleet_out(sqlite_url: str) -> None:
    ships = sailed(sqlite_url, grace=0)
    assert any(browser.is_out for browser in ships.honest)


def test_every_theft_comes_to_light(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "GRACE", 0.1)
    monkeypatch.setattr(fleet, "ACCESS_LIFETIME", 0.5)
    monkeypatch.setattr(fleet, "PATIENCE", 5)
    ships = sailed(database_url, grace=0.1, thefts=THEFTS)
    both_out, _ = about_thefts(ships.thefts, "a test")
    assert (both_out.cases, both_out.broken) == (THEFTS, 0)
    assert thefts_on_record(database_url) >= THEFTS
