"""Mails that tell somebody what has happened to their account."""

from uuid import UUID

from sqlmodel import Session

from app.core.client import Client
from app.models.mail import Template
from app.services import outbox, throttle
from app.services.backend import Backend


def notify(
    session: Session,
    backend: Backend,
    template: Template,
    email: str,
    client: Client,
    user_id: UUID | None = None,
) -> None:
    """At most MAILS_PER_ADDRESS of a kind an hour: an address that was never verified may be
    anybody's, and what happens often says nothing new. Of each kind the first ones come, so
    nobody silences one by causing another.
    """
    settings = backend.settings
    if settings.sends_mail and throttle.take_if_free(
        session, backend.throttle.notice(template, email)
    ):
        outbox.enqueue(session, settings, template, email, client, user_id=user_id)
