"""Known devices: a cookie that lets the owner's browser in while others guess, and nothing else.

It also decides who is told of a log-in from a new one.
"""

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import update
from sqlmodel import col, select

from app.core.keys import derive_key
from app.core.moments import to_microseconds
from app.models import Budget, Mail
from app.models.audit import Event
from app.models.mail import Purpose
from tests.answers import refused_as
from tests.conftest import ClientFactory
from tests.jars import (
    ACCESS_COOKIE,
    DEVICE_COOKIE,
    REFRESH_COOKIE,
    access_token,
    claims,
    held,
    names_held,
    other_browser,
    refresh_token,
)
from tests.links import database_of, mint, outbox, reset
from tests.people import ADA, BOB, get_tokens, log_in, log_out, refresh, register, who_am_i
from tests.rows import all_logins, audited, execute, the_user

WRONG = ADA | {"password": "not the password of anybody"}
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
LIMIT = 2
TOO_MANY = (429, "too_many_attempts")
NEW_PASSWORD = "seven old clocks in a row"


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    return make_client(login_attempts_per_account=LIMIT)


@pytest.fixture
def owner(client: TestClient) -> TestClient:
    """A browser that Ada has logged in with, and out again."""
    register(client)
    browser = other_browser(client)
    assert log_in(browser).status_code == 200
    assert log_out(browser).status_code == 204
    return browser


@pytest.fixture
def noon() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def attack(client: TestClient, email: str = ADA["email"]) -> None:
    """Guess, from somewhere else, until nobody who is a stranger may try any more."""
    thief = other_browser(client, "192.0.2.66")
    for _ in range(LIMIT):
        log_in(thief, WRONG | {"email": email})
    assert refused_as(log_in(thief, WRONG | {"email": email})) == TOO_MANY


def log_in_with(client: TestClient, device: str, person: dict[str, str] = ADA) -> Response:
    """With this device cookie and no other."""
    cookie = {"Cookie": f"{DEVICE_COOKIE}={device}"}
    return other_browser(client).post("/api/v1/auth/login", json=person, headers=cookie)


def device_of(browser: TestClient) -> str:
    return held(browser, DEVICE_COOKIE)


# The cookie


@pytest.mark.proves("3.3.1", "3.3.2", "3.3.4", "CK-01")
def test_it_lasts_a_year_and_is_hardened_as_the_others_are(client: TestClient) -> None:
    register(client)
    headers = log_in(client).headers.get_list("set-cookie")
    (cookie,) = [header for header in headers if header.startswith(f"{DEVICE_COOKIE}=")]
    attributes = {part.lower() for part in cookie.split("; ")[1:]}
    year = 365 * 24 * 3600
    assert attributes == {"httponly", "secure", "samesite=lax", "path=/", f"max-age={year}"}


@pytest.mark.proves("3.3.5")
def test_all_three_cookies_together_stay_small(client: TestClient) -> None:
    """A browser drops a cookie of 4096 bytes or more, and servers a header of some 8 KiB."""
    register(client)
    headers = log_in(client).headers.get_list("set-cookie")
    assert len(headers) == 3
    assert max(len(header.encode()) for header in headers) < 1024


@pytest.mark.proves("14.2.4")
def test_it_holds_ids_and_times_and_nothing_personal(client: TestClient, owner: TestClient) -> None:
    held_claims = claims(device_of(owner))
    user = the_user(database_of(client), ADA["email"])
    assert UUID(held_claims.pop("sub")) == user.id
    assert UUID(held_claims.pop("did")).version == 7
    assert held_claims.keys() == {"iss", "aud", "client_id", "n", "exp"}
    assert held_claims["client_id"] == "browser"


def test_with_debug_it_has_a_name_for_plain_http(make_client: ClientFactory) -> None:
    client = make_client(debug=True)
    register(client)
    log_in(client)
    assert names_held(client) == {"auth-access", "auth-refresh", "auth-device"}


