"""The same-origin gate: a page elsewhere cannot act with somebody's cookies.

There is no CSRF token (CS-06 does not apply): every browser says where a request comes from, in
Origin or in Sec-Fetch-Site, and no page can change that. The ids are those of the list of attacks.
"""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.db.session import Database
from app.main import create_app
from tests.conftest import ClientFactory, make_settings
from tests.operations import OPERATIONS, Operation
from tests.people import ADA, get_tokens, refresh, register, sign_up_and_in, who_am_i
from tests.rows import all_logins, change_user, the_login

FRONT_END = "https://app.example.com"  # allowed
OWN = "https://testserver"
EVIL = "https://evil.example"
LOGOUT = "/api/v1/auth/logout"
REFRESH = "/api/v1/auth/refresh"

Headers = list[tuple[str, str]]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The gate stands in front of every database."""
    return sqlite_url


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    return make_client(backend_cors_origins=(FRONT_END,))


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """To ask only who may pass: by a log-out that logs nobody out, so the tests share it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('gate') / 'empty.db'}"
    app = create_app(make_settings(url, backend_cors_origins=(FRONT_END, "http://localhost:3000")))
    with TestClient(app, base_url=OWN, raise_server_exceptions=False) as client:
        yield client


def passes(gate: TestClient, headers: Headers) -> bool:
    answer = gate.post(LOGOUT, headers=headers)
    if answer.status_code == 204:
        return True
    assert_refused(answer)
    return False


def assert_refused(answer: Response) -> None:
    assert answer.status_code == 403
    assert answer.json()["code"] == "cross_origin"
    assert "set-cookie" not in answer.headers


# Origin: an allowed one, our own, and whatever looks like one of them


@pytest.mark.proves("3.5.1", "CS-07")
@pytest.mark.parametrize("origin", [FRONT_END, "http://localhost:3000", OWN])
def test_an_allowed_origin_and_our_own_pass(gate: TestClient, origin: str) -> None:
    assert passes(gate, [("Origin", origin)])


@pytest.mark.proves("CS-07")
@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none", "nonsense"])
def test_an_allowed_origin_passes_from_any_site(gate: TestClient, site: str) -> None:
    """CS-07: an allowed front end works also where the browser calls it cross-site."""
    assert passes(gate, [("Origin", FRONT_END), ("Sec-Fetch-Site", site)])


@pytest.mark.proves("3.5.1", "3.5.2", "CS-02", "CS-03")
@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "NULL",
        "",
        "testserver",
        "//testserver",
        "https://",
        "https://testserver/",
        "https://testserver/path",
        "https://testserver.",
        "https://testserver:443",
        "https://testserver:8443",
        "https://testserver.evil.example",
        "https://eviltestserver",
        "https://evil.example/testserver",
        "https://evil.example?testserver",
        "https://testserver@evil.example",
        "https://evil.example@testserver",
        "https://evil.example://testserver",
        "https://evil.example, https://testserver",
        "https://testserver https://evil.example",
        "https://sub.testserver",
        "https://TESTSERVER",
        "https://app.example.com.evil.example",
        "https://evil.app.example.com",
        "https://app.example.com/",
        "https://app.example.com:443",
        "http://app.example.com",
        "https://APP.example.com",
        "https://app-example.com",
        "http://localhost",
        "http://localhost:30000",
        "http://127.0.0.1:3000",
        "*",
        "file://",
        "chrome-extension://abcdefgh",
    ],
)
def test_any_other_origin_is_refused(gate: TestClient, origin: str) -> None:
    """CS-02, CS-03: exact comparison, and `null` is nobody's origin."""
    assert not passes(gate, [("Origin", origin)])
    assert not passes(gate, [("Origin", origin), ("Sec-Fetch-Site", "cross-site")])


@pytest.mark.proves("CS-09")
@pytest.mark.parametrize("second", [FRONT_END, OWN, EVIL, "null", ""])
@pytest.mark.parametrize("first", [FRONT_END, OWN])
def test_two_origins_are_refused(gate: TestClient, first: str, second: str) -> None:
    """CS-09: no browser sends two; a proxy might read another one than this service."""
    assert not passes(gate, [("Origin", first), ("Origin", second)])
    assert not passes(gate, [("Origin", second), ("Origin", first)])


