"""The outbox and the courier: no mail is lost, none is sent twice, and each is the right one."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from fastapi.testclient import TestClient
from sqlalchemy import text, update
from sqlmodel import Session, select

from app.core.client import HERE
from app.core.hashing import NO_PASSWORD
from app.core.refusals import Reason, Refusal
from app.core.smtp import Unreachable
from app.main import create_app
from app.models import User
from app.models.audit import Event
from app.models.mail import Mail, OneTimeToken, Purpose, Template
from app.services import courier, outbox
from app.services.accounts import insert_or_replace
from app.services.backend import Backend
from app.services.courier import GIVE_UP, LEASE, LONGEST_PAUSE, claim, deliver_due
from app.services.letters import Letter
from app.services.recovery import set_password
from tests.conftest import ClientFactory, make_settings
from tests.journal import Journal
from tests.links import forgot
from tests.mailbox import (
    Mailbox,
    database_of,
    make_due,
    smtp_server,
    text_of,
    waiting,
    write_to,
)
from tests.people import ADA, BOB, log_in, register, sign_up_and_in
from tests.rows import audited, change_user, execute, statements, the_user

VERIFY = "/api/v1/auth/verify-email"


@pytest.fixture
def client(make_client: ClientFactory, mailbox: Mailbox) -> TestClient:
    return make_client(**mailbox.settings)


@pytest.fixture
def journal(client: TestClient) -> Journal:
    """After the client, whose start sets the log up."""
    return Journal()


@pytest.fixture
def ada(client: TestClient, mailbox: Mailbox) -> User:
    """Signed up, her mail received."""
    register(client)
    mailbox.receive(client)
    mailbox.arrivals.clear()
    return the_user(database_of(client), ADA["email"])


def tokens(client: TestClient) -> list[OneTimeToken]:
    return database_of(client).run_read(lambda session: list(session.exec(select(OneTimeToken))))


def subjects(mailbox: Mailbox) -> list[str]:
    return [message["Subject"] for message in mailbox.messages]


def change_mails(client: TestClient, **values: Any) -> None:
    database_of(client).run_write(execute, update(Mail).values(**values))


# From its cause to its delivery


def test_who_signs_up_gets_a_link_that_confirms_the_address(
    client: TestClient, mailbox: Mailbox
) -> None:
    register(client)
    (message,) = mailbox.receive(client)
    assert message["To"] == ADA["email"]
    assert client.post(VERIFY, json={"token": mailbox.token_in(message)}).status_code == 204
    assert the_user(database_of(client), ADA["email"]).email_verified


def test_what_is_sent_leaves_the_outbox(client: TestClient, mailbox: Mailbox) -> None:
    register(client)
    assert len(waiting(client)) == 1
    mailbox.receive(client)
    assert waiting(client) == []
    assert mailbox.receive(client) == []


@pytest.mark.proves("2.3.3")
def test_what_did_not_happen_is_not_mailed(client: TestClient, mailbox: Mailbox) -> None:
    """The mail is in the transaction of its cause."""

    def fail(session: Session) -> None:
        settings = client.app.state.backend.settings  # type: ignore[attr-defined]
        outbox.enqueue(session, settings, Template.PASSWORD_CHANGED, ADA["email"], HERE)
        session.flush()
        raise Refusal(Reason.EMAIL_TAKEN)

    with pytest.raises(Refusal):
        database_of(client).run_write(fail)
    assert mailbox.receive(client) == []


def test_without_a_mail_server_nothing_is_kept_for_later(make_client: ClientFactory) -> None:
    client = make_client()
    register(client)
    assert waiting(client) == []


@pytest.mark.proves("16.2.5", "CS-EMAIL-LOG")
def test_a_token_is_in_the_mail_and_nowhere_else(
    client: TestClient, mailbox: Mailbox, journal: Journal
) -> None:
    """Not in the outbox, also of a mail that was refused; not in the tokens' table; in no log."""
    register(client)
    mailbox.refusals["MESSAGE"] = "451 try again later"
    deliver_due(client.app.state.backend)  # type: ignore[attr-defined]
    (refused,) = mailbox.turned_away
    del mailbox.refusals["MESSAGE"]
    rows = repr(waiting(client)) + repr(tokens(client))
    make_due(client)
    (message,) = mailbox.receive(client)
    rows += repr(waiting(client)) + repr(tokens(client))
    assert len(tokens(client)) == 2
    for token in (mailbox.token_in(refused.message), mailbox.token_in(message)):
        assert token not in rows
        assert token not in journal.text
    assert ADA["email"] not in journal.text
    assert [entry["reason"] for entry in journal.events("mail_retried")] == ["DATA: 451"]
    assert len(journal.events("mail_sent")) == 1


