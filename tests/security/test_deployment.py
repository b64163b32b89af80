"""What is shipped: files, examples, images and the list of what is in them."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values
from fastapi.testclient import TestClient

from tests.conftest import ClientFactory
from tests.operations import OPERATIONS
from tests.people import ADA
from tests.proof import ROOT
from tests.security.document import sections, table

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """No database has a say in these."""
    return sqlite_url


def shipped_files() -> Iterator[Path]:
    """What version control has, or, in an archive without one, what is there."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        yield from (ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
        return
    ignored = (".venv", ".git", "_cache", "__pycache__", ".hypothesis")
    for path in ROOT.rglob("*"):
        if path.is_file() and not any(word in str(path) for word in ignored):
            yield path


SECRETS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}",
    "token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{20,}",
    "cloud key": r"\b(AKIA[0-9A-Z]{16}|ghp_[A-Za-z0-9]{36}|xox[bp]-[0-9A-Za-z-]{20,})",
    "setting": r"^\s*(SECRET_KEY|POSTGRES_PASSWORD)\s*[=:]\s*['\"]?[A-Za-z0-9+/_-]{16,}",
}


@pytest.mark.proves("13.3.1", "CFG-06")
@pytest.mark.parametrize("kind", SECRETS)
def test_no_file_holds_a_secret(kind: str) -> None:
    pattern = re.compile(SECRETS[kind], re.MULTILINE)
    looked_at = 0
    for path in shipped_files():
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".in", ".example", ".ini", ".conf", ""):
            looked_at += 1
            found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{path}: {found and found[0][:12]}…"
    assert looked_at > 50


@pytest.mark.proves("13.3.1", "13.2.3", "CFG-05")
def test_the_example_of_the_settings_has_no_secret_that_works() -> None:
    example = dotenv_values(ROOT / ".env.example")
    assert not example["SECRET_KEY"]
    assert "@" not in str(example["DATABASE_URL"])
    assert not example.get("SMTP_URL")


@pytest.mark.proves("13.2.3", "13.2.1", "CFG-05")
def test_the_example_of_a_deployment_demands_passwords_of_its_own() -> None:
    """And does not start without them: a default would be in force wherever it was forgotten."""
    assert "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?" in COMPOSE
    assert not re.search(r"\$\{(SECRET_KEY|POSTGRES_PASSWORD):-", COMPOSE)
    assert not re.search("trust|POSTGRES_HOST_AUTH_METHOD", COMPOSE)
    assert "postgresql://auth:${POSTGRES_PASSWORD}@database/auth" in COMPOSE


@pytest.mark.proves("13.2.3", "CFG-05")
@pytest.mark.parametrize("url", ["postgresql://postgres:postgres@", "smtp://user:password@"])
def test_no_example_that_runs_has_a_password_everybody_knows(url: str) -> None:
    for path in (ROOT / "deploy").iterdir():
        assert url not in path.read_text(), path
    assert url not in COMPOSE + DOCKERFILE


