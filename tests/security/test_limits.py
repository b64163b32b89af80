"""The tables of limits, lifetimes and attributes in docs/security.md say what is in force."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from fastapi.testclient import TestClient

from app.api.boundary import LARGEST_BODY
from app.core.client import Client
from app.core.config import Settings
from app.core.tokens import DEVICE_LIFETIME
from app.db.session import Database
from app.models.mail import Purpose, Template
from app.services.one_time_tokens import INVITATION_LIFETIME, LIFETIMES
from app.services.throttle import CHANGES, MOST_FAILURES, Claim, Throttle
from tests.conftest import ClientFactory, make_settings
from tests.jars import other_browser
from tests.people import ADA, log_in, refresh, register, who_am_i
from tests.rows import all_logins
from tests.security.document import sections, table

SETTINGS = make_settings("sqlite:///./never-opened.db")
SOMEBODY = Client("192.0.2.1", "")


def number(cell: str) -> float:
    """The first one in it, as `15` in "15 minutes"."""
    found = re.search(r"[\d.]+", cell)
    assert found, cell
    return float(found[0])


@pytest.mark.proves("6.1.1", "2.1.3", "15.1.3")
def test_every_limit_of_the_table_is_the_default_of_its_setting() -> None:
    named = [row for row in table("Limits") if row["setting"] != "none"]
    defaults = {row["setting"]: default(row["setting"]) for row in named}
    assert len(defaults) == 7
    assert {row["setting"]: number(row["limit"]) for row in named} == defaults


def default(setting: str) -> Any:
    return Settings.model_fields[setting.lower()].default


@pytest.mark.proves("6.1.1", "2.1.3")
def test_every_setting_of_a_limit_is_in_the_table() -> None:
    per = [name.upper() for name in Settings.model_fields if re.search("_per_|queue", name)]
    assert {*per, "PASSWORD_MIN_LENGTH"} == {row["setting"] for row in table("Limits")} - {"none"}


@pytest.mark.proves("6.1.1", "8.1.4")
def test_the_budgets_are_those_of_the_table() -> None:
    """What an attempt takes its part of: its size, and whether failures in a row close it."""
    throttle = Throttle(SETTINGS)
    claims = {
        "log in": throttle.log_in(ADA["email"], SOMEBODY),
        "known device": throttle.known_device("device"),
        "step up": throttle.confirm_password("user"),
        "mail": throttle.ask_for_mail(Template.RESET_PASSWORD, ADA["email"], SOMEBODY),
        "sign up": throttle.sign_up(SOMEBODY),
        "notice": (throttle.notice("new_device", ADA["email"]),),
        "change": throttle.change("user"),
    }
    assert {name: [*sizes(those)] for name, those in claims.items()} == {
        "log in": [(10, True), (100, False)],
        "known device": [(10, True)],
        "step up": [(10, True)],
        "mail": [(3, False), (20, False)],
        "sign up": [(20, False)],
        "notice": [(3, False)],
        "change": [(60, False)],
    }


def sizes(claims: tuple[Claim, ...]) -> Iterator[tuple[int, bool]]:
    return ((claim.limit.size, claim.limit.consecutive) for claim in claims)


@pytest.mark.proves("6.1.1", "2.1.3")
def test_the_limits_without_a_setting_are_those_of_the_code() -> None:
    fixed = {row["endpoint"]: row["limit"] for row in table("Limits") if row["setting"] == "none"}
    assert fixed == {
        "log-in and step-up": str(MOST_FAILURES),
        "change of the name, export": str(CHANGES.size),
        "every route with a body": f"{LARGEST_BODY} bytes",
    }


@pytest.mark.proves("8.1.3", "8.1.4")
def test_the_attributes_that_decide_have_a_threshold_and_an_action() -> None:
    rows = table("Context")
    assert all(all(row.values()) for row in rows)
    told = " ".join(row["threshold"] for row in rows)
    account, network = SETTINGS.login_attempts_per_account, SETTINGS.login_attempts_per_network
    for threshold in (
        f"{account} in an hour",
        f"{network} in an hour",
        f"{MOST_FAILURES} in a row",
    ):
        assert threshold in told


# Lifetimes


@pytest.mark.proves("7.1.1")
def test_every_lifetime_of_the_table_is_the_one_in_force() -> None:
    units = {"minutes": "minutes", "hours": "hours", "hour": "hours", "days": "days"}
    told = {
        row["what"]: timedelta(**{units[row["default"].split()[1]]: number(row["default"])})
        for row in table("Sessions")
    }
    assert told == {
        "access token": SETTINGS.access_lifetime,
        "idle": SETTINGS.idle_lifetime,
        "absolute": SETTINGS.absolute_lifetime,
        "verification link, invitation": LIFETIMES[Purpose.VERIFY_EMAIL],
        "reset link, change of address": LIFETIMES[Purpose.RESET_PASSWORD],
        "known device": DEVICE_LIFETIME,
    }
    assert LIFETIMES[Purpose.VERIFY_EMAIL] == INVITATION_LIFETIME
    assert LIFETIMES[Purpose.CONFIRM_EMAIL] == LIFETIMES[Purpose.RESET_PASSWORD]


@pytest.mark.proves("7.1.1")
def test_every_lifetime_has_a_reason() -> None:
    assert all(len(row["reason"]) > 20 for row in table("Sessions"))
    assert SETTINGS.absolute_lifetime <= timedelta(days=30)  # NIST SP 800-63B-4, 2.1.3


@pytest.mark.proves("7.1.2")
def test_the_number_of_parallel_sessions_is_written_down() -> None:
    most = default("SESSIONS_PER_USER")
    said = " ".join(sections()["Sessions"].split())
    assert f"`SESSIONS_PER_USER` sessions in parallel, {most} by default" in said


@pytest.mark.proves("7.1.2", "LO-10", "2.3.2")
def test_a_log_in_above_the_limit_ends_the_least_recently_used_session(
    make_client: ClientFactory,
) -> None:
    client = make_client(sessions_per_user=3)
    register(client)
    browsers = [other_browser(client) for _ in range(4)]
    for browser in browsers[:3]:
        assert log_in(browser).status_code == 200
    assert refresh(browsers[0]).status_code == 200
    assert log_in(browsers[3]).status_code == 200
    assert [who_am_i(browser).status_code for browser in browsers] == [200, 401, 200, 200]


@pytest.mark.proves("7.1.2", "LO-10", "15.4.2")
def test_log_ins_at_once_keep_to_the_limit(make_client: ClientFactory) -> None:
    client = make_client(sessions_per_user=3)
    register(client)
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(log_in, [other_browser(client) for _ in range(8)])]
    assert {answer.status_code for answer in answers} == {200}
    assert len(all_logins(client.app.state.backend.database)) == 3  # type: ignore[attr-defined]


@pytest.mark.proves("6.2.10")
def test_a_password_of_years_ago_still_logs_in(client: TestClient, database: Database) -> None:
    """Nothing but its owner, or an administrator with a reason, asks for a new one."""
    register(client)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=5 * 365), tick=False):
        answer = log_in(client)
    assert answer.status_code == 200
    assert not answer.json()["user"]["must_change_password"]
    assert not [name for name in Settings.model_fields if re.search("password.*(age|expir)", name)]


@pytest.mark.proves("6.1.2", "6.2.11", "PWD-08")
def test_the_words_of_the_settings_make_no_password(make_client: ClientFactory) -> None:
    client = make_client(
        password_context_words="Herons United",
        public_url="https://auth.ponderosa.example",
    )
    refused = [
        "herons-united-2026!",
        "HERONSUNITED 123456",
        "ponderosa ponderosa",
        "fastapi auth 1234567",
        "grace.hopper-2026-2026",
    ]
    person = {"email": "grace.hopper@example.com"}
    codes = {
        password: register(client, person | {"password": password}).json()["code"]
        for password in refused
    }
    assert codes == dict.fromkeys(refused, "password_too_personal")
    taken = register(client, person | {"password": "seven herons cross united oceans"})
    assert taken.status_code == 201


@pytest.mark.proves("6.1.2")
def test_there_are_words_without_any_setting() -> None:
    from app.core.password_policy import context_words

    assert {"fastapi", "auth"} <= context_words(SETTINGS)
