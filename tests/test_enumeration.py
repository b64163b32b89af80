"""Nobody learns who has an account: not by the answer, nor by the work that it took.

Each pair is measured, too, with interleaved samples; `make test args=tests/test_enumeration.py`
prints the effect, and nothing is asserted of it: a clock on a busy machine proves nothing. What
makes the times alike is asserted: the same statements and the same number of hashes.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.core import hashing
from app.core.hashing import NO_PASSWORD
from app.models.mail import Purpose
from tests.answers import differences
from tests.conftest import ClientFactory
from tests.jars import other_browser
from tests.links import database_of, mint, outbox, verify
from tests.people import ADA, BOB, log_in, register, sign_up_and_in, who_am_i
from tests.rows import change_user, statements, the_user

SAMPLES = 2  # where nobody reads them; 40 for figures to be published
NOBODY = {"email": "nobody@example.com", "password": "a teapot full of gravel"}
WITH_ROOM = {  # so that no limit ends the measuring
    "login_attempts_per_account": 1000,
    "login_attempts_per_network": 100_000,
    "mails_per_address": 1000,
    "sign_ups_per_network": 100_000,
}
Request = Callable[[], Response]


class Work(NamedTuple):
    statements: list[str]
    hashes: int


class CountingContext:
    """The real one, counted."""

    def __init__(self) -> None:
        self.count = 0
        self.real = hashing.context()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in ("hash", "verify"):
            return found

        def count(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return found(*args, **kwargs)

        return count


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountingContext:
    counting = CountingContext()
    monkeypatch.setattr("app.core.hashing.context", lambda: counting)
    return counting


@pytest.fixture
def client(make_mailing_client: ClientFactory) -> TestClient:
    """Ada is verified, Bob never was, Cleo is disabled, and Nobody is nobody."""
    client = make_mailing_client(require_verified_email=True, **WITH_ROOM)
    for person in (ADA, BOB, person_named("cleo")):
        register(client, person)
    for email in (ADA["email"], "cleo@example.com"):
        verify(client, mint(client, Purpose.VERIFY_EMAIL, email))
    change_user(database_of(client), "cleo@example.com", is_active=False)
    return client


def person_named(name: str) -> dict[str, str]:
    return {"email": f"{name}@example.com", "password": "fourteen green frogs"}


def work_of(client: TestClient, counted: CountingContext, request: Request) -> Work:
    before = counted.count
    with statements(database_of(client)) as sent:
        request()
    return Work(list(sent), counted.count - before)


def asked(client: TestClient, kind: str, who: str) -> Response:
    email = f"{who}@example.com"
    fresh = other_browser(client)
    if kind == "register":
        return register(fresh, {"email": email, "password": "eleven quiet otters swimming"})
    if kind == "log in":
        return log_in(fresh, {"email": email, "password": "not this one at all"})
    if kind == "token":
        form = {"grant_type": "password", "username": email, "password": "not this one at all"}
        return fresh.post("/api/v1/auth/token", data=form)
    path = {"forgot": "forgot-password", "verify": "verify-email/request"}[kind]
    return fresh.post(f"/api/v1/auth/{path}", json={"email": email})


PAIRS = [
    ("register", "nobody", "ada"),
    ("register", "nobody", "bob"),
    ("register", "nobody", "cleo"),
    ("log in", "nobody", "ada"),
    ("log in", "nobody", "bob"),
    ("log in", "nobody", "cleo"),
    ("token", "nobody", "ada"),
    ("forgot", "nobody", "ada"),
    ("forgot", "nobody", "cleo"),
    ("verify", "nobody", "ada"),
    ("verify", "nobody", "bob"),
]


@pytest.mark.proves("6.3.8", "EN-01", "EN-03", "EN-04", "CS-AUTH-ERR", "CS-FP-UNIFORM")
@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_the_answers_are_alike(client: TestClient, kind: str, one: str, other: str) -> None:
    its_own = {"header ratelimit"}  # how often this network has asked, whomever about
    assert differences(asked(client, kind, one), asked(client, kind, other)) <= its_own


@pytest.mark.proves("6.3.8", "EN-02", "EN-03", "EN-04")
@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_the_work_is_alike(
    client: TestClient, counted: CountingContext, kind: str, one: str, other: str
) -> None:
    works = [
        work_of(client, counted, lambda who=who: asked(client, kind, who)) for who in (one, other)
    ]  # type: ignore[misc]
    assert works[0].statements
    assert works[0] == works[1]
    assert works[0].hashes == (0 if kind in ("forgot", "verify") else 1)


@pytest.mark.proves("6.3.8", "EN-02")
def test_the_right_password_of_an_unverified_or_disabled_account_helps_nobody(
    client: TestClient, counted: CountingContext
) -> None:
    """Otherwise somebody could sign up with an address and see whether that changed anything."""
    wrong = asked(client, "log in", "nobody")
    for person in (BOB, person_named("cleo")):
        assert differences(wrong, log_in(client, person)) <= {"header ratelimit"}
    of_nobody = work_of(client, counted, lambda: asked(client, "log in", "nobody"))
    assert work_of(client, counted, lambda: log_in(client, BOB)) == of_nobody


@pytest.mark.real_hashes
@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_the_times_are_measured(
    client: TestClient,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    one: str,
    other: str,
) -> None:
    """The chance that a sample of the one is slower than one of the other: 0.5 tells nothing."""
    times: dict[str, list[float]] = {one: [], other: []}
    for sample in range(SAMPLES):
        for who in (one, other) if sample % 2 else (other, one):
            start = time.perf_counter()
            assert asked(client, kind, who).status_code < 500
            times[who].append((time.perf_counter() - start) * 1000)
    slower = sum(a > b for a in times[one] for b in times[other]) / SAMPLES**2
    medians = " / ".join(f"{statistics.median(taken):.1f}" for taken in times.values())
    with capsys.disabled():
        print(f"\n{kind}: {one} / {other}: medians {medians} ms, slower in {slower:.0%}", end="")


# Signing up where addresses are verified


@pytest.mark.proves("EN-04", "CS-EMAIL-VERIFY")
def test_signing_up_tells_nothing_and_logs_nobody_in(client: TestClient) -> None:
    answer = register(client, NOBODY)
    assert answer.status_code == 202
    assert answer.json() == {"detail": "If this can be done, a mail says how to go on."}
    assert "set-cookie" not in answer.headers
    assert outbox(client)[-1] == ("verify_email", NOBODY["email"])


@pytest.mark.proves("CS-EMAIL-VERIFY")
def test_the_account_works_once_the_address_is_verified(client: TestClient) -> None:
    register(client, NOBODY)
    assert log_in(client, NOBODY).status_code == 401
    verify(client, mint(client, Purpose.VERIFY_EMAIL, NOBODY["email"]))
    assert log_in(client, NOBODY).status_code == 200


def test_signing_up_again_replaces_the_password_of_an_address_never_verified(
    client: TestClient,
) -> None:
    planted = mint(client, Purpose.VERIFY_EMAIL, BOB["email"])
    register(client, BOB | {"password": "the owner's own words"}, full_name="Bob")
    assert verify(client, planted).status_code == 400
    verify(client, mint(client, Purpose.VERIFY_EMAIL, BOB["email"]))
    assert log_in(other_browser(client), BOB).status_code == 401
    answer = log_in(other_browser(client), BOB | {"password": "the owner's own words"})
    assert (answer.status_code, answer.json()["user"]["full_name"]) == (200, "Bob")


def test_nobody_keeps_an_address_from_signing_up_by_asking_for_its_mails(
    make_mailing_client: ClientFactory,
) -> None:
    client = make_mailing_client(require_verified_email=True, mails_per_address=1)
    for kind in ("verify", "forgot"):
        asked(client, kind, "nobody")
    assert register(client, NOBODY).status_code == 202


def test_signing_up_again_changes_nothing_about_a_verified_account(client: TestClient) -> None:
    register(client, ADA | {"password": "somebody else's words"}, full_name="Eve")
    answer = log_in(client, ADA)
    assert (answer.status_code, answer.json()["user"]["full_name"]) == (200, None)
    assert (
        log_in(other_browser(client), ADA | {"password": "somebody else's words"}).status_code
        == 401
    )


def test_signing_up_again_leaves_the_links_of_a_verified_account(client: TestClient) -> None:
    link = mint(client, Purpose.RESET_PASSWORD, ADA["email"])
    register(client, ADA)
    body = {"token": link, "password": "seven loud geese on ice"}
    assert client.post("/api/v1/auth/reset-password", json=body).status_code == 204


def test_nobody_signs_up_in_the_place_of_somebody_invited(client: TestClient) -> None:
    """The owner of the mailbox would confirm it, and the password would be somebody else's."""
    change_user(database_of(client), BOB["email"], hashed_password=NO_PASSWORD)
    register(client, BOB | {"password": "somebody else's words"})
    verify(client, mint(client, Purpose.VERIFY_EMAIL, BOB["email"]))
    assert log_in(client, BOB | {"password": "somebody else's words"}).status_code == 401


