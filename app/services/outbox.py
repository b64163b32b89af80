"""Mails are written down in the transaction of their cause, and sent later (services/courier.py).

So none is lost when the mail server is down or this process dies, none is sent for what did not
happen, and no request waits for a mail server.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_
from sqlmodel import Session, col, select

from app.core.client import Client
from app.core.config import Settings
from app.models.mail import PURPOSES, Mail, Template


def enqueue(
    session: Session,
    settings: Settings,
    template: Template,
    recipient: str,
    client: Client,
    *,
    user_id: UUID | None = None,
    **context: Any,
) -> None:
    """context: plain JSON for the template, besides when and where from. Nothing secret.

    Without a mail server nothing is kept: years later nobody wants to hear of it.
    """
    if not settings.sends_mail:
        return
    now = datetime.now(UTC)
    context |= {
        "at": now.isoformat(timespec="seconds"),
        "ip_address": client.ip_address,
        "user_agent": client.user_agent,
        "request_id": client.request_id,
    }
    session.add(
        Mail(
            template=template,
            recipient=recipient,
            user_id=user_id,
            context=context,
            created_at=now,
            due_at=now,
        )
    )


def void_links(session: Session, email: str, user_id: UUID) -> None:
    """Mails with links that were not sent yet: what they were for has changed.

    Also those on their way to an address that is not the user's yet.
    """
    theirs = or_(col(Mail.recipient) == email, col(Mail.user_id) == user_id)
    void = delete(Mail).where(theirs, col(Mail.template).in_([*PURPOSES]))
    session.connection().execute(void)


def void_verifications(session: Session, email: str) -> None:
    """They were asked for with another password, and say so: when, and from where."""
    void = delete(Mail).where(
        col(Mail.recipient) == email, col(Mail.template) == Template.VERIFY_EMAIL
    )
    session.connection().execute(void)


def backlog(session: Session) -> tuple[int, datetime | None]:
    """How many mails wait, and since when the oldest does."""
    return session.exec(select(func.count(col(Mail.id)), func.min(Mail.created_at))).one()
