"""What mails say, and that nobody else can make them say anything."""

import re
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.core.client import Client
from app.core.smtp import Undelivered
from app.models.mail import PURPOSES, Template
from app.services.letters import Letter, Link, compose, duration, origin
from tests.conftest import ClientFactory, make_settings
from tests.mailbox import PUBLIC_URL, Mailbox, html_of, text_of, write_to
from tests.people import ADA, register

FOLDER = Path(__file__).parents[1] / "app" / "mails"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
CONTEXT = {"at": "2026-11-03T14:05:09+00:00", "ip_address": "203.0.113.7", "user_agent": FIREFOX}
TOKEN = "dGhpcyBpcyBub3QgYSB0b2tlbiBvZiBhbnlib2R5IQ"
WITH_ORIGIN = [t for t in Template if t not in (Template.INVITATION, Template.ACCOUNT_DELETED)]


def written(template: Template, recipient: str = ADA["email"], **settings: Any) -> EmailMessage:
    link = Link(TOKEN, timedelta(hours=1)) if template in PURPOSES else None
    return sent(Letter(template, recipient, CONTEXT, link), **settings)


def sent(letter: Letter, **settings: Any) -> EmailMessage:
    """As it arrives."""
    values = {"smtp_url": "smtp://127.0.0.1", "mail_from": "Example <no-reply@example.com>"}
    values |= {"public_url": PUBLIC_URL} | settings
    message = compose(letter, make_settings("sqlite:///./app.db", **values))
    arrived = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert isinstance(arrived, EmailMessage)
    return arrived


class Page(HTMLParser):
    """Links and words of an HTML part; elements that are open when it ends."""

    def __init__(self, message: EmailMessage) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html_of(message))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


# Every template


def test_every_template_has_a_text_and_an_html_part_and_no_file_is_left_over() -> None:
    names = {f"{template}{suffix}" for template in Template for suffix in (".txt", ".html")}
    assert {path.name for path in FOLDER.iterdir()} == names | {"layout.html"}


@pytest.mark.parametrize("template", Template)
def test_every_mail_is_whole(template: Template) -> None:
    message = written(template)
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    for text in (message["Subject"], text_of(message), Page(message).text):
        assert "Example" in text
        assert not re.search(r"[{}]|None|undefined|&\w+;", text)
    assert text_of(message).startswith("Hello,\n\n")
    assert max(map(len, text_of(message).splitlines())) < 200


@pytest.mark.parametrize("template", Template)
def test_every_mail_has_the_headers_of_an_automatic_one(template: Template) -> None:
    message = written(template)
    assert message["From"] == "Example <no-reply@example.com>"
    assert message["To"] == ADA["email"]
    assert message["Auto-Submitted"] == "auto-generated"  # RFC 3834: no holiday notes in answer
    assert message["Date"].datetime.utcoffset() == timedelta(0)
    assert re.fullmatch(r"<[^<>@\s]+@example\.com>", message["Message-ID"])
    assert not {"Cc", "Bcc", "Reply-To"} & {*message}


@pytest.mark.proves("14.2.1", "UL-02", "CS-FP-HOST", "14.2.3")
@pytest.mark.parametrize("template", PURPOSES)
def test_a_link_stands_once_in_each_part_with_its_token_in_the_fragment(template: Template) -> None:
    message = written(template)
    link = f"{PUBLIC_URL}/account/[a-z-]+#token={TOKEN}"
    assert len(re.findall(link, text_of(message))) == 1
    assert len([found for found in Page(message).links if re.fullmatch(link, found)]) == 1
    assert text_of(message).count(TOKEN) == html_of(message).count(TOKEN) == 1
    assert "for 1 hour." in text_of(message)
    assert "for 1 hour." in Page(message).text


@pytest.mark.parametrize("template", [t for t in Template if t not in PURPOSES])
def test_a_notice_has_no_token(template: Template) -> None:
    assert "token=" not in text_of(written(template)) + html_of(written(template))