@pytest.mark.parametrize("host", ["testserver:8443", "auth.example.com", "[::1]:8000"])
def test_our_own_origin_is_that_of_the_host_header(gate: TestClient, host: str) -> None:
    """With its port. A page cannot choose the Host header of what it sends."""
    assert passes(gate, [("Host", host), ("Origin", f"https://{host}")])
    assert not passes(gate, [("Host", host), ("Origin", OWN)])


@pytest.mark.parametrize("origin", ["null", "https://", ""])
def test_nobodys_origin_is_not_that_of_an_empty_host(gate: TestClient, origin: str) -> None:
    assert not passes(gate, [("Host", ""), ("Origin", origin)])


# Sec-Fetch-Site


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_request_from_our_own_page_or_from_the_user_passes(gate: TestClient, site: str) -> None:
    """`none`: typed into the address bar, or from a bookmark."""
    assert passes(gate, [("Sec-Fetch-Site", site)])


@pytest.mark.proves("3.5.2", "CS-07", "CS-09")
@pytest.mark.parametrize(
    "site", ["cross-site", "same-site", "foo", "", "Same-Origin", "same-origin, none", " none;"]
)
def test_a_request_from_any_other_site_is_refused(gate: TestClient, site: str) -> None:
    """CS-07: a sibling subdomain, too. CS-09: an unknown value is refused, which is stricter than
    falling back, and no current browser sends one.
    """
    assert not passes(gate, [("Sec-Fetch-Site", site)])


@pytest.mark.proves("CS-07")
@pytest.mark.parametrize("site", ["cross-site", "same-site", "foo"])
def test_the_site_decides_before_an_origin_that_looks_like_ours(
    gate: TestClient, site: str
) -> None:
    """CS-07: http://testserver has the same host as https://testserver, but is another site."""
    assert not passes(gate, [("Sec-Fetch-Site", site), ("Origin", OWN)])


@pytest.mark.proves("CS-09")
@pytest.mark.parametrize("pair", [("same-origin", "cross-site"), ("none", "same-origin")])
def test_two_sites_are_refused(gate: TestClient, pair: tuple[str, str]) -> None:
    """CS-09."""
    assert not passes(gate, [("Sec-Fetch-Site", site) for site in pair])
    assert not passes(gate, [("Sec-Fetch-Site", site) for site in pair[::-1]])


@pytest.mark.proves("CS-09")
def test_the_same_site_twice_is_refused(gate: TestClient) -> None:
    """CS-09: whoever adds a header to a request may have added the first one."""
    assert not passes(gate, [("Sec-Fetch-Site", "same-origin")] * 2)


# Everything else


def test_a_program_that_sends_neither_header_passes(gate: TestClient) -> None:
    """curl, a server, a phone: nobody's cookies are sent unknowingly."""
    assert passes(gate, [])


@pytest.mark.proves("CS-08")
@pytest.mark.parametrize(
    "referer",
    ["https://evil.example/", "https://app.example.com.evil.com/", "https://evil/?" + OWN],
)
def test_the_referer_neither_helps_nor_hurts(gate: TestClient, referer: str) -> None:
    """CS-08: there is no fallback to it. Without Origin and site no browser has sent this."""
    assert passes(gate, [("Referer", referer)])
    assert not passes(gate, [("Referer", f"{OWN}/"), ("Origin", EVIL)])
    assert not passes(gate, [("Referer", f"{FRONT_END}/"), ("Sec-Fetch-Site", "cross-site")])


@pytest.mark.proves("3.5.1", "CS-06")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Requested-With", "XMLHttpRequest"),
        ("X-CSRF-Token", "x"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Original-Host", "evil.example"),
        ("Forwarded", "host=evil.example"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-User", "?1"),
    ],
)
def test_no_other_header_opens_the_gate(gate: TestClient, name: str, value: str) -> None:
    assert not passes(gate, [(name, value), ("Origin", EVIL)])


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_safe_method_passes_from_anywhere(client: TestClient, method: str) -> None:
    """A link from elsewhere must work. What a page may read of the answer is CORS' business."""
    sign_up_and_in(client)
    headers = {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}
    answer = client.request(method, "/api/v1/users/me", headers=headers)
    assert answer.status_code in (200, 405)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY", "FOO"])
