"""Administrators and the people they look after."""

from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import Session, col, select

from app.core.hashing import NO_PASSWORD
from app.models import AuditEvent, User
from tests.jars import other_browser
from tests.links import database_of
from tests.people import ADA, BOB, log_in, sign_up_and_in
from tests.rows import change_user, the_user

USERS = "/api/v1/users"


def sign_up_admin(client: TestClient, person: dict[str, str] = ADA) -> TestClient:
    """The client's own person becomes an administrator, logged in."""
    sign_up_and_in(client, person)
    change_user(database_of(client), person["email"], is_admin=True)
    return client


def sign_up_other(client: TestClient, person: dict[str, str] = BOB) -> TestClient:
    """Somebody else's browser, logged in."""
    other = other_browser(client)
    sign_up_and_in(other, person)
    return other


def log_in_elsewhere(client: TestClient, person: dict[str, str]) -> TestClient:
    other = other_browser(client)
    assert log_in(other, person).status_code == 200
    return other


def id_of(client: TestClient, person: dict[str, str]) -> UUID:
    return the_user(database_of(client), person["email"]).id


def url_of(client: TestClient, person: dict[str, str]) -> str:
    return f"{USERS}/{id_of(client, person)}"


def change(client: TestClient, person: dict[str, str], **changes: Any) -> Response:
    return client.patch(url_of(client, person), json=changes)


def invite(client: TestClient, email: str, **more: Any) -> Response:
    return client.post(USERS, json={"email": email, **more})


def add_users(client: TestClient, *emails: str, **values: Any) -> list[UUID]:
    """Rows, without the work of hashing. Returns their ids, oldest first."""
    users = [User(email=email, **{"hashed_password": NO_PASSWORD} | values) for email in emails]
    users.sort(key=lambda user: user.id)  # those of one millisecond are in no order
    for user, email in zip(users, emails, strict=True):
        user.email = email
    ids = [user.id for user in users]
    database_of(client).run_write(lambda session: session.add_all(users))
    return ids


def trail(client: TestClient) -> list[AuditEvent]:
    """Every audit event, oldest first."""

    def work(session: Session) -> list[AuditEvent]:
        return list(session.exec(select(AuditEvent).order_by(col(AuditEvent.id))))

    return database_of(client).run_read(work)


def new_events(client: TestClient, before: list[AuditEvent]) -> list[AuditEvent]:
    known = {event.id for event in before}
    return [event for event in trail(client) if event.id not in known]
