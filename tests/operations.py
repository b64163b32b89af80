"""Every operation of the service, read from its OpenAPI document: a new endpoint is tested with
the old ones from the day it exists.
"""

import re
from typing import Any, NamedTuple

from app.main import create_app
from tests.conftest import make_settings

Json = dict[str, Any]

FORM = "application/x-www-form-urlencoded"
SOME_ID = "0197a3f0-0000-7000-8000-000000000000"  # of nothing


class Operation(NamedTuple):
    name: str
    method: str
    path: str  # with {placeholders}
    documented: Json
    media_type: str | None  # of the body
    schema: Json  # of the body
    example: Json  # a body of the examples that Swagger UI fills in

    @property
    def url(self) -> str:
        return re.sub(r"\{\w+\}", SOME_ID, self.path)

    @property
    def needs_login(self) -> bool:
        return {} not in self.documented.get("security", [{}])

    @property
    def parameters(self) -> list[Json]:
        found: list[Json] = self.documented.get("parameters", [])
        return found

    @property
    def statuses(self) -> set[int]:
        return {int(status) for status in self.documented["responses"]}


def read_operations(document: Json) -> list[Operation]:
    return [
        read_operation(document, method, path, documented)
        for path, methods in document["paths"].items()
        for method, documented in methods.items()
    ]


def read_operation(document: Json, method: str, path: str, documented: Json) -> Operation:
    name = documented["operationId"]
    if "requestBody" not in documented:
        return Operation(name, method.upper(), path, documented, None, {}, {})
    [(media_type, body)] = documented["requestBody"]["content"].items()
    schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    example = {
        field: described["examples"][0]
        for field, described in schema["properties"].items()
        if "examples" in described
    }
    return Operation(name, method.upper(), path, documented, media_type, schema, example)


DOCUMENT = create_app(make_settings("sqlite:///./never-opened.db")).openapi()
OPERATIONS = read_operations(DOCUMENT)
JSON_OPERATIONS = [one for one in OPERATIONS if one.media_type == "application/json"]
FORM_OPERATIONS = [one for one in OPERATIONS if one.media_type == FORM]
BODILESS_OPERATIONS = [one for one in OPERATIONS if one.media_type is None]