def test_a_log_in_renews_it_for_the_same_device(
    owner: TestClient, noon: time_machine.Traveller
) -> None:
    log_in(owner)
    before = claims(device_of(owner))
    noon.shift(timedelta(days=300))
    log_in(owner)
    after = claims(device_of(owner))
    assert after["did"] == before["did"]
    assert after["exp"] - before["exp"] == 300 * 24 * 3600
    assert after["n"] > before["n"]


def test_each_browser_is_another_device(client: TestClient, owner: TestClient) -> None:
    other = other_browser(client)
    log_in(other)
    assert claims(device_of(other))["did"] != claims(device_of(owner))["did"]


def test_it_survives_refreshes_and_a_log_out(client: TestClient) -> None:
    register(client)
    log_in(client)
    device = device_of(client)
    refresh(client)
    log_out(client)
    assert device_of(client) == device
    assert names_held(client) == {DEVICE_COOKIE}


@pytest.mark.parametrize("person", [WRONG, BOB])
def test_a_failed_log_in_sets_none(client: TestClient, person: dict[str, str]) -> None:
    register(client)
    assert "set-cookie" not in log_in(client, person).headers


def test_a_program_gets_none(client: TestClient) -> None:
    register(client)
    get_tokens(client)
    assert names_held(client) == set()


@pytest.mark.proves("9.2.2")
def test_it_is_no_token_of_any_other_kind(client: TestClient, owner: TestClient) -> None:
    device = device_of(owner)
    stranger = other_browser(client)
    answers = [
        stranger.get("/api/v1/users/me", headers={"Cookie": f"{ACCESS_COOKIE}={device}"}),
        stranger.get("/api/v1/users/me", headers={"Authorization": f"Bearer {device}"}),
        stranger.post("/api/v1/auth/refresh", headers={"Cookie": f"{REFRESH_COOKIE}={device}"}),
        stranger.get("/api/v1/users/me", headers={"Cookie": f"{DEVICE_COOKIE}={device}"}),
    ]
    assert [refused_as(answer) for answer in answers] == [(401, "not_authenticated")] * 4


# In an attack


@pytest.mark.proves("6.3.1", "RL-03")
def test_the_owners_browser_gets_in_while_strangers_do_not(
    client: TestClient, owner: TestClient
) -> None:
    attack(client)
    assert log_in(owner).status_code == 200
    assert who_am_i(owner).status_code == 200
    assert refused_as(log_in(other_browser(client))) == TOO_MANY


@pytest.mark.proves("RL-03")
def test_it_gets_in_also_from_a_network_that_is_used_up(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_network=2)
    register(client)
    owner = other_browser(client)
    log_in(owner)
    for i in range(3):
        log_in(other_browser(client), WRONG | {"email": f"user{i}@example.com"})
    assert refused_as(log_in(other_browser(client))) == TOO_MANY
    assert log_in(owner).status_code == 200


def test_a_device_has_a_budget_too_and_other_devices_do_not_share_it(
    client: TestClient, owner: TestClient
) -> None:
    second = other_browser(client)
    log_in(second)
    statuses = [log_in(owner, WRONG).status_code for _ in range(LIMIT + 1)]
    assert statuses == [401] * LIMIT + [429]
    answer = log_in(owner)
    assert refused_as(answer) == TOO_MANY
    assert 0 < int(answer.headers["retry-after"]) <= 3600 // LIMIT
    assert log_in(second).status_code == 200
    assert log_in(other_browser(client)).status_code == 200


def test_a_device_gets_its_attempts_back_by_a_success(owner: TestClient) -> None:
    for _ in range(3 * LIMIT):
        assert log_in(owner).status_code == 200


def test_failures_of_a_device_are_not_the_accounts(client: TestClient, owner: TestClient) -> None:
    for _ in range(LIMIT):
        log_in(owner, WRONG)
    statuses = [log_in(other_browser(client), WRONG).status_code for _ in range(LIMIT + 1)]
    assert statuses == [401] * LIMIT + [429]


