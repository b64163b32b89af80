"""Bad input, at every operation of the OpenAPI document: a clear refusal, and nothing changes.

What only a raw connection can send is in test_raw_requests.py. The ids (IN-01 …) are those of the
list of attacks.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.db.session import Database
from tests.operations import (
    BODILESS_OPERATIONS,
    FORM,
    FORM_OPERATIONS,
    JSON_OPERATIONS,
    OPERATIONS,
    Json,
    Operation,
)
from tests.people import ADA, BOB, bearer, get_tokens, log_in, register, sign_up_and_in, who_am_i
from tests.rows import all_logins, all_users, change_user

MEGABYTE = 1_000_000
LARGEST_BODY = 64 * 1024
REGISTER = "/api/v1/auth/register"
LOGIN = "/api/v1/auth/login"
TOKEN = "/api/v1/auth/token"
REVOKE = "/api/v1/auth/revoke"
SESSIONS = "/api/v1/users/me/sessions"

# Bodies that are no JSON object, or no JSON.
NO_OBJECTS = {
    "nothing": b"",
    "blanks": b" \r\n\t",
    "null": b"null",
    "a boolean": b"true",
    "a number": b"1",
    "a text": b'"text"',
    "an array": b"[]",
    "an array of objects": b'[{"email": "ada@example.com", "password": "x"}]',
    "an empty object": b"{}",
    "half an object": b'{"email": "ada@exam',
    "two objects": b"{}{}",
    "single quotes": b"{'email': 'ada@example.com'}",
    "a comment": b"{/* */}",
    "a comma too many": b'{"email": "ada@example.com",}',
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "a huge number": b"1" + b"0" * 400,
    "a number too long to read": b"1" * 5_000,  # Python reads 4,300 digits
    "deep arrays": b"[" * 60_000,
    "deep objects": b'{"email":' * 7_000,
    "deep arrays that end": b"[" * 30_000 + b"]" * 30_000,
    "a nul byte": b"\x00",
    "bytes that are no UTF-8": b'{"email": "\xff\xfe\xfd"}',
    "half a surrogate pair in UTF-8": b'{"email": "\xed\xa0\x80"}',
    "an overlong encoding": b'{"email": "\xc0\xaf"}',
    "XML": b"<?xml version='1.0'?><email>ada@example.com</email>",
    "MessagePack": b"\x81\xa5email\xafada@example.com",
}

# Values that no text field takes.
NO_TEXTS = {
    "a boolean": "true",
    "a number": "1",
    "a fraction": "-0.0",
    "a huge number": "1" + "0" * 400,
    "not a number": "NaN",
    "infinity": "Infinity",
    "more than a double holds": "1e999",
    "an array": '["ada@example.com"]',
    "an object": '{"$ne": null}',
    "half a surrogate pair": r'"\ud800"',
    "the other half": r'"ada\udfff@example.com"',
    "60,000 characters": json.dumps("a" * 60_000),
    "deep arrays": "[" * 900 + "]" * 900,
}

UNKNOWN_FIELDS = [
    # MA-01: what a person may not decide about themselves
    *("is_admin", "isAdmin", "is_superuser", "role", "roles", "is_active", "is_verified"),
    *("id", "hashed_password", "token_version", "created_at", "user", "client_id"),
    # names that break something elsewhere
    *("__proto__", "__class__", "constructor", "password\x00", "Password", "PASSWORD", ""),
    *("\ud800", "a" * 10_000, "<script>", "{0.__class__}", "%s%n", "${jndi:ldap://x}"),
]


# What a database would see of it, if it were let through, is tested on both.
on_both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")
    return url


@pytest.fixture
def ada(client: TestClient, database: Database) -> Json:
    """An administrator, so that nothing is refused for who she is. She is logged in by the
    client's cookies. Returns the answer to her log-in.
    """
    started = sign_up_and_in(client)
    change_user(database, ADA["email"], is_admin=True)
    return started


@contextmanager
def nothing_changes(database: Database) -> Iterator[None]:
    before = (sorted(map(repr, all_users(database))), sorted(map(repr, all_logins(database))))
    yield
    after = (sorted(map(repr, all_users(database))), sorted(map(repr, all_logins(database))))
    assert after == before


def call(client: TestClient, operation: Operation, **request: Any) -> Response:
    return client.request(operation.method, operation.url, **request)


def send_json(client: TestClient, operation: Operation, body: bytes | str) -> Response:
    headers = {"Content-Type": "application/json"}
    return call(client, operation, content=body, headers=headers)


def send_form(client: TestClient, operation: Operation, body: bytes | str) -> Response:
    return call(client, operation, content=body, headers={"Content-Type": FORM})


def assert_clear_refusal(answer: Response, operation: Operation) -> None:
    """RFC 9457, or RFC 6749, 5.2 at the token routes; documented; nothing of the input in it."""
    where = f"{operation.name}: {answer.status_code} {answer.text[:200]}"
    assert 400 <= answer.status_code < 500, where
    assert answer.status_code in operation.statuses, where
    body = answer.json()
    if operation in FORM_OPERATIONS and "error" in body:
        assert answer.headers["content-type"] == "application/json", where
        assert body["error"] in ("invalid_request", "invalid_grant", "unsupported_grant_type")
        assert set(body) == {"error", "error_description"}, where
        return
    assert answer.headers["content-type"] == "application/problem+json", where
    assert body["status"] == answer.status_code, where
    assert body["code"] == body["type"].rpartition(":")[2], where
    assert body["detail"], where
    for error in body.get("errors", ()):
        assert set(error) == {"loc", "msg", "type"}, where
    assert len(answer.content) < 4_000, where


def body_with(operation: Operation, name: str, value: str) -> str:
    """The example, with this field as it is written here, which may be no JSON."""
    rest = {key: value for key, value in operation.example.items() if key != name}
    return json.dumps(rest)[:-1] + f", {json.dumps(name)}: {value}}}"


# Bodies of JSON


@pytest.mark.proves("2.2.1", "IN-05")
@pytest.mark.parametrize("body", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_body_that_is_no_json_object_is_refused(
    client: TestClient, database: Database, ada: Json, body: bytes
) -> None:
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            if body == b"{}" and not required(operation):
                continue  # a change of nothing
            assert_clear_refusal(send_json(client, operation, body), operation)


def required(operation: Operation) -> list[str]:
    found: list[str] = operation.schema.get("required", [])
    return found


@pytest.mark.proves("1.5.3", "IN-04")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_as_utf_8_without_a_mark_only(
    client: TestClient, database: Database, encoding: str
) -> None:
    """RFC 8259, 8.1. A filter in front would read something else (IN-04, ASVS 1.5.3)."""
    register(client, BOB)
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            body = json.dumps(operation.example | BOB | {"email": "carol@example.com"})
            answer = send_json(client, operation, body.encode(encoding))
            assert answer.status_code in (400, 415, 422), (operation.name, answer.status_code)
            assert_clear_refusal(answer, operation)


@pytest.mark.proves("1.5.3", "15.3.7", "IN-09")
def test_a_field_that_stands_there_twice_is_refused(client: TestClient, database: Database) -> None:
    """Of two a filter in front could read the other one (IN-09, ASVS 1.5.3)."""
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            for name, value in operation.example.items():
                body = json.dumps(operation.example)[:-1] + f', "{name}": {json.dumps(value)}}}'
                answer = send_json(client, operation, body)
                assert answer.status_code in (400, 422), (operation.name, name, answer.status_code)
                assert_clear_refusal(answer, operation)


@pytest.mark.proves("CS-13", "IN-04")
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/msgpack",
        "application/octet-stream",
        "application",
        "*/*",
        "application/json, text/plain",
        "text/plain; application/json",
    ],
)
def test_json_of_another_content_type_is_refused(
    client: TestClient, database: Database, content_type: str | None
) -> None:
    """A page elsewhere can send text/plain and forms without asking first (CS-CSRF-SIMPLE)."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            body = json.dumps(operation.example).encode()
            answer = call(client, operation, content=body, headers=headers)
            assert_clear_refusal(answer, operation)


