"""Limits held by four processes at once, exactly: real servers and sockets, on both databases."""

import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from threading import Event as Moment
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import delete
from sqlmodel import Session, col, select

from app.db.session import Database
from app.models import AuditEvent, Budget, Login, Mail
from app.models.audit import Event
from tests.conftest import make_settings, migrate
from tests.jars import DEVICE_COOKIE, REFRESH_COOKIE
from tests.postgres import fresh_database
from tests.processes import EMPTY, Answer, Service, at_once, processes_serving
from tests.rows import execute

PROCESSES = 4
ACCOUNT, NETWORK, SIGN_UPS = 10, 40, 8
LIMITS = {
    "login_attempts_per_account": ACCOUNT,
    "login_attempts_per_network": NETWORK,
    "sign_ups_per_network": SIGN_UPS,
    "sessions_per_user": 3,
    "trusted_proxies": "127.0.0.1",
    "smtp_url": "smtp://127.0.0.1:9",
    "mail_from": "Example <no-reply@example.com>",
    "public_url": "https://auth.example.com",
}
WRONG = "not the password of anybody"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with ExitStack() as stack:
        if request.param == "sqlite":
            shutil.copy(request.getfixturevalue("migrated_sqlite"), folder / "app.db")
            url = f"sqlite:///{folder}/app.db"
        else:
            server = request.getfixturevalue("postgresql_server")
            url = stack.enter_context(fresh_database(server))
            migrate(url)
        addresses = stack.enter_context(processes_serving(url, folder, PROCESSES, **LIMITS))
        database = Database(make_settings(url))
        stack.callback(database.close)
        yield Service(addresses, database)


@pytest.fixture(autouse=True)
def _whole_budgets(service: Service) -> None:
    """Each test begins with all of them."""
    service.database.run_write(lambda session: execute(session, delete(Budget)))


def someone() -> str:
    return f"{uuid4().hex}@example.com"


def some_network() -> dict[str, str]:
    """As the proxy in front of the service says it: a network of this attempt's own."""
    part = uuid4().hex
    return {"X-Forwarded-For": f"2001:db8:{part[:4]}:{part[4:8]}::1"}


def log_in(
    service: Service,
    email: str,
    password: str = WRONG,
    cookie: str = "",
    *,
    peer: str = "127.0.0.1",
    headers: Mapping[str, str] = EMPTY,
) -> Answer:
    person = {"email": email, "password": password}
    return heard(
        lambda: service.ask("POST", "/auth/login", cookie, peer=peer, headers=headers, **person)
    )


def heard(ask: Callable[[], Answer]) -> Answer:
    """Asked again while the machine is too busy, as any client does: nothing was tried then."""
    answer = ask()
    for _ in range(100):
        if answer.code != "busy":
            break
        Moment().wait(0.2)
        answer = ask()
    return answer