@pytest.mark.parametrize("path", ["/api/v1/users/me", "/api/v1/nowhere", "/"])
def test_any_other_method_is_refused_on_any_path(gate: TestClient, method: str, path: str) -> None:
    """Before the path is looked at: a refusal tells nobody what there is."""
    assert_refused(gate.request(method, path, headers={"Origin": EVIL}))


UNSAFE = [one for one in OPERATIONS if one.method not in ("GET", "HEAD", "OPTIONS")]


@pytest.mark.proves("3.5.2", "CS-02")
@pytest.mark.parametrize("operation", UNSAFE, ids=lambda one: one.name)
def test_every_operation_that_changes_something_is_behind_the_gate(
    gate: TestClient, operation: Operation
) -> None:
    """CS-02: also those that will be written later."""
    for headers in ({"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}):
        assert_refused(gate.request(operation.method, operation.url, headers=headers))


@pytest.mark.proves("3.5.3", "LO-07")
def test_no_safe_operation_changes_anything(client: TestClient, database: Database) -> None:
    """LO-07: so that an image or a link from elsewhere does nothing, to an administrator either."""
    sign_up_and_in(client)
    change_user(database, ADA["email"], is_admin=True)
    before = the_login(database)
    for operation in OPERATIONS:
        answer = client.get(operation.url, headers={"Sec-Fetch-Site": "cross-site"})
        assert "set-cookie" not in answer.headers
        assert answer.status_code in (200, 404, 405)
    assert the_login(database) == before


# A refusal changes nothing


@pytest.mark.proves("3.5.2", "CS-02", "CS-03")
@pytest.mark.parametrize("origin", [EVIL, "null"])
def test_a_refused_refresh_rotates_nothing(
    client: TestClient, database: Database, origin: str
) -> None:
    """CS-02, CS-03: the cookie of before still works, and the row is as it was."""
    sign_up_and_in(client)
    before = the_login(database)
    assert_refused(client.post(REFRESH, headers={"Origin": origin}))
    assert the_login(database) == before
    assert refresh(client).status_code == 200


@pytest.mark.proves("LO-07")
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": EVIL, "Content-Type": "application/x-www-form-urlencoded"},
    ],
    ids=str,
)
def test_a_refused_log_out_logs_nobody_out(client: TestClient, headers: dict[str, str]) -> None:
    """LO-07."""
    sign_up_and_in(client)
    assert_refused(client.post(LOGOUT, headers=headers))
    assert who_am_i(client).status_code == 200
    assert refresh(client).status_code == 200


@pytest.mark.proves("3.5.3", "LO-07")
def test_a_log_out_by_a_link_logs_nobody_out(client: TestClient) -> None:
    """LO-07: an image whose address is that of the log-out."""
    sign_up_and_in(client)
    assert client.get(LOGOUT).status_code == 405
    assert who_am_i(client).status_code == 200


@pytest.mark.proves("3.5.2")
def test_a_page_elsewhere_logs_nobody_in(client: TestClient, database: Database) -> None:
    """Log-in CSRF: the victim would work on in the attacker's account."""
    register(client)
    for content in ({"json": ADA}, {"data": ADA}):
        answer = client.post("/api/v1/auth/login", headers={"Origin": EVIL}, **content)  # type: ignore[arg-type]
        assert_refused(answer)
    assert all_logins(database) == []


def test_a_page_elsewhere_gets_no_tokens_either(client: TestClient, database: Database) -> None:
    """The forms of the token endpoint are what a page can send without a preflight."""
    register(client)
    form = {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}
    answer = client.post("/api/v1/auth/token", data=form, headers={"Origin": EVIL})
    assert_refused(answer)
    assert all_logins(database) == []


