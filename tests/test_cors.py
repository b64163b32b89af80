"""CORS: the origins that the settings name, to the letter, and nobody else's page reads an answer.

The ids are those of the list of attacks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError

from app.core.config import explain
from app.main import create_app
from tests.conftest import ClientFactory, make_settings
from tests.operations import OPERATIONS
from tests.people import ADA, log_in, register, sign_up_and_in

FRONT_END = "https://app.example.com"
SECOND = "http://localhost:3000"
OWN = "https://testserver"

LOOKALIKES = [
    "https://evil.example",
    "null",
    "",
    "*",
    "https://app.example.com/",
    "https://app.example.com:443",
    "https://app.example.com:8443",
    "http://app.example.com",
    "https://APP.example.com",
    "https://app.example.com.evil.example",
    "https://evil.app.example.com",
    "https://evilapp.example.com",
    "https://app-example.com",
    "https://app.example.co",
    "https://app.example.com@evil.example",
    "https://evil.example/https://app.example.com",
    "https://app.example.com, https://evil.example",
    "https://app.example.com%60.evil.example",
    "https://app.example.com\\.evil.example",
    "http://localhost",
    "http://localhost:30000",
    "http://127.0.0.1:3000",
    OWN,
]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    return make_client(backend_cors_origins=(FRONT_END, SECOND))


@pytest.fixture(scope="module")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """For questions that no database answers."""
    url = f"sqlite:///{tmp_path_factory.mktemp('cors') / 'empty.db'}"
    app = create_app(make_settings(url, backend_cors_origins=(FRONT_END, SECOND)))
    with TestClient(app, base_url=OWN, raise_server_exceptions=False) as client:
        yield client


def vary(answer: Response) -> set[str]:
    return {name.strip().lower() for name in answer.headers.get("vary", "").split(",")}


def assert_granted(answer: Response, origin: str = FRONT_END) -> None:
    assert answer.headers.get_list("access-control-allow-origin") == [origin]
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "origin" in vary(answer)


def assert_not_granted(answer: Response) -> None:
    assert "access-control-allow-origin" not in answer.headers
    assert "origin" in vary(answer)


# Which origins


@pytest.mark.proves("3.4.2", "CS-10")
@pytest.mark.parametrize("origin", [FRONT_END, SECOND])
def test_an_allowed_origin_may_read_the_answer(anyone: TestClient, origin: str) -> None:
    """CS-10: the exact origin, never `*`, with credentials."""
    assert_granted(anyone.get("/health/live", headers={"Origin": origin}), origin)


@pytest.mark.proves("3.4.2", "CS-03", "CS-10")
@pytest.mark.parametrize("origin", LOOKALIKES)
def test_no_other_origin_may_read_the_answer(anyone: TestClient, origin: str) -> None:
    """CS-10, CS-03: neither a look-alike nor `null`."""
    assert_not_granted(anyone.get("/health/live", headers={"Origin": origin}))


def test_an_answer_to_a_request_without_an_origin_varies_by_it(anyone: TestClient) -> None:
    """A cache must not hand it to a page, nor a page's answer to somebody else."""
    for path in ("/health/live", "/.well-known/jwks.json", "/nowhere"):
        assert_not_granted(anyone.get(path))


@pytest.mark.proves("CS-09")
def test_two_origins_grant_nothing_to_the_second(anyone: TestClient) -> None:
    """CS-09."""
    headers = [("Origin", "https://evil.example"), ("Origin", FRONT_END)]
    assert_not_granted(anyone.get("/health/live", headers=headers))


def test_without_the_setting_no_origin_is_allowed(make_client: ClientFactory) -> None:
    client = make_client()
    for origin in (FRONT_END, OWN, "null"):
        assert_not_granted(client.get("/health/live", headers={"Origin": origin}))
        assert preflight(client, origin=origin).status_code == 400


@pytest.mark.proves("3.4.2")
@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://*.example.com",
        "https://App.example.com",
        "https://user@app.example.com",
        "ftp://app.example.com",
        "file://",
        "https://",
        "https://app.example.com?x",
        "https://app.example.com#x",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://app.example.com:port",
        "https://app.example.com:99999",
        "https://app .example.com",
    ],
)
def test_what_is_no_exact_origin_stops_the_start(sqlite_url: str, origin: str) -> None:
    """It would allow everybody, or, silently, nobody: no browser sends a default port."""
    with pytest.raises(ValidationError) as refused:
        make_settings(sqlite_url, backend_cors_origins=origin)
    (sentence,) = explain(refused.value)
    assert sentence.startswith("BACKEND_CORS_ORIGINS is wrong")


# Which answers


def fail(*_: object, **__: object) -> None:
    raise RuntimeError


