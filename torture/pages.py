"""Pages in a real browser: the README's front end, on an origin of its own, in tabs that live."""

import os
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from torture.jar import PASSWORD
from torture.laboratory import ROOT, Missing

# It notes what the service tells this tab, calls now and then, and stops when it is logged out.
TAB = """
const seen = {};
let out = null;
const note = (what) => { seen[what] = (seen[what] ?? 0) + 1; };
const send = window.fetch;
window.fetch = async (url, options) => {
  note("sent");
  const response = await send(url, options);
  const code = response.ok ? "ok" : (await response.clone().json()).code;
  note(`${url.split("/").pop()} ${code}`);
  if (response.status === 401) window.refusal = code;
  return response;
};
async function live(pause) {
  for (const what in seen) delete seen[what];
  while (!out) {
    try {
      const response = await call("/users/me");
      const told = window.refusal;
      if (response.status === 401 && await ask() === 401) out = told;
    } catch {
      note("lost");
    }
    await new Promise((done) => setTimeout(done, 2000 * pause * Math.random()));
  }
}
async function ask() {
  for (let refused = 0; ; ) {
    const response = await call("/users/me").catch(() => null);
    if (!response || response.status === 503) continue;
    // An access token may expire between the refresh and what it was for, but not each time.
    if (response.status !== 401 || ++refused === 5) return response.status;
  }
}
async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body) })).status;
}
"""


@contextmanager
def front_end(folder: Path, api: str) -> Iterator[str]:
    """The origin of a page with the README's script, word for word but for the address."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [script] = re.findall(r"```js\n(.*?)```", readme, re.DOTALL)
    script = TAB + script.replace("https://auth.example.com", api)
    page = f"<!doctype html><title>front end</title><script>{script}</script>"
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(page, encoding="utf-8")

    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            # Over plain http, Chromium keeps Secure cookies of localhost only.
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Raises Missing."""
    named = os.environ.get("CHROMIUM")
    usual = ["chromium", "chromium-browser", "google-chrome", "chromium-headless-shell"]
    names = [named] if named else usual
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise Missing("install Chromium (on Debian: apt-get install chromium)")
    arguments = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to start its sandbox as root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


class Window:
    """One browser profile: a cookie jar, and tabs that share it."""

    def __init__(self, context: BrowserContext, pages: Sequence[Page], email: str) -> None:
        self.context = context
        self.pages = pages
        self.email = email

    @classmethod
    async def open(cls, browser: Browser, front_end: str, tabs: int, email: str) -> "Window":
        """Somebody who has just signed up and logged in."""
        context = await browser.new_context()
        pages = [await context.new_page() for _ in range(tabs)]
        for page in pages:
            await page.goto(front_end)
        body = {"email": email, "password": PASSWORD}
        for path, status in (("/auth/register", 201), ("/auth/login", 200)):
            told = await pages[0].evaluate("([path, body]) => post(path, body)", [path, body])
            assert told == status, told
        return cls(context, pages, email)

    async def live(self, pause: float) -> None:
        """From now on, until they are logged out; and what they saw before does not count."""
        for page in self.pages:
            await page.evaluate(f"void live({pause})")

    async def seen(self) -> Counter[str]:
        """How often each tab was told what: "refresh ok", "me not_authenticated", "lost"."""
        all_seen: Counter[str] = Counter()
        for page in self.pages:
            all_seen.update(await page.evaluate("seen"))
        return all_seen

    async def tabs_out(self) -> int:
        """How many of them cannot read who they are, when all are asked."""
        return [await page.evaluate("ask()") for page in self.pages].count(401)

    async def codes(self) -> list[str | None]:
        """What logged each tab out."""
        return [await page.evaluate("out") for page in self.pages]

    async def cookies(self) -> dict[str, str]:
        """What somebody has who copies the jar."""
        return {each["name"]: each["value"] for each in await self.context.cookies()}