@pytest.mark.proves("IN-04")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_compressed_body_is_not_unpacked(
    client: TestClient, database: Database, coding: str
) -> None:
    """A kilobyte of gzip can hold a megabyte (IN-04)."""
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            body = gzip.compress(json.dumps(operation.example).encode())
            answer = call(client, operation, content=body, headers=headers)
            assert_clear_refusal(answer, operation)


@pytest.mark.proves("2.2.1", "15.3.5")
@on_both_databases
@pytest.mark.parametrize("value", NO_TEXTS.values(), ids=NO_TEXTS)
def test_a_field_of_another_type_is_refused(
    client: TestClient, database: Database, ada: Json, value: str
) -> None:
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            for name, described in operation.schema["properties"].items():
                if value == "true" and "boolean" in str(described):
                    continue
                answer = send_json(client, operation, body_with(operation, name, value))
                assert answer.status_code in (400, 422), (operation.name, name)
                assert_clear_refusal(answer, operation)


@pytest.mark.proves("2.2.1")
def test_a_required_field_is_neither_left_out_nor_null_nor_empty(
    client: TestClient, database: Database, ada: Json
) -> None:
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            for name in required(operation):
                without = {key: value for key, value in operation.example.items() if key != name}
                for body in (without, without | {name: None}):
                    answer = send_json(client, operation, json.dumps(body))
                    assert_clear_refusal(answer, operation)
                    assert [error["loc"] for error in answer.json()["errors"]] == [["body", name]]
                answer = send_json(client, operation, json.dumps(without | {name: ""}))
                assert_clear_refusal(answer, operation)


