"""Swagger UI and ReDoc in headless Chromium."""

import json
import os
import struct
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import ROOT, Site, Visit

PAGES = ("/docs", "/redoc")
SCREENSHOT = ROOT / "docs" / "swagger-ui.png"


@pytest.mark.parametrize("path", PAGES)
def test_the_page_opens_without_a_complaint_of_the_browser(
    path: str, site: Site, visit: Visit
) -> None:
    visit.page.goto(site.address + path)
    expect(_page_title(visit.page)).to_be_visible()
    visit.page.wait_for_load_state("networkidle")
    assert visit.complaints == []


@pytest.mark.proves("3.6.1", "14.2.3", "HD-05")
@pytest.mark.parametrize("path", PAGES)
def test_the_page_asks_only_its_own_server(path: str, site: Site, visit: Visit) -> None:
    # Under a public name, because Swagger UI never shows 127.0.0.1 and localhost to its validator.
    visit.page.goto(site.public_address + path)
    expect(_page_title(visit.page)).to_be_visible()
    visit.page.wait_for_load_state("networkidle")
    assert f"{site.public_address}/openapi.json" in visit.requests
    assert visit.requests_elsewhere(site) == []


@pytest.mark.parametrize("path", PAGES)
def test_the_page_works_where_a_proxy_adds_a_path_in_front(
    path: str, site: Site, visit: Visit
) -> None:
    prefix = f"{site.address}/behind/a/proxy"
    visit.page.route(
        f"{prefix}/**",
        lambda route: route.continue_(url=route.request.url.replace(prefix, site.address, 1)),
    )
    visit.page.goto(prefix + path)
    expect(_page_title(visit.page)).to_be_visible()
    assert [url for url in visit.requests if not url.startswith((prefix, "data:"))] == []


@pytest.mark.proves("3.4.6", "HD-04")
@pytest.mark.parametrize("path", PAGES)
def test_the_page_cannot_be_framed(path: str, site: Site, visit: Visit) -> None:
    visit.page.set_content(f'<iframe src="{site.address}{path}"></iframe>')
    visit.page.wait_for_load_state("networkidle")
    assert visit.page.frames[1].url.startswith("chrome-error:")
    assert any("frame-ancestors 'none'" in text for text in visit.complaints)


def test_swagger_ui_shows_every_operation(site: Site, visit: Visit) -> None:
    visit.page.goto(f"{site.address}/docs")
    expect(visit.page.locator(".opblock").first).to_be_visible()
    shown = {
        (
            block.locator(".opblock-summary-method").inner_text().lower(),
            block.locator(".opblock-summary-path").get_attribute("data-path"),
        )
        for block in visit.page.locator(".opblock").all()
    }
    assert shown == _documented(visit.page, site)


def test_redoc_shows_every_operation_with_its_styles(site: Site, visit: Visit) -> None:
    visit.page.goto(f"{site.address}/redoc")
    verbs = visit.page.locator("button:has(> .http-verb)")
    expect(verbs.first).to_be_visible()
    shown = {
        (
            verb.locator(".http-verb").inner_text().lower(),
            verb.locator(".http-verb + span").inner_text(),
        )
        for verb in verbs.all()
    }
    assert shown == _documented(visit.page, site)
    # Unstyled, where the policy stops ReDoc's style sheets, the menu would be as wide as the page.
    expect(visit.page.locator(".menu-content")).to_have_css("width", "260px")
    assert visit.refusals() == []


def test_somebody_signs_up_and_authorizes_with_the_password_flow(site: Site, visit: Visit) -> None:
    page = visit.page
    page.goto(f"{site.address}/docs")
    register = _execute(page, "post", "/api/v1/auth/register")
    _expect_status(register, 201)
    example = json.loads(register.locator("textarea").input_value())

    _authorize(page, example["email"], example["password"])
    with page.expect_request("**/api/v1/users/me") as asked:
        me = _execute(page, "get", "/api/v1/users/me")
    _expect_status(me, 200)
    expect(me.locator(".live-responses-table tr.response")).to_contain_text(example["email"])
    assert asked.value.all_headers()["authorization"].startswith("Bearer ")
    assert page.context.cookies() == []
    _expect_nothing_went_wrong(visit, site)


