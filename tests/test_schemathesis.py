"""The OpenAPI document against the running service: what the one promises, the other keeps.

Schemathesis makes requests out of the document, valid ones and invalid ones, and compares each
answer with what is written there: no 500, documented status, content type, headers and body, valid
data accepted and invalid data refused, no operation without its authentication, no method that is
not documented. It is derandomized, so every run sends the same.
"""

import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx2
import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies
from schemathesis import Case, CheckContext
from schemathesis.core.failures import Failure
from sqlmodel import Session, col, delete, select

from app.core.moments import to_microseconds
from app.core.refusals import Reason
from app.core.tokens import ClientId
from app.main import create_app
from app.models import Login, User
from app.services.backend import Backend
from tests.conftest import make_settings, migrate, running_server
from tests.links import MAIL
from tests.operations import DOCUMENT, OPERATIONS, Json
from tests.postgres import fresh_database
from tests.rows import the_user

SESSIONS = "/api/v1/users/me/sessions"
END_SESSION = "DELETE /api/v1/users/me/sessions/{session_id}"
REGISTER = next(operation for operation in OPERATIONS if operation.name == "register")
ADMIN = "admin@example.com"
LIMITS = (
    *("login_attempts_per_account", "login_attempts_per_network"),
    *("mails_per_address", "sign_ups_per_network"),
)
UNLIMITED = dict.fromkeys(LIMITS, 1000)

# Which parameters are needed depends on the grant; and no schema can say which tokens are alive.
REFUSED_WITH_400 = {"token", "verify_email", "reset_password", "confirm_email"}
# No schema can say which passwords are common. What else may be the reason is checked below.
REFUSED_WITH_422 = {
    *("register", "change_password", "reset_password"),
    *("update_me", "invite_user", "change_user", "list_users"),
}

CONFIG = schemathesis.Config.from_dict(
    {
        "generation": {
            "deterministic": True,
            "max-examples": 15,
            "database": "none",
            # The tests decide who asks. Whether a token is asked for is a check of its own.
            "with-security-parameters": False,
        },
        # What it learns from answers differs from run to run.
        "phases": {
            "coverage": {"extra-data-sources": {"responses": False}},
            "fuzzing": {
                "extra-data-sources": {"responses": False},
                "error-feedback": {"enabled": False},
            },
        },
        # Every check is on. Some accept a status more, for valid data that is refused.
        "operations": [
            {
                "include-operation-id": name,
                "checks": {
                    "positive_data_acceptance": {
                        "expected-statuses": [
                            *("2xx", "401", "403", "404", "409", "429"),
                            *("400" for _ in range(name in REFUSED_WITH_400)),
                            *("422" for _ in range(name in REFUSED_WITH_422)),
                        ]
                    }
                },
            }
            for name in sorted(REFUSED_WITH_400 | REFUSED_WITH_422)
        ],
    }
)


def as_bearer(document: Json) -> Json:
    """In a request the password flow is a Bearer header. Schemathesis leaves oauth2 unchecked."""
    changed = deepcopy(document)
    changed["components"]["securitySchemes"]["Password"] = {"type": "http", "scheme": "bearer"}
    return changed


def only(document: Json, paths: str) -> Json:
    """Its operations under the paths that begin so."""
    kept = {path: found for path, found in document["paths"].items() if re.match(paths, path)}
    return document | {"paths": kept}


schema = schemathesis.openapi.from_dict(as_bearer(DOCUMENT), config=CONFIG)

administration = schemathesis.openapi.from_dict(
    only(as_bearer(DOCUMENT), r"/api/v1/(users$|users/\{|audit-events)"), config=CONFIG
)

# Schemathesis would draw quoted local parts and reserved domains, which are valid by RFC 5322
# and no mailbox that anybody signs up with.
schemathesis.openapi.format(
    "email",
    strategies.from_regex(r"[a-z][a-z0-9]{0,20}@[a-z]{2,20}\.(com|org)", fullmatch=True),
)


@schemathesis.check
def refused_for_a_reason_that_no_schema_can_say(
    ctx: CheckContext, response: schemathesis.Response, case: Case
) -> None:
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if response.status_code != 422 or not positive:
        return
    problem = response.json()
    expected = problem["code"] in (Reason.PASSWORD_TOO_COMMON, Reason.PASSWORD_TOO_SHORT)
    where = [error["loc"] for error in problem.get("errors", ())]
    control_characters = where in ([["body", "full_name"]], [["query", "search"]])
    if not expected and not control_characters:
        raise Failure(operation=case.operation.label, title="Refused", message=response.text)


