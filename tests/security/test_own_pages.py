"""The pages of this service, as far as their files tell; tests/browser sees them at work."""

import re

import pytest
from fastapi.testclient import TestClient

from tests.conftest import ClientFactory
from tests.proof import ROOT

FOLDER = ROOT / "app" / "pages"
SCRIPT = (FOLDER / "pages.js").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.html")}
INPUTS = [tag for html in PAGES.values() for tag in re.findall(r"<input[^>]*>", html)]
PASSWORDS = [tag for tag in INPUTS if re.search(r'(id|name)="[^"]*password"', tag)]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """No database has a say in these."""
    return sqlite_url


@pytest.mark.proves("3.2.2")
def test_text_is_never_put_into_a_page_as_markup() -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\("
    assert not re.search(markup, SCRIPT)
    assert "textContent" in SCRIPT
    assert not [name for name, html in PAGES.items() if re.search(r"\|\s*safe|autoescape", html)]


@pytest.mark.proves("3.2.2")
@pytest.mark.parametrize("page", ["log-in", "verify-email", "reset-password", "confirm-email"])
def test_a_browser_would_refuse_to_take_text_for_markup(
    make_client: ClientFactory, page: str
) -> None:
    """Trusted types: whoever adds innerHTML one day notices."""
    client: TestClient = make_client(public_url="https://testserver")
    policy = client.get(f"/account/{page}").headers["content-security-policy"]
    assert "require-trusted-types-for 'script'" in policy
    assert "trusted-types 'none'" in policy


@pytest.mark.proves("3.2.3")
def test_no_element_can_take_the_place_of_a_variable() -> None:
    """A module's names are its own. An element with a name shows up as a property of window, of
    document and of its form: none of these is asked for by a name that an element could have.
    """
    assert '<script type="module"' in PAGES["layout"]
    asked = set(re.findall(r"\b(?:window|globalThis|self)\.(\w+)", SCRIPT))
    assert asked == set()
    methods = {"addEventListener", "getElementById", "querySelector", "querySelectorAll"}
    assert set(re.findall(r"\bdocument\.(\w+)", SCRIPT)) <= methods


@pytest.mark.proves("6.2.6")
def test_what_is_typed_into_a_password_field_is_masked() -> None:
    assert len(PASSWORDS) >= 4
    assert all('type="password"' in tag for tag in PASSWORDS)


@pytest.mark.proves("6.2.7")
def test_a_password_can_be_pasted_and_filled_in_by_a_manager() -> None:
    assert all(re.search(r'autocomplete="(current|new)-password"', tag) for tag in PASSWORDS)
    assert not [tag for tag in INPUTS if re.search(r"onpaste|maxlength|autocomplete=.off", tag)]
    assert not re.search(r"paste|clipboard|keydown|keypress", SCRIPT)


@pytest.mark.proves("7.4.4")
def test_whoever_is_logged_in_finds_the_log_out() -> None:
    [form] = re.findall(r"<form[^>]*auth/logout[^>]*>.*?</form>", PAGES["log-in"], re.DOTALL)
    shown_when = re.findall(r'data-when="([^"]*)"', form)
    assert [set(states.split()) for states in shown_when] == [{"in", "must-change"}]
    assert "Log out</button>" in form
