"""The pages for the links in mails, asked for without a browser: what they are made of, and that
opening one does nothing. What they do in a browser is in tests/browser/test_pages.py.
"""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.models.mail import Purpose
from tests.answers import refused_as
from tests.conftest import make_settings
from tests.links import MAIL, all_tokens, mint
from tests.people import ADA, log_in, register

PAGES = {
    "/account/log-in": "Log in",
    "/account/verify-email": "Confirm your email address",
    "/account/reset-password": "Choose a new password",
    "/account/confirm-email": "Confirm your new email address",
}
# Which page a link of this purpose leads to, and what the page's button does.
LINKS: dict[Purpose, tuple[str, str, dict[str, str]]] = {
    Purpose.VERIFY_EMAIL: ("/account/verify-email", "/api/v1/auth/verify-email", {}),
    Purpose.RESET_PASSWORD: (
        "/account/reset-password",
        "/api/v1/auth/reset-password",
        {"password": "seven loud geese on ice"},
    ),
    Purpose.CONFIRM_EMAIL: ("/account/confirm-email", "/api/v1/users/me/email/confirm", {}),
}
EVERY_PAGE = pytest.mark.parametrize("path", PAGES)

Opener = Callable[..., TestClient]


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """`anywhere(frontend_url=…)`: before an app so configured. No page asks the database."""
    url = f"sqlite:///{tmp_path_factory.mktemp('pages') / 'empty.db'}"

    def open_app(**changes: Any) -> TestClient:
        app = create_app(make_settings(url, **changes))
        return TestClient(app, base_url="https://testserver")

    return open_app


@pytest.fixture(scope="module")
def anyone(anywhere: Opener) -> TestClient:
    return anywhere()


