"""A password reset from end to end: a server process, a real SMTP server, and Chromium."""

import time
from collections.abc import Iterator
from contextlib import closing
from email.message import EmailMessage
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from tests.browser.conftest import Site, free_port, served
from tests.mailbox import SENDER, Mailbox, smtp_server
from tests.people import ADA

NEW_PASSWORD = "seven loud geese on ice"
LONGEST_WAIT = 30  # seconds for a mail


@pytest.fixture(scope="module")
def post() -> Iterator[Mailbox]:
    with smtp_server() as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def service(post: Mailbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As in production, but for https: browsers take a loopback address for as safe."""
    port = free_port()
    with served(
        tmp_path_factory.mktemp("story"),
        port,
        SMTP_URL=post.url,
        MAIL_FROM=SENDER,
        PUBLIC_URL=f"http://127.0.0.1:{port}",
        REQUIRE_VERIFIED_EMAIL="true",
    ) as site:
        yield site


class Device:
    """A browser of its own, and all that it asked and said."""

    def __init__(self, browser: Browser, **options: object) -> None:
        self.context: BrowserContext = browser.new_context(**options)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request))
        self.context.on("console", lambda message: self.complaints.append(message.text))


@pytest.mark.proves("3.4.5", "3.5.3", "14.2.1", "EV-03", "UL-01", "UL-02")
def test_somebody_forgets_a_password_and_gets_back_in(
    service: Site, post: Mailbox, browser: Browser
) -> None:
    laptop = Device(browser)
    phone = Device(browser, viewport={"width": 320, "height": 568}, has_touch=True)

    # They sign up. The mail comes, and its link leads to our page.
    register = f"{service.address}/api/v1/auth/register"
    assert laptop.context.request.post(register, data=ADA).status == 202
    verify_token = post.token_in(wait_for_mail(post, "Confirm your email address"))
    verify_link = f"{service.address}/account/verify-email#token={verify_token}"
    assert post.links() == [verify_link]
    try_to_log_in(laptop.page, service, ADA["password"])
    expect(laptop.page.get_by_role("status")).to_have_class("refused")
    laptop.page.goto(verify_link)
    laptop.page.get_by_role("button", name="Confirm my address").click()
    laptop.page.get_by_role("link", name="Log in").click()
    try_to_log_in(laptop.page, service, ADA["password"])
    expect_logged_in(laptop.page)

    # On the phone they do not know the password any more.
    page = phone.page
    page.goto(f"{service.address}/account/log-in")
    page.get_by_role("link", name="Forgot your password?").tap()
    page.get_by_label("Email address").fill(ADA["email"])
    page.get_by_role("button", name="Send me a link").tap()
    expect(page.get_by_text("a mail with a link is on its way")).to_be_visible()
    token = post.token_in(wait_for_mail(post, "Choose a new password"))
    reset_link = f"{service.address}/account/reset-password#token={token}"
    assert post.links() == [verify_link, reset_link]

    # A scanner is there first, with and without scripts.
    for method in ("HEAD", "GET", "OPTIONS"):
        ask(service, method, urlsplit(reset_link).path)
    scanner = Device(browser)
    scanner.page.goto(reset_link)
    scanner.page.wait_for_load_state("networkidle")
    scanner.page.reload()

    # They open the link, look at it twice, and go on with nothing but the keyboard.
    for _ in range(2):
        page.goto("about:blank")
        page.goto(reset_link)
        expect(page.get_by_role("button", name="Change my password")).to_be_visible()
        assert page.url == f"{service.address}/account/reset-password"
    page.keyboard.press("Tab")
    page.keyboard.type("too short")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("fewer than 15 characters")
    expect(page.get_by_label("New password")).to_be_focused()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type(NEW_PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("section:focus")).to_contain_text("Your password is changed")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/account/log-in")

    # The laptop is out, the old password is refused, the new one is not.
    laptop.page.reload()
    expect(laptop.page.get_by_role("status")).to_have_text("This session was ended. Log in again.")
    try_to_log_in(page, service, ADA["password"])
    expect(page.get_by_role("status")).to_have_class("refused")
    try_to_log_in(page, service, NEW_PASSWORD)
    expect_logged_in(page)

    # The link is used up.
    page.goto(reset_link)
    page.get_by_label("New password").fill("nine small herons at dusk")
    page.get_by_label("New password").press("Enter")
    used = "This link is wrong, was used before, or has expired. Ask for a new one."
    expect(page.get_by_role("status")).to_have_text(used)
    expect(page.get_by_role("button", name="Send me a link")).to_be_visible()

    # The owner is told of it.
    wait_for_mail(post, "Your password at Example has been changed")
    assert {mail["To"] for mail in post.messages} == {ADA["email"]}

    # No token and no password was in an address, in a Referer, or in what the server wrote down.
    log = service.log.read_text()
    assert "/account/reset-password" in log
    for secret in (token, verify_token, ADA["password"], NEW_PASSWORD):
        assert secret not in log
    for device in (laptop, phone, scanner):
        for request in device.requests:
            address, _, _ = request.url.partition("#")  # what is behind it is not sent
            assert address.startswith((service.address, "data:,", "about:blank"))
            assert token not in address
            assert verify_token not in address
            assert not request.all_headers().get("referer")
        assert not [text for text in device.complaints if "Content Security Policy" in text]
        device.context.close()


def try_to_log_in(page: Page, service: Site, password: str) -> None:
    page.goto(f"{service.address}/account/log-in")
    page.get_by_label("Email address").fill(ADA["email"])
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Log in").click()


def expect_logged_in(page: Page) -> None:
    sentence = f"You are logged in as {ADA['email']}."
    expect(page.get_by_text(sentence, exact=True)).to_be_visible()


def wait_for_mail(post: Mailbox, subject: str) -> EmailMessage:
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        for mail in post.messages:
            if str(mail["Subject"]).startswith(subject):
                return mail
        time.sleep(0.05)
    pytest.fail(f"No mail came that says {subject!r}.")


def ask(service: Site, method: str, path: str) -> None:
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=10)) as connection:
        connection.request(method, path)
        assert connection.getresponse().status < 500
