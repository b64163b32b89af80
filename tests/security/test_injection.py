"""Text is text: in statements, templates, mails, links and regular expressions."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import Database
from app.models.mail import PURPOSES, Template
from app.services.letters import Letter, Link, compose
from app.services.one_time_tokens import LIFETIMES
from tests.conftest import make_settings
from tests.links import MAIL
from tests.operations import JSON_OPERATIONS, Operation
from tests.people import ADA, log_in, register, sign_up_and_in
from tests.proof import ROOT
from tests.rows import all_users, change_user

SOURCES = sorted((ROOT / "app").rglob("*.py"))
HOSTILE = [
    "{{7*7}}",
    "{% raw %}",
    "${jndi:ldap://127.0.0.1/a}",
    "{0.__class__}",
    "%s%n%x",
    "<script>alert(1)</script>",
    "<img src=x onerror=1>",
    "'; DROP TABLE users; --",
    "\" OR ''='",
    "a&b=c#d%e/f?g",
]


def nodes(path: Path) -> Any:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.proves("1.2.4")
def test_no_statement_is_put_together_from_text() -> None:
    """What takes SQL as text gets constants; SQLAlchemy builds and binds the rest."""
    takes_sql = re.compile(r"(^|\.)(text|execute|exec_driver_sql|literal_column)$")
    found = [
        (path.name, ast.unparse(node.args[0]))
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Call) and node.args and takes_sql.search(ast.unparse(node.func))
        if isinstance(node.args[0], ast.JoinedStr | ast.BinOp)
    ]
    assert found == [("engine.py", "f'PRAGMA {pragma}'")]  # of a tuple of two constants


@pytest.mark.proves("1.2.4", "SQ-03")
def test_hostile_text_in_a_log_in_finds_nobody(client: TestClient, database: Database) -> None:
    register(client)
    for text in HOSTILE:
        form = {"grant_type": "password", "username": f"ada@example.com{text}", "password": text}
        assert client.post("/api/v1/auth/token", data=form).json()["error"] == "invalid_grant", text
    assert len(all_users(database)) == 1
    assert log_in(client).status_code == 200


PATTERNS = ("%", "_", "%ada%", "a_a", "\\", "ad\\a", "*", "[a-z]", "'", "''")


@pytest.mark.proves("1.2.4", "SQ-02")
def test_a_search_finds_letters_and_no_patterns(client: TestClient, database: Database) -> None:
    sign_up_and_in(client)
    change_user(database, ADA["email"], is_admin=True)
    for text in PATTERNS:
        found = client.get("/api/v1/users", params={"search": text})
        assert (found.status_code, found.json()["items"]) == (200, []), text
    assert len(client.get("/api/v1/users", params={"search": "ada"}).json()["items"]) == 1


@pytest.mark.proves("1.2.1", "1.3.7", "SQ-03")
def test_hostile_text_in_a_name_stays_as_it_is(client: TestClient) -> None:
    sign_up_and_in(client)
    for text in HOSTILE:
        assert client.patch("/api/v1/users/me", json={"full_name": text}).status_code == 200
        answer = client.get("/api/v1/users/me")
        assert answer.json()["full_name"] == text
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.proves("1.5.2", "1.3.7")
def test_nothing_that_is_read_can_run() -> None:
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                forbidden = {"pickle", "marshal", "shelve", "yaml", "dill", "xml", "subprocess"}
                own = ("developer.py", "hasher.py")  # what they run, nobody outside has a say in
                assert not forbidden & {*names} or path.name in own, path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec", "compile", "__import__"), path
                assert not ast.unparse(node.func).endswith(("from_string", "format_map")), path


# Mails

SETTINGS = make_settings("sqlite:///./never-opened.db", **MAIL)


def letter(template: Template, *, text: str = "", recipient: str = ADA["email"]) -> Letter:
    context = {
        "at": "2026-11-24T10:00:00+00:00",
        "ip_address": text or "192.0.2.1",
        "user_agent": text or "Firefox/1",
        "full_name": text,
    }
    purpose = PURPOSES.get(template)
    link = Link("x" * 43, LIFETIMES[purpose]) if purpose else None
    return Letter(template, recipient, context, link)


@pytest.mark.proves("1.2.1", "1.3.7", "1.3.11", "SQ-03")
@pytest.mark.parametrize("template", Template)
def test_no_text_of_a_request_gets_into_a_mail_as_it_came(template: Template) -> None:
    """Mails go to people who never asked for one, so whoever asks may not write in them."""
    for text in (*HOSTILE, "a\r\nBcc: eve@example.com\r\n\r\nX", "a\nSubject: b"):
        message = compose(letter(template, text=text), SETTINGS)
        assert text not in message.as_string()
        assert "Bcc" not in message
        assert len(message.get_all("Subject", [])) == len(message.get_all("To", [])) == 1
        assert "eve@example.com" not in message.as_string()


@pytest.mark.proves("1.3.11")
@pytest.mark.parametrize(
    "email",
    [
        "a@example.com\r\nBcc: eve@example.com",
        "a@example.com,eve@example.com",
        "a@example.com%0ABcc:eve@example.com",
        "a@example.com eve@example.com",
        "<a@example.com>",
        "Ada <a@example.com>",
        "a@example.com>",
        '"a\r\nb"@example.com',
        "a@exam\nple.com",
    ],
)
def test_an_address_is_one_address(client: TestClient, email: str) -> None:
    answer = client.post("/api/v1/auth/forgot-password", json={"email": email})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.proves("1.2.2", "4.2.5", "UL-02", "14.2.1")
@pytest.mark.parametrize("template", PURPOSES)
@pytest.mark.parametrize("email", ["ada@example.com", "a&b=c#d%25/e?f@example.com"])
def test_a_link_is_a_fixed_base_and_a_token_in_the_fragment(template: Template, email: str) -> None:
    message = compose(letter(template, recipient=email), SETTINGS)
    plain = message.get_body(("plain",))
    assert plain
    [link] = re.findall(r"\S+#token=\S+", plain.get_content())
    assert re.fullmatch(r"https://testserver/account/[a-z-]+#token=x{43}", link)
    assert max(map(len, message.as_bytes().split(b"\r\n"))) < 998  # RFC 5322, 2.1.1


@pytest.mark.proves("1.2.2")
@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "x"])
@pytest.mark.parametrize("setting", ["public_url", "frontend_url"])
def test_the_base_of_links_is_an_address_of_the_web(setting: str, url: str) -> None:
    with pytest.raises(ValueError, match="it is not http:// or https://"):
        make_settings("sqlite:///./never-opened.db", **{setting: url})


# Regular expressions


@pytest.mark.proves("1.3.12")
@pytest.mark.timeout(60)  # seconds, in which an expression that explodes comes to no end
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("operation", JSON_OPERATIONS, ids=lambda one: one.name)
def test_long_text_is_refused_without_thinking_long(
    client: TestClient, operation: Operation
) -> None:
    texts = [name for name, shape in operation.schema["properties"].items() if is_text(shape)]
    for name in texts:
        for unit in ("a", "a.", "@", ".@", "-", "%", " ", "\u0130", "(", "a@a."):
            body = operation.example | {name: (unit * 60_000)[:60_000]}
            answer = client.request(operation.method, operation.url, json=body)
            assert answer.status_code in (401, 413, 422)


def is_text(shape: dict[str, Any]) -> bool:
    return "string" in str(shape.get("type", shape.get("anyOf")))