@pytest.mark.proves("16.2.5")
def test_a_refusal_that_quotes_the_link_is_not_logged(
    client: TestClient, mailbox: Mailbox, journal: Journal
) -> None:
    """As spam filters do."""
    register(client)
    mailbox.refusals["MESSAGE"] = "554 5.7.1 Blocked: https://auth.example.com/#token=canary"
    mailbox.receive(client)
    assert journal.events("mail_retried")[0]["reason"] == "DATA: 554 5.7.1"
    assert "canary" not in journal.text


@pytest.mark.proves("EV-04", "11.5.1")
def test_no_two_links_have_anything_in_common(client: TestClient, mailbox: Mailbox) -> None:
    register(client)
    for _ in range(20):
        write_to(client, Template.VERIFY_EMAIL, ADA["email"])
    mailbox.receive(client)
    found = [mailbox.token_in(message) for message in mailbox.messages]
    assert len(set(found)) == 21
    assert {len(token) for token in found} == {43}
    assert len({token[:4] for token in found}) > 18


def test_the_clock_of_a_link_begins_when_it_is_sent(client: TestClient, mailbox: Mailbox) -> None:
    """A mail server that was down for two days takes nothing from it."""
    register(client)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=2)):
        (message,) = mailbox.receive(client)
        answer = client.post(VERIFY, json={"token": mailbox.token_in(message)})
    assert answer.status_code == 204


# Which mail it has to be


def nobody(client: TestClient) -> None:
    database_of(client).run_write(lambda session: session.delete(session.exec(select(User)).one()))


def disabled(client: TestClient) -> None:
    change_user(database_of(client), ADA["email"], is_active=False)


def verified(client: TestClient) -> None:
    change_user(database_of(client), ADA["email"], email_verified=True)


def invited(client: TestClient) -> None:
    change_user(database_of(client), ADA["email"], hashed_password=NO_PASSWORD)


def as_they_are(client: TestClient) -> None:
    """Signed up, and not verified."""


VERIFICATION, RESET, INVITATION = (
    Template.VERIFY_EMAIL,
    Template.RESET_PASSWORD,
    Template.INVITATION,
)
DECISIONS: list[tuple[Template, Callable[[TestClient], None], bool, str | None]] = [
    (VERIFICATION, as_they_are, False, "/verify-email"),
    (VERIFICATION, as_they_are, True, "/verify-email"),
    (VERIFICATION, invited, True, "/reset-password"),
    (VERIFICATION, verified, False, None),
    (VERIFICATION, verified, True, "already"),
    (VERIFICATION, disabled, True, None),
    (VERIFICATION, nobody, True, None),
    (RESET, as_they_are, False, "/reset-password"),
    (RESET, verified, False, "/reset-password"),
    (RESET, invited, False, "/reset-password"),
    (RESET, disabled, False, None),
    (RESET, nobody, False, None),
    (INVITATION, invited, False, "/reset-password"),
    (INVITATION, as_they_are, False, None),
    (INVITATION, disabled, False, None),
    (INVITATION, nobody, False, None),
]


@pytest.mark.proves("EN-03", "EN-04", "6.3.8")
@pytest.mark.parametrize(("template", "state", "new", "expected"), DECISIONS)
def test_the_courier_finds_out_what_the_request_must_not_tell(
    client: TestClient,
    mailbox: Mailbox,
    ada: User,
    template: Template,
    state: Callable[[TestClient], None],
    new: bool,
    expected: str | None,
) -> None:
    state(client)
    write_to(client, template, ADA["email"], **({"new": True} if new else {}))
    received = mailbox.receive(client)
    assert waiting(client) == []
    if expected is None:
        assert received == []
        return
    (message,) = received
    if expected == "already":
        assert expected in message["Subject"]
        assert mailbox.links() == []
    else:
        (link,) = mailbox.links()
        assert f"{expected}#token=" in link