Act = Callable[[TestClient, dict[str, str]], Response]
ERRORS: dict[str, tuple[int, Act]] = {
    "401": (401, lambda client, headers: client.get("/api/v1/users/me", headers=headers)),
    "401 refresh": (401, lambda client, headers: client.post(
        "/api/v1/auth/refresh", headers=headers
    )),
    "400": (400, lambda client, headers: client.post("/api/v1/auth/token", headers=headers)),
    "404": (404, lambda client, headers: client.get("/nowhere", headers=headers)),
    "405": (405, lambda client, headers: client.get("/api/v1/auth/login", headers=headers)),
    "409": (409, lambda client, headers: [register(client), client.post(
        "/api/v1/auth/register", json=ADA, headers=headers
    )][1]),
    "413": (413, lambda client, headers: client.post(
        "/api/v1/auth/login", content=b"x" * 70_000, headers=headers
    )),
    "413 in chunks": (413, lambda client, headers: client.post(
        "/api/v1/auth/login",
        content=(b"x" * 10_000 for _ in range(10)),
        headers=headers | {"Content-Type": "application/json"},
    )),
    "422": (422, lambda client, headers: client.post(
        "/api/v1/auth/login", json={}, headers=headers
    )),
}  # fmt: skip


@pytest.mark.proves("CS-10")
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_any_kind_can_be_read_by_an_allowed_page_only(
    client: TestClient, kind: str
) -> None:
    """CS-10: a front end that cannot read `code` cannot tell a 401 from a broken network."""
    status, act = ERRORS[kind]
    answer = act(client, {"Origin": FRONT_END})
    assert answer.status_code == status
    assert_granted(answer)
    assert_not_granted(act(client, {"Origin": "https://evil.example"}))


@pytest.mark.proves("16.5.4", "CS-10")
def test_an_unexpected_error_can_be_read_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CS-10: Starlette's own 500 comes from outside of CORS."""
    monkeypatch.setattr("app.services.authentication.authenticate", fail)
    answer = client.post("/api/v1/auth/login", json=ADA, headers={"Origin": FRONT_END})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert_granted(answer)
    answer = client.post("/api/v1/auth/token", data=password_form(), headers={"Origin": FRONT_END})
    assert answer.status_code == 500
    assert_granted(answer)


def password_form() -> dict[str, str]:
    return {"grant_type": "password", "username": ADA["email"], "password": ADA["password"]}


@pytest.mark.proves("CS-10")
def test_a_refusal_by_the_settings_can_be_read_too(make_client: ClientFactory) -> None:
    """CS-10: 403, 421."""
    client = make_client(
        backend_cors_origins=(FRONT_END,), registration_open=False, allowed_hosts=("testserver",)
    )
    answer = client.post("/api/v1/auth/register", json=ADA, headers={"Origin": FRONT_END})
    assert (answer.status_code, answer.json()["code"]) == (403, "registration_closed")
    assert_granted(answer)
    headers = {"Origin": FRONT_END, "Host": "elsewhere.example"}
    answer = client.get("/.well-known/jwks.json", headers=headers)
    assert answer.status_code == 421
    assert_granted(answer)


@pytest.mark.proves("CS-10")
def test_a_503_can_be_read_with_its_retry_after(make_client: ClientFactory, tmp_path: Any) -> None:
    """CS-10."""
    settings = make_settings(f"sqlite:///{tmp_path / 'unmigrated.db'}")
    settings = settings.model_copy(update={"backend_cors_origins": (FRONT_END,)})
    client = make_client(app=create_app(settings))
    answer = client.get("/health/ready", headers={"Origin": FRONT_END})
    assert answer.status_code == 503
    assert_granted(answer)
    assert "retry-after" in exposed(answer)
    assert answer.headers["retry-after"]


