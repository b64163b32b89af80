"""What every answer carries, what a request's headers can and cannot do, and who may ask.

The ids (HD-01 …) are those of the list of attacks.
"""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError

from app.core.client import parse_address
from app.core.config import explain
from app.main import create_app
from tests.conftest import ClientFactory, make_settings
from tests.operations import DOCUMENT, OPERATIONS, Operation
from tests.people import ADA, BOB, bearer, get_tokens, log_in, register, sign_up_and_in, who_am_i

LOGIN = "/api/v1/auth/login"
SESSIONS = "/api/v1/users/me/sessions"
FRONT_END = "https://app.example.com"
NO_SUCH_HEADER = ("server", "x-powered-by", "via", "location", "etag", "last-modified")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture(scope="module")
def empty_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('headers') / 'empty.db'}"


@pytest.fixture(scope="module")
def anyone(empty_url: str) -> Iterator[TestClient]:
    """For questions that no database answers. The docs are on."""
    settings = make_settings(empty_url, enable_docs=True, backend_cors_origins=(FRONT_END,))
    with at(create_app(settings)) as client:
        yield client


def at(app: Any, base_url: str = "https://testserver", **more: Any) -> TestClient:
    return TestClient(app, base_url=base_url, raise_server_exceptions=False, **more)


# Every kind of answer

PREFLIGHT = {"Origin": FRONT_END, "Access-Control-Request-Method": "POST"}
Act = Callable[[TestClient], Response]
KINDS: dict[str, tuple[int, Act]] = {
    "a health check": (200, lambda client: client.get("/health/live")),
    "an unmigrated database": (503, lambda client: client.get("/health/ready")),
    "the key set": (200, lambda client: client.get("/.well-known/jwks.json")),
    "the document": (200, lambda client: client.get("/openapi.json")),
    "the docs": (200, lambda client: client.get("/docs")),
    "redoc": (200, lambda client: client.get("/redoc")),
    "a log-out": (204, lambda client: client.post("/api/v1/auth/logout")),
    "a revocation": (200, lambda client: client.post("/api/v1/auth/revoke", data={"token": "x"})),
    "OAuth2's no": (400, lambda client: client.post("/api/v1/auth/token")),
    "an unreadable body": (400, lambda client: client.post(
        LOGIN, content=b"\xff", headers={"Content-Type": "application/json"}
    )),
    "no login": (401, who_am_i),
    "another origin": (403, lambda client: client.post(LOGIN, headers={"Origin": "null"})),
    "an unknown path": (404, lambda client: client.get("/nowhere")),
    "an unknown file": (404, lambda client: client.get("/docs/assets/x/y.js")),
    "another method": (405, lambda client: client.get(LOGIN)),
    "HEAD": (405, lambda client: client.head(LOGIN)),
    "a large body": (413, lambda client: client.post(LOGIN, content=b"x" * 65_537)),
    "a wrong body": (422, lambda client: client.post(LOGIN, json={})),
    "a preflight": (204, lambda client: client.options(LOGIN, headers=PREFLIGHT)),
    "a refused preflight": (400, lambda client: client.options(
        LOGIN, headers=PREFLIGHT | {"Origin": "null"}
    )),
}  # fmt: skip
PAGES = ("the docs", "redoc")


@pytest.mark.proves("3.4.1", "3.4.3", "3.4.4", "3.4.5", "3.4.6", "13.4.6", "HD-01", "HD-04")
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_carries_the_security_headers(anyone: TestClient, kind: str) -> None:
    """HD-01, HD-04 (OWASP ASVS 5.0, 3.4)."""
    status, act = KINDS[kind]
    answer = act(anyone)
    assert answer.status_code == status
    assert_guarded(answer)
    policy = answer.headers["content-security-policy"]
    if kind not in PAGES:
        assert policy == "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"


def assert_guarded(answer: Response) -> None:
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "base-uri 'none'" in headers["content-security-policy"]
    max_age = re.fullmatch(
        r"max-age=(\d+); includeSubDomains", headers["strict-transport-security"]
    )
    assert max_age is not None
    assert int(max_age[1]) >= 365 * 24 * 60 * 60  # seconds: ASVS 3.4.1 wants a year
    assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])
    assert not [name for name in NO_SUCH_HEADER if name in headers]
    names = [name for name, _ in headers.multi_items() if name != "set-cookie"]
    assert len(names) == len(set(names))