def test_an_invitation_lives_as_long_as_its_mail_says(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    invited(client)
    before = {token.token_hash for token in tokens(client)}
    write_to(client, Template.INVITATION, ADA["email"])
    (message,) = mailbox.receive(client)
    assert "24 hours" in text_of(message)
    (token,) = [token for token in tokens(client) if token.token_hash not in before]
    assert token.purpose == Purpose.RESET_PASSWORD
    assert token.expires_at - token.created_at == timedelta(hours=24)


def test_a_mail_for_an_account_that_was_deleted_is_not_for_the_next_one(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    """With the same address, and another owner perhaps."""
    write_to(client, Template.RESET_PASSWORD, ADA["email"], user_id=ada.id)
    nobody(client)
    register(client)
    mailbox.receive(client)
    assert not any("reset-password" in link for link in mailbox.links())


NEW = "ada@elsewhere.example.com"


def wish_for(client: TestClient, user: User, address: str = NEW) -> None:
    write_to(client, Template.CONFIRM_EMAIL, address, user_id=user.id)


@pytest.mark.proves("EM-06", "CS-AUTH-EMAIL")
def test_a_new_address_is_confirmed_from_there(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    wish_for(client, ada)
    (message,) = mailbox.receive(client)
    assert message["To"] == NEW
    (link,) = mailbox.links()
    assert "/confirm-email#token=" in link
    assert tokens(client)[-1].email == NEW


@pytest.mark.proves("EM-06")
def test_of_two_wishes_for_a_new_address_the_last_one_counts(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    wish_for(client, ada)
    wish_for(client, ada, "ada@third.example.com")
    mailbox.receive(client)
    confirming = [t for t in tokens(client) if t.purpose == Purpose.CONFIRM_EMAIL]
    assert [token.email for token in confirming] == ["ada@third.example.com"]
    assert any(token.purpose == Purpose.VERIFY_EMAIL for token in tokens(client))


@pytest.mark.proves("EM-06")
def test_whether_a_new_address_is_taken_is_for_its_mailbox_to_know(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    register(client, BOB)
    mailbox.receive(client)
    mailbox.arrivals.clear()
    wish_for(client, ada, BOB["email"])
    (message,) = mailbox.receive(client)
    assert message["To"] == BOB["email"]
    assert "already" in message["Subject"]
    assert mailbox.links() == []


@pytest.mark.parametrize("state", [nobody, disabled])
def test_a_wish_for_a_new_address_ends_with_the_account(
    client: TestClient, mailbox: Mailbox, ada: User, state: Callable[[TestClient], None]
) -> None:
    wish_for(client, ada)
    state(client)
    assert mailbox.receive(client) == []
    assert waiting(client) == []


def test_a_notice_goes_out_also_where_the_account_is_gone(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    """A thief who changes the password and deletes the account must not silence it."""
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"], user_id=ada.id)
    nobody(client)
    (message,) = mailbox.receive(client)
    assert "password" in message["Subject"]


@pytest.mark.proves("PW-05")
def test_links_that_were_not_sent_yet_are_void_with_the_password(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    """Between the claim and the making of the token, even: it looks again under the user's lock."""
    write_to(client, Template.RESET_PASSWORD, ADA["email"])
    database = database_of(client)
    mail = database.run_write(claim, datetime.now(UTC))
    assert mail
    database.run_write(outbox.void_links, ADA["email"], ada.id)
    assert database.run_write(courier.prepare, mail) is None
    assert {token.purpose for token in tokens(client)} == {Purpose.VERIFY_EMAIL}


def sign_up_again(session: Session, backend: Backend) -> None:
    user = User(email=ADA["email"], hashed_password="another one")
    insert_or_replace(session, backend, user, HERE)


def choose_another_password(session: Session, backend: Backend) -> None:
    user = session.exec(select(User).with_for_update()).one()
    set_password(session, backend, user, "another one", HERE)


@pytest.mark.proves("PW-05", "CS-EMAIL-VERIFY", "15.4.2")
@pytest.mark.parametrize("change", [sign_up_again, choose_another_password])
def test_no_link_is_made_for_a_password_that_is_just_being_replaced(
    mailbox: Mailbox, postgresql_url: str, change: Callable[[Session, Backend], None]
) -> None:
    """Whoever signed up with somebody else's address would have it confirmed by the link that its
    owner asked for. PostgreSQL lets the two happen at the same time; SQLite has one writer.
    """
    with TestClient(create_app(make_settings(postgresql_url, **mailbox.settings))) as client:
        register(client)
        backend: Backend = client.app.state.backend  # type: ignore[attr-defined]
        database = backend.database
        mail = database.run_write(claim, datetime.now(UTC))
        assert mail

        def change_while_it_is_prepared(session: Session) -> Future[Letter | None]:
            change(session, backend)
            session.flush()
            preparing = threads.submit(database.run_write, courier.prepare, mail)
            wait_for_lock(session)
            return preparing

        with ThreadPoolExecutor(1) as threads:
            preparing = database.run_write(change_while_it_is_prepared)
            assert preparing.result(30) is None
        assert tokens(client) == []


def test_signing_up_again_locks_the_user_before_it_voids_their_links(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    """The other way round, the courier could make a link between the two."""
    client = make_client(**mailbox.settings, require_verified_email=True)
    register(client)
    with statements(database_of(client)) as sent:
        register(client)
    order = [statement.split("(")[0].split("WHERE")[0].strip() for statement in sent]
    insert = order.index("INSERT INTO users")
    for deletion in ("DELETE FROM one_time_tokens", "DELETE FROM outbox"):
        assert order.index(deletion) > insert


def wait_for_lock(session: Session) -> None:
    """Until somebody waits for what this transaction holds."""
    mine = "SELECT pg_backend_pid()"
    waiting = text(f"SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> ({mine})")
    deadline = time.monotonic() + 4.9  # the other one waits for 5 seconds
    while not session.connection().execute(waiting).scalar():
        assert time.monotonic() < deadline, "nobody waits"


@pytest.mark.proves("16.3.1")
def test_the_owner_of_an_account_sees_who_asked_for_a_link(
    client: TestClient, mailbox: Mailbox
) -> None:
    sign_up_and_in(client)
    mailbox.receive(client)
    request = forgot(client)
    forgot(client, "nobody@example.com")
    mailbox.refusals["DATA"] = "451 4.3.0 try again"
    mailbox.receive(client)  # an attempt that fails is no second link to its owner
    activity = client.get("/api/v1/users/me/activity").json()["items"]
    sent = [event for event in activity if event["event"] == "link_sent"]
    assert [event["details"] for event in sent] == [
        {"template": "reset_password"},
        {"template": "verify_email"},
    ]
    assert sent[0]["ip_address"] == "testclient"
    trail = audited(database_of(client), Event.LINK_SENT)
    assert trail[-1].request_id == request.headers["x-request-id"]


# Failures


def test_a_server_that_is_down_costs_a_mail_nothing(make_client: ClientFactory) -> None:
    with smtp_server() as mailbox:
        settings = mailbox.settings
    client = make_client(**settings)
    backend = client.app.state.backend  # type: ignore[attr-defined]
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    for _ in range(3):
        with pytest.raises(Unreachable):
            deliver_due(backend)
    (mail,) = waiting(client)
    assert mail.attempts == 0
    with smtp_server(port=mailbox.port) as mailbox:
        assert len(mailbox.receive(client)) == 1


def test_the_pause_grows_with_each_failure_up_to_an_hour(
    client: TestClient, mailbox: Mailbox
) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    mailbox.refusals["RCPT"] = "450 4.2.1 mailbox busy"
    pauses = []
    for _ in range(14):
        before = datetime.now(UTC)
        assert mailbox.receive(client) == []
        pauses.append(waiting(client)[0].due_at - before)
        make_due(client)
    assert timedelta(seconds=4) < pauses[0] < timedelta(seconds=15)
    assert all(later > pauses[i] for i, later in enumerate(pauses[2:7]))
    assert max(pauses) <= LONGEST_PAUSE + timedelta(minutes=1)
    assert min(pauses[-3:]) >= LONGEST_PAUSE / 2
    mailbox.refusals.clear()
    assert len(mailbox.receive(client)) == 1


def test_it_is_not_tried_again_before_its_pause_is_over(
    client: TestClient, mailbox: Mailbox
) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    mailbox.refusals["RCPT"] = "450 busy"
    mailbox.receive(client)
    mailbox.refusals.clear()
    assert mailbox.receive(client) == []
    assert mailbox.steps.count("RCPT") == 1


@pytest.mark.proves("16.5.2")
@pytest.mark.parametrize("code", ["450", "550"])
def test_one_that_is_refused_does_not_hold_up_the_others(
    client: TestClient, mailbox: Mailbox, code: str
) -> None:
    people = ["one@example.com", "two@example.com", "three@example.com"]
    for person in people:
        write_to(client, Template.PASSWORD_CHANGED, person)
    mailbox.refused_recipients["one@example.com"] = f"{code} no"
    received = mailbox.receive(client)
    assert [message["To"] for message in received] == people[1:]
    assert [mail.recipient for mail in waiting(client)] == people[:1]
    assert mailbox.connections == 1


@pytest.mark.proves("16.3.4")
def test_one_that_cannot_be_written_does_not_hold_up_the_others(
    client: TestClient, mailbox: Mailbox, journal: Journal
) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    change_mails(client, context={})
    write_to(client, Template.PASSWORD_CHANGED, BOB["email"])
    (message,) = mailbox.receive(client)
    assert message["To"] == BOB["email"]
    assert [mail.recipient for mail in waiting(client)] == [ADA["email"]]
    assert journal.events("mail_retried")[0]["reason"] == "KeyError"
    assert any(entry["level"] == "error" for entry in journal.entries if "traceback" in entry)


def test_a_process_that_dies_before_sending_delays_it_by_its_lease(
    client: TestClient, mailbox: Mailbox
) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    now = datetime.now(UTC)
    assert database_of(client).run_write(claim, now)  # and no more is heard of it
    assert mailbox.receive(client) == []
    with time_machine.travel(now + LEASE + timedelta(seconds=1)):
        assert len(mailbox.receive(client)) == 1


def test_a_process_that_dies_after_sending_sends_it_once_more_and_not_again(
    client: TestClient, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    with monkeypatch.context() as dead:
        dead.setattr(courier.Courier, "_delete_sent", lambda *_: None)
        assert len(mailbox.receive(client)) == 1
    assert mailbox.receive(client) == []
    make_due(client)
    assert len(mailbox.receive(client)) == 1
    make_due(client)
    assert mailbox.receive(client) == []


def test_a_database_that_is_away_after_sending_does_not_make_it_go_out_again(
    client: TestClient, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [Refusal(Reason.DATABASE_UNAVAILABLE), Refusal(Reason.BUSY)]
    delete = courier.delete_claimed

    def delete_when_back(session: Session, mail: Mail) -> None:
        if away:
            raise away.pop()
        delete(session, mail)

    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    monkeypatch.setattr(courier, "delete_claimed", delete_when_back)
    monkeypatch.setattr(courier, "LOOK", 0.01)
    assert len(mailbox.receive(client)) == 1
    assert waiting(client) == []


def test_who_comes_late_does_not_touch_what_is_another_ones_now(
    client: TestClient, mailbox: Mailbox
) -> None:
    """A process that slept past its lease: neither its success nor its failure counts."""
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    database = database_of(client)
    late = database.run_write(claim, datetime.now(UTC))
    assert late
    make_due(client)
    current = database.run_write(claim, datetime.now(UTC))
    assert current
    database.run_write(courier.delete_claimed, late)
    database.run_write(courier.postpone, late, datetime.now(UTC) - timedelta(hours=1))
    (mail,) = waiting(client)
    assert (mail.attempts, mail.due_at) == (2, current.due_at)


@pytest.mark.parametrize("is_down", [True, False])
def test_it_is_given_up_after_three_days_and_an_operator_hears_of_it(
    client: TestClient, mailbox: Mailbox, journal: Journal, is_down: bool
) -> None:
    register(client)
    if is_down:
        mailbox.refusals["CONNECT"] = "421 closed"
    change_mails(client, created_at=datetime.now(UTC) - GIVE_UP)
    (mail,) = waiting(client)
    assert mailbox.receive(client) == []
    assert waiting(client) == []
    (entry,) = journal.events("mail_abandoned")
    assert (entry["level"], entry["template"]) == ("error", "verify_email")
    assert entry["mail_id"] == str(mail.id)
    assert ADA["email"] not in journal.text


def test_a_moment_before_it_is_still_sent(client: TestClient, mailbox: Mailbox) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    change_mails(client, created_at=datetime.now(UTC) - GIVE_UP + timedelta(minutes=1))
    assert len(mailbox.receive(client)) == 1


def test_one_that_is_being_sent_is_not_given_up(client: TestClient, mailbox: Mailbox) -> None:
    write_to(client, Template.PASSWORD_CHANGED, ADA["email"])
    change_mails(client, created_at=datetime.now(UTC) - GIVE_UP)
    database_of(client).run_write(claim, datetime.now(UTC))
    mailbox.receive(client)
    assert len(waiting(client)) == 1


def test_a_login_that_was_never_seen_is_told_of(
    client: TestClient, mailbox: Mailbox, ada: User
) -> None:
    log_in(client)
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko Firefox/140.0"}
    other = TestClient(client.app, base_url="https://testserver", headers=browser)
    mailbox.receive(client)
    mailbox.arrivals.clear()
    log_in(other)
    (message,) = mailbox.receive(client)
    assert "new device" in message["Subject"]
    assert "Firefox on Linux" in text_of(message)