def test_an_account_in_use_is_nobody_elses_though_it_was_never_verified(
    client: TestClient, make_mailing_client: ClientFactory
) -> None:
    """As all are where addresses did not have to be verified before."""
    before = make_mailing_client()
    sign_up_and_in(before, NOBODY)
    register(client, NOBODY | {"password": "somebody else's words"})
    assert who_am_i(before).status_code == 200
    verify(client, mint(client, Purpose.VERIFY_EMAIL, NOBODY["email"]))
    assert log_in(client, NOBODY).status_code == 200


def test_signing_up_voids_no_other_mail_of_somebody_else(client: TestClient) -> None:
    asked(client, "forgot", "ada")
    register(client, ADA)
    assert outbox(client)[-2:] == [
        ("reset_password", ADA["email"]),
        ("verify_email", ADA["email"]),
    ]


def test_nobody_signs_up_in_the_place_of_an_administrator(client: TestClient) -> None:
    change_user(database_of(client), BOB["email"], is_admin=True)
    before = the_user(database_of(client), BOB["email"]).model_dump()
    register(client, BOB | {"password": "somebody else's words"})
    assert the_user(database_of(client), BOB["email"]).model_dump() == before


@pytest.mark.proves("EM-08", "15.4.2")
def test_an_address_in_another_spelling_is_the_same_account(client: TestClient) -> None:
    register(client, NOBODY)
    register(client, NOBODY | {"email": " NoBody@EXAMPLE.com "})
    verify(client, mint(client, Purpose.VERIFY_EMAIL, NOBODY["email"]))
    assert log_in(client, NOBODY).status_code == 200


# Without verified addresses, the answer says that an address is taken, and says so on purpose


@pytest.mark.proves("EN-04")
def test_without_verified_addresses_the_limit_is_what_slows_asking_around(
    make_mailing_client: ClientFactory,
) -> None:
    client = make_mailing_client(sign_ups_per_network=2)
    sign_up_and_in(client)
    statuses = [register(client).status_code, register(client, BOB).status_code]
    assert statuses == [409, 429]