@pytest.mark.proves("8.2.3", "15.3.3", "MA-01")
@pytest.mark.parametrize("name", UNKNOWN_FIELDS, ids=ascii)
def test_an_unknown_field_is_refused(
    client: TestClient, database: Database, ada: Json, name: str
) -> None:
    """What administrators may decide about others, they alone may."""
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            if name in operation.schema["properties"]:
                assert operation.name in ("invite_user", "change_user")
                continue
            body = json.dumps(operation.example | {name: True})
            answer = send_json(client, operation, body)
            assert_clear_refusal(answer, operation)
            assert answer.json()["errors"][0]["type"] in ("extra_forbidden", "string_unicode")


@pytest.mark.proves("2.2.1", "IN-05")
@on_both_databases
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("email", "ada\x00@example.com"),
        ("email", "ada@example.com\x00"),
        ("email", "ada@example.com\nBcc: bob@example.com"),
        ("email", "ada@exam\u202eple.com"),
        ("email", "ada@localhost"),
        ("email", "ada@127.0.0.1"),
        ("email", "ada@[127.0.0.1]"),
        ("email", '"ada lovelace"@example.com'),
        ("email", "Ada <ada@example.com>"),
        ("email", "ada@example.com, bob@example.com"),
        ("email", "ada@" + "a" * 64 + ".com"),
        ("email", "ada@" + "a." * 124 + "com"),
        ("email", "@"),
        ("full_name", "Ada\x00Lovelace"),
        ("full_name", "Ada\r\nBcc: bob@example.com"),
        ("full_name", "Ada\x1b[2J"),
        ("full_name", "a" * 201),
    ],
    ids=ascii,
)
def test_a_text_that_its_field_does_not_take_is_refused(
    client: TestClient, database: Database, ada: Json, name: str, value: str
) -> None:
    """PostgreSQL stores no NUL, and a line break in an address reaches the heads of mails."""
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            if name in operation.schema["properties"]:
                answer = send_json(client, operation, json.dumps(operation.example | {name: value}))
                assert_clear_refusal(answer, operation)
                assert answer.json()["errors"][0]["loc"] == ["body", name]


@pytest.mark.proves("16.5.1")
def test_a_refusal_holds_nothing_of_what_was_sent(client: TestClient, ada: Json) -> None:
    """A validation error of the framework would show the password."""
    secret = "correct horse battery staple"
    for operation in JSON_OPERATIONS:
        for body in (
            json.dumps({"email": secret, "password": secret, "full_name": [secret]}),
            json.dumps({"email": "ada@example.com", "password": [secret], secret[:0]: secret}),
            json.dumps(secret),
            f'{{"password": "{secret}"',
        ):
            answer = send_json(client, operation, body)
            assert_clear_refusal(answer, operation)
            assert secret not in answer.text


# Large bodies


