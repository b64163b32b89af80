"""Every refresh token that was handed out, and every one that the database has committed.

A rotation that was acknowledged and then lost heals with the next one: looked at afterwards, the
login is as it should be. So triggers write each down, in the transaction that it is made in.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import aiohttp
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from torture.jar import REFRESH_COOKIE, Jar

WRITE_DOWN: dict[str, Sequence[str]] = {
    "sqlite": (
        "CREATE TABLE issued (login_id TEXT NOT NULL, n BIGINT NOT NULL)",
        "CREATE TRIGGER first_issued AFTER INSERT ON logins"
        " BEGIN INSERT INTO issued VALUES (NEW.id, NEW.last); END",
        "CREATE TRIGGER next_issued AFTER UPDATE OF last ON logins"
        " BEGIN INSERT INTO issued VALUES (NEW.id, NEW.last); END",
    ),
    "postgresql": (
        "CREATE TABLE issued (login_id UUID NOT NULL, n BIGINT NOT NULL)",
        "CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN INSERT INTO issued VALUES (NEW.id, NEW.last); RETURN NULL; END'",
        "CREATE TRIGGER issued AFTER INSERT OR UPDATE OF last ON logins"
        " FOR EACH ROW EXECUTE FUNCTION write_down()",
    ),
}
TAKE_OUT = "DELETE FROM issued RETURNING login_id, n"


class Issued(NamedTuple):
    """A refresh token's place in the life of its login."""

    login_id: UUID
    n: int


class Recorder(Jar):
    """Remembers each refresh token that an answer has brought. given: may be several jars' list."""

    def __init__(
        self, http: aiohttp.ClientSession, address: str, email: str, given: list[Issued]
    ) -> None:
        super().__init__(http, address, email)
        self.given = given

    def _keep(self, lines: list[str]) -> None:
        super()._keep(lines)
        if any(line.startswith(f"{REFRESH_COOKIE}=ey") for line in lines):
            self.given.append(issued(self.cookies[REFRESH_COOKIE]))


def issued(token: str) -> Issued:
    """Without a look at the signature."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return Issued(UUID(claims["sid"]), claims["n"])


class Ledger:
    """Of a migrated database."""

    def __init__(self, url: str, **connect: str) -> None:
        drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg2"}
        named = make_url(url)
        named = named.set(drivername=drivers[named.get_backend_name()])
        self._engine = create_engine(named, poolclass=NullPool, connect_args=connect)
        with self._engine.begin() as connection:
            for statement in WRITE_DOWN[self._engine.dialect.name]:
                connection.execute(text(statement))

    def take_out(self) -> set[Issued]:
        """What has been committed since the last time."""
        with self._engine.begin() as connection:
            rows = connection.execute(text(TAKE_OUT))
            return {Issued(UUID(str(login_id)), n) for login_id, n in rows}