@pytest.mark.parametrize("template", WITH_ORIGIN)
def test_a_mail_says_when_and_where_from(template: Template) -> None:
    message = written(template)
    for text in (text_of(message), Page(message).text):
        assert "When: 3 November 2026, 14:05 UTC" in text
        assert "From: 203.0.113.7, Firefox on Linux" in text


@pytest.mark.parametrize("template", [Template.INVITATION, Template.ACCOUNT_DELETED])
def test_what_an_administrator_does_does_not_say_where_they_sit(template: Template) -> None:
    assert "203.0.113.7" not in text_of(written(template)) + html_of(written(template))


@pytest.mark.proves("14.2.3")
@pytest.mark.parametrize("template", Template)
def test_a_mail_loads_nothing_and_leads_nowhere_else(template: Template) -> None:
    page = Page(written(template))
    assert all(link.startswith(f"{PUBLIC_URL}/account/") for link in page.links)
    assert not page.tags & {"img", "script", "link", "iframe", "form", "style", "object"}


@pytest.mark.parametrize("template", Template)
def test_the_teams_own_pages_are_used_where_there_are_some(template: Template) -> None:
    message = written(template, frontend_url="https://app.example.com/welcome/")
    text = text_of(message) + html_of(message)
    assert PUBLIC_URL not in text
    assert ("https://app.example.com/welcome/" in text) == ("http" in text)


@pytest.mark.proves("CS-FP-HOST")
def test_a_link_is_never_built_from_what_a_request_says(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    client = make_client(**mailbox.settings)
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil"}
    client.headers.update(forged)
    register(client)
    mailbox.receive(client)
    assert [link.partition("/account")[0] for link in mailbox.links()] == [PUBLIC_URL]
    assert b"evil" not in mailbox.arrivals[0].raw


# Injection

PAYLOADS = [
    "x\r\nBcc: eve@example.com",
    "x\r\n\r\nYour account is closed. Go to https://evil.example/",
    "x\nFrom: 127.0.0.1\n\n\n.\r\nMAIL FROM:<eve@example.com>",
    "<script>alert(1)</script><img src=x onerror=1>",
    '"><a href="https://evil.example/">here</a>',
    "{{ 7 * 7 }}{% raw %}${7*7}{0.__class__}%s%n",
    "https://evil.example/ www.evil.example",
    "\u202egnp.exe\u2028\u2029\x1b[2J\x00",
]


@pytest.mark.proves("1.2.1", "1.3.7", "1.3.11", "3.2.2", "SQ-03")
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("template", Template)
def test_nothing_that_a_request_sends_gets_into_a_mail(template: Template, payload: str) -> None:
    """Whoever signs up with somebody else's address would write to them through us."""
    link = Link(TOKEN, timedelta(hours=1)) if template in PURPOSES else None
    context = CONTEXT | {"ip_address": payload, "user_agent": payload, "full_name": payload}
    message = sent(Letter(template, ADA["email"], context, link))
    ordinary = written(template)
    for text in (text_of, html_of):
        unknown = text(ordinary).replace(
            "203.0.113.7, Firefox on Linux", "an unknown address, an unknown program"
        )
        assert text(message) == unknown
    assert [*message.keys()] == [*ordinary.keys()]
    assert message["Subject"] == ordinary["Subject"]


@pytest.mark.proves("1.3.7", "1.3.11", "3.2.2", "SQ-03")
@pytest.mark.parametrize("name", ["<b>{{7*7}}</b>", "https://evil.example", "%s{0.__class__}"])
def test_nobodys_name_is_used(make_client: ClientFactory, mailbox: Mailbox, name: str) -> None:
    client = make_client(**mailbox.settings)
    assert register(client, full_name=name).status_code == 201
    (message,) = mailbox.receive(client)
    everything = "\n".join(f"{key}: {value}" for key, value in message.items())
    everything += text_of(message) + html_of(message)
    assert "49" not in text_of(message).partition("#token=")[0]
    assert name not in everything


def test_the_services_name_is_escaped_where_that_is_needed() -> None:
    """Who configures it is trusted; & and quotes are just characters of a name."""
    message = written(
        Template.VERIFY_EMAIL, mail_from="""Bob & Jim's "x" {{y}} é <a@example.com>"""
    )
    name = """Bob & Jim's "x" {{y}} é"""
    assert message["From"].addresses[0].display_name == name
    assert message["Subject"].endswith(name)
    assert name in text_of(message)
    assert name in Page(message).text
    assert name not in html_of(message)


@pytest.mark.proves("1.3.11")
@pytest.mark.parametrize(
    "recipient",
    [
        "ada@example.com\r\nBcc: eve@example.com",
        "ada@example.com\nBcc: eve@example.com",
        "ada@example.com\r\nRCPT TO:<eve@example.com>",
        "ada@example.com,eve@example.com",
    ],
)
def test_a_recipient_that_is_more_than_an_address_is_none(recipient: str) -> None:
    """None gets into the outbox; if one does, it does not get out."""
    with pytest.raises(Undelivered):
        written(Template.PASSWORD_CHANGED, recipient)


@pytest.mark.proves("1.3.11")
@pytest.mark.parametrize("recipient", ["-f@example.com", "a%0Ab@example.com"])
def test_odd_recipients_are_one_recipient(recipient: str) -> None:
    (address,) = written(Template.PASSWORD_CHANGED, recipient)["To"].addresses
    assert address.username + "@" + address.domain == recipient


@pytest.mark.proves("4.2.5", "1.2.2")
@pytest.mark.parametrize("template", Template)
def test_lines_stay_short_enough_for_every_server(template: Template) -> None:
    """998 characters: RFC 5322, 2.1.1. With everything at its longest."""
    address = f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}.org"
    name = "Ünïcode " * 14
    long_url = "https://auth.example.com" + "/abcdefgh" * 30
    values = {"mail_from": f"{name}<no-reply@{'c' * 60}.example>", "public_url": long_url}
    link = Link("t" * 43, timedelta(hours=24)) if template in PURPOSES else None
    settings = make_settings("sqlite:///./app.db", smtp_url="smtp://127.0.0.1", **values)
    message = compose(Letter(template, address, CONTEXT, link), settings)
    lines = message.as_bytes().split(b"\r\n")
    assert max(map(len, lines)) < 400
    arrived = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert arrived["To"] == address
    assert name[:20] in arrived["Subject"]


