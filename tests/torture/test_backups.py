"""What docs/operations.md says to type and to set, typed and set."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlmodel import Session

from app.core.client import HERE
from app.main import create_app
from app.models.audit import Event
from app.models.mail import Purpose, Template
from app.services.console import void_restored_links
from app.services.outbox import enqueue
from tests.conftest import ClientFactory, make_settings
from tests.links import all_tokens, database_of, forgot, mint, outbox, reset
from tests.people import ADA, BOB, log_in, refresh, register, sign_up_and_in, who_am_i
from torture.backups import OPERATIONS, Operator
from torture.keys import Change, change_secret, change_signing_key

NEW_PASSWORD = "seven loud geese on ice"


def section(heading: str) -> str:
    text = OPERATIONS.read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def browser(url: str) -> TestClient:
    return TestClient(create_app(make_settings(url)), base_url="https://testserver")


def test_what_the_manual_says_to_type_brings_a_backup_back(
    database_url: str, tmp_path: Path
) -> None:
    kind = database_url.partition(":")[0].partition("+")[0]
    with Operator(tmp_path, kind, database_url) as operator:
        with browser(database_url) as client:
            register(client, ADA)
            link = mint(client, Purpose.RESET_PASSWORD)
            operator.back_up()
            assert reset(client, link, NEW_PASSWORD).status_code == 204
            register(client, BOB)
        operator.restore()
        with browser(operator.url) as client:
            assert log_in(client, ADA).status_code == 200
            assert log_in(client, BOB).json()["code"] == "invalid_credentials"
            assert reset(client, link, NEW_PASSWORD).json()["code"] == "invalid_one_time_token"


def test_after_a_restore_no_link_works_and_notices_are_sent(ada: TestClient) -> None:
    settings = ada.app.state.backend.settings  # type: ignore[attr-defined]

    def change(session: Session) -> None:
        enqueue(session, settings, Template.PASSWORD_CHANGED, ADA["email"], HERE)

    forgot(ada)
    mint(ada, Purpose.RESET_PASSWORD)
    database_of(ada).run_write(change)
    assert {template for template, _ in outbox(ada)} >= {"reset_password", "password_changed"}
    voided = database_of(ada).run_write(void_restored_links)
    assert (all_tokens(ada), outbox(ada)) == ([], [("password_changed", ADA["email"])])
    assert voided["one_time_tokens"] == 1


def test_the_manual_names_events_that_there_are() -> None:
    told = section("Backups").partition("what has happened since:")[2].partition("each with")[0]
    named = set(re.findall(r"`(\w+)`", told))
    assert named
    assert named <= set(Event)


def test_a_new_secret_key_is_set_as_the_manual_says() -> None:
    told = re.findall(r"^\|[^|]+\| (\w+) \| ?(\w*) ?\|", section("A new SECRET_KEY"), re.MULTILINE)
    change = change_secret(Path())
    former = change.before["SECRET_KEY"]
    steps = [
        tuple(value and ("former" if value == former else "new") for value in step.values())
        for step in change.steps.values()
    ]
    assert told == steps == [("former", "new"), ("new", "former"), ("new", "")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("change", [change_secret, change_signing_key])
def test_a_process_and_one_of_the_step_before_take_each_others_tokens(
    change: Callable[[Path], Change],
    make_client: ClientFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = change(tmp_path)
    settings = dict(changed.before)
    former = make_client(**lowered(settings))
    sign_up_and_in(former)
    first = former
    for step in changed.steps.values():
        settings |= step
        new = make_client(**lowered(settings))
        hand_over(former, new)
        assert stays_logged_in(new)
        hand_over(new, former)
        assert stays_logged_in(former)
        former = new
    assert log_in(first).status_code == 200
    hand_over(first, former)
    assert who_am_i(former).json()["code"] == "not_authenticated"


def lowered(settings: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in settings.items()}


def hand_over(one: TestClient, other: TestClient) -> None:
    """One browser, whose next request reaches another process."""
    other.cookies.clear()
    for cookie in one.cookies.jar:
        other.cookies.jar.set_cookie(cookie)


def stays_logged_in(client: TestClient) -> bool:
    """Also with the access token that another process has signed."""
    return [who_am_i(client).status_code, refresh(client).status_code] == [200, 200]
