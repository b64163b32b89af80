"""Limits: how often somebody may try, and that the owner of an account is not the one shut out.

Budgets are small here, so that few passwords have to be hashed. What several processes do with
them at the same time is in test_throttling_processes.py, known devices are in test_devices.py.
"""

import asyncio
import json
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import http_sf
import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import delete, update
from sqlmodel import Session, col

from app.core.client import Client
from app.core.hashing import Verification
from app.core.moments import to_microseconds
from app.core.passwords import Passwords, Place
from app.core.refusals import Reason, Refusal
from app.db.session import Database
from app.models import Budget
from app.models.audit import Event
from app.models.mail import Template
from app.services import throttle
from app.services.throttle import BUDGETS_KEPT, MOST_FAILURES, Limit, Throttle
from tests.answers import differences, refused_as
from tests.conftest import ClientFactory, make_settings
from tests.jars import other_browser
from tests.journal import Journal
from tests.links import database_of, forgot, outbox
from tests.people import ADA, BOB, bearer, log_in, refresh, register, who_am_i
from tests.rows import all_budgets, audited, change_user, execute

WRONG = ADA | {"password": "not the password of anybody"}
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
TOO_MANY = (429, "too_many_attempts")
FAILED = (401, "invalid_credentials")
HOUR = 3600  # seconds
TOKEN = "/api/v1/auth/token"


@pytest.fixture
def strict(make_client: ClientFactory) -> TestClient:
    """Three attempts for an account, five for a network, at once and an hour."""
    client = make_client(login_attempts_per_account=3, login_attempts_per_network=5)
    register(client)
    return client


@pytest.fixture
def noon() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def try_passwords(client: TestClient, count: int, email: str = ADA["email"]) -> Counter[int]:
    person = WRONG | {"email": email}
    return Counter(log_in(client, person).status_code for _ in range(count))


def tried(client: TestClient) -> int:
    return len(audited(database_of(client), Event.LOGIN_FAILED))


def password_grant(client: TestClient, person: dict[str, str]) -> Response:
    form = {"username": person["email"], "password": person["password"]}
    return client.post(TOKEN, data=form | {"grant_type": "password"})


# One account


@pytest.mark.proves("6.3.1", "2.4.1", "2.3.2", "RL-01")
def test_an_account_takes_so_many_attempts_and_then_refuses(strict: TestClient) -> None:
    assert try_passwords(strict, 3) == {401: 3}
    answer = log_in(strict, WRONG)
    assert refused_as(answer) == TOO_MANY
    assert answer.headers["content-type"] == "application/problem+json"
    seconds = int(answer.headers["retry-after"])
    assert HOUR / 3 - 60 < seconds <= HOUR / 3
    assert answer.json()["retry_after"] == seconds
    assert tried(strict) == 3


@pytest.mark.proves("6.3.1")
def test_the_default_is_ten_an_hour_for_an_account(client: TestClient) -> None:
    assert try_passwords(client, 12) == {401: 10, 429: 2}