# Words


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/1 Chrome/142.0 Safari/1", "Chrome on Windows"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/142.0 Safari/1 Edg/142", "Edge on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Safari/605", "Safari on macOS"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18 Safari/604",
            "Safari on an iPhone",
        ),
        ("Mozilla/5.0 (Linux; Android 16) Chrome/142.0 Mobile Safari/1", "Chrome on Android"),
        ("curl/8.4.0", "curl"),
        ("", "an unknown program"),
        ("Bank of Example, please log in again", "an unknown program"),
    ],
)
def test_a_program_is_named_where_it_is_known(user_agent: str, words: str) -> None:
    assert origin("203.0.113.7", user_agent) == f"203.0.113.7, {words}"


@pytest.mark.parametrize("ip", ["203.0.113.7", "2001:db8::7"])
def test_an_address_is_shown_if_it_is_one(ip: str) -> None:
    assert origin(ip, "") == f"{ip}, an unknown program"


@pytest.mark.parametrize(
    ("lifetime", "words"),
    [
        (timedelta(hours=24), "24 hours"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(minutes=1), "1 minute"),
    ],
)
def test_a_lifetime_is_said_in_words(lifetime: timedelta, words: str) -> None:
    assert duration(lifetime) == words


def test_where_a_request_comes_from_is_in_the_mail(
    make_client: ClientFactory, mailbox: Mailbox
) -> None:
    client = make_client(**mailbox.settings)
    assert isinstance(client, TestClient)
    origin_of_request = Client("198.51.100.23", FIREFOX)
    write_to(client, Template.NEW_DEVICE, ADA["email"], origin_of_request)
    (message,) = mailbox.receive(client)
    assert "From: 198.51.100.23, Firefox on Linux" in text_of(message)
