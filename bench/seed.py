"""Fills this project's database: `python -m bench.seed USERS LOGINS`, in its own environment."""

import sys
from datetime import UTC, datetime, timedelta

from sqlmodel import Session

from app.core.config import load_settings
from app.core.hashing import context
from app.core.identifiers import new_id
from app.core.moments import to_microseconds
from app.db.engine import create_database_engine
from app.models.login import Login
from app.models.user import User
from bench.contender import PASSWORD

BATCH = 5000  # rows of a statement
AGE = timedelta(minutes=10)  # of the newest token: in life nobody refreshes at once
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"


def seed(users: int, logins: int) -> None:
    """All with one password, hashed once."""
    settings, now = load_settings(), datetime.now(UTC)
    hashed, ids = context().hash(PASSWORD), [new_id() for _ in range(users)]
    with Session(create_database_engine(settings)) as session:
        for first in range(0, users, BATCH):
            session.bulk_insert_mappings(
                User,
                [
                    {
                        "id": ids[number],
                        "email": f"user{number}@example.com",
                        "hashed_password": hashed,
                        "email_verified": True,
                        "last_login_at": now,
                        "created_at": now,
                        "password_changed_at": now,
                    }
                    for number in range(first, min(first + BATCH, users))
                ],
            )
        for first in range(0, logins, BATCH):
            session.bulk_insert_mappings(
                Login,
                [
                    {
                        "id": new_id(),
                        "user_id": ids[number % users],
                        "client_id": "browser",
                        "user_agent": USER_AGENT,
                        "ip_address": "192.0.2.1",
                        "created_at": now - AGE,
                        "expires_at": now - AGE + timedelta(days=30),
                        "last": to_microseconds(now - AGE),
                    }
                    for number in range(first, min(first + BATCH, logins))
                ],
            )
        session.commit()


if __name__ == "__main__":
    seed(int(sys.argv[1]), int(sys.argv[2]))