def fail_before(client: TestClient, failures: int) -> None:
    """As if so many had failed in a row and the rest had leaked."""
    now = to_microseconds(datetime.now(UTC))
    work = update(Budget).where(col(Budget.attempts) > 0).values(attempts=failures, drained_at=now)
    database_of(client).run_write(lambda session: execute(session, work))


@pytest.mark.proves("RL-03", "RL-04")
def test_a_log_in_from_a_known_device_opens_an_account_that_failures_closed(
    client: TestClient, owner: TestClient
) -> None:
    attack(client)
    fail_before(client, 100)
    assert refused_as(log_in(other_browser(client))) == TOO_MANY
    assert log_in(owner).status_code == 200
    assert log_in(other_browser(client)).status_code == 200


# What counts as none


def tampered(token: str) -> str:
    """The other user id, and the signature as it was."""
    header, payload, signature = token.split(".")
    held_claims = json.loads(urlsafe_b64decode(payload + "=="))
    held_claims["did"] = str(UUID(int=7))
    forged = urlsafe_b64encode(json.dumps(held_claims).encode()).decode().rstrip("=")
    return f"{header}.{forged}.{signature}"


FORGED: dict[str, Callable[[str], str]] = {
    "nothing": lambda _: "",
    "text": lambda _: "known",
    "another id": tampered,
    "no signature": lambda token: token.rpartition(".")[0] + ".",
    "cut": lambda token: token[:-1],
    "longer": lambda token: token + "=",
    "twice": lambda token: f"{token}; {DEVICE_COOKIE}=other",
}


@pytest.mark.proves("9.1.1", "RL-03")
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_forged_one_counts_as_none(
    client: TestClient, owner: TestClient, forge: Callable[[str], str]
) -> None:
    attack(client)
    assert refused_as(log_in_with(client, forge(device_of(owner)))) == TOO_MANY
    assert log_in_with(client, device_of(owner)).status_code == 200


@pytest.mark.proves("9.1.1")
@pytest.mark.parametrize(
    "changes",
    [{"secret_key": secrets.token_hex(32)}, {"issuer": "another"}, {"audience": "another"}],
    ids=["key", "issuer", "audience"],
)
def test_one_of_another_deployment_counts_as_none(
    client: TestClient, owner: TestClient, make_client: ClientFactory, changes: dict[str, str]
) -> None:
    elsewhere = make_client(login_attempts_per_account=LIMIT, **changes)
    foreign = other_browser(elsewhere)
    assert log_in(foreign).status_code == 200
    attack(client)
    assert refused_as(log_in_with(client, device_of(foreign))) == TOO_MANY


def test_one_signed_with_a_former_secret_key_still_counts(
    client: TestClient, owner: TestClient, make_client: ClientFactory
) -> None:
    former = client.app.state.backend.settings.secret_key.get_secret_value()  # type: ignore[attr-defined]
    rotated = make_client(
        login_attempts_per_account=LIMIT,
        secret_key=secrets.token_hex(32),
        secret_key_fallbacks=former,
    )
    attack(rotated)
    assert log_in_with(rotated, device_of(owner)).status_code == 200


def test_the_keys_of_tokens_and_of_devices_are_apart() -> None:
    keys = {
        derive_key("x" * 32, purpose) for purpose in ("device", "refresh", "access", "throttle")
    }
    assert len(keys) == 4


@pytest.mark.proves("9.2.2")
@pytest.mark.parametrize("token", [access_token, refresh_token])
def test_another_kind_of_token_counts_as_none(
    client: TestClient, owner: TestClient, token: Callable[[TestClient], str]
) -> None:
    log_in(owner)
    attack(client)
    assert refused_as(log_in_with(client, token(owner))) == TOO_MANY