@pytest.mark.proves("14.2.2", "14.3.2", "HD-02")
@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_is_kept_but_the_public_keys(anyone: TestClient, kind: str) -> None:
    """HD-02."""
    expected = "public, max-age=300" if kind == "the key set" else "no-store"
    assert KINDS[kind][1](anyone).headers["cache-control"] == expected


@pytest.mark.proves("14.2.2", "14.3.2", "HD-02")
def test_the_answers_of_a_whole_story_are_guarded_and_not_kept(client: TestClient) -> None:
    """HD-02: 200, 201, 204 and 401, with cookies and with tokens."""
    answers = [
        register(client),
        log_in(client),
        who_am_i(client),
        client.get(SESSIONS),
        client.post("/api/v1/auth/refresh"),
        log_in(client, BOB),
        client.delete(SESSIONS),
        client.post("/api/v1/auth/logout"),
        client.post("/api/v1/auth/token", data={
            "grant_type": "password", "username": ADA["email"], "password": ADA["password"]
        }),
    ]  # fmt: skip
    statuses = [answer.status_code for answer in answers]
    assert statuses == [201, 200, 200, 200, 200, 401, 204, 204, 200]
    for answer in answers:
        assert_guarded(answer)
        assert answer.headers["cache-control"] == "no-store"
    assert answers[-1].headers["pragma"] == "no-cache"  # RFC 6749, 5.1


@pytest.mark.proves("3.4.4", "16.5.4", "HD-01")
def test_an_unexpected_error_is_guarded_and_not_kept(
    anyone: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HD-01."""

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("app.services.authentication.authenticate", fail)
    answer = log_in(anyone)
    assert answer.status_code == 500
    assert_guarded(answer)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.proves("HD-02")
@pytest.mark.parametrize(
    "headers",
    [
        {"If-None-Match": "*"},
        {"If-None-Match": '"x", W/"y"'},
        {"If-Modified-Since": "Fri, 31 Dec 2100 23:59:59 GMT"},
        {"Range": "bytes=0-3"},
    ],
    ids=str,
)
def test_a_conditional_request_gets_the_whole_answer(
    client: TestClient, headers: dict[str, str]
) -> None:
    """HD-02: no 304 lets one user's copy stand for another's."""
    sign_up_and_in(client)
    for path in ("/api/v1/users/me", SESSIONS):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 200
        assert not {"etag", "last-modified", "accept-ranges"} & set(answer.headers)


@pytest.mark.proves("3.6.1", "HD-05")
def test_the_docs_load_nothing_from_elsewhere(anyone: TestClient) -> None:
    """HD-05."""
    for page in ("/docs", "/redoc"):
        html = anyone.get(page).text
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", html)
        assert not re.search(r"<script(?![^>]*\ssrc=)", html)
        assert "unsafe" not in anyone.get(page).headers["content-security-policy"]


@pytest.mark.proves("13.4.5", "ER-03")
@pytest.mark.parametrize("debug", [False, True])
def test_the_docs_are_there_with_debug_only(make_client: ClientFactory, debug: bool) -> None:
    """ER-03."""
    client = make_client(debug=debug)
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == (200 if debug else 404)


@pytest.mark.proves("13.4.1", "13.4.3", "ER-03")
@pytest.mark.parametrize(
    "path",
    [
        "/.env",
        "/.git/HEAD",
        "/admin",
        "/app.db",
        "/debug",
        "/docs/oauth2-redirect",
        "/favicon.ico",
        "/metrics",
        "/server-status",
        "/static/",
        "/static/..%2f..%2f.env",
        "/docs/assets/../../core/config.py",
        "/docs/assets/x/..%2f..%2fcore%2fconfig.py",
        "/docs/assets//etc/passwd",
        "/.well-known/openid-configuration",
        "/api/v1/openapi.json",
    ],
)
def test_there_is_nothing_that_scanners_look_for(anyone: TestClient, path: str) -> None:
    """ER-03."""
    answer = anyone.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# The request id


@pytest.mark.parametrize("sent", ["a" * 8, "A-Za-z0-9_-", "0123456789abcdef", "x" * 64])
@pytest.mark.parametrize("path", ["/health/live", "/nowhere", LOGIN])
def test_an_acceptable_request_id_is_kept(anyone: TestClient, path: str, sent: str) -> None:
    """So that a proxy's log and ours can be joined."""
    answer = anyone.get(path, headers={"X-Request-ID": sent})
    assert answer.headers.get_list("x-request-id") == [sent]
    assert path == "/health/live" or answer.json()["request_id"] == sent


@pytest.mark.proves("16.2.4", "16.4.1")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"short12",
        b"x" * 65,
        b"x" * 10_000,
        b"with space",
        b"new\r\nX-Evil: yes",
        b"line\nline1",
        b"null\x00null",
        b"esc\x1b[31mred",
        b"umlaut-\xc3\xa4\xc3\xb6",
        b"digits-\xd9\xa1\xd9\xa2\xd9\xa3",
        b"<script>alert</script>",
        b'quote"quote',
        b"percent%0d%0a",
        b"dots.dots.dots",
        b"trailing-newline\n",
        b"{jndi:ldap}",
    ],
    ids=ascii,
)
def test_any_other_request_id_is_replaced(anyone: TestClient, sent: bytes) -> None:
    """It goes into the log and into headers: length and characters are limited."""
    answer = anyone.get("/nowhere", headers=[(b"X-Request-ID", sent)])
    (used,) = answer.headers.get_list("x-request-id")
    assert re.fullmatch("[0-9a-f]{16}", used)
    assert answer.json()["request_id"] == used
    assert "x-evil" not in answer.headers


