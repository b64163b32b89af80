"""What an answer is to a browser: data of one kind, for nobody else's page."""

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from tests.conftest import ClientFactory
from tests.links import MAIL
from tests.operations import OPERATIONS, Operation
from tests.people import ADA, log_in, register, sign_up_and_in

NAVIGATION = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Dest": "document"}
PAGES = ("/docs", "/redoc", "/account/log-in", "/account/verify-email", "/account/reset-password")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """No database has a say in these."""
    return sqlite_url


@pytest.fixture
def anyone(make_client: ClientFactory) -> Iterator[TestClient]:
    client = make_client(debug=False, enable_docs=True, **MAIL)
    with TestClient(client.app, base_url="https://testserver") as anyone:
        yield anyone


@pytest.mark.proves("3.2.1", "3.5.7")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_no_operation_answers_with_anything_but_data(
    client: TestClient, operation: Operation
) -> None:
    """Opened as a page, with markup in what is sent, it is neither shown as one nor run."""
    markup = "<script>alert(1)</script>"
    for query in ("", f"?x={markup}", f"?after={markup}&limit={markup}"):
        answer = client.request(
            operation.method, operation.url + query, headers=NAVIGATION, json={markup: markup}
        )
        assert_data(answer)


def assert_data(answer: Response) -> None:
    kind = answer.headers.get("content-type", "")
    assert kind in ("application/json", "application/problem+json", "")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.proves("4.1.1", "4.2.2")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_a_body_has_its_type_and_its_length_and_no_body_has_neither(
    client: TestClient, operation: Operation
) -> None:
    answer = client.request(operation.method, operation.url, json=operation.example)
    length = answer.headers.get("content-length")
    if answer.status_code == 204:
        assert (answer.content, length) == (b"", None)
    else:
        assert int(length or 0) == len(answer.content)
    assert ("content-type" in answer.headers) == bool(answer.content)
    if answer.content:
        answer.json()


@pytest.mark.proves("4.1.1", "3.4.8", "3.4.3")
@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_its_charset_and_shares_its_window_with_nobody(
    anyone: TestClient, path: str
) -> None:
    answer = anyone.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "base-uri 'none'" in policy
    assert "default-src 'none'" in policy  # which covers object-src


@pytest.mark.proves("3.5.6")
@pytest.mark.parametrize("name", ["callback", "jsonp", "cb", "_callback"])
def test_there_is_no_jsonp(client: TestClient, name: str) -> None:
    sign_up_and_in(client)
    plain = client.get("/api/v1/users/me")
    asked = client.get("/api/v1/users/me", params={name: "alert"})
    assert asked.content == plain.content
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.proves("3.5.7")
def test_scripts_and_documents_are_the_same_for_everybody(anyone: TestClient) -> None:
    """A page elsewhere can load a script with somebody's cookies, so none may tell about them."""
    paths = ["/openapi.json"]
    for page in PAGES:
        html = anyone.get(page).text
        found = re.findall(r'(?:src|href)="([^"#]+\.(?:js|css))"', html)
        paths += [re.sub(r"^[^/]", rf"{page.rpartition('/')[0]}/\g<0>", path) for path in found]
    assert len(paths) > 5
    before = [anyone.get(path) for path in paths]
    assert {answer.status_code for answer in before} == {200}
    register(anyone)
    assert log_in(anyone).status_code == 200
    assert [anyone.get(path).content for path in paths] == [answer.content for answer in before]


@pytest.mark.proves("3.5.8")
@pytest.mark.parametrize("destination", ["image", "script", "style", "iframe", "object"])
def test_nobody_embeds_what_a_user_may_read(client: TestClient, destination: str) -> None:
    sign_up_and_in(client)
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    answer = client.get("/api/v1/users/me", headers=embedded | {"Sec-Fetch-Dest": destination})
    assert ADA["email"] in answer.text  # the browser's to withhold, and this is what it asks:
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


TARGETS = ("https://evil.example", "//evil.example", "/\\evil.example", "https:evil.example")


@pytest.mark.proves("3.7.2")
@pytest.mark.parametrize("name", ["next", "redirect", "redirect_uri", "return_to", "url"])
def test_no_parameter_redirects(anyone: TestClient, name: str) -> None:
    register(anyone)
    for target in TARGETS:
        for answer in (
            anyone.post("/api/v1/auth/login", params={name: target}, json=ADA),
            anyone.post("/api/v1/auth/logout", params={name: target}),
            *(anyone.get(page, params={name: target}) for page in PAGES),
        ):
            assert answer.is_success
            assert "evil.example" not in answer.text + str(answer.headers)
