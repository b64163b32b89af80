"""The README's front end, word for word, in a page on another origin."""

import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import BrowserContext, Page

from app.main import create_app
from tests.browser.conftest import ROOT, Browser
from tests.conftest import make_settings, running_server
from tests.people import ADA

AS_JSON = """{
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(%s),
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def front_end(tmp_path: Path) -> Iterator[str]:
    """The origin of a folder of static files; its index.html comes from the test."""
    folder = tmp_path / "front-end"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def api(sqlite_url: str, front_end: str) -> Iterator[str]:
    settings = make_settings(sqlite_url, debug=True, backend_cors_origins=(front_end,))
    with running_server(create_app(settings)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, api: str, front_end: str, tmp_path: Path) -> Iterator[Page]:
    """The README's script in a page of the front end, with the address of this API."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [script] = re.findall(r"```js\n(.*?)```", readme, re.DOTALL)
    script = script.replace("https://auth.example.com", api)
    html = f"<!doctype html><title>front end</title><script>{script}</script>"
    (tmp_path / "front-end" / "index.html").write_text(html, encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(front_end)
    yield page
    context.close()


def call(page: Page, path: str, options: str = "{}") -> int:
    status: int = page.evaluate(f"call('{path}', {options}).then(response => response.status)")
    return status


def sign_up_and_in(page: Page) -> None:
    assert call(page, "/auth/register", AS_JSON % ADA) == 201
    assert call(page, "/auth/login", AS_JSON % ADA) == 200


def let_the_access_token_expire(context: BrowserContext) -> None:
    context.clear_cookies(name="auth-access")


@pytest.mark.proves("CS-07")
def test_a_front_end_on_an_allowed_origin_logs_in_and_out(page: Page) -> None:
    sign_up_and_in(page)
    assert call(page, "/users/me") == 200
    assert call(page, "/auth/logout", "{method: 'POST'}") == 204
    assert call(page, "/users/me") == 401


def test_many_calls_at_once_survive_the_end_of_the_access_token(page: Page) -> None:
    sign_up_and_in(page)
    let_the_access_token_expire(page.context)
    many = "Promise.all([1, 2, 3, 4, 5].map(() => call('/users/me')))"
    statuses = page.evaluate(f"{many}.then(all => all.map(response => response.status))")
    assert statuses == [200] * 5


def test_two_tabs_that_refresh_at_once_both_stay_logged_in(page: Page, front_end: str) -> None:
    sign_up_and_in(page)
    other = page.context.new_page()
    other.goto(front_end)
    for _ in range(10):
        let_the_access_token_expire(page.context)
        for tab in (page, other):
            tab.evaluate("window.answer = call('/users/me')")
        for tab in (page, other):
            assert tab.evaluate("window.answer.then(response => response.status)") == 200


@pytest.mark.proves("CS-10")
def test_a_page_on_an_origin_that_is_not_allowed_reads_nothing(page: Page, api: str) -> None:
    sign_up_and_in(page)
    stranger = page.context.new_page()  # with the same cookies, on about:blank, of no origin
    me = f"fetch('{api}/api/v1/users/me', {{credentials: 'include'}})"
    assert stranger.evaluate(f"{me}.then(() => 'read', () => 'refused')") == "refused"
