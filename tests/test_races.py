"""Really at the same time: real servers, real sockets, and on both databases several processes."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event
from uuid import UUID, uuid4

import pytest
from sqlmodel import col, select

from app.core.hashing import context
from app.db.session import Database
from app.main import create_app
from app.models import User
from tests.conftest import make_settings, migrate, running_server
from tests.jars import ACCESS_COOKIE, REFRESH_COOKIE, claims
from tests.postgres import fresh_database
from tests.processes import PASSWORD, ROOMY, Answer, Service, at_once, processes_serving
from tests.rows import change_password

FIFTY = 50


@pytest.fixture(
    scope="module", params=["sqlite", "sqlite by two processes", "postgresql by two processes"]
)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with ExitStack() as stack:
        if request.param.startswith("sqlite"):
            shutil.copy(request.getfixturevalue("migrated_sqlite"), folder / "app.db")
            url = f"sqlite:///{folder}/app.db"
        else:
            server = request.getfixturevalue("postgresql_server")
            url = stack.enter_context(fresh_database(server))
            migrate(url)
        if request.param == "sqlite":
            app = create_app(make_settings(url, **ROOMY))
            addresses = [stack.enter_context(running_server(app))]
        else:
            addresses = stack.enter_context(processes_serving(url, folder, count=2, **ROOMY))
        database = Database(make_settings(url))
        stack.callback(database.close)
        yield Service(addresses, database)


# Refreshes


@pytest.mark.proves("2.3.4", "15.4.2", "RT-04")
def test_fifty_refreshes_of_one_token_at_once_all_succeed(service: Service) -> None:
    person = service.sign_up()
    token = service.log_in(person).cookies[REFRESH_COOKIE]
    answers = at_once(*[lambda: service.refresh(token)] * FIFTY)
    assert Counter(answer.status for answer in answers) == {200: FIFTY}

    issued = [answer.cookies[REFRESH_COOKIE] for answer in answers]
    numbers = [claims(refresh_token)["n"] for refresh_token in issued]
    assert len({*issued, token}) == FIFTY + 1
    assert len({*numbers}) == FIFTY
    (login,) = service.logins_of(person)
    assert login.last == max(numbers)
    assert login.candidate_n == claims(token)["n"]
    assert login.witness_n is None
    assert {answer.body["session"]["id"] for answer in answers} == {str(login.id)}


def test_whichever_of_fifty_answers_is_kept_it_goes_on(service: Service) -> None:
    token = service.log_in(service.sign_up()).cookies[REFRESH_COOKIE]
    answers = at_once(*[lambda: service.refresh(token)] * FIFTY)
    again = at_once(*[lambda a=a: service.refresh(a.cookies[REFRESH_COOKIE]) for a in answers])
    assert Counter(answer.status for answer in again) == {200: FIFTY}
    accesses = {answer.cookies[ACCESS_COOKIE] for answer in again}
    assert {service.who_am_i(access).status for access in [*accesses][:5]} == {200}


def test_many_logins_refresh_at_once_without_mixing(service: Service) -> None:
    people = [service.sign_up() for _ in range(5)]
    tokens = [service.log_in(person).cookies[REFRESH_COOKIE] for person in people]
    answers = at_once(*[lambda t=t: service.refresh(t) for t in tokens * 6])
    assert Counter(answer.status for answer in answers) == {200: 30}
    for person, token in zip(people, tokens, strict=True):
        (login,) = service.logins_of(person)
        numbers = [
            claims(answer.cookies[REFRESH_COOKIE])["n"]
            for answer in answers
            if answer.body["session"]["id"] == claims(token)["sid"]
        ]
        assert len({*numbers}) == 6
        assert login.last == max(numbers)


# A log-out against refreshes


def refresh_until_refused(service: Service, token: str) -> list[Answer]:
    answers = [service.refresh(token)]
    while answers[-1].status == 200 and len(answers) < 200:
        answers.append(service.refresh(answers[-1].cookies[REFRESH_COOKIE]))
    return answers


@pytest.mark.proves("7.4.1")
def test_no_refresh_that_starts_after_a_log_out_gets_a_token(service: Service) -> None:
    person = service.sign_up()
    for _ in range(20):
        started = service.log_in(person).cookies
        token = started[REFRESH_COOKIE]
        cookie = f"{REFRESH_COOKIE}={token}; {ACCESS_COOKIE}={started[ACCESS_COOKIE]}"
        (log_out,), *refreshing = at_once(
            lambda cookie=cookie: [service.ask("POST", "/auth/logout", cookie)],
            *[lambda token=token: refresh_until_refused(service, token)] * 4,
        )
        refreshes = [answer for answers in refreshing for answer in answers]
        assert log_out.status == 204
        assert {answer.status for answer in refreshes} <= {200, 401}
        too_late = [a for a in refreshes if a.status == 200 and a.started_at > log_out.ended_at]
        assert too_late == []
        refused = [answer.code for answer in refreshes if answer.status == 401]
        assert refused == ["session_revoked"] * 4
        assert service.logins_of(person) == []
        for answer in refreshes:
            if answer.status == 200:
                assert service.refresh(answer.cookies[REFRESH_COOKIE]).code == "session_revoked"
                assert service.who_am_i(answer.cookies[ACCESS_COOKIE]).code == "session_revoked"


def test_ending_all_sessions_while_they_refresh_leaves_none(service: Service) -> None:
    person = service.sign_up()
    for _ in range(5):
        devices = [service.log_in(person).cookies for _ in range(3)]
        access = f"{ACCESS_COOKIE}={devices[0][ACCESS_COOKIE]}"
        path = "/users/me/sessions?include_current=true"
        (ended,), *refreshing = at_once(
            lambda path=path, access=access: [service.ask("DELETE", path, access)],
            *[lambda d=d: refresh_until_refused(service, d[REFRESH_COOKIE]) for d in devices],
        )
        assert ended.status == 204
        assert [answers[-1].code for answers in refreshing] == ["session_revoked"] * 3
        assert service.logins_of(person) == []


# Registrations of one address


@pytest.mark.proves("2.3.4", "15.4.2", "EM-08")
def test_of_twenty_registrations_of_one_address_exactly_one_wins(service: Service) -> None:
    name = uuid4().hex
    spellings = [name + "@example.com", name.upper() + "@EXAMPLE.com", f" {name}@Example.Com "]
    people = [{"email": spellings[i % 3], "password": f"{PASSWORD} {i}"} for i in range(20)]
    answers = at_once(*[lambda p=p: service.ask("POST", "/auth/register", **p) for p in people])
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 19}
    assert {answer.code for answer in answers if answer.status == 409} == {"email_taken"}
    (won,) = [i for i, answer in enumerate(answers) if answer.status == 201]
    stored = select(User).where(col(User.email) == spellings[0])
    (user,) = service.database.run_read(lambda session: session.exec(stored).all())
    assert str(user.id) == answers[won].body["id"]
    assert service.log_in(people[won]).body["user"]["id"] == str(user.id)
    assert service.ask("POST", "/auth/login", **people[won - 1]).status == 401


# A log-in against a change of the password


@pytest.mark.real_hashes  # that is the time in which it may change
def test_no_log_in_with_the_former_password_survives_its_change(service: Service) -> None:
    person = service.sign_up()
    other = person | {"password": "a quite different passphrase"}
    hashes = {p["password"]: context().hash(p["password"]) for p in (person, other)}
    log_in = service.log_in(person)
    takes = log_in.ended_at - log_in.started_at
    statuses = Counter[int]()
    rounds = 16
    for number in range(rounds):
        former, new = (person, other) if number % 2 == 0 else (other, person)
        delay = 4 * takes * number / rounds  # before, during and after the hashing

        def change(new: dict[str, str] = new, delay: float = delay) -> list[Answer]:
            Event().wait(delay)
            hashed = hashes[new["password"]]
            service.database.run_write(change_password, person["email"], hashed)
            return []

        def try_former(former: dict[str, str] = former) -> list[Answer]:
            return [service.ask("POST", "/auth/login", **former)]

        _, *tries = at_once(change, try_former, try_former)
        assert service.logins_of(person) == []
        for (answer,) in tries:
            statuses[answer.status] += 1
            if answer.status == 200:
                assert service.who_am_i(answer.cookies[ACCESS_COOKIE]).code == "session_revoked"
    assert statuses.keys() == {200, 401}


def test_log_ins_at_once_upgrade_an_old_hash_together(service: Service) -> None:
    person = service.sign_up()
    old_hash = "$2b$04$ELWVpfw/hJr8/WSe0uGoAOYjVyuarTggz56bOcMZwCprhLwjAq9Rm"
    service.database.run_write(change_password, person["email"], old_hash)
    answers = at_once(*[lambda: service.ask("POST", "/auth/login", **person)] * 6)
    assert Counter(answer.status for answer in answers) == {200: 6}


# Sessions


@pytest.mark.proves("15.4.2")
def test_of_twenty_deletions_of_one_session_exactly_one_finds_it(service: Service) -> None:
    person = service.sign_up()
    here = service.log_in(person)
    there = service.log_in(person)
    access = f"{ACCESS_COOKIE}={here.cookies[ACCESS_COOKIE]}"
    path = f"/users/me/sessions/{UUID(there.body['session']['id'])}"
    answers = at_once(*[lambda: service.ask("DELETE", path, access)] * 20)
    assert Counter(answer.status for answer in answers) == {204: 1, 404: 19}
    assert [str(login.id) for login in service.logins_of(person)] == [here.body["session"]["id"]]


def test_of_twenty_log_ins_that_bring_the_same_login_along_none_keeps_it(
    service: Service,
) -> None:
    person = service.sign_up()
    brought = service.log_in(person).cookies[REFRESH_COOKIE]
    cookie = f"{REFRESH_COOKIE}={brought}"
    answers = at_once(*[lambda: service.ask("POST", "/auth/login", cookie, **person)] * 20)
    assert Counter(answer.status for answer in answers) == {200: 20}
    assert len(service.logins_of(person)) == 20
    assert service.refresh(brought).code == "session_revoked"


@pytest.mark.proves("15.2.2")
def test_a_flood_of_log_ins_does_not_hold_up_those_who_are_logged_in(service: Service) -> None:
    """Hashing waits in a queue of its own."""
    person = service.sign_up()
    token = service.log_in(person).cookies[REFRESH_COOKIE]
    wrong = person | {"password": "a wrong one, many times"}
    refreshed, *flood = at_once(
        lambda: service.refresh(token),
        *[lambda: service.ask("POST", "/auth/login", **wrong)] * 30,
    )
    assert refreshed.status == 200
    assert Counter(answer.status for answer in flood) == {401: 30}
    overtaken = [answer for answer in flood if answer.ended_at > refreshed.ended_at]
    assert len(overtaken) > 15
