"""The OpenAPI document: what Swagger UI shows and client generators believe."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest
import schemathesis

from app.core.refusals import Reason
from app.main import create_app
from tests.conftest import ClientFactory, make_settings
from tests.operations import (
    DOCUMENT,
    JSON_OPERATIONS,
    OPERATIONS,
    Json,
    Operation,
    read_operations,
)

SCHEMAS: Json = DOCUMENT["components"]["schemas"]
WITH_BODY = [operation for operation in OPERATIONS if operation.media_type]
NAMES = [operation.name for operation in OPERATIONS]

# Generated clients name their functions by these. Adding one is fine; renaming breaks callers.
OPERATION_IDS = {
    "register",
    "login",
    "refresh",
    "logout",
    "verify_email",
    "request_verification",
    "forgot_password",
    "reset_password",
    "token",
    "revoke",
    "read_me",
    "update_me",
    "change_password",
    "change_email",
    "confirm_email",
    "export_me",
    "delete_me",
    "list_sessions",
    "end_sessions",
    "end_session",
    "list_activity",
    "list_audit_events",
    "list_users",
    "invite_user",
    "read_user",
    "change_user",
    "delete_user",
    "start_password_reset",
    "end_user_sessions",
    "live",
    "ready",
    "jwks",
}

# RFC 7009, 2.2: a token that does not exist is answered 200, whatever it looks like. The limit
# of the body (413) is the only one.
UNLIMITED = {("Body_revoke", "token"), ("Body_revoke", "token_type_hint")}

for_every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)


def describe_with(**changes: Any) -> Json:
    return create_app(make_settings("sqlite:///./never-opened.db", **changes)).openapi()


def validator(schema: Json) -> jsonschema_rs.Validator:
    """Of a part of the document, references and formats included."""
    return jsonschema_rs.validator_for(
        {"components": DOCUMENT["components"], **schema}, validate_formats=True
    )


def examples(operation: Operation) -> Iterator[tuple[str, str, Json, Json]]:
    """Status, media type, schema and value of each example of a refusal."""
    for status, response in operation.documented["responses"].items():
        for media_type, media in response.get("content", {}).items():
            for example in media.get("examples", {}).values():
                yield status, media_type, media["schema"], example["value"]


def codes(operation: Operation, status: int) -> set[str]:
    return {value["code"] for found, *_, value in examples(operation) if int(found) == status}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def kinds(field: Json) -> Iterator[Json]:
    """What it may be, references followed."""
    if "$ref" in field:
        yield from kinds(SCHEMAS[field["$ref"].rpartition("/")[2]])
    elif "anyOf" in field:
        for kind in field["anyOf"]:
            yield from kinds(kind)
    else:
        yield field


def inputs() -> Iterator[tuple[str, str, Json]]:
    """Schema, name and description of everything that a request can hold."""
    for operation in WITH_BODY:
        for name, field in operation.schema["properties"].items():
            yield operation.schema["title"], name, field
    for operation in OPERATIONS:
        for parameter in operation.parameters:
            yield operation.name, parameter["name"], parameter["schema"]


# Where it is


def test_the_document_and_its_pages_are_served_in_debug_mode(make_client: ClientFactory) -> None:
    client = make_client(debug=True)
    assert client.get("/openapi.json").json() == DOCUMENT
    assert client.get("/docs").status_code == 200
    assert client.get("/redoc").status_code == 200


@pytest.mark.proves("13.4.5", "13.4.6")
def test_in_production_there_is_no_document_unless_it_is_asked_for(
    make_client: ClientFactory,
) -> None:
    closed, opened = make_client(), make_client(enable_docs=True)
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert closed.get(path).status_code == 404
        assert closed.get(path).headers["content-type"] == "application/problem+json"
        assert opened.get(path).status_code == 200


def test_documents_of_two_applications_do_not_share_anything() -> None:
    first, second = describe_with(password_min_length=20), describe_with()
    assert first["components"]["schemas"]["UserCreate"]["properties"]["password"]["minLength"] == 20
    assert second == DOCUMENT


# What generated clients build on


def test_the_document_is_valid_openapi() -> None:
    """Relative addresses are allowed (OpenAPI 3.1, 4.6), but this validator wants whole ones."""
    document = deepcopy(DOCUMENT)
    flow = document["components"]["securitySchemes"]["Password"]["flows"]["password"]
    flow |= {name: f"https://auth.example.com{flow[name]}" for name in ("tokenUrl", "refreshUrl")}
    schemathesis.openapi.from_dict(document).validate()


def test_operation_ids_stay_as_they_are() -> None:
    assert set(NAMES) == OPERATION_IDS
    assert len(NAMES) == len(OPERATION_IDS)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = set(references(DOCUMENT))
    assert used == {f"#/components/schemas/{name}" for name in SCHEMAS}


@for_every_operation
def test_an_operation_is_described_for_the_person_in_swagger_ui(operation: Operation) -> None:
    assert operation.documented["summary"]
    assert operation.documented["description"].rstrip()[-1] in ".?"
    assert len(operation.documented["tags"]) == 1


def test_no_operation_has_an_object_without_a_name() -> None:
    """A generator would call it InlineResponse200, and another one for each place it stands."""
    for operation in OPERATIONS:
        for response in operation.documented["responses"].values():
            for media in response.get("content", {}).values():
                assert "properties" not in media["schema"]
                assert "properties" not in media["schema"].get("items", {})


def test_no_schema_stands_there_twice() -> None:
    assert not [name for name in SCHEMAS if name.endswith(("-Input", "-Output"))]
    shapes = [str(schema.get("properties", name)) for name, schema in SCHEMAS.items()]
    assert len(set(shapes)) == len(shapes)


def test_the_framework_s_validation_error_is_not_there() -> None:
    """FastAPI documents it by itself; it would echo what was sent, and is never sent here."""
    assert "HTTPValidationError" not in str(DOCUMENT)
    assert "ValidationError" not in SCHEMAS


# Errors


@for_every_operation
def test_every_refusal_that_can_happen_is_documented(operation: Operation) -> None:
    if operation.needs_login:
        assert codes(operation, 401) >= {
            Reason.NOT_AUTHENTICATED,
            Reason.SESSION_EXPIRED,
            Reason.SESSION_REVOKED,
        }
    if operation.method != "GET":
        assert Reason.CROSS_ORIGIN in codes(operation, 403)
    if operation.media_type:
        assert Reason.CONTENT_TOO_LARGE in codes(operation, 413)
        assert 400 in operation.statuses
    if operation in JSON_OPERATIONS:
        assert Reason.BAD_REQUEST in codes(operation, 400)
    if operation in JSON_OPERATIONS or operation.parameters:
        assert Reason.VALIDATION_FAILED in codes(operation, 422)
    if operation.name not in ("live", "jwks"):  # the two that ask no database
        assert 503 in operation.statuses


def test_what_only_one_operation_refuses_is_documented_there() -> None:
    by_name = {operation.name: operation for operation in OPERATIONS}
    register, login, refresh = by_name["register"], by_name["login"], by_name["refresh"]
    assert codes(register, 403) == {Reason.REGISTRATION_CLOSED, Reason.CROSS_ORIGIN}
    assert codes(register, 409) == {Reason.EMAIL_TAKEN}
    assert codes(register, 422) >= {Reason.PASSWORD_TOO_COMMON, Reason.PASSWORD_TOO_SHORT}
    assert codes(login, 401) == {Reason.INVALID_CREDENTIALS}
    assert Reason.TOKEN_REUSED in codes(refresh, 401)
    assert codes(by_name["end_session"], 404) == {Reason.NOT_FOUND}
    for hashing_or_rotating in (register, login, refresh):
        assert Reason.BUSY in codes(hashing_or_rotating, 503)


@for_every_operation
def test_every_example_of_a_refusal_is_what_its_schema_says(operation: Operation) -> None:
    for status, media_type, schema, value in examples(operation):
        validator(schema).validate(value)
        assert media_type == "application/problem+json"
        assert value["status"] == int(status)
        assert value["type"] == f"urn:fastapi-auth:problem:{value['code']}"


@for_every_operation
def test_only_a_failed_validation_promises_a_list_of_errors(operation: Operation) -> None:
    for _, _, schema, value in examples(operation):
        alone = schema == {"$ref": "#/components/schemas/ValidationProblem"}
        assert ("errors" in value) == (value["code"] == Reason.VALIDATION_FAILED)
        assert not alone or value["code"] == Reason.VALIDATION_FAILED


@for_every_operation
def test_every_503_says_when_to_come_back(operation: Operation) -> None:
    if 503 in operation.statuses:
        assert "Retry-After" in operation.documented["responses"]["503"]["headers"]


# What goes in


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.name)
def test_the_examples_of_a_request_are_valid_and_enough(operation: Operation) -> None:
    validator(operation.schema).validate(operation.example)
    assert set(operation.schema.get("required", ())) <= set(operation.example)


def test_the_document_s_own_examples_register_log_in_and_get_tokens(
    make_client: ClientFactory,
) -> None:
    client = make_client(debug=True)
    by_name = {one.name: one for one in read_operations(client.get("/openapi.json").json())}
    register, login, token = by_name["register"], by_name["login"], by_name["token"]
    assert client.post(register.path, json=register.example).status_code == 201
    assert client.post(login.path, json=login.example).status_code == 200
    assert client.post(token.path, data=token.example).status_code == 200


@pytest.mark.proves("2.1.1")
def test_every_text_that_is_sent_has_a_longest_length_or_a_form() -> None:
    for schema, name, field in inputs():
        for kind in kinds(field):
            if kind["type"] == "string" and (schema, name) not in UNLIMITED:
                assert {"maxLength", "format", "enum"} & set(kind), f"{schema}.{name}"


@pytest.mark.proves("MA-03")
def test_passwords_are_hidden_in_forms_and_never_come_back() -> None:
    hidden = {(schema, name) for schema, name, field in inputs() if field.get("writeOnly")}
    assert hidden == {
        ("UserCreate", "password"),
        ("Credentials", "password"),
        ("Body_token", "password"),
        ("NewPasswordByLink", "password"),
        ("PasswordChange", "current_password"),
        ("PasswordChange", "new_password"),
        ("EmailChange", "password"),
        ("Confirmation", "password"),
    }
    for schema, name, field in inputs():
        assert (field.get("format") == "password") == ((schema, name) in hidden)
    sent_by_us = set(SCHEMAS) - {operation.schema["title"] for operation in WITH_BODY}
    about_one = {"must_change_password", "password_changed_at"}
    for name in sent_by_us:
        fields = set(SCHEMAS[name].get("properties", ())) - about_one
        assert not [field for field in fields if "password" in field]


@pytest.mark.proves("2.1.1")
@pytest.mark.parametrize("shortest", [8, 20])
def test_the_shortest_new_password_is_the_one_that_is_set(
    make_client: ClientFactory, shortest: int
) -> None:
    client = make_client(debug=True, password_min_length=shortest)
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["UserCreate"]["properties"]["password"]["minLength"] == shortest
    # Logging in works with passwords from before the limit was raised.
    assert schemas["Credentials"]["properties"]["password"]["minLength"] == 1

    def sign_up(name: str, password: str) -> int:
        body = {"email": f"{name}@example.com", "password": password}
        return client.post("/api/v1/auth/register", json=body).status_code

    letters = "kwxqzjvbgpyfmucrlhds"
    assert sign_up("too-short", letters[: shortest - 1]) == 422
    assert sign_up("just-right", letters[:shortest]) == 201


# How to authenticate


def test_programs_are_shown_the_password_flow_and_nobody_a_cookie() -> None:
    """A described cookie would only make Swagger UI ask for what the browser sends by itself."""
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"Password"}
    scheme = DOCUMENT["components"]["securitySchemes"]["Password"]
    assert scheme["type"] == "oauth2"
    assert set(scheme["flows"]) == {"password"}
    assert "cookie" not in {
        parameter["in"] for operation in OPERATIONS for parameter in operation.parameters
    }


def test_the_password_flow_leads_to_the_token_operation() -> None:
    flow = DOCUMENT["components"]["securitySchemes"]["Password"]["flows"]["password"]
    token = DOCUMENT["paths"][flow["tokenUrl"]]["post"]
    assert token["operationId"] == "token"
    assert list(token["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]
    assert flow["refreshUrl"] == flow["tokenUrl"]


def test_without_the_token_endpoint_no_flow_is_offered() -> None:
    document = describe_with(enable_token_endpoint=False)
    schemes = document["components"]["securitySchemes"]
    assert list(schemes.values()) == [{"type": "http", "scheme": "bearer"}]
    assert [one.name for one in read_operations(document) if one.needs_login] == [
        operation.name for operation in OPERATIONS if operation.needs_login
    ]
    assert "/auth/token" not in str(document["paths"])


# What comes out


@pytest.mark.proves("14.2.6", "15.3.1", "MA-03")
def test_answers_hold_what_is_documented_and_nothing_more(make_client: ClientFactory) -> None:
    """No hash, no token, no internal flag (ASVS 15.3.1, attack MA-03)."""
    client = make_client(debug=True)
    for name, status in (
        ("register", "201"),
        ("login", "200"),
        ("refresh", "200"),
        ("read_me", "200"),
        ("list_sessions", "200"),
        ("token", "200"),
    ):
        operation = next(one for one in OPERATIONS if one.name == name)
        body = {"json" if operation in JSON_OPERATIONS else "data": operation.example or None}
        answer = client.request(operation.method, operation.path, **body)
        assert answer.status_code == int(status)
        [media] = operation.documented["responses"][status]["content"].values()
        assert_exactly(media["schema"], answer.json())


def assert_exactly(schema: Json, value: Any) -> None:
    validator(schema).validate(value)
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for item in value:
            assert_exactly(schema["items"], item)
    elif isinstance(value, dict):
        assert set(value) == set(schema["properties"])
        for name, item in value.items():
            assert_exactly(schema["properties"][name], item)