class Document(HTMLParser):
    """Every start tag with its attributes, and the words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def attributes(self, *names: str) -> list[str | None]:
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def files_of(client: TestClient, path: str) -> list[str]:
    found = Document(client.get(path).text).attributes("href", "src")
    return [f"/account/{address}" for address in found if str(address).startswith("assets/")]


# Where they are


@EVERY_PAGE
def test_each_page_says_in_html_what_it_is(anyone: TestClient, path: str) -> None:
    answer = anyone.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.startswith('<!doctype html>\n<html lang="en">')
    assert f"<title>{PAGES[path]} - FastAPI Auth</title>" in answer.text
    assert f"<h1>{PAGES[path]}</h1>" in answer.text


@EVERY_PAGE
def test_a_team_with_pages_of_its_own_has_none_of_ours(anywhere: Opener, path: str) -> None:
    files = files_of(anywhere(), path)
    assert files
    client = anywhere(frontend_url="https://app.example.com")
    for address in (path, *files):
        assert refused_as(client.get(address)) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/account",
        "/account/",
        "/account/log-in/",
        "/account/log-in.html",
        "/account/layout",
        "/account/layout.html",
        "/account/register",
        "/account/pages.js",
        "/account/assets",
        "/account/assets/",
    ],
)
def test_there_are_no_other_pages(anyone: TestClient, path: str) -> None:
    assert refused_as(anyone.get(path)) == (404, "not_found")


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/",
        "/layout.html",
        "/log-in.html",
        "/../pages.py",
        "/..%2fapi%2fpages.py",
        "//etc/passwd",
    ],
)
@pytest.mark.proves("13.4.3")
def test_what_is_no_file_of_the_pages_is_not_found(anyone: TestClient, rest: str) -> None:
    folder = files_of(anyone, "/account/log-in")[0].rpartition("/")[0]
    assert refused_as(anyone.get(folder + rest)) == (404, "not_found")


@pytest.mark.parametrize("part", ["bytes=0-3", "bytes=abc", "bytes=99999999-", "lines=1-2"])
def test_a_file_comes_whole_whatever_part_is_asked_for(anyone: TestClient, part: str) -> None:
    """Starlette refuses a Range that it cannot read, or reach, in plain text."""
    (path, *_) = files_of(anyone, "/account/log-in")
    answer = anyone.get(path, headers={"Range": part})
    assert (answer.status_code, answer.headers["accept-ranges"]) == (200, "none")
    assert answer.content == anyone.get(path).content


def test_a_file_of_another_version_is_not_found(anyone: TestClient) -> None:
    answer = anyone.get("/account/assets/0000000000000000/pages.js")
    assert refused_as(answer) == (404, "not_found")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE"])
@EVERY_PAGE
def test_a_page_can_only_be_read(anyone: TestClient, path: str, method: str) -> None:
    answer = anyone.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


def test_the_pages_are_not_in_the_document_of_the_api(anywhere: Opener) -> None:
    document = anywhere(debug=True).get("/openapi.json").json()
    assert [path for path in document["paths"] if path.startswith("/account")] == []


# What may run in them, and who may hold them


@pytest.mark.proves("3.4.3", "3.4.5", "3.4.6", "3.4.8", "HD-04")
@EVERY_PAGE
def test_a_page_allows_its_own_two_files_and_nothing_else(anyone: TestClient, path: str) -> None:
    headers = anyone.get(path).headers
    assert headers["content-security-policy"].split("; ") == [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "style-src 'self'",
        "img-src data:",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "set-cookie" not in headers


@pytest.mark.proves("3.4.3", "3.6.1")
@EVERY_PAGE
def test_a_page_has_nothing_inline_and_nothing_from_elsewhere(
    anyone: TestClient, path: str
) -> None:
    document = Document(anyone.get(path).text)
    (script,) = document.all("script")
    assert script["type"] == "module"
    assert re.fullmatch(r"assets/[0-9a-f]{16}/pages\.js", script["src"] or "")
    assert not document.all("style")
    assert [name for _, attrs in document.tags for name in attrs if name.startswith("on")] == []
    assert document.attributes("style", "srcset", "action", "formaction", "background") == []
    pages = {path.rpartition("/")[2] for path in PAGES}
    for address in document.attributes("src", "href"):
        is_own = re.fullmatch(r"assets/[0-9a-f]{16}/pages\.(css|js)", address or "")
        assert is_own or address in pages | {"data:,"}


def test_the_script_makes_no_markup_and_keeps_nothing(anyone: TestClient) -> None:
    """Trusted Types would stop the first in the browsers that know them; others run it, too."""
    (path,) = [path for path in files_of(anyone, "/account/log-in") if path.endswith(".js")]
    script = anyone.get(path).text
    assert "textContent" in script
    for risky in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function",
    ):
        assert risky not in script
    for storage in ("localStorage", "sessionStorage", "indexedDB", "document.cookie", "console."):
        assert storage not in script
    assert not re.search(r"https?://", script)


def test_the_files_are_kept_by_browsers_under_their_version(anyone: TestClient) -> None:
    types = {}
    for path in files_of(anyone, "/account/log-in"):
        answer = anyone.get(path)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        types[path.rpartition("/")[2]] = answer.headers["content-type"]
    assert types == {
        "pages.css": "text/css; charset=utf-8",
        "pages.js": "text/javascript; charset=utf-8",
    }


@EVERY_PAGE
def test_a_page_is_the_same_for_everybody(client: TestClient, path: str) -> None:
    """It holds nothing of whoever is logged in: the script asks the API."""
    before = client.get(path).text
    register(client)
    log_in(client)
    assert client.get(path).text == before


# What is written in them


def test_the_pages_have_the_name_that_the_mails_come_from(anywhere: Opener) -> None:
    sender = "Gravel &lt; Sons <no-reply@example.com>"
    html = anywhere(**MAIL | {"mail_from": sender}).get("/account/log-in").text
    assert "<title>Log in - Gravel &amp;lt; Sons</title>" in html


@pytest.mark.parametrize("path", ["/account/reset-password", "/account/log-in"])
def test_the_pages_tell_the_length_that_is_asked_for(anywhere: Opener, path: str) -> None:
    assert "At least 15 characters" in anywhere().get(path).text
    assert "At least 22 characters" in anywhere(password_min_length=22).get(path).text


@EVERY_PAGE
def test_without_scripts_a_sentence_says_what_is_missing(anyone: TestClient, path: str) -> None:
    document = Document(anyone.get(path).text)
    assert "This page needs JavaScript" in document.words
    for form in document.all("form"):
        assert "hidden" in form
        # Whatever happens, what is typed does not get into an address.
        assert form["method"] == "post"


@EVERY_PAGE
def test_password_managers_find_their_way(anyone: TestClient, path: str) -> None:
    """And a password may be pasted, in any length: nothing stops it or cuts it off."""
    fields = [field for field in Document(anyone.get(path).text).all("input") if "name" in field]
    for field in fields:
        kind = str(field["name"])
        expected = {
            "email": ("email", {"email", "username"}),
            "current_password": ("password", {"current-password"}),
            "new_password": ("password", {"new-password"}),
            "password": ("password", {"current-password", "new-password"}),
        }[kind]
        assert field["type"] == expected[0]
        assert field["autocomplete"] in expected[1]
        assert not {"maxlength", "pattern", "onpaste"} & set(field)


# Opening a link


@pytest.mark.proves("3.5.3", "EV-03", "UL-02", "14.2.1")
@pytest.mark.parametrize("purpose", LINKS)
def test_opening_a_link_uses_nothing_up(client: TestClient, purpose: Purpose) -> None:
    """Not even where a scanner moves the token to where the server sees it."""
    register(client)
    token = mint(client, purpose)
    page, use, fields = LINKS[purpose]
    for method in ("GET", "HEAD", "OPTIONS"):
        for address in (page, f"{page}?token={token}", f"{page}/{token}"):
            answer = client.request(method, address)
            assert answer.status_code in (200, 404, 405)
            assert token not in answer.text + str(answer.headers)
    assert len(all_tokens(client)) == 1
    assert client.post(use, json=fields | {"token": token}).status_code == 204


@pytest.mark.proves("14.2.1")
@EVERY_PAGE
def test_what_is_in_the_address_comes_back_nowhere(anyone: TestClient, path: str) -> None:
    plain = anyone.get(path).text
    probe = "%3Cscript%3Ealert(1)%3C/script%3E"
    assert anyone.get(f"{path}?token={probe}&email={ADA['email']}").text == plain