@pytest.mark.proves("14.3.3")
def test_authorizing_leaves_nothing_in_the_storage_of_the_browser(site: Site, visit: Visit) -> None:
    page = visit.page
    account = {"email": "grace@example.com", "password": "nanoseconds of copper wire"}
    page.request.post(f"{site.address}/api/v1/auth/register", data=account)
    page.goto(f"{site.address}/docs")
    _authorize(page, account["email"], account["password"])
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert stored == "[{},{}]"


def test_somebody_logs_in_with_cookies_and_out_again(site: Site, visit: Visit) -> None:
    page = visit.page
    page.goto(f"{site.address}/docs")
    _expect_status(_execute(page, "post", "/api/v1/auth/register"), 201)
    _expect_status(_execute(page, "post", "/api/v1/auth/login"), 200)
    _expect_status(_execute(page, "get", "/api/v1/users/me"), 200)
    _expect_status(_execute(page, "post", "/api/v1/auth/refresh"), 200)
    _expect_status(_execute(page, "post", "/api/v1/auth/logout"), 204)
    _expect_status(_execute(page, "get", "/api/v1/users/me"), 401)
    _expect_nothing_went_wrong(visit, site)


def test_a_picture_for_the_readme(site: Site, visit: Visit, tmp_path: Path) -> None:
    """UPDATE_SCREENSHOT=1 replaces the one in docs/: fonts differ from machine to machine."""
    page = visit.page
    page.goto(f"{site.address}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    # The address that `make run` has, in place of the free port of this test.
    page.locator(".info .url").evaluate(
        "url => url.textContent = 'http://127.0.0.1:8000/openapi.json'"
    )
    target = SCREENSHOT if os.environ.get("UPDATE_SCREENSHOT") == "1" else tmp_path / "docs.png"
    page.screenshot(path=target, animations="disabled")
    width, height = struct.unpack(">II", target.read_bytes()[16:24])  # IHDR, RFC 2083, 4.1.1
    assert (width, height) == (1280, 960)


def _page_title(page: Page) -> Locator:
    return page.get_by_role("heading", level=1).or_(page.locator(".info .title")).first


def _documented(page: Page, site: Site) -> set[tuple[str, str]]:
    document = page.request.get(f"{site.address}/openapi.json").json()
    return {(method, path) for path, methods in document["paths"].items() for method in methods}


def _authorize(page: Page, email: str, password: str) -> None:
    page.locator(".scheme-container button.authorize").click()
    dialog = page.locator(".dialog-ux")
    dialog.get_by_label("username:").fill(email)
    dialog.get_by_label("password:").fill(password)
    dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
    expect(dialog.get_by_role("button", name="Remove authorization")).to_be_visible()
    dialog.get_by_role("button", name="Close").last.click()


def _execute(page: Page, method: str, path: str) -> Locator:
    """Runs an operation as it stands in the page, with the example that is filled in."""
    block = page.locator(f".opblock-{method}").filter(has=page.locator(f'[data-path="{path}"]'))
    execute = block.locator("button.execute")
    if not execute.is_visible():
        block.locator("button.opblock-summary-control").click()
    with page.expect_response(f"**{path}"):
        execute.click()
    return block


def _expect_status(block: Locator, status: int) -> None:
    """The cell holds the number alone if the document names it, else "Undocumented" as well."""
    cell = block.locator(".live-responses-table tr.response .response-col_status")
    expect(cell).to_have_text(str(status))


def _expect_nothing_went_wrong(visit: Visit, site: Site) -> None:
    # Swagger UI resolves references when an operation is opened, and lists here what fails.
    expect(visit.page.locator(".errors-wrapper")).to_have_count(0)
    assert visit.refusals() == []
    assert visit.requests_elsewhere(site) == []