@pytest.mark.proves("13.4.1", "13.3.1", "15.2.3")
def test_the_image_holds_the_service_and_nothing_else() -> None:
    """No tests, no tools, no history, no .env: what is not named is ignored."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert allowed == {"requirements.txt", "alembic.ini", "alembic", "app"}
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == allowed


@pytest.mark.proves("13.4.2", "15.2.3")
def test_the_image_runs_without_debug_as_nobody_and_without_tools_of_development() -> None:
    assert "USER nobody" in DOCKERFILE
    assert "requirements-dev" not in DOCKERFILE
    assert not re.search("reload|DEBUG", DOCKERFILE)
    assert 'DEBUG: "false"' in COMPOSE


@pytest.mark.proves("15.2.3", "13.4.5")
def test_no_route_is_for_tests_or_for_debugging() -> None:
    words = re.compile(r"test|debug|private|internal|example|seed|mock")
    assert not [one.path for one in OPERATIONS if words.search(one.path)]


@pytest.mark.proves("15.1.2")
@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_pinned_with_the_hashes_of_its_files(name: str) -> None:
    """The inventory of components: what is not in it is not installed."""
    text = (ROOT / name).read_text()
    pins = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(pins) > 20
    for pin in pins:
        assert re.match(r"[a-z0-9.-]+(\[[a-z0-9,]+\])?==[\w.]+( ;|[ \\])", pin), pin[:60]
        assert "--hash=sha256:" in pin, pin[:60]
    assert "--require-hashes" in (ROOT / "tools" / "install.sh").read_text()
    assert "--require-hashes" in DOCKERFILE


@pytest.mark.proves("15.1.2")
def test_every_vendored_package_has_its_version_and_its_integrity() -> None:
    folders = [path for path in (ROOT / "app" / "static").iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        assert re.match(r"[\w-]+ \d+\.\d+\.\d+ .*sha512-", (folder / "VERSION").read_text())
        assert (folder / "LICENSE").exists()


@pytest.mark.proves("15.1.1")
def test_the_deadlines_of_fixes_are_written_down() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for severity in ("critical", "high", "medium", "low"):
        assert re.search(rf"^\| {severity}.*\| (\d+ days|the next release) \|$", text, re.MULTILINE)


@pytest.mark.proves("15.1.3")
def test_what_is_expensive_is_written_down_with_its_protection() -> None:
    [paragraph] = re.findall(
        r"\*\*Expensive functions\*\*(.*?)\n\n", sections()["Limits"], re.DOTALL
    )
    assert all(word in paragraph for word in ("argon2id", "HASHING_THREADS", "mail", "statements"))


# TLS


@pytest.mark.proves("12.2.1", "3.3.1")
def test_without_tls_no_cookie_is_usable(make_client: ClientFactory) -> None:
    """A browser neither stores a Secure cookie over http nor sends one."""
    client = make_client()
    plain = TestClient(client.app, base_url="http://testserver")
    plain.post("/api/v1/auth/register", json=ADA)
    answer = plain.post("/api/v1/auth/login", json=ADA)
    assert answer.status_code == 200
    assert all("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))
    assert plain.get("/api/v1/users/me").status_code == 401


@pytest.mark.proves("12.2.1")
def test_the_examples_of_proxies_serve_tls() -> None:
    nginx = (ROOT / "deploy" / "nginx.conf").read_text()
    assert re.findall(r"listen (.+);", nginx) == ["443 ssl"]
    caddy = (ROOT / "deploy" / "Caddyfile").read_text()
    assert "http://" not in caddy
    assert "auto_https off" not in caddy


@pytest.mark.proves("4.1.2", "3.7.2")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_nothing_redirects_from_http_to_https(client: TestClient, operation: object) -> None:
    """A program that sent its password in the clear should learn of it, and not be led on."""
    method, path = operation.method, operation.url  # type: ignore[attr-defined]
    for headers in ({}, {"X-Forwarded-Proto": "http"}):
        url = f"http://testserver{path}"
        answer = client.request(method, url, headers=headers, follow_redirects=False)
        assert not answer.is_redirect
        assert "location" not in answer.headers


# The browser, and the host


@pytest.mark.proves("3.1.1")
def test_what_a_browser_must_support_is_written_down_with_what_happens_without_it() -> None:
    rows = table("Browser requirements")
    told = " ".join(row["feature"] for row in rows)
    for feature in ("HTTPS", "__Host-", "SameSite", "Sec-Fetch-Site", "CORS", "HSTS", "Content"):
        assert feature in told
    assert all(all(row.values()) for row in rows)


@pytest.mark.proves("3.5.4")
def test_no_cookie_can_be_shared_with_another_host() -> None:
    from app.core.config import Settings

    assert not [name for name in Settings.model_fields if re.search("cookie|domain", name)]
    assert "a host name of its own" in sections()["Communication"]
