"""Mailed links without the mail: what the courier makes, and what waits for it."""

from fastapi.testclient import TestClient
from httpx2 import Response
from sqlmodel import Session, col, select

from app.db.session import Database
from app.models import Mail, OneTimeToken, User
from app.models.mail import Purpose
from app.services import one_time_tokens
from tests.people import ADA

MAIL = {
    "smtp_url": "smtp://127.0.0.1:9",
    "mail_from": "Example <no-reply@example.com>",
    "public_url": "https://testserver",
}


def mint(
    client: TestClient, purpose: Purpose, email: str = ADA["email"], sent_to: str | None = None
) -> str:
    """As the courier does when it sends a link to somebody."""

    def work(session: Session) -> str:
        user = session.exec(select(User).where(col(User.email) == email)).one()
        return one_time_tokens.mint(session, user.id, purpose, sent_to or email)

    return database_of(client).run_write(work)


def database_of(client: TestClient) -> Database:
    found: Database = client.app.state.backend.database  # type: ignore[attr-defined]
    return found


def outbox(client: TestClient) -> list[tuple[str, str]]:
    """Template and recipient of each mail that waits, oldest first."""

    def work(session: Session) -> list[tuple[str, str]]:
        mails = session.exec(select(Mail).order_by(col(Mail.id)))
        return [(mail.template, mail.recipient) for mail in mails]

    return database_of(client).run_read(work)


def all_tokens(client: TestClient) -> list[OneTimeToken]:
    return database_of(client).run_read(lambda session: list(session.exec(select(OneTimeToken))))


def verify(client: TestClient, token: str) -> Response:
    return client.post("/api/v1/auth/verify-email", json={"token": token})


def forgot(client: TestClient, email: str = ADA["email"]) -> Response:
    return client.post("/api/v1/auth/forgot-password", json={"email": email})


def reset(client: TestClient, token: str, password: str) -> Response:
    return client.post("/api/v1/auth/reset-password", json={"token": token, "password": password})