def test_an_expired_one_counts_as_none(
    client: TestClient, owner: TestClient, noon: time_machine.Traveller
) -> None:
    log_in(owner)
    device = device_of(owner)
    noon.shift(timedelta(days=365, seconds=-1))
    attack(client)
    assert log_in_with(client, device).status_code == 200
    noon.shift(timedelta(seconds=1))
    assert refused_as(log_in_with(client, device)) == TOO_MANY


@pytest.mark.proves("RL-03")
def test_one_of_another_user_counts_as_none(client: TestClient, owner: TestClient) -> None:
    register(client, BOB)
    bobs = other_browser(client)
    log_in(bobs, BOB)
    attack(client)
    assert refused_as(log_in_with(client, device_of(bobs))) == TOO_MANY
    assert log_in_with(client, device_of(bobs), BOB).status_code == 200


def change_password(client: TestClient) -> Response:
    body = {"current_password": ADA["password"], "new_password": NEW_PASSWORD}
    return client.put("/api/v1/users/me/password", json=body)


@pytest.mark.proves("RL-03", "7.4.3")
def test_one_from_before_a_change_of_the_password_counts_as_none(
    client: TestClient, owner: TestClient
) -> None:
    """Or the browser of a thief would stay a known one."""
    thief = device_of(owner)
    log_in(owner)
    assert change_password(owner).status_code == 200
    attack(client)
    changed = ADA | {"password": NEW_PASSWORD}
    assert refused_as(log_in_with(client, thief, changed)) == TOO_MANY
    assert log_in(owner, changed).status_code == 200


# A new password by mail


@pytest.mark.proves("RL-03", "6.3.4", "RS-10")
def test_whoever_resets_a_password_gets_in_from_there_however_others_guess(
    client: TestClient, owner: TestClient
) -> None:
    """A reset makes every device a stranger, and an attack may go on: whoever has read the mail
    must not be shut out. It sets no cookie, and nobody else gains anything.
    """
    browser = other_browser(client, "192.0.2.1")
    answer = reset(browser, mint(client, Purpose.RESET_PASSWORD), NEW_PASSWORD)
    assert (answer.status_code, names_held(browser)) == (204, set())
    attack(client)
    changed = ADA | {"password": NEW_PASSWORD}
    assert refused_as(log_in_with(client, device_of(owner), changed)) == TOO_MANY
    assert log_in(browser, changed).status_code == 200


@pytest.mark.proves("RL-03")
def test_that_is_a_budget_like_any_other(client: TestClient, owner: TestClient) -> None:
    browser = other_browser(client, "192.0.2.1")
    reset(browser, mint(client, Purpose.RESET_PASSWORD), NEW_PASSWORD)
    answers = [refused_as(log_in(browser, WRONG)) for _ in range(LIMIT + 1)]
    assert answers == [(401, "invalid_credentials")] * LIMIT + [TOO_MANY]


@pytest.mark.proves("RL-03")
def test_that_lasts_for_an_hour(
    client: TestClient, owner: TestClient, noon: time_machine.Traveller
) -> None:
    browser = other_browser(client, "192.0.2.1")
    reset(browser, mint(client, Purpose.RESET_PASSWORD), NEW_PASSWORD)
    noon.shift(timedelta(hours=1, seconds=1))
    attack(client)
    assert refused_as(log_in(browser, ADA | {"password": NEW_PASSWORD})) == TOO_MANY


@pytest.mark.proves("RL-03", "RL-04")
def test_a_reset_opens_an_account_that_failures_closed(client: TestClient) -> None:
    """For strangers, too: what was guessed at is another password now."""
    register(client)
    log_in(client, WRONG)
    fail_before(client, 100)
    assert refused_as(log_in(client)) == TOO_MANY
    browser = other_browser(client, "192.0.2.1")
    reset(browser, mint(client, Purpose.RESET_PASSWORD), NEW_PASSWORD)
    assert log_in(other_browser(client), ADA | {"password": NEW_PASSWORD}).status_code == 200