class Service(NamedTuple):
    address: str
    backend: Backend
    session: requests.Session
    hashed_password: str

    def log_in(self, email: str = REGISTER.example["email"]) -> dict[str, str]:
        """A new login each time, because many requests end it; without hashing a password.

        Some change the password or the address, or delete the account: it is made anew.
        """
        login = self.backend.database.run_write(self.insert_login, email)
        token, _ = self.backend.tokens.issue_access(
            login.user_id, login.id, ClientId.PROGRAM, login.expires_at
        )
        return {"Authorization": f"Bearer {token}"}

    def insert_login(self, session: Session, email: str) -> Login:
        unchanged = select(User).where(
            col(User.email) == email, col(User.hashed_password) == self.hashed_password
        )
        user = session.exec(unchanged).first()
        if user is None:
            session.connection().execute(delete(User).where(col(User.email) == email))
            user = User(email=email, hashed_password=self.hashed_password, is_admin=email == ADMIN)
            session.add(user)
            session.flush()
        now = datetime.now(UTC)
        login = Login(
            user_id=user.id,
            client_id=ClientId.PROGRAM,
            user_agent="",
            ip_address="127.0.0.1",
            created_at=now,
            expires_at=now + self.backend.settings.absolute_lifetime,
            last=to_microseconds(now),
        )
        session.add(login)
        return login


@pytest.fixture(scope="module")
def database_url(postgresql_server: str) -> Iterator[str]:
    """A database for all of these tests: thousands of requests find what others left behind.

    PostgreSQL, which refuses more of what it is sent; `make torture args=fuzz` asks both.
    """
    with fresh_database(postgresql_server) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[Service]:
    """The person of the document's examples has signed up. Nobody asks too often."""
    app = create_app(make_settings(database_url, **MAIL | UNLIMITED))
    with running_server(app) as address, requests.Session() as session:
        httpx2.post(address + REGISTER.path, json=REGISTER.example).raise_for_status()
        person = the_user(app.state.backend.database, REGISTER.example["email"])
        yield Service(address, app.state.backend, session, person.hashed_password)


@pytest.mark.proves("2.2.1", "2.2.2", "4.1.1")
@schema.parametrize()
def test_what_strangers_send_is_answered_as_documented(case: Case, service: Service) -> None:
    case.call_and_validate(base_url=service.address, session=service.session)


@pytest.mark.proves("2.2.1", "4.1.1")
@schema.parametrize()
def test_what_users_send_is_answered_as_documented(case: Case, service: Service) -> None:
    case.call_and_validate(
        base_url=service.address, session=service.session, headers=service.log_in()
    )


@administration.parametrize()
def test_what_administrators_send_is_answered_as_documented(case: Case, service: Service) -> None:
    case.call_and_validate(
        base_url=service.address, session=service.session, headers=service.log_in(ADMIN)
    )


def with_links(document: Json) -> Json:
    """What follows from a list of sessions: ending the first one, which asks, or the second."""
    linked = deepcopy(only(document, SESSIONS))
    answer = linked["paths"][SESSIONS]["get"]["responses"]["200"]
    answer["links"] = {
        f"EndSession{index}": {
            "operationId": "end_session",
            "parameters": {"session_id": f"$response.body#/{index}/id"},
        }
        for index in (0, 1)
    }
    return linked


def test_a_session_that_was_ended_is_gone(service: Service) -> None:
    """Stateful: sessions are listed, ended, and asked for again in any order."""
    linked = schemathesis.openapi.from_dict(with_links(as_bearer(DOCUMENT)), config=CONFIG)
    answers: Counter[tuple[str, int]] = Counter()

    class Sessions(linked.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            service.log_in()
            self.headers = service.log_in()

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {
                "base_url": service.address,
                "session": service.session,
                "headers": self.headers,
            }

        def after_call(self, response: schemathesis.Response, case: Case) -> None:
            answers[case.operation.label, response.status_code] += 1

    Sessions.run(
        settings=hypothesis.settings(
            max_examples=30,
            stateful_step_count=6,
            derandomize=True,
            database=None,
            deadline=None,
        )
    )
    assert answers[END_SESSION, 204]
    assert answers[END_SESSION, 404]
