"""Schemathesis walks through the OpenAPI document: what an answer brings goes into what is asked
next, in any order, and every answer is compared with the document.
"""

import math
from collections import Counter
from copy import deepcopy
from typing import Any

import hypothesis
import hypothesis.errors
import schemathesis
from schemathesis import Case
from schemathesis.specs.openapi.stateful import OpenAPIStateMachine

from tests.operations import DOCUMENT, Json
from tests.test_schemathesis import ADMIN, CONFIG, Service, as_bearer

STEPS = 12
TOGETHER = 10  # walks, the first of which is the simplest

ONE_USER = ("read_user", "change_user", "delete_user", "start_password_reset", "end_user_sessions")
# Of an operation's answer: what else takes this, as a parameter or in its body.
FOLLOWS: dict[str, list[tuple[str, Json]]] = {
    "register": [
        (
            name,
            {
                "requestBody": {
                    user: "$request.body#/email",
                    "password": "$request.body#/password",
                    **more,
                }
            },
        )
        for name, user, more in (
            ("login", "email", {}),
            ("token", "username", {"grant_type": "password"}),
        )
    ]
    + [(name, {"parameters": {"user_id": "$response.body#/id"}}) for name in ONE_USER],
    "invite_user": [(name, {"parameters": {"user_id": "$response.body#/id"}}) for name in ONE_USER],
    "list_users": [
        (name, {"parameters": {"user_id": f"$response.body#/items/{index}/id"}})
        for name in ONE_USER
        for index in (0, 1)
    ]
    + [("list_users", {"parameters": {"after": "$response.body#/items/0/id"}})],
    "list_sessions": [
        ("end_session", {"parameters": {"session_id": f"$response.body#/{index}/id"}})
        for index in (0, 1)
    ],
    "token": [
        ("revoke", {"requestBody": {"token": "$response.body#/access_token"}}),
        ("revoke", {"requestBody": {"token": "$response.body#/refresh_token"}}),
        (
            "token",
            {
                "requestBody": {
                    "grant_type": "refresh_token",
                    "refresh_token": "$response.body#/refresh_token",
                }
            },
        ),
    ],
    "read_me": [("read_user", {"parameters": {"user_id": "$response.body#/id"}})],
    "list_audit_events": [
        ("list_audit_events", {"parameters": {"after": "$response.body#/items/0/id"}}),
        ("list_audit_events", {"parameters": {"user_id": "$response.body#/items/0/user_id"}}),
    ],
    "list_activity": [("list_activity", {"parameters": {"after": "$response.body#/items/0/id"}})],
}


def with_links(document: Json) -> Json:
    linked = deepcopy(document)
    for methods in linked["paths"].values():
        for operation in methods.values():
            answers = operation["responses"]
            success = answers[next(status for status in answers if status.startswith("2"))]
            for number, (name, what) in enumerate(FOLLOWS.get(operation["operationId"], ())):
                link = {"operationId": name, **what}
                success.setdefault("links", {})[f"{name}{number}"] = link
    return linked


def walk(service: Service, walks: int, seed: int, answers: Counter[tuple[str, int]]) -> None:
    """As an administrator. Counts answers by operation and status; raises where one is wrong."""
    document = with_links(as_bearer(DOCUMENT))
    machine = schemathesis.openapi.from_dict(document, config=CONFIG).as_state_machine()
    wrong: list[Exception] = []

    class Walk(machine):  # type: ignore[misc, valid-type]
        def setup(self) -> None:
            self.headers = service.log_in(ADMIN)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {
                "base_url": service.address,
                "session": service.session,
                "headers": self.headers,
            }

        def after_call(self, response: schemathesis.Response, case: Case) -> None:
            answers[case.operation.label, response.status_code] += 1

        def validate_response(self, *arguments: Any, **more: Any) -> None:
            try:
                super().validate_response(*arguments, **more)
            except Exception as error:
                wrong.append(error)
                raise

    assert issubclass(Walk, OpenAPIStateMachine)
    for number in range(math.ceil(walks / TOGETHER)):
        try:
            hypothesis.seed(seed + number)(Walk).run(
                settings=hypothesis.settings(
                    max_examples=min(walks, TOGETHER),
                    stateful_step_count=STEPS,
                    phases=[hypothesis.Phase.generate],
                    database=None,
                    deadline=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                )
            )
        except hypothesis.errors.FlakyStrategyDefinition:
            # The service remembers, so that the same step is answered otherwise the next time. It
            # says nothing of the answers: those are judged one by one.
            if wrong:
                raise wrong[0] from None


def found(answers: Counter[tuple[str, int]]) -> int:
    """How often what one answer had brought was there when the next request named it."""
    return sum(
        number for (name, status), number in answers.items() if "_id}" in name and status < 300
    )