@pytest.mark.proves("RL-07")
def test_a_reset_gives_nobody_elses_attempts_back(client: TestClient) -> None:
    """Or whoever resets a password of their own could go on guessing at others'."""
    register(client)
    register(client, BOB)
    attack(client)
    reset(client, mint(client, Purpose.RESET_PASSWORD, BOB["email"]), NEW_PASSWORD)
    assert refused_as(log_in(other_browser(client))) == TOO_MANY


# Who is told of a new device


@pytest.fixture
def mailing(make_mailing_client: ClientFactory) -> TestClient:
    client = make_mailing_client()
    register(client)
    return client


def notices(client: TestClient) -> int:
    return outbox(client).count(("new_device", ADA["email"]))


@pytest.mark.proves("6.3.5")
def test_the_first_log_in_of_all_is_no_news(mailing: TestClient) -> None:
    log_in(mailing)
    assert notices(mailing) == 0


@pytest.mark.proves("6.3.5")
def test_a_log_in_from_another_browser_is_told_to_the_owner(mailing: TestClient) -> None:
    log_in(mailing)
    thief = other_browser(mailing, "192.0.2.66")
    thief.headers["User-Agent"] = "Thief/1.0"
    log_in(thief)
    assert notices(mailing) == 1
    mails = database_of(mailing).run_read(lambda session: session.exec(select(Mail)).all())
    (mail,) = [mail for mail in mails if mail.template == "new_device"]
    assert mail.context["ip_address"] == "192.0.2.66"
    assert mail.context["user_agent"] == "Thief/1.0"
    assert mail.user_id == the_user(database_of(mailing), ADA["email"]).id


@pytest.mark.proves("6.3.5")
def test_a_known_browser_is_no_news(mailing: TestClient) -> None:
    for _ in range(3):
        log_in(mailing)
        log_out(mailing)
    assert notices(mailing) == 0
    recorded = audited(database_of(mailing), Event.LOGIN_STARTED)
    assert [event.details["known_device"] for event in recorded] == [False, True, True]


def test_a_failed_log_in_from_elsewhere_sends_nothing(mailing: TestClient) -> None:
    log_in(mailing)
    log_in(other_browser(mailing), WRONG)
    assert notices(mailing) == 0


@pytest.mark.proves("6.3.5")
def test_a_program_is_news_once_for_each_place_it_comes_from(mailing: TestClient) -> None:
    """It keeps no cookie, and may log in every hour."""
    log_in(mailing)
    program = other_browser(mailing, "192.0.2.7")
    program.headers["User-Agent"] = "backup/2.1"
    for _ in range(3):
        get_tokens(program)
    assert notices(mailing) == 1
    program.headers["User-Agent"] = "backup/2.2"
    get_tokens(program)
    assert notices(mailing) == 2
    moved = other_browser(mailing, "192.0.2.8")
    moved.headers["User-Agent"] = "backup/2.2"
    get_tokens(moved)
    assert notices(mailing) == 3


@pytest.mark.proves("6.3.5", "2.3.2")
def test_notices_do_not_flood_a_mailbox(
    make_mailing_client: ClientFactory, noon: time_machine.Traveller
) -> None:
    """MAILS_PER_ADDRESS an hour; the log-ins themselves go on."""
    client = make_mailing_client(mails_per_address=2)
    register(client)
    log_in(client)
    for _ in range(5):
        assert log_in(other_browser(client)).status_code == 200
    assert notices(client) == 2
    noon.shift(timedelta(minutes=30))
    log_in(other_browser(client))
    assert notices(client) == 3
    assert len(all_logins(database_of(client))) == 7


def test_without_a_mail_server_no_notice_is_kept(client: TestClient, owner: TestClient) -> None:
    log_in(other_browser(client))
    assert outbox(client) == []