@pytest.mark.proves("IN-01")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_body_of_a_megabyte_is_refused_by_its_announced_length(
    client: TestClient, database: Database, ada: Json, operation: Operation
) -> None:
    """IN-01: nobody waits for it to arrive."""
    with nothing_changes(database):
        headers = {"Content-Type": operation.media_type or "application/json"}
        answer = call(client, operation, content=b"a" * MEGABYTE, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["code"] == "content_too_large"


@pytest.mark.proves("IN-01")
@pytest.mark.parametrize(
    "operation", [*JSON_OPERATIONS, *FORM_OPERATIONS], ids=lambda operation: operation.name
)
def test_a_body_of_unknown_length_is_refused_when_it_is_too_large(
    client: TestClient, database: Database, ada: Json, operation: Operation
) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"a" * 1_000] * 1_000

    with nothing_changes(database):
        headers = {"Content-Type": operation.media_type or ""}
        answer = call(client, operation, content=chunks(), headers=headers)
        assert answer.status_code == 413
        assert_clear_refusal(answer, operation)


def test_the_largest_body_is_read_and_one_byte_more_is_not(client: TestClient, ada: Json) -> None:
    for operation in JSON_OPERATIONS:
        body = json.dumps({"email": ""}).ljust(LARGEST_BODY)
        assert send_json(client, operation, body).status_code == 422
        assert send_json(client, operation, body + " ").status_code == 413


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5_000, "-1", "1e3", "0x10", "1.5", "abc", ""])
def test_a_content_length_that_is_no_length_breaks_nothing(
    client: TestClient, database: Database, length: str
) -> None:
    """uvicorn refuses these by itself; the application may stand behind another server."""
    headers = {"Content-Type": "application/json", "Content-Length": length}
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            answer = call(client, operation, content=b"[]", headers=headers)
            assert_clear_refusal(answer, operation)


@pytest.mark.parametrize("body", [b"{}", b"[" * 60_000, b"\xff\x00", b"NaN", b"a=b&a=c"])
def test_a_body_where_none_is_expected_changes_no_answer(
    client: TestClient, ada: Json, body: bytes
) -> None:
    for operation in BODILESS_OPERATIONS:
        plain = call(client, operation)
        stay_logged_in(client)
        assert send_json(client, operation, body).status_code == plain.status_code < 500
        stay_logged_in(client)


def stay_logged_in(client: TestClient) -> None:
    if who_am_i(client).status_code == 401:
        assert log_in(client).status_code == 200


# Forms


