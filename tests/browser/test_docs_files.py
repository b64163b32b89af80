"""The files behind Swagger UI and ReDoc, asked for without a browser."""

import json
import re
from contextlib import closing
from http.client import HTTPConnection
from typing import NamedTuple

import pytest

from tests.browser.conftest import Site

TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_every_file_of_the_page_is_there_with_its_type(page: str, site: Site) -> None:
    files = _files(site, page)
    assert files
    for path in files:
        assert _get(site, path).headers["content-type"] == TYPES[path.rsplit(".", 1)[1]]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_page_is_not_kept_but_its_files_are(page: str, site: Site) -> None:
    assert _get(site, page).headers["cache-control"] == "no-store"
    for path in _files(site, page):
        assert _get(site, path).headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.proves("3.4.3", "3.6.1")
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_policy_of_the_page_allows_only_its_own_files(page: str, site: Site) -> None:
    answer = _get(site, page)
    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    styles = policy.pop("style-src").split()
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert styles[0] == "'self'"
    assert all(source.startswith("'sha256-") for source in styles[1:])
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.proves("3.4.3")
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_page_has_nothing_inline(page: str, site: Site) -> None:
    html = _get(site, page).body.decode()
    assert re.findall(r"<script(?! src=)[^>]*>|<style|\sstyle=|\son\w+=", html) == []


@pytest.mark.proves("13.4.3")
@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/",
        "/swagger-ui",
        "/swagger-ui/",
        "/.gitattributes",
        "/no-such-file.js",
        "/../docs.py",
        "/../../core/config.py",
        "/%2e%2e/%2e%2e/core/config.py",
        "/..%2f..%2fcore%2fconfig.py",
        "/..\\..\\core\\config.py",
        "//etc/passwd",
        "/swagger-init.js%00.png",
    ],
)
def test_what_is_no_file_of_the_pages_is_not_found(rest: str, site: Site) -> None:
    folder = _files(site, "/docs")[0].split("/swagger-ui/")[0]
    assert _get(site, folder + rest).status == 404


def test_a_file_of_another_version_is_not_found(site: Site) -> None:
    assert _get(site, "/docs/assets/0000000000000000/swagger-init.js").status == 404


def test_every_reference_of_the_document_leads_somewhere(site: Site) -> None:
    text = _get(site, "/openapi.json").body.decode()
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert references
    assert references <= json.loads(text)["components"]["schemas"].keys()


def _files(site: Site, page: str) -> list[str]:
    html = _get(site, page).body.decode()
    return [f"/{path}" for path in re.findall(r'(?:href|src)="(docs/assets/[^"]+)"', html)]


def _get(site: Site, path: str) -> Answer:
    """Sends the path as it stands: other clients resolve `..` before they ask."""
    with closing(HTTPConnection("127.0.0.1", site.port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