@pytest.mark.proves("RL-01")
def test_one_more_attempt_is_let_through_when_one_has_leaked(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    assert try_passwords(strict, 4) == {401: 3, 429: 1}
    noon.shift(HOUR / 3 - 5)
    assert try_passwords(strict, 1) == {429: 1}
    noon.shift(5)
    assert try_passwords(strict, 2) == {401: 1, 429: 1}
    noon.shift(2 * HOUR)
    assert try_passwords(strict, 4) == {401: 3, 429: 1}


@pytest.mark.parametrize("size", [1, 3, 7])
def test_after_retry_after_seconds_there_is_room_and_not_long_before(
    make_client: ClientFactory, noon: time_machine.Traveller, size: int
) -> None:
    client = make_client(login_attempts_per_account=size)
    assert try_passwords(client, size) == {401: size}
    noon.shift(100.4)
    seconds = int(log_in(client, WRONG).headers["retry-after"])
    noon.shift(seconds - 3)
    assert try_passwords(client, 1) == {429: 1}
    noon.shift(3)
    assert try_passwords(client, 1) == {401: 1}


@pytest.mark.proves("6.3.1", "RL-01", "RL-03")
def test_the_right_password_gets_the_same_answer_while_it_is_throttled(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    """Or whoever guesses would go on, and be told."""
    try_passwords(strict, 3)
    wrong, right = log_in(strict, WRONG), log_in(strict, ADA)
    assert refused_as(right) == TOO_MANY
    assert differences(wrong, right) == set()


@pytest.mark.proves("6.3.8", "6.3.1")
def test_an_address_without_an_account_has_the_same_limit(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    refusals = []
    for email, network in ((ADA["email"], "192.0.2.1"), ("nobody@example.com", "192.0.2.2")):
        browser = other_browser(strict, network)
        assert try_passwords(browser, 3, email) == {401: 3}
        refusals.append(log_in(browser, WRONG | {"email": email}))
    assert refused_as(refusals[0]) == TOO_MANY
    assert differences(*refusals) == set()


def test_a_success_gives_its_attempt_back(strict: TestClient) -> None:
    for _ in range(12):
        assert log_in(other_browser(strict)).status_code == 200
    assert try_passwords(strict, 4) == {401: 3, 429: 1}


@pytest.mark.proves("RL-07")
def test_a_success_gives_nobody_elses_attempts_back(strict: TestClient) -> None:
    """Or whoever guesses would have more of them each time that the owner logs in somewhere."""
    assert try_passwords(strict, 2) == {401: 2}
    assert log_in(other_browser(strict)).status_code == 200
    assert try_passwords(strict, 2) == {401: 1, 429: 1}


@pytest.mark.proves("RL-07")
def test_log_ins_to_an_attackers_own_account_reset_nothing(strict: TestClient) -> None:
    register(strict, BOB)
    answers = []
    for _ in range(4):
        answers.append(log_in(other_browser(strict), WRONG).status_code)
        assert log_in(other_browser(strict), BOB).status_code == 200
    assert answers == [401, 401, 401, 429]


@pytest.mark.proves("RL-07")
def test_an_account_has_one_budget_however_it_is_written(make_client: ClientFactory) -> None:
    person = {"email": "zoé@example.com", "password": ADA["password"]}
    client = make_client(login_attempts_per_account=6)
    register(client, person)
    spellings = [
        "zoé@example.com",
        "ZOÉ@Example.COM",
        "  zoé@example.com ",
        unicodedata.normalize("NFD", "zoé@example.com"),
    ]
    wrong = [WRONG | {"email": spelling} for spelling in spellings]
    assert [log_in(client, person).status_code for person in wrong] == [401] * 4
    grants = [password_grant(client, person) for person in wrong[:3]]
    assert [grant.status_code for grant in grants] == [400, 400, 429]
    assert refused_as(log_in(client, person)) == TOO_MANY


@pytest.mark.proves("RL-07")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/api/v1/auth/login/"), ("POST", "/api/v1//auth/login")),
        *(("POST", "//api/v1/auth/login"), ("POST", "/api/v1/auth/Login")),
        *(("HEAD", "/api/v1/auth/login"), ("PUT", "/api/v1/auth/login")),
        *(("POST", "/api/v1/auth/./login"), ("POST", "/api/v1/auth/login;x")),
    ],
)
def test_no_other_path_or_method_tries_a_password(
    strict: TestClient, method: str, path: str
) -> None:
    try_passwords(strict, 3)
    answer = strict.request(method, path, json=ADA)
    assert answer.status_code in (404, 405, 429)


@pytest.mark.proves("RL-07")
def test_a_restart_forgets_nothing(strict: TestClient, make_client: ClientFactory) -> None:
    try_passwords(strict, 3)
    restarted = make_client(login_attempts_per_account=3)
    assert try_passwords(restarted, 1) == {429: 1}


def test_a_new_secret_key_begins_every_budget_anew(
    strict: TestClient, make_client: ClientFactory
) -> None:
    """Keys of budgets are made from it; only an operator can change it."""
    try_passwords(strict, 3)
    former = strict.app.state.backend.settings.secret_key  # type: ignore[attr-defined]
    changed = make_client(
        login_attempts_per_account=3,
        secret_key=secrets.token_hex(32),
        secret_key_fallbacks=former.get_secret_value(),
    )
    assert try_passwords(changed, 4) == {401: 3, 429: 1}


@pytest.mark.proves("RL-03")
def test_sessions_go_on_while_their_account_is_throttled(strict: TestClient) -> None:
    owner = other_browser(strict)
    log_in(owner)
    assert try_passwords(strict, 4) == {401: 3, 429: 1}
    assert who_am_i(owner).status_code == 200
    assert refresh(owner).status_code == 200


def test_the_token_endpoint_says_in_its_own_terms_when_to_come_back(strict: TestClient) -> None:
    """Not invalid_grant, after which a program would ask its user for another password."""
    try_passwords(strict, 3)
    answer = password_grant(strict, ADA)
    assert answer.status_code == 429
    assert answer.json()["error"] == "temporarily_unavailable"
    assert 0 < int(answer.headers["retry-after"]) <= HOUR / 3


# Failures in a row


@pytest.mark.proves("RL-04", "6.3.1")
def test_a_hundred_failures_in_a_row_close_an_account(
    make_client: ClientFactory, noon: time_machine.Traveller
) -> None:
    """NIST SP 800-63B-4, 3.2.2: each from another network, and no matter how patient."""
    client = make_client(login_attempts_per_account=1000)
    register(client)
    for number in range(MOST_FAILURES):
        assert log_in(other_browser(client, f"192.0.2.{number}"), WRONG).status_code == 401
    noon.shift(timedelta(days=20))
    answer = log_in(client, ADA)
    assert refused_as(answer) == TOO_MANY
    left = BUDGETS_KEPT - timedelta(days=20)
    assert left < timedelta(seconds=int(answer.headers["retry-after"])) < left + timedelta(hours=1)
    (last,) = audited(database_of(client), Event.LIMIT_REACHED)
    assert last.details == {"limit": "login-account", "closed": True}


def fail_before(database: Database, failures: int) -> None:
    """As if so many had failed in a row and long enough ago for the rest to have leaked."""
    work = (
        update(Budget)
        .where(col(Budget.attempts) > 0)
        .values(attempts=failures, drained_at=to_microseconds(datetime.now(UTC)))
    )
    database.run_write(lambda session: execute(session, work))


@pytest.mark.proves("RL-04", "6.3.8")
def test_an_address_without_an_account_closes_likewise(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    refusals = []
    for email, network in ((ADA["email"], "192.0.2.1"), ("nobody@example.com", "192.0.2.2")):
        browser = other_browser(strict, network)
        log_in(browser, WRONG | {"email": email})
        fail_before(database_of(strict), 99)
        assert log_in(browser, WRONG | {"email": email}).status_code == 401
        refusals.append(log_in(browser, WRONG | {"email": email}))
    assert refused_as(refusals[0]) == TOO_MANY
    assert differences(*refusals) == set()


@pytest.mark.usefixtures("noon")  # also within a microsecond
def test_a_network_without_room_leaves_nothing_behind(make_client: ClientFactory) -> None:
    """Or it could fill the table, with addresses that it makes up."""
    client = make_client(login_attempts_per_network=2, login_attempts_per_account=2)
    for number in range(5):
        log_in(client, WRONG | {"email": f"user{number}@example.com"})
    assert len(all_budgets(database_of(client))) == 3  # the network, and two accounts


def test_attempts_that_overlap_leave_nothing_behind_either(client: TestClient) -> None:
    """The one that came first is the last to write, and to give back."""
    backend = client.app.state.backend  # type: ignore[attr-defined]
    claims = backend.throttle.confirm_password("somebody")
    now = to_microseconds(datetime.now(UTC))

    def overlap(session: Session) -> None:
        throttle.spend(session, claims, now)
        of_first = throttle.spend(session, claims, now - throttle.SECOND)
        assert of_first
        throttle.give_back(session, claims)
        throttle.give_up(session, claims, of_first, now - throttle.SECOND)

    database_of(client).run_write(overlap)
    assert all_budgets(database_of(client)) == []


def test_a_network_without_room_takes_nothing_off_an_account(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_network=2, login_attempts_per_account=2)
    register(client)
    log_in(other_browser(client, "192.0.2.9"), WRONG)
    for number in range(5):
        log_in(client, WRONG | {"email": f"user{number}@example.com"})
    for _ in range(5):
        assert refused_as(log_in(client, WRONG)) == TOO_MANY
    statuses = [log_in(other_browser(client, "192.0.2.9"), WRONG).status_code for _ in range(2)]
    assert statuses == [401, 429]


def test_a_success_counts_failures_in_a_row_anew(strict: TestClient) -> None:
    log_in(strict, WRONG)
    fail_before(database_of(strict), 99)
    assert log_in(other_browser(strict)).status_code == 200
    assert {budget.attempts for budget in all_budgets(database_of(strict))} == {0}
    assert try_passwords(strict, 3) == {401: 3}


def test_failures_of_long_ago_are_forgotten(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    """A month without a try: the row may be purged then, and means nothing if it is still there."""
    log_in(strict, WRONG)
    fail_before(database_of(strict), 100)
    assert refused_as(log_in(strict)) == TOO_MANY
    noon.shift(BUDGETS_KEPT + timedelta(seconds=1))
    assert try_passwords(strict, 1) == {401: 1}
    assert sorted(budget.attempts for budget in all_budgets(database_of(strict))) == [0, 0, 1]
    assert log_in(strict).status_code == 200


# One network


@pytest.mark.proves("6.3.1", "RL-05")
def test_a_network_takes_so_many_attempts_over_all_accounts(strict: TestClient) -> None:
    spray = [log_in(strict, WRONG | {"email": f"user{i}@example.com"}) for i in range(8)]
    assert [answer.status_code for answer in spray] == [401] * 5 + [429] * 3
    assert refused_as(log_in(strict, ADA)) == TOO_MANY
    assert tried(strict) == 5
    assert log_in(other_browser(strict, "192.0.2.1"), ADA).status_code == 200


@pytest.mark.proves("RL-05", "RL-07")
def test_log_ins_that_succeed_use_up_nothing_of_a_network(strict: TestClient) -> None:
    register(strict, BOB)
    for person in (ADA, BOB) * 4:
        assert log_in(other_browser(strict), person).status_code == 200
    spray = [log_in(strict, WRONG | {"email": f"user{i}@example.com"}) for i in range(6)]
    assert [answer.status_code for answer in spray] == [401] * 5 + [429]


def test_what_an_account_refuses_costs_the_network_nothing(strict: TestClient) -> None:
    """Otherwise one stubborn program could keep a whole office out."""
    assert try_passwords(strict, 20) == {401: 3, 429: 17}
    assert try_passwords(strict, 3, "bob@example.com") == {401: 2, 429: 1}


def test_what_a_network_refuses_leaves_an_accounts_failures_in_a_row_as_they_were(
    strict: TestClient,
) -> None:
    """Or on a network that is used up somebody could close an account, or begin it anew."""
    log_in(strict, WRONG)
    fail_before(database_of(strict), 7)
    for number in range(4):
        try_passwords(strict, 1, f"user{number}@example.com")
    assert try_passwords(strict, 3) == {429: 3}
    assert max(budget.attempts for budget in all_budgets(database_of(strict))) == 7


@pytest.mark.proves("RL-02")
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_a_network_is_an_ipv4_address_or_an_ipv6_64(
    strict: TestClient, one: str, other: str, same: bool
) -> None:
    for i in range(5):
        log_in(other_browser(strict, one), WRONG | {"email": f"user{i}@example.com"})
    answer = log_in(other_browser(strict, other), ADA)
    assert answer.status_code == (429 if same else 200)


SPOOFED = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP")


def made_up(number: int) -> dict[str, str]:
    address = f"198.51.100.{number}"
    return dict.fromkeys(SPOOFED, address) | {"Forwarded": f"for={address}"}


@pytest.mark.proves("4.1.3", "15.3.4", "RL-02")
def test_made_up_headers_make_no_other_network(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_network=3, trusted_proxies="10.0.0.0/8")
    stranger = other_browser(client, "203.0.113.9")
    statuses = []
    for number in range(5):
        person = WRONG | {"email": f"user{number}@example.com"}
        headers = made_up(number)
        statuses.append(
            stranger.post("/api/v1/auth/login", json=person, headers=headers).status_code
        )
    assert statuses == [401] * 3 + [429] * 2


HOPS: dict[str, Callable[[int], str]] = {
    "IPv4": lambda _: "203.0.113.9",
    "IPv4 with a port": lambda number: f"203.0.113.10:{4000 + number}",
    "IPv6": lambda number: f"2001:db8:1:2::{number}",
    "IPv6 with a port": lambda number: f"[2001:db8:1:3::{number}]:4000",
}


@pytest.mark.proves("4.1.3", "15.3.4", "RL-02")
def test_through_a_trusted_proxy_its_clients_are_told_apart(make_client: ClientFactory) -> None:
    """And what a client writes itself, further left, is not looked at."""
    client = make_client(login_attempts_per_network=2, trusted_proxies="10.0.0.0/8")
    proxy = other_browser(client, "10.0.0.1")
    statuses: dict[str, list[int]] = {name: [] for name in HOPS}
    for number in range(4):
        for name, hop in HOPS.items():
            forwarded = f"198.51.100.{number}, {hop(number)}"
            answer = proxy.post(
                "/api/v1/auth/login",
                json=WRONG | {"email": f"{secrets.token_hex(8)}@example.com"},
                headers=made_up(number) | {"X-Forwarded-For": forwarded},
            )
            statuses[name].append(answer.status_code)
    assert statuses == {name: [401, 401, 429, 429] for name in HOPS}


@pytest.mark.proves("4.1.3")
@pytest.mark.parametrize("hop", ["[]", "[]:80", "[", ":80", "unknown", "[203.0.113.9", ""])
def test_a_hop_that_is_no_address_counts_for_the_proxy(
    make_client: ClientFactory, hop: str
) -> None:
    client = make_client(login_attempts_per_network=2, trusted_proxies="10.0.0.0/8")
    proxy = other_browser(client, "10.0.0.1")
    statuses = [
        proxy.post(
            "/api/v1/auth/login",
            json=WRONG | {"email": f"user{number}@example.com"},
            headers={"X-Forwarded-For": forwarded},
        ).status_code
        for number, forwarded in enumerate((hop, hop, "10.0.0.1"))
    ]
    assert statuses == [401, 401, 429]


# A proxy that nobody has named


def warnings_of(journal: Journal) -> list[str]:
    return [entry["message"] for entry in journal.entries if "TRUSTED_PROXIES" in str(entry)]


@pytest.mark.proves("4.1.3")
@pytest.mark.parametrize("peer", ["127.0.0.1", "10.1.2.3", "172.17.0.1", "100.64.0.9", "fd00::1"])
def test_a_proxy_that_is_not_trusted_is_warned_about_once(
    make_client: ClientFactory, peer: str
) -> None:
    """All clients behind it would share the limits of one network."""
    client, journal = make_client(trusted_proxies="10.0.0.0/16"), Journal()
    proxy = other_browser(client, peer)
    for _ in range(3):
        proxy.get("/health/live", headers={"X-Forwarded-For": "203.0.113.9"})
    (warning,) = warnings_of(journal)
    assert warning.startswith(peer)
    assert "put it into TRUSTED_PROXIES if it is your proxy" in warning


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("127.0.0.1", {}),
        ("10.0.1.2", {"X-Forwarded-For": "203.0.113.9"}),  # trusted
        ("203.0.113.77", {"X-Forwarded-For": "127.0.0.1"}),
        ("8.8.8.8", {"X-Forwarded-For": "127.0.0.1"}),  # somebody on the internet
        ("2606:4700::1", {"X-Forwarded-For": "127.0.0.1"}),
        ("testclient", {"X-Forwarded-For": "127.0.0.1"}),  # a socket file
    ],
)
def test_others_are_not_warned_about(
    make_client: ClientFactory, peer: str, headers: dict[str, str]
) -> None:
    client = make_client(trusted_proxies="10.0.0.0/16,203.0.113.77")
    journal = Journal()
    other_browser(client, peer).get("/health/live", headers=headers)
    assert len(journal.entries) == 1
    assert warnings_of(journal) == []


# What is told


def limits_told(answer: Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one policy and its state (draft-ietf-httpapi-ratelimit-headers), read by RFC 9651."""
    found = []
    for name in ("RateLimit-Policy", "RateLimit"):
        ((policy, parameters),) = http_sf.parse(answer.headers[name].encode(), tltype="list")
        found.append({"policy": policy, **parameters})
    return found[0], found[1]


def test_the_headers_tell_what_is_left_to_the_callers_network(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    told = [
        limits_told(log_in(strict, WRONG | {"email": f"user{i}@example.com"})) for i in range(6)
    ]
    assert [policy for policy, _ in told] == [{"policy": "login", "q": 5, "w": HOUR}] * 6
    assert [state["r"] for _, state in told] == [4, 3, 2, 1, 0, 0]
    assert [state["t"] for _, state in told] == [HOUR / 5] * 6
    noon.shift(HOUR / 5 - 20)
    answer = log_in(strict, WRONG)
    assert refused_as(answer) == TOO_MANY
    assert limits_told(answer)[1] == {"policy": "login", "r": 0, "t": 20}
    assert int(answer.headers["retry-after"]) == 20


@pytest.mark.proves("6.3.8")
def test_no_header_tells_what_is_left_of_an_account(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    """It would tell what others tried: here two attempts from elsewhere, and then none."""
    try_passwords(other_browser(strict, "192.0.2.1"), 2)
    before = log_in(other_browser(strict, "192.0.2.2"), WRONG)
    untouched = log_in(other_browser(strict, "192.0.2.3"), WRONG | {"email": "bob@example.com"})
    assert differences(before, untouched) == set()
    full = log_in(other_browser(strict, "192.0.2.4"), WRONG)
    assert refused_as(full) == TOO_MANY
    # The network has all of its five; Retry-After is about the account, and about nothing else.
    assert limits_told(full)[1] == {"policy": "login", "r": 5}


def test_retry_after_is_never_earlier_than_the_reset(
    make_client: ClientFactory, noon: time_machine.Traveller
) -> None:
    """So says the draft of the RateLimit headers, whichever budget refuses."""
    for accounts, networks in ((1, 5), (5, 1), (2, 2), (7, 3)):
        client = make_client(
            login_attempts_per_account=accounts, login_attempts_per_network=networks
        )
        address = f"user{accounts}@example.com"
        browser = other_browser(client, f"192.0.2.{accounts}")
        for _ in range(9):
            answer = log_in(browser, WRONG | {"email": address})
            noon.shift(31)
            if answer.status_code == 429:
                reset = limits_told(answer)[1].get("t", 0)
                assert int(answer.headers["retry-after"]) >= reset
        assert answer.status_code == 429


@pytest.mark.parametrize(("accounts", "networks"), [(2, 3), (3, 2)])
def test_where_two_budgets_are_used_up_retry_after_is_about_the_longer_wait(
    make_client: ClientFactory, noon: time_machine.Traveller, accounts: int, networks: int
) -> None:
    """Whoever came back earlier would be refused again."""
    client = make_client(login_attempts_per_account=accounts, login_attempts_per_network=networks)
    for number in range(accounts):
        log_in(other_browser(client, f"192.0.2.{number}"), WRONG)
    for number in range(networks):
        try_passwords(client, 1, f"user{number}@example.com")
    answer = log_in(client, WRONG)
    assert refused_as(answer) == TOO_MANY
    assert int(answer.headers["retry-after"]) == HOUR / 2


# What the database holds, and what it may lose


@pytest.mark.proves("14.2.4")
def test_the_table_names_nobody(strict: TestClient) -> None:
    log_in(strict, WRONG)
    budgets = all_budgets(database_of(strict))
    assert len(budgets) == 3  # the account, the network, and the network that has signed up
    for budget in budgets:
        assert len(bytes.fromhex(budget.key)) == 16
        assert not {"ada", "testclient"} & {str(value) for value in budget.model_dump().values()}
    other_key = Throttle(make_settings("sqlite:///x.db", secret_key=secrets.token_hex(32)))
    theirs = {claim.key for claim in other_key.log_in(ADA["email"], Client("testclient", ""))}
    assert not theirs & {budget.key for budget in budgets}  # who lacks the key cannot look it up


def test_a_budget_that_goes_while_a_password_is_hashed_does_no_harm(
    strict: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = database_of(strict)
    verify = Place.verify

    async def purge_and_verify(self: Place, *args: Any) -> Verification:
        await database.write(lambda session: execute(session, delete(Budget)))
        return await verify(self, *args)

    monkeypatch.setattr(Place, "verify", purge_and_verify)
    assert log_in(strict).status_code == 200
    now = to_microseconds(datetime.now(UTC))
    assert all(budget.drained_at <= now for budget in all_budgets(database))
    assert {budget.attempts for budget in all_budgets(database)} == {0}


@pytest.mark.parametrize("ahead", [timedelta(hours=3), timedelta(days=400)])
def test_a_clock_that_was_wrong_locks_nobody_out(
    strict: TestClient, noon: time_machine.Traveller, ahead: timedelta
) -> None:
    noon.move_to(NOON + ahead)
    assert try_passwords(strict, 4) == {401: 3, 429: 1}
    noon.move_to(NOON)
    assert try_passwords(strict, 4) == {401: 3, 429: 1}


def test_a_clock_that_is_a_little_wrong_gives_nothing_away(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    """As those of several processes are."""
    noon.move_to(NOON + timedelta(seconds=40))
    try_passwords(strict, 3)
    noon.move_to(NOON)
    assert try_passwords(strict, 1) == {429: 1}


def test_whoever_waited_for_a_budget_is_not_refused_for_it(
    strict: TestClient, noon: time_machine.Traveller
) -> None:
    """Three at once find room for three, in whatever order their statements come."""
    noon.shift(0.5)
    assert try_passwords(strict, 2) == {401: 2}
    noon.shift(-0.5)
    assert try_passwords(strict, 2) == {401: 1, 429: 1}


# What was not tried costs nothing


def busy(*_: object) -> None:
    raise Refusal(Reason.BUSY)


@pytest.mark.parametrize("act", [lambda client: log_in(client, WRONG), register])
def test_an_attempt_that_was_too_busy_to_be_looked_at_is_given_back(
    make_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, act: Callable[..., Response]
) -> None:
    """A flood of others' log-ins must not use up anybody's budget."""
    client = make_client(login_attempts_per_account=3, sign_ups_per_network=3)
    log_in(client, WRONG)
    fail_before(database_of(client), 7)
    with monkeypatch.context() as patch:
        patch.setattr(Passwords, "place", busy)
        for _ in range(6):
            assert refused_as(act(client)) == (503, "busy")
    assert {budget.attempts for budget in all_budgets(database_of(client))} == {0, 7}
    assert try_passwords(client, 4) == {401: 3, 429: 1}
    statuses = [
        register(client, ADA | {"email": f"u{i}@example.com"}).status_code for i in range(4)
    ]
    assert statuses == [201] * 3 + [429]


# What is written down


@pytest.fixture
def journal(strict: TestClient) -> Journal:
    """After the client, whose start sets the log up."""
    return Journal()


@pytest.mark.proves("16.3.3", "16.3.1")
def test_reaching_a_limit_is_noted_once(strict: TestClient, journal: Journal) -> None:
    try_passwords(strict, 9)
    (event,) = audited(database_of(strict), Event.LIMIT_REACHED)
    assert (event.result, event.details) == ("failure", {"limit": "login-account", "closed": False})
    (line,) = journal.events("limit_reached")
    assert (line["level"], line["limit"]) == ("warning", "login-account")


@pytest.mark.proves("RL-11", "16.3.3")
def test_a_flood_writes_one_short_line_each_and_no_rows(
    strict: TestClient, journal: Journal
) -> None:
    """RL-11: bad tokens, and attempts that are refused."""
    try_passwords(strict, 3)
    rows = len(all_budgets(database_of(strict)))
    events = {what: len(audited(database_of(strict), what)) for what in Event}
    before = len(journal.entries)
    for number in range(200):
        who = strict.get("/api/v1/users/me", headers=bearer("x" * number * 10))
        assert who.status_code == 401
        assert log_in(strict, WRONG).status_code == 429
    written = journal.entries[before:]
    assert len(written) == 400
    assert max(len(json.dumps(entry)) for entry in written) < 500
    assert {what: len(audited(database_of(strict), what)) for what in Event} == events
    assert len(all_budgets(database_of(strict))) == rows


# Step-up: the password once more


def change_password(client: TestClient, current: str) -> Response:
    body = {"current_password": current, "new_password": "seven old clocks in a row"}
    return client.put("/api/v1/users/me/password", json=body)


@pytest.mark.proves("6.2.3", "6.3.1")
def test_a_thief_of_a_session_cannot_guess_the_password_in_it(strict: TestClient) -> None:
    owner = other_browser(strict)
    log_in(owner)
    answers = [refused_as(change_password(owner, WRONG["password"])) for _ in range(4)]
    assert answers == [(403, "wrong_password")] * 3 + [TOO_MANY]
    assert refused_as(change_password(owner, ADA["password"])) == TOO_MANY
    assert len(audited(database_of(strict), Event.PASSWORD_REFUSED)) == 3
    # Whoever logs in is none of those attempts' business, and the other way round.
    assert try_passwords(other_browser(strict), 4) == {401: 3, 429: 1}
    assert who_am_i(owner).status_code == 200


def test_a_log_in_opens_a_step_up_that_failures_in_a_row_have_closed(strict: TestClient) -> None:
    owner = other_browser(strict)
    log_in(owner)
    change_password(owner, WRONG["password"])
    fail_before(database_of(strict), 100)
    assert refused_as(change_password(owner, ADA["password"])) == TOO_MANY
    assert log_in(owner).status_code == 200
    assert change_password(owner, ADA["password"]).status_code == 200


# Sign-ups and mails


@pytest.mark.proves("2.4.1", "2.3.2")
def test_a_network_signs_up_so_many_accounts(make_client: ClientFactory) -> None:
    client = make_client(sign_ups_per_network=3)
    statuses = [
        register(client, ADA | {"email": f"u{i}@example.com"}).status_code for i in range(5)
    ]
    assert statuses == [201] * 3 + [429] * 2
    elsewhere = other_browser(client, "192.0.2.1")
    assert register(elsewhere, BOB).status_code == 201


def test_asking_which_addresses_are_taken_is_limited_too(make_client: ClientFactory) -> None:
    client = make_client(sign_ups_per_network=3)
    assert [register(client).status_code for _ in range(5)] == [201, 409, 409, 429, 429]


def test_a_password_that_is_refused_costs_no_sign_up(make_client: ClientFactory) -> None:
    client = make_client(sign_ups_per_network=1)
    for _ in range(3):
        assert register(client, ADA | {"password": "short"}).status_code == 422
    assert register(client).status_code == 201


def mailing_to_ada(make_mailing_client: ClientFactory, **changes: Any) -> TestClient:
    """Who has signed up so long ago that the mail of then counts no more."""
    client = make_mailing_client(**changes)
    register(client)
    database_of(client).run_write(lambda session: execute(session, delete(Budget)))
    return client


def ask_to_verify(client: TestClient, email: str = ADA["email"]) -> Response:
    return client.post("/api/v1/auth/verify-email/request", json={"email": email})


@pytest.mark.proves("2.4.1", "2.3.2", "6.3.8")
@pytest.mark.parametrize("ask", [forgot, ask_to_verify])
def test_a_mailbox_gets_so_many_mails_of_a_kind(
    make_mailing_client: ClientFactory,
    noon: time_machine.Traveller,
    ask: Callable[..., Response],
) -> None:
    """From however many networks, and likewise for an address without an account."""
    client = mailing_to_ada(make_mailing_client, mails_per_address=2)
    before = len(outbox(client))
    answers = {}
    for email in (ADA["email"], "nobody@example.com"):
        browsers = [other_browser(client, f"192.0.2.{i}") for i in range(4)]
        answers[email] = [ask(browser, email) for browser in browsers]
        assert [answer.status_code for answer in answers[email]] == [202, 202, 429, 429]
    refused = answers[ADA["email"]][2]
    assert refused_as(refused) == TOO_MANY
    assert int(refused.headers["retry-after"]) == HOUR / 2
    assert len(outbox(client)) - before == 4
    noon.shift(HOUR / 2)
    assert ask(client).status_code == 202
    fresh = [
        ask(other_browser(client, f"198.51.100.{i}"), email) for i, email in enumerate(answers)
    ]
    assert [answer.status_code for answer in fresh] == [429, 202]


@pytest.mark.proves("6.3.8")
@pytest.mark.parametrize("ask", [forgot, ask_to_verify])
def test_the_refusal_of_a_mail_does_not_tell_who_has_an_account(
    make_mailing_client: ClientFactory,
    noon: time_machine.Traveller,
    ask: Callable[..., Response],
) -> None:
    client = mailing_to_ada(make_mailing_client, mails_per_address=1)
    refusals = []
    for network, email in (("192.0.2.1", ADA["email"]), ("192.0.2.2", "nobody@example.com")):
        browser = other_browser(client, network)
        assert ask(browser, email).status_code == 202
        refusals.append(ask(browser, email))
    assert refused_as(refusals[0]) == TOO_MANY
    assert differences(*refusals) == set()


@pytest.mark.proves("RL-03")
def test_using_up_one_kind_of_mail_leaves_the_other_kinds(
    make_mailing_client: ClientFactory,
) -> None:
    """Or asking for a verification, which a verified address gets no mail for, would keep its
    owner from a new password.
    """
    client = mailing_to_ada(make_mailing_client, mails_per_address=1)
    change_user(database_of(client), ADA["email"], email_verified=True)
    assert [ask_to_verify(client).status_code for _ in range(2)] == [202, 429]
    assert forgot(client).status_code == 202


@pytest.mark.proves("2.4.1")
def test_a_network_asks_for_so_many_mails_of_all_kinds(make_mailing_client: ClientFactory) -> None:
    client = make_mailing_client(sign_ups_per_network=3)
    answers = [
        register(client),
        forgot(client, "one@example.com"),
        ask_to_verify(client, "two@example.com"),
        forgot(client, "three@example.com"),
        ask_to_verify(client, "four@example.com"),
        register(client, BOB),
    ]
    assert [answer.status_code for answer in answers] == [201, 202, 202, 429, 429, 429]
    policy, state = limits_told(answers[-1])
    assert (policy["policy"], policy["q"], state["r"]) == ("sign-up", 3, 0)
    assert forgot(other_browser(client, "192.0.2.1")).status_code == 202


# The rules by themselves


def test_an_attempt_takes_its_part_of_every_budget_or_of_none(database: Database) -> None:
    limits = Throttle(make_settings("sqlite:///x.db", login_attempts_per_account=2))
    client = Client("192.0.2.1", "")
    claims = limits.log_in(ADA["email"], client)
    for _ in range(2):
        database.run_write(throttle.take, claims, client)
    before = {budget.key: budget.drained_at for budget in all_budgets(database)}
    for _ in range(5):
        with pytest.raises(Refusal) as refused:
            database.run_write(throttle.take, claims, client)
        assert refused.value.reason is Reason.TOO_MANY_ATTEMPTS
    assert {budget.key: budget.drained_at for budget in all_budgets(database)} == before


def test_budgets_are_locked_in_the_order_of_their_keys() -> None:
    """Where they are taken and where they are given back, so that no two wait for each other."""
    limits, client = Throttle(make_settings("sqlite:///x.db")), Client("192.0.2.1", "")
    for number in range(10):
        claims = limits.log_in(f"user{number}@example.com", client)
        taken = throttle.spending_values(claims, 0)
        given_back = throttle.putting_back_values(throttle.parts_of(claims, ()))
        for values in (taken, given_back):
            assert [values["row0_key"], values["row1_key"]] == sorted(c.key for c in claims)


def test_every_purpose_has_a_budget_of_its_own(database: Database) -> None:
    """Also where it is about one and the same text."""
    limits, text = Throttle(make_settings("sqlite:///x.db")), "192.0.2.1"
    client = Client(text, "")
    claims = [
        *limits.log_in(text, client),
        *limits.known_device(text),
        *limits.confirm_password(text),
        *limits.sign_up(client),
        limits.notice("new_device", text),
        *(limits.ask_for_mail(template, text, client)[0] for template in Template),
    ]
    keys = [claim.key for claim in claims]
    assert len({*keys}) == len(keys)


def test_each_limit_has_its_name_its_size_and_its_kind() -> None:
    """The names are those in the audit trail and in RateLimit-Policy."""
    settings = make_settings(
        "sqlite:///x.db",
        login_attempts_per_account=2,
        login_attempts_per_network=3,
        mails_per_address=4,
        sign_ups_per_network=5,
    )
    limits, client = Throttle(settings), Client("192.0.2.1", "")
    claims = [
        *limits.log_in(ADA["email"], client),
        *limits.known_device("a device"),
        *limits.confirm_password("a user"),
        *limits.ask_for_mail("a mail", ADA["email"], client),
        limits.notice("a notice", ADA["email"]),
        *limits.change("a user"),
    ]
    assert [claim.limit for claim in claims] == [
        Limit("login-account", 2, consecutive=True),
        Limit("login", 3, own=True),
        Limit("login-device", 2, consecutive=True),
        Limit("password", 2, consecutive=True),
        Limit("mail-address", 4),
        Limit("sign-up", 5, own=True),
        Limit("notice-address", 4),
        Limit("changes", 60),
    ]


def test_the_largest_limits_still_count(database: Database) -> None:
    limits = Throttle(make_settings("sqlite:///x.db", login_attempts_per_network=100_000))
    client = Client("192.0.2.1", "")
    _, network = limits.log_in(ADA["email"], client)

    def fill(session: Session) -> None:
        now = to_microseconds(datetime.now(UTC))
        session.add(Budget(key=network.key, drained_at=now + HOUR * 10**6, attempts=0))

    with time_machine.travel(NOON, tick=False):
        database.run_write(fill)
        with pytest.raises(Refusal) as refused:
            database.run_write(throttle.take, [network], client)
    assert refused.value.members == {"retry_after": 1}


def test_over_uneven_hours_a_budget_lets_through_what_has_leaked(
    database: Database, noon: time_machine.Traveller
) -> None:
    """The bucket of one number against one that counts attempts, over uneven hours."""
    claim = Throttle(make_settings("sqlite:///x.db", mails_per_address=5)).notice(
        "new_device", ADA["email"]
    )
    level = 0.0
    for step in range(120):
        wait = (step * 7919 % 97) / 97 * 0.45  # hours
        noon.shift(wait * HOUR)
        level = max(0.0, level - wait * 5)
        expected = level + 1 <= 5 + 1e-6
        if abs(level + 1 - 5) * HOUR / 5 < 5:  # too close to call: processes' clocks differ
            continue
        assert database.run_write(throttle.take_if_free, claim) is expected, step
        level += expected


@pytest.mark.proves("16.3.3")
def test_a_success_at_the_last_attempt_is_no_alarm(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_account=2)
    register(client)
    log_in(client, ADA | {"password": "not the password of anybody"})
    assert log_in(client).status_code == 200
    assert audited(client.app.state.backend.database, Event.LIMIT_REACHED) == []  # type: ignore[attr-defined]


@pytest.mark.proves("15.2.2")
def test_one_network_has_no_more_than_half_of_the_queue() -> None:
    passwords = Passwords(threads=1, queue=9)

    async def hash_for(network: str) -> str:
        with passwords.place(network) as place:
            return await place.hash("nine tall herons")

    async def crowd() -> tuple[int, int]:
        try:
            theirs = [hash_for("192.0.2.1") for _ in range(10)]
            others = [hash_for("192.0.2.2") for _ in range(5)]
            results = await asyncio.gather(*theirs, *others, return_exceptions=True)
            hashed = [isinstance(result, str) for result in results]
            again = await hash_for("192.0.2.1")
            assert again.startswith("$argon2id$")
            return sum(hashed[:10]), sum(hashed[10:])
        finally:
            passwords.close()

    assert asyncio.run(crowd()) == (5, 5)