def test_of_two_request_ids_one_is_used(anyone: TestClient) -> None:
    headers = [("X-Request-ID", "first-of-two"), ("X-Request-ID", "second-of-two")]
    answer = anyone.get("/nowhere", headers=headers)
    (used,) = answer.headers.get_list("x-request-id")
    assert answer.json()["request_id"] == used


def test_request_ids_differ(anyone: TestClient) -> None:
    assert len({who_am_i(anyone).headers["x-request-id"] for _ in range(50)}) == 50


# Hosts


@pytest.fixture(scope="module")
def named(empty_url: str) -> Iterator[TestClient]:
    """A service that answers under two names only."""
    hosts = "auth.example.com, [::1]"
    with at(create_app(make_settings(empty_url, allowed_hosts=hosts))) as client:
        yield client


@pytest.mark.parametrize(
    "host", ["auth.example.com", "AUTH.example.com", "auth.example.com:8443", "[::1]", "[::1]:8000"]
)
def test_an_allowed_host_is_answered(named: TestClient, host: str) -> None:
    assert named.get("/health/live", headers={"Host": host}).status_code == 200


@pytest.mark.proves("HH-02")
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "",
        "testserver",
        "auth.example.com.evil.example",
        "evil.auth.example.com",
        "auth.example.com.",
        "auth.example.com:",
        "auth.example.com:80:80",
        "auth.example.com:port",
        "auth.example.com@evil.example",
        "auth.example.com, evil.example",
        "auth.example.com/x",
        "127.0.0.1",
        "::1",
        "[::2]",
    ],
)
def test_any_other_host_is_misdirected(named: TestClient, host: str) -> None:
    """HH-02."""
    answer = named.get("/.well-known/jwks.json", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")
    assert host == "" or host not in answer.text


def test_health_is_asked_for_by_address(named: TestClient) -> None:
    """A load balancer knows no name."""
    assert named.get("/health/live", headers={"Host": "10.0.0.7:8000"}).status_code == 200


@pytest.mark.proves("HH-02")
@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host"])
def test_no_other_header_names_the_host(named: TestClient, name: str) -> None:
    """HH-02."""
    headers = {"Host": "evil.example", name: "auth.example.com"}
    assert named.get("/.well-known/jwks.json", headers=headers).status_code == 421
    headers = {"Host": "auth.example.com", name: "evil.example"}
    assert named.get("/.well-known/jwks.json", headers=headers).status_code == 200


@pytest.mark.proves("HH-03")
def test_a_foreign_host_is_nowhere_in_an_answer(anyone: TestClient) -> None:
    """HH-03: issuer, servers and links come from the settings, or are relative."""
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    paths = ("/openapi.json", "/docs", "/redoc", "/.well-known/jwks.json", "/nowhere", LOGIN)
    for path in (*paths, "/health/live"):
        answer = anyone.get(path, headers=headers)
        assert "evil.example" not in answer.text + str(answer.headers)


@pytest.mark.proves("HH-03")
def test_a_foreign_host_is_nowhere_in_a_token(client: TestClient) -> None:
    """HH-03."""
    register(client)
    form = {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    token = client.post("/api/v1/auth/token", data=form, headers=headers).json()["access_token"]
    assert client.get("/api/v1/users/me", headers=bearer(token)).status_code == 200


# Paths


@pytest.mark.proves("3.7.2", "HH-02")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
@pytest.mark.parametrize("host", ["testserver", "evil.example"])
def test_a_trailing_slash_is_another_path(
    anyone: TestClient, operation: Operation, host: str
) -> None:
    """HH-02: 404, and no redirect that would carry a password to the Host header's host."""
    answer = anyone.request(
        operation.method, f"{operation.url}/", headers={"Host": host}, follow_redirects=False
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "location" not in answer.headers


@pytest.mark.proves("1.1.1", "IN-10")
@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/auth/login",
        "/api//v1/auth/login",
        "/api/v1/auth//login",
        "/API/V1/AUTH/LOGIN",
        "/api/v1/auth/login%20",
        "/api/v1/auth/login%00",
        "/api/v1/auth/login;x=y",
        "/api/v1/auth/login.",
        "/api/v1/auth/login.json",
        "/api/v1/auth/%2e/login",
        "/api/v1/./auth/login%2f",
        "/api/v1/auth/login%0a",
        "/v1/auth/login",
        "/auth/login",
    ],
)
def test_no_other_spelling_reaches_a_route(anyone: TestClient, path: str) -> None:
    """IN-10: one path for each operation, so a rule of a proxy cannot be walked around."""
    answer = anyone.post(f"https://testserver{path}", json=ADA, follow_redirects=False)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.proves("4.1.3", "HH-04")
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Original-URL": "/api/v1/users/me"},
        {"X-Rewrite-URL": "/api/v1/users/me"},
        {"X-Forwarded-Prefix": "/api/v1"},
        {"X-Forwarded-Path": "/api/v1/users/me"},
        {"X-Forwarded-Proto": "http", "X-Forwarded-Port": "80"},
        {"X-Forwarded-User": "ada@example.com"},
        {"X-Remote-User": "ada@example.com"},
    ],
    ids=str,
)
def test_no_header_moves_a_request_to_another_path(
    anyone: TestClient, headers: dict[str, str]
) -> None:
    """HH-04."""
    assert anyone.get("/health/live", headers=headers).json() == {"status": "ok"}
    assert anyone.get("/nowhere", headers=headers).status_code == 404
    assert anyone.get("/api/v1/users/me", headers=headers).status_code == 401


