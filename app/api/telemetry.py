"""OpenTelemetry, as FastAPI has it built in: silent until an operator sets its SDK up.

A span says which route answered how, and how long it took. Bodies and headers are in none.
"""

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

HIDDEN = "fastapi-auth.query_string"


def hide_query(scope: MutableMapping[str, Any]) -> bool:
    """FastAPI asks here, before all else, whether to leave a request out. None is.

    It would write the query into the span, where administrators search by name and address, and
    where a front end's mistake could put a token.
    """
    scope[HIDDEN] = scope.get("query_string", b"")
    scope["query_string"] = b""
    return False


def give_back_query(scope: MutableMapping[str, Any]) -> None:
    if HIDDEN in scope:
        scope["query_string"] = scope.pop(HIDDEN)


TELEMETRY: TelemetryConfig = {
    "exclude": hide_query,
    "logs": False,  # the text of exceptions, which may quote a row; our own log leaves rows out
    "operation_spans": False,  # they mark every expected refusal as an error
}