def test_the_gates_refusal_cannot_be_read_by_the_page_that_it_refuses(anyone: TestClient) -> None:
    answer = anyone.post("/api/v1/auth/logout", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert_not_granted(answer)


def test_a_log_in_by_an_allowed_page_brings_its_cookies(client: TestClient) -> None:
    register(client)
    answer = client.post("/api/v1/auth/login", json=ADA, headers={"Origin": FRONT_END})
    assert_granted(answer)
    assert len(answer.headers.get_list("set-cookie")) == 3
    me = client.get("/api/v1/users/me", headers={"Origin": FRONT_END})
    assert me.json()["email"] == ADA["email"]
    assert_granted(me)


@pytest.mark.proves("3.5.8")
def test_a_page_elsewhere_cannot_read_who_is_logged_in(client: TestClient) -> None:
    sign_up_and_in(client)
    assert_not_granted(client.get("/api/v1/users/me", headers={"Origin": "https://evil.example"}))


def test_when_to_come_back_and_the_request_id_are_exposed(anyone: TestClient) -> None:
    """Of the other headers a page needs none."""
    answer = anyone.get("/api/v1/users/me", headers={"Origin": FRONT_END})
    limits = {"retry-after", "ratelimit", "ratelimit-policy"}
    assert exposed(answer) == limits | {"x-request-id"}


def exposed(answer: Response) -> set[str]:
    names = answer.headers["access-control-expose-headers"].split(",")
    return {name.strip().lower() for name in names}


# Preflights


def preflight(
    client: TestClient,
    *,
    origin: str = FRONT_END,
    method: str = "POST",
    path: str = "/api/v1/auth/login",
    **more: str,
) -> Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return client.options(path, headers=headers)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_an_allowed_page_may_call_every_operation(anyone: TestClient, operation: Any) -> None:
    asked = "authorization, content-type, x-request-id"
    answer = preflight(
        anyone,
        method=operation.method,
        path=operation.url,
        Access_Control_Request_Headers=asked,
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert_granted(answer)
    assert operation.method in answer.headers["access-control-allow-methods"].split(", ")
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert set(asked.split(", ")) <= set(allowed)


@pytest.mark.proves("4.1.4", "CS-12")
def test_a_preflight_allows_only_what_is_used(anyone: TestClient) -> None:
    """CS-12. The four besides ours are those that need no permission anyway."""
    answer = preflight(anyone)
    assert set(answer.headers["access-control-allow-methods"].split(", ")) == {
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    }
    assert set(answer.headers["access-control-allow-headers"].lower().split(", ")) == {
        "authorization",
        "content-type",
        "x-request-id",
        "accept",
        "accept-language",
        "content-language",
    }


@pytest.mark.proves("CS-12")
def test_a_preflight_is_kept_for_ten_minutes_at_most(anyone: TestClient) -> None:
    """CS-12: a page that is no longer allowed is out soon."""
    assert 0 < int(preflight(anyone).headers["access-control-max-age"]) <= 600


def test_a_preflight_varies_by_what_it_was_asked(anyone: TestClient) -> None:
    assert vary(preflight(anyone)) >= {
        "origin",
        "access-control-request-method",
        "access-control-request-headers",
    }


def test_the_answer_to_a_preflight_announces_no_body(anyone: TestClient) -> None:
    """It has none: a client would wait for one, or take the next answer for it."""
    assert not {"content-length", "content-type"} & preflight(anyone).headers.keys()


def assert_preflight_refused(answer: Response) -> None:
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "preflight_refused"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    granted = [name for name in answer.headers if name.startswith("access-control-")]
    assert granted == []
    assert "origin" in vary(answer)


@pytest.mark.proves("CS-10", "CS-12")
@pytest.mark.parametrize("origin", LOOKALIKES)
def test_a_preflight_of_another_origin_is_refused(anyone: TestClient, origin: str) -> None:
    """CS-10, CS-12: as a problem that grants nothing."""
    assert_preflight_refused(preflight(anyone, origin=origin))


@pytest.mark.proves("CS-12")
@pytest.mark.parametrize(
    "method", ["TRACE", "QUERY", "FOO", "CONNECT", "OPTIONS", "delete", "*", "", "POST, GET"]
)
def test_a_preflight_for_a_method_that_nobody_uses_is_refused(
    anyone: TestClient, method: str
) -> None:
    """CS-12."""
    assert_preflight_refused(preflight(anyone, method=method))


@pytest.mark.proves("CS-12")
@pytest.mark.parametrize(
    "names", ["X-Evil", "Cookie", "authorization, x-evil", "x-csrf-token", "*", "host", "a b"]
)
def test_a_preflight_for_another_header_is_refused(anyone: TestClient, names: str) -> None:
    """CS-12."""
    assert_preflight_refused(preflight(anyone, Access_Control_Request_Headers=names))


def test_a_preflight_from_a_public_page_into_a_private_network_is_refused(
    anyone: TestClient,
) -> None:
    assert_preflight_refused(preflight(anyone, Access_Control_Request_Private_Network="true"))


@pytest.mark.proves("HD-01")
def test_a_preflight_has_the_headers_of_every_answer(anyone: TestClient) -> None:
    """HD-01."""
    for answer in (preflight(anyone), preflight(anyone, origin="https://evil.example")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]


def test_a_preflight_reaches_no_route_and_no_cookie(client: TestClient) -> None:
    sign_up_and_in(client)
    for path in ("/api/v1/auth/logout", "/api/v1/auth/refresh"):
        assert "set-cookie" not in preflight(client, path=path).headers
    assert client.get("/api/v1/users/me").status_code == 200


def test_options_without_a_question_is_no_preflight(anyone: TestClient) -> None:
    """The route answers for itself."""
    answer = anyone.options("/api/v1/auth/login", headers={"Origin": FRONT_END})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert_granted(answer)


def test_the_flow_of_a_front_end_works_to_the_end(client: TestClient) -> None:
    """Preflight, log in, refresh, log out, as a browser on the same site sends them."""
    register(client)
    headers = {"Origin": FRONT_END, "Sec-Fetch-Site": "same-site"}
    assert preflight(client, Access_Control_Request_Headers="content-type").status_code == 204
    log_in(client)
    for path in ("/api/v1/auth/refresh", "/api/v1/auth/logout"):
        answer = client.post(path, headers=headers)
        assert answer.status_code < 300
        assert_granted(answer)