FORM_EXAMPLE = {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "&&&===",
        "=",
        "grant_type",
        "grant_type=",
        "grant_type=password",
        "grant_type=refresh_token",
        "grant_type=implicit",
        "grant_type=%00",
        "grant_type=%ff",
        "grant_type=" + "a" * 60_000,
        "grant_type[]=password",
        urlencode(FORM_EXAMPLE | {"username": ""}),
        urlencode(FORM_EXAMPLE | {"password": ""}),
        urlencode(FORM_EXAMPLE | {"username": "a" * 255}),
        urlencode(FORM_EXAMPLE | {"username": "ada\x00@example.com"}),
        urlencode(FORM_EXAMPLE | {"username": "ada@example.com\r\n"}) + "%00",
        urlencode(FORM_EXAMPLE | {"password": "a" * 1025}),
        urlencode(FORM_EXAMPLE | {"password": b"\xed\xa0\x80"}),
        urlencode({"grant_type": "refresh_token", "refresh_token": "a" * 2049}),
        urlencode({"grant_type": "refresh_token", "refresh_token": "\x00"}),
        urlencode(FORM_EXAMPLE) + "&password=another",
        urlencode(FORM_EXAMPLE) + "&grant_type=password",
        urlencode(FORM_EXAMPLE) + "&scope=a&scope=a",
        "&".join(f"a{number}=1" for number in range(2_000)),
        json.dumps(FORM_EXAMPLE),
    ],
    ids=lambda body: ascii(body[:60]),
)
def test_a_bad_form_is_refused_in_the_words_of_oauth(
    client: TestClient, database: Database, ada: Json, body: str
) -> None:
    """Repeated parameters too (RFC 6749, 3.2)."""
    [token] = [operation for operation in FORM_OPERATIONS if operation.path == TOKEN]
    with nothing_changes(database):
        answer = send_form(client, token, body)
        assert_clear_refusal(answer, token)
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/json", "multipart/form-data", "application/xml", "*/*"],
)
def test_a_form_of_another_content_type_is_refused(
    client: TestClient, database: Database, ada: Json, content_type: str | None
) -> None:
    [token] = [operation for operation in FORM_OPERATIONS if operation.path == TOKEN]
    headers = {} if content_type is None else {"Content-Type": content_type}
    with nothing_changes(database):
        answer = call(client, token, content=urlencode(FORM_EXAMPLE), headers=headers)
        assert_clear_refusal(answer, token)
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        "",
        "token=",
        "token=%00%ff",
        "token=" + "a" * 60_000,
        "token=a.b.c",
        "a=b",
        "token=a&token=b",
    ],
    ids=lambda body: ascii(body[:60]),
)
def test_revoking_no_token_of_ours_ends_nothing(
    client: TestClient, database: Database, ada: Json, body: str
) -> None:
    """RFC 7009, 2.2: it is no error, because the caller has what they want."""
    [revoke] = [operation for operation in FORM_OPERATIONS if operation.path == REVOKE]
    with nothing_changes(database):
        answer = send_form(client, revoke, body)
        assert answer.status_code == 200 or answer.json()["error"] == "invalid_request"


# Queries, headers and cookies


@pytest.mark.proves("IN-05")
@pytest.mark.parametrize(
    "query",
    [
        "include_current=",
        "include_current",
        "include_current=maybe",
        "include_current=2",
        "include_current=-0",
        "include_current=1e999",
        "include_current=NaN",
        "include_current=" + "1" * 5_000,
        "include_current=[]",
        "include_current=%00",
        "include_current=%ff",
        "include_current=true%00",
    ],
    ids=lambda query: query[:40],
)
def test_a_query_parameter_of_another_type_is_refused(
    client: TestClient, database: Database, ada: Json, query: str
) -> None:
    """Ending every session is not what a typing mistake does."""
    [operation] = [one for one in OPERATIONS if one.name == "end_sessions"]
    with nothing_changes(database):
        answer = client.request("DELETE", f"{SESSIONS}?{query}")
        assert_clear_refusal(answer, operation)
        assert answer.json()["errors"][0]["loc"] == ["query", "include_current"]


@pytest.mark.proves("15.3.7", "IN-09")
def test_a_query_parameter_that_stands_there_twice_is_refused(
    client: TestClient, database: Database, ada: Json
) -> None:
    """A proxy and this service could each read another one (IN-09, ASVS 15.3.7)."""
    for query in (
        "include_current=false&include_current=true",
        "include_current=true&include_current=false",
        "include_current=true&include_current=true",
    ):
        with nothing_changes(database):
            answer = client.request("DELETE", f"{SESSIONS}?{query}")
            assert answer.status_code in (400, 422), query
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.proves("14.2.1")
def test_what_belongs_into_the_body_is_not_taken_from_the_query(
    client: TestClient, database: Database, ada: Json
) -> None:
    """Queries stand in logs and histories (ASVS 14.2.1)."""
    with nothing_changes(database):
        for operation in JSON_OPERATIONS:
            answer = call(client, operation, params=operation.example)
            assert_clear_refusal(answer, operation)
        answer = client.post(TOKEN, params=FORM_EXAMPLE)
        assert answer.json()["error"] == "invalid_request"


@pytest.mark.proves("14.2.1", "JWT-24")
def test_a_token_in_the_query_is_no_token(client: TestClient) -> None:
    register(client)
    token = get_tokens(client)["access_token"]
    for name in ("access_token", "token", "bearer", "authorization"):
        assert client.get("/api/v1/users/me", params={name: token}).status_code == 401


@pytest.mark.proves("CK-07")
@pytest.mark.parametrize(
    "cookie",
    [
        "=",
        ";;;",
        "__Host-access",
        "__Host-access=",
        '__Host-access="',
        "__Host-access=%00; __Host-refresh=%ff",
        "__Host-access=\xff; __Host-refresh=\xe9",
        "__Host-access=" + "a" * 60_000,
        "; ".join(f"name-{number}=value-{number}" for number in range(180)),
        "; ".join(["__Host-access=a.b.c; __Host-refresh=a.b.c"] * 180),
    ],
    ids=lambda cookie: ascii(cookie[:40]),
)
def test_strange_cookies_are_nobody_s_cookies(
    client: TestClient, database: Database, ada: Json, cookie: str
) -> None:
    client.cookies.clear()
    with nothing_changes(database):
        for operation in OPERATIONS:
            answer = call(client, operation, headers={"Cookie": cookie.encode("latin-1")})
            assert answer.status_code < 500
            if operation.needs_login or operation.name == "refresh":
                assert answer.status_code == 401
                assert_clear_refusal(answer, operation)


@pytest.mark.proves("CK-07")
def test_ours_are_found_among_180_cookies(client: TestClient, ada: Json) -> None:
    """Other applications on the same host fill the jar."""
    for number in range(180):
        client.cookies.set(f"name-{number}", "x" * 20)
    assert who_am_i(client).status_code == 200


@on_both_databases
@pytest.mark.parametrize(
    "value",
    ["", "a" * 60_000, "\xff\xfe", "%s%n{0.__class__}${jndi:ldap://x}<script>", ",,,;;=="],
    ids=lambda value: ascii(value[:40]),
)
def test_strange_headers_break_nothing(client: TestClient, value: str) -> None:
    names = ("User-Agent", "X-Request-ID", "X-Forwarded-For", "Forwarded", "Accept", "Referer")
    more = ("Accept-Language", "If-None-Match", "Range", "X-HTTP-Method-Override", "X-Anything")
    headers = dict.fromkeys(names + more, value.encode("latin-1"))
    for operation in OPERATIONS:
        body = {"data" if operation in FORM_OPERATIONS else "json": operation.example or None}
        answer = call(client, operation, headers=headers, **body)
        assert answer.status_code in operation.statuses
        assert answer.status_code < 500
        assert "a" * 100 not in str(answer.headers)


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer ", "Bearer  a.b.c", "bearer a.b.c", "BEARER\ta.b.c", "Bearer a b"),
        *("Basic", "Basic Og==", "Basic \xff", "Negotiate a", "a.b.c", ",", "Bearer a.b.c, Bearer"),
        *("Bearer " + "a" * 60_000, "Bearer " + "." * 60_000, "Bearer \xff.\xfe.\xfd"),
    ],
    ids=lambda value: ascii(value[:40]),
)
def test_a_strange_authorization_is_nobody_s(
    client: TestClient, database: Database, value: str
) -> None:
    with nothing_changes(database):
        for operation in OPERATIONS:
            if operation.needs_login:
                headers = {"Authorization": value.encode("latin-1")}
                answer = call(client, operation, headers=headers)
                assert answer.status_code == 401
                assert_clear_refusal(answer, operation)


@pytest.mark.proves("4.1.4")
def test_only_documented_methods_work(client: TestClient, database: Database, ada: Json) -> None:
    """ASVS 4.1.4. Not even HEAD, which would be a GET that nobody documented."""
    documented: dict[str, set[str]] = {}
    for operation in OPERATIONS:
        documented.setdefault(operation.url, set()).add(operation.method)
    everything = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"}
    with nothing_changes(database):
        for url, methods in documented.items():
            for method in (everything | {"FOO"}) - methods:
                answer = client.request(method, url)
                assert answer.status_code == 405, (method, url)
                assert set(answer.headers["allow"].split(", ")) == methods, (method, url)


@pytest.mark.proves("SQ-02")
@on_both_databases
@pytest.mark.parametrize("email", ["%@example.com", "ad_@example.com", "*@example.com"])
def test_a_wildcard_is_no_address(client: TestClient, email: str) -> None:
    """SQ-02."""
    register(client)
    answer = client.post(LOGIN, json=ADA | {"email": email})
    assert answer.status_code in (401, 422)


# And afterwards


def test_after_all_of_it_the_service_still_works(client: TestClient, ada: Json) -> None:
    for operation in JSON_OPERATIONS:
        for body in NO_OBJECTS.values():
            send_json(client, operation, body)
    for operation in FORM_OPERATIONS:
        send_form(client, operation, b"\xff" * 60_000)
    assert who_am_i(client).status_code == 200
    register(client, BOB)
    tokens = get_tokens(client, BOB)
    answer = client.get("/api/v1/users/me", headers=bearer(tokens["access_token"]))
    assert answer.json()["email"] == BOB["email"]
