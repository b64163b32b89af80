"""Two tabs and five of a real browser on a bad network, for a few seconds."""

import asyncio
from pathlib import Path

import pytest

from app.main import create_app
from tests.conftest import make_settings, running_server
from tests.jars import ACCESS_COOKIE
from tests.processes import ROOMY, free_ports
from torture import tabs
from torture.pages import front_end
from torture.proxy import Faults, Proxy
from torture.tabs import Trial

REFRESHES = 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """More goes wrong than in the long run, and sooner."""
    faults = Faults(lose_request=0.05, lose_answer=0.15, double=0.1, delay=(0, 0.05))
    monkeypatch.setattr(tabs, "FAULTS", faults)
    monkeypatch.setattr(tabs, "PAUSE", 0.02)
    monkeypatch.setattr(tabs, "LOOK_SECONDS", 0.1)


async def live(trial: Trial, port: int, origin: str) -> None:
    async with trial.windows_open(port, origin):
        expiring = asyncio.create_task(let_access_tokens_expire(trial))
        await trial.live()
        expiring.cancel()


async def let_access_tokens_expire(trial: Trial) -> None:
    while True:
        for window in trial.windows:
            await window.context.clear_cookies(name=ACCESS_COOKIE)
        await asyncio.sleep(0.2)


def test_no_tab_is_logged_out(sqlite_url: str, tmp_path: Path) -> None:
    [port] = free_ports(1)
    with front_end(tmp_path / "front-end", f"http://localhost:{port}") as origin:
        settings = make_settings(sqlite_url, backend_cors_origins=(origin,), **ROOMY)
        with running_server(create_app(settings)) as address:
            trial = Trial(Proxy(address, Faults()), 1, REFRESHES, lambda _: None)
            asyncio.run(live(trial, port, origin))
    assert trial.seen["refresh ok"] >= REFRESHES
    assert trial.tabs_out == 0