def many_at_once(count: int, call: Callable[[], Answer]) -> list[Answer]:
    """Forty at a time, ten for each process: more would only wait."""
    parts = at_once(*[lambda: [call() for _ in range(count // 40)]] * 40)
    return [answer for part in parts for answer in part]


def events(service: Service, what: Event, since: int) -> list[AuditEvent]:
    such = select(AuditEvent).where(col(AuditEvent.event) == what).order_by(col(AuditEvent.id))

    def work(session: Session) -> list[AuditEvent]:
        return list(session.exec(such.offset(since)).all())

    return service.database.run_read(work)


def failures(service: Service, since: int = 0) -> int:
    return len(events(service, Event.LOGIN_FAILED, since))


@pytest.mark.proves("6.3.1", "2.3.2", "15.4.1", "15.4.2", "RL-01", "RL-04", "RL-07")
def test_of_two_hundred_passwords_for_one_account_at_once_ten_are_tried(service: Service) -> None:
    """From two hundred networks, over four processes."""
    person, before = service.sign_up(), failures(service)
    answers = many_at_once(200, lambda: log_in(service, person["email"], headers=some_network()))
    assert Counter(answer.status for answer in answers) == {401: ACCOUNT, 429: 200 - ACCOUNT}
    assert failures(service, before) == ACCOUNT
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.code for answer in refused} == {"too_many_attempts"}
    waits = {int(answer.headers["retry-after"]) for answer in refused}
    # Rounded up, and one more where somebody who read the clock a moment later came first.
    assert 300 < min(waits) <= max(waits) <= 3600 // ACCOUNT + 1


@pytest.mark.proves("6.3.1", "15.4.1", "15.4.2", "RL-05", "RL-07")
def test_of_five_hundred_accounts_one_network_tries_as_many_as_it_may(service: Service) -> None:
    before = failures(service)
    answers = many_at_once(520, lambda: log_in(service, someone(), peer="127.0.0.2"))
    statuses = Counter(answer.status for answer in answers)
    assert statuses == {401: NETWORK, 429: 520 - NETWORK}
    assert failures(service, before) == NETWORK


@pytest.mark.proves("4.1.3", "RL-02")
def test_made_up_networks_of_a_peer_that_is_no_proxy_count_as_one(service: Service) -> None:
    before = failures(service)
    answers = many_at_once(
        2 * NETWORK,
        lambda: log_in(service, someone(), peer="127.0.0.3", headers=some_network()),
    )
    assert Counter(answer.status for answer in answers) == {401: NETWORK, 429: NETWORK}
    assert failures(service, before) == NETWORK


@pytest.mark.proves("6.3.1", "RL-03")
def test_in_an_attack_the_owner_gets_in_and_a_stranger_with_the_password_does_not(
    service: Service,
) -> None:
    person = service.sign_up()
    device = f"{DEVICE_COOKIE}={service.log_in(person).cookies[DEVICE_COOKIE]}"
    email, password = person["email"], person["password"]
    for _ in range(ACCOUNT):
        log_in(service, email, headers=some_network())

    def attack() -> list[Answer]:
        return [log_in(service, email, headers=some_network()) for _ in range(20)]

    def owner() -> list[Answer]:
        return [log_in(service, email, password, device) for _ in range(5)]

    def stranger() -> list[Answer]:
        return [log_in(service, email, password, headers=some_network()) for _ in range(5)]

    owners, strangers, *attacks = at_once(owner, stranger, *[attack] * 4)
    assert [answer.status for answer in owners] == [200] * 5
    assert [answer.status for answer in strangers] == [429] * 5
    assert {answer.status for part in attacks for answer in part} == {429}


def test_a_device_has_its_own_budget_in_all_processes_together(service: Service) -> None:
    person, before = service.sign_up(), failures(service)
    devices = [service.log_in(person).cookies[DEVICE_COOKIE] for _ in range(2)]
    cookies = [f"{DEVICE_COOKIE}={device}" for device in devices]
    answers = at_once(*[lambda: log_in(service, person["email"], cookie=cookies[0])] * 40)
    assert Counter(answer.status for answer in answers) == {401: ACCOUNT, 429: 40 - ACCOUNT}
    assert failures(service, before) == ACCOUNT
    statuses = [log_in(service, **person, cookie=cookie).status for cookie in cookies]
    assert statuses == [429, 200]


def test_log_ins_and_failures_of_many_at_once_never_wait_for_each_other(service: Service) -> None:
    """Each takes two budgets, gives them back after locking the account, and none is stuck: a
    deadlock would be a 503 after a second.
    """
    people = [service.sign_up() for _ in range(4)]
    for person in people:
        person["cookie"] = f"{DEVICE_COOKIE}={service.log_in(person).cookies[DEVICE_COOKIE]}"

    def work(index: int) -> list[Answer]:
        person = people[index % 4]
        cookie = person["cookie"] if index % 3 == 0 else ""
        password = WRONG if index % 8 == 1 else person["password"]
        return [log_in(service, person["email"], password, cookie) for _ in range(6)]

    parts = at_once(*[lambda i=i: work(i) for i in range(24)])
    statuses = Counter(answer.status for part in parts for answer in part)
    assert statuses.keys() <= {200, 401, 429}
    assert statuses[200] > 50


def test_log_ins_at_once_all_give_their_attempts_back(service: Service) -> None:
    person, before = service.sign_up(), failures(service)
    for _ in range(3):
        answers = at_once(*[lambda: log_in(service, **person)] * (ACCOUNT - 2))
        assert Counter(answer.status for answer in answers) == {200: ACCOUNT - 2}
    tries = [log_in(service, person["email"]).status for _ in range(ACCOUNT + 1)]
    assert tries == [401] * ACCOUNT + [429]
    assert failures(service, before) == ACCOUNT


@pytest.mark.proves("2.4.1", "2.3.2", "15.4.2")
def test_of_many_sign_ups_at_once_a_network_gets_as_many_as_it_may(service: Service) -> None:
    def sign_up() -> Answer:
        person = {"email": someone(), "password": "nine tall herons"}
        return heard(lambda: service.ask("POST", "/auth/register", **person))

    answers = at_once(*[sign_up] * 40)
    assert Counter(answer.status for answer in answers) == {201: SIGN_UPS, 429: 40 - SIGN_UPS}


@pytest.mark.proves("2.3.2", "15.4.2")
def test_of_many_requests_at_once_a_mailbox_gets_three_mails(service: Service) -> None:
    """MAILS_PER_ADDRESS, from as many networks as there are requests."""
    email = someone()

    def forget() -> Answer:
        path = "/auth/forgot-password"
        return heard(lambda: service.ask("POST", path, headers=some_network(), email=email))

    answers = at_once(*[forget] * 40)
    assert Counter(answer.status for answer in answers) == {202: 3, 429: 37}
    waiting = select(Mail).where(col(Mail.recipient) == email)
    requested = events(service, Event.PASSWORD_RESET_REQUESTED, 0)
    assert len(requested) == 3
    # Its courier may have seen by now that nobody has this address.
    assert len(service.database.run_read(lambda session: session.exec(waiting).all())) <= 3


def test_who_hangs_up_before_the_answer_has_tried_all_the_same(service: Service) -> None:
    person, before = service.sign_up(), failures(service)
    body = f'{{"email": "{person["email"]}", "password": "{WRONG}"}}'
    head = f"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = f"{head}Content-Type: application/json\r\n\r\n{body}".encode()
    for _ in range(ACCOUNT):
        address = urlsplit(service.next_address())
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(request)
    for _ in range(600):
        if failures(service, before) == ACCOUNT:
            break
        Moment().wait(0.05)
    assert failures(service, before) == ACCOUNT
    assert log_in(service, **person).status == 429


@pytest.mark.proves("7.1.2", "15.4.2", "LO-10")
def test_of_ten_log_ins_at_once_as_many_stay_as_one_may_have(service: Service) -> None:
    person = service.sign_up()
    kept = {answer.cookies[REFRESH_COOKIE] for answer in (service.log_in(person),)}
    answers = at_once(*[lambda: log_in(service, **person)] * 10)
    assert Counter(answer.status for answer in answers) == {200: 10}
    logins: list[Login] = service.logins_of(person)
    assert len(logins) == 3
    started = {answer.body["session"]["id"] for answer in answers}
    assert {str(login.id) for login in logins} <= started
    refreshed = [service.refresh(answer.cookies[REFRESH_COOKIE]).status for answer in answers]
    assert Counter(refreshed) == {200: 3, 401: 7}
    assert [service.refresh(token).code for token in kept] == ["session_revoked"]
