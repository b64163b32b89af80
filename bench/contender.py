"""What is measured: a server, how it is started and filled, and what it is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSWORD = "nine tall herons at dawn"


@dataclass(frozen=True)
class Request:
    """One kind of request. `{name}` is filled in from what the connection has kept.

    contains: a part of the body of every right answer.
    sets: the cookie that every right answer sets last, for wrk sees no other Set-Cookie.
    take: what the connection keeps from an answer, by name: `json:field`, or `cookie:name`, which
        has to be the last one.
    renews: the name of what must differ from one answer to the next, such as a rotated token.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 200
    contains: str = ""
    sets: str = ""
    take: Mapping[str, str] = field(default_factory=dict)
    renews: str = ""


@dataclass(frozen=True)
class Contender:
    """One server under test.

    serve: the command; `{port}`, `{database}` (a plain postgresql:// URL), `{users}` and
        `{password}` are filled in, there and in `environment` and `prepare`.
    prepare: commands that run once before it is started: migrations, then `{users}` users,
        user0@example.com and so on, with one password, already verified. `{port}` is known.
    needs: modules (`python:name`) or packages of Node (`node:name`) without which it is skipped.
    log_in: the request that begins; it runs once per connection, with {email} and {password},
        and what it takes is what the other requests have.
    works: by name: `login`, `refresh`, `me` (who am I, from the database), `check` (a valid token,
        no database).
    """

    name: str
    title: str
    serve: Sequence[str]
    folder: Path
    log_in: Request
    works: Mapping[str, Request]
    prepare: Sequence[Sequence[str]] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    ready: str = "/"  # a path that answers below 500 once the server is up
    note: str = ""  # what a reader has to know to compare

    def filled(self, text: str, values: Mapping[str, Any]) -> str:
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text