# Methods


@pytest.mark.proves("4.1.4", "13.4.4")
@pytest.mark.parametrize("path", DOCUMENT["paths"])
@pytest.mark.parametrize("method", ["TRACE", "QUERY", "PROPFIND", "FOO", "get ", "G\u00cbT"])
def test_an_odd_method_is_not_allowed(anyone: TestClient, method: str, path: str) -> None:
    """TRACE would echo cookies that no script may read."""
    headers = {"Cookie": "__Host-access=canary", "Authorization": "Bearer canary"}
    url = path.replace("{session_id}", "x")
    answer = anyone.request(method, url, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"]
    assert "canary" not in answer.text + str(answer.headers)


@pytest.mark.proves("4.2.2")
@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_head_has_no_body(anyone: TestClient, path: str) -> None:
    answer = anyone.head(path.replace("{session_id}", "x"))
    assert answer.status_code in (200, 401, 405, 503)
    assert answer.content == b""
    assert_guarded(answer)


# DEBUG

LOOPBACK = ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"]
OPEN = ["192.0.2.1", "10.0.0.5", "0.0.0.0", "[2001:db8::1]", "[::]", "169.254.1.1"]


def served_at(app: Any, address: str) -> TestClient:
    """As if the connection had come in at this address of the machine."""
    return at(app, f"http://{address}:8000")


@pytest.fixture(scope="module")
def debugging(empty_url: str) -> Iterator[Any]:
    app = create_app(make_settings(empty_url, debug=True))
    with at(app):
        yield app


@pytest.mark.parametrize("address", LOOPBACK)
def test_with_debug_this_machine_is_answered(debugging: Any, address: str) -> None:
    assert served_at(debugging, address).get("/health/live").status_code == 200


@pytest.mark.proves("13.4.2", "ER-02")
@pytest.mark.parametrize("address", OPEN)
@pytest.mark.parametrize("path", ["/health/live", "/docs", "/nowhere", "/api/v1/users/me"])
def test_with_debug_nobody_else_is(debugging: Any, address: str, path: str) -> None:
    """ER-02: uvicorn may have been told to listen everywhere; cookies would travel in clear."""
    answer = served_at(debugging, address).get(path)
    assert (answer.status_code, answer.json()["code"]) == (403, "debug_not_loopback")


@pytest.mark.proves("ER-02")
def test_with_debug_the_host_header_does_not_open_the_door(debugging: Any) -> None:
    """ER-02: what counts is where the connection came in, not what the request says."""
    headers = {"Host": "127.0.0.1:8000", "X-Forwarded-For": "127.0.0.1"}
    answer = served_at(debugging, "192.0.2.1").get("/health/live", headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("address", LOOPBACK + OPEN)
def test_without_debug_every_address_is_answered(anyone: TestClient, address: str) -> None:
    assert served_at(anyone.app, address).get("/health/live").status_code == 200


# Where a request comes from. RL-02: whoever may choose that escapes every limit by address.

TRUSTED = "127.0.0.1, 10.0.0.0/8, 2001:db8:1::/48"


@pytest.fixture(scope="module")
def behind_proxies(empty_url: str) -> Iterator[TestClient]:
    with at(create_app(make_settings(empty_url, trusted_proxies=TRUSTED))) as client:
        yield client


def client_seen(app: Any, peer: str, *forwarded: str, **more: str) -> str:
    """Whom the access log names for a request of `peer` with these X-Forwarded-For headers."""
    handler = logging.root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(io.StringIO())
    try:
        headers = [("X-Forwarded-For", value) for value in forwarded]
        headers += [(name.replace("_", "-"), value) for name, value in more.items()]
        at(app, client=(peer, 50_000)).get("/health/live", headers=headers)
        lines = [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    finally:
        handler.setStream(before)
    (found,) = [line["client"] for line in lines if line.get("event") == "request"]
    assert isinstance(found, str)
    return found


@pytest.mark.proves("4.1.3", "15.3.4", "RL-02")
@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        # no proxy in between
        ("203.0.113.9", [], "203.0.113.9"),
        ("2001:db8:2::9", [], "2001:db8:2::9"),
        # one proxy, two proxies
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        ("2001:db8:1::1", ["2001:db8:2::9"], "2001:db8:2::9"),
        # what the client itself has written stands further left
        ("127.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["nonsense, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        # a peer that is no trusted proxy speaks for nobody
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("127.0.0.2", ["198.51.100.1"], "127.0.0.2"),
        ("11.0.0.1", ["198.51.100.1"], "11.0.0.1"),
        ("2001:db8:2::9", ["198.51.100.1"], "2001:db8:2::9"),
        # an IPv4 peer on an IPv6 socket, and such an address in the header
        ("::ffff:127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, ::ffff:10.1.2.3"], "203.0.113.9"),
        # a chain of nothing but proxies ends at the first of them
        ("127.0.0.1", ["10.0.0.1"], "10.0.0.1"),
        # one spelling for one address
        ("127.0.0.1", [" 203.0.113.9 "], "203.0.113.9"),
        ("127.0.0.1", ["2001:DB8:2:0:0:0:0:9"], "2001:db8:2::9"),
        # what is no address: the proxy is the last one known
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9, "], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9, nonsense"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9; 198.51.100.1"], "127.0.0.1"),
        ("127.0.0.1", ["0x7f000001"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.009"], "127.0.0.1"),
        ("127.0.0.1", ["<script>"], "127.0.0.1"),
        ("127.0.0.1", ["," * 5000], "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_hop_that_no_trusted_proxy_is(
    behind_proxies: TestClient, peer: str, forwarded: list[str], expected: str
) -> None:
    """RL-02."""
    assert client_seen(behind_proxies.app, peer, *forwarded) == expected


@pytest.mark.proves("RL-02")
@pytest.mark.parametrize("hop", ["fe80::1%eth0", "fe80::1%" + "x" * 500, "2001:db8:1::1%<script>"])
def test_an_address_with_a_zone_brings_no_text_of_its_own(
    behind_proxies: TestClient, hop: str
) -> None:
    """RL-02: a zone (RFC 4007) means something on its own machine only, and may be any text."""
    seen = client_seen(behind_proxies.app, "127.0.0.1", hop)
    assert "%" not in seen
    assert len(seen) <= 45  # as long as an address can be, and the column of the logins


def test_a_hop_that_is_longer_than_any_address_is_not_remembered(
    behind_proxies: TestClient,
) -> None:
    """Thousands are, so that they need not be read again: as text, that could be megabytes."""
    before = parse_address.cache_info().currsize
    for number in range(10):
        hop = f"{number}" * 10_000
        assert client_seen(behind_proxies.app, "127.0.0.1", hop) == "127.0.0.1"
    assert parse_address.cache_info().currsize <= before + 1  # that of the proxy


@pytest.mark.proves("4.1.3", "15.3.4", "RL-02")
@pytest.mark.parametrize(
    "name",
    ["X_Real_IP", "Forwarded", "True_Client_IP", "CF_Connecting_IP", "X_Client_IP", "Client_IP"],
)
def test_no_other_header_says_who_the_client_is(behind_proxies: TestClient, name: str) -> None:
    """RL-02."""
    value = "for=198.51.100.1" if name == "Forwarded" else "198.51.100.1"
    assert client_seen(behind_proxies.app, "127.0.0.1", **{name: value}) == "127.0.0.1"
    assert client_seen(behind_proxies.app, "203.0.113.9", **{name: value}) == "203.0.113.9"


@pytest.mark.proves("4.1.3", "RL-02")
def test_without_the_setting_nobody_is_believed(anyone: TestClient) -> None:
    """RL-02: not even loopback, which uvicorn would believe."""
    assert client_seen(anyone.app, "127.0.0.1", "198.51.100.1") == "127.0.0.1"


@pytest.mark.proves("RL-02")
def test_the_list_of_sessions_shows_the_real_address(make_client: ClientFactory) -> None:
    """RL-02."""
    app = make_client(trusted_proxies=TRUSTED).app
    spoofing = at(app, client=("203.0.113.9", 50_000))
    headers = {"X-Forwarded-For": "198.51.100.1"}
    register(spoofing)
    spoofing.post(LOGIN, json=ADA, headers=headers)
    (session,) = spoofing.get(SESSIONS, headers=headers).json()
    assert session["ip_address"] == "203.0.113.9"
    proxied = at(app, client=("10.0.0.1", 50_000))
    token = get_tokens(proxied)["access_token"]
    found = proxied.get(SESSIONS, headers=bearer(token)).json()
    assert {one["ip_address"] for one in found} == {"203.0.113.9", "10.0.0.1"}


@pytest.mark.parametrize("value", ["everybody", "10.0.0.0/33", "10.0.0.1/8", "*", "1.2.3"])
def test_a_proxy_that_is_no_address_stops_the_start(sqlite_url: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        make_settings(sqlite_url, trusted_proxies=value)
    (sentence,) = explain(refused.value)
    assert sentence.startswith("TRUSTED_PROXIES is wrong")


# What a client says about itself


@pytest.mark.proves("SQ-03")
@pytest.mark.parametrize("agent", ["", "x" * 10_000, "<script>", "%s%n", "{0.__class__}"])
def test_any_user_agent_may_log_in(client: TestClient, agent: str) -> None:
    """SQ-03: it is kept as it is, cut to what a list of sessions can show."""
    register(client)
    assert client.post(LOGIN, json=ADA, headers={"User-Agent": agent}).status_code == 200
    (session,) = client.get(SESSIONS).json()
    assert session["user_agent"] == agent[:200]