def test_a_page_elsewhere_ends_no_session(client: TestClient, database: Database) -> None:
    register(client)
    get_tokens(client)
    sign_in = client.post("/api/v1/auth/login", json=ADA).json()["session"]["id"]
    for path in ("", f"/{sign_in}", "?include_current=true"):
        address = f"/api/v1/users/me/sessions{path}"
        assert_refused(client.delete(address, headers={"Sec-Fetch-Site": "same-site"}))
    assert len(all_logins(database)) == 2


def test_a_bearer_token_opens_no_gate(client: TestClient, database: Database) -> None:
    """The rule is the same for all: a page that holds a token is named in the settings."""
    register(client)
    token = get_tokens(client)["access_token"]
    headers = {"Origin": EVIL, "Authorization": f"Bearer {token}"}
    assert_refused(client.delete("/api/v1/users/me/sessions?include_current=true", headers=headers))
    assert len(all_logins(database)) == 1


@pytest.mark.proves("CS-07")
def test_an_allowed_front_end_does_all_of_it(client: TestClient) -> None:
    """CS-07: the other side of every refusal above."""
    headers = {"Origin": FRONT_END, "Sec-Fetch-Site": "same-site"}
    register(client)
    assert client.post("/api/v1/auth/login", json=ADA, headers=headers).status_code == 200
    assert client.post(REFRESH, headers=headers).status_code == 200
    assert client.post(LOGOUT, headers=headers).status_code == 204


# What a page can send without a preflight


@pytest.mark.proves("CS-15")
@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"]
)
@pytest.mark.parametrize("method", ["DELETE", "GET", "PUT"])
def test_a_method_override_is_ignored(client: TestClient, name: str, method: str) -> None:
    """CS-15: in either direction, as a header, in the query and in a form."""
    sign_up_and_in(client)
    path = "/api/v1/users/me/sessions?include_current=true"
    attempts = [
        client.get(path, headers={name: "DELETE"}),
        client.get(path, params={name: "DELETE", "include_current": "true"}),
    ]
    assert [answer.status_code for answer in attempts] == [200, 200]
    assert client.post(path, headers={name: method}).status_code == 405
    assert client.post(path, data={name: method}).status_code == 405
    assert_refused(client.post(REFRESH, headers={name: "GET", "Origin": EVIL}))
    assert who_am_i(client).status_code == 200


JSON_TEXT = '{"email": "ada@example.com", "password": "nine tall herons at dawn"}'


@pytest.mark.proves("3.5.2", "CS-13")
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "text/plain;application/json",
        "text/plain; a=application/json",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; application/json",
        "multipart/form-data; boundary=x",
        "text/json",
        "text/html",
        "application/octet-stream",
        "*/*",
        "json",
        "application/jsonx",
        "application/x-json",
        "application/msgpack",
        "text/plain, application/json",
    ],
)
@pytest.mark.parametrize("path", ["login", "register"])
def test_json_under_another_content_type_is_refused(
    gate: TestClient, path: str, content_type: str | None
) -> None:
    """CS-13: these need no preflight, so a page elsewhere could send them (a Blob has none)."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = gate.post(f"/api/v1/auth/{path}", content=JSON_TEXT, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.proves("CS-13")
@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json;charset=utf-8", "APPLICATION/JSON", "application/json "],
)
def test_json_is_accepted_as_json(client: TestClient, content_type: str) -> None:
    """CS-13: the control."""
    register(client)
    headers = {"Content-Type": content_type}
    answer = client.post("/api/v1/auth/login", content=JSON_TEXT, headers=headers)
    assert answer.status_code == 200


@pytest.mark.proves("CS-13")
def test_json_for_the_token_endpoint_is_refused(client: TestClient) -> None:
    """CS-13: it takes forms only, and the gate guards those."""
    register(client)
    body = {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}
    answer = client.post("/api/v1/auth/token", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.proves("CS-13")
def test_a_form_for_a_json_operation_is_refused(client: TestClient, database: Database) -> None:
    """CS-13: urlencoded and multipart."""
    register(client)
    for content in ({"data": ADA}, {"data": ADA, "files": {"file": b"x"}}):
        answer = client.post("/api/v1/auth/login", **content)  # type: ignore[arg-type]
        assert answer.json()["code"] == "validation_failed"
        assert ADA["password"] not in answer.text
    assert all_logins(database) == []
