"""What a mail says: the templates of app/mails/, filled in.

A request's user agent and address stand in mails to people who never asked for one, so anybody
could write to anybody through them. Nothing of the kind gets into a mail as it came: an address
is shown if it is one, and of a user agent only names that are known here. Nobody's name is used.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from app.core.config import Settings
from app.core.smtp import recipient_header
from app.models.mail import Template

PAGES = {
    Template.VERIFY_EMAIL: "verify-email",
    Template.RESET_PASSWORD: "reset-password",
    Template.INVITATION: "reset-password",
    Template.CONFIRM_EMAIL: "confirm-email",
}
BROWSERS = {  # by what only they say; Chrome says Safari, and Edge says both
    "Edg": "Edge",
    "OPR/": "Opera",
    "SamsungBrowser/": "Samsung Internet",
    "Firefox/": "Firefox",
    "FxiOS/": "Firefox",
    "CriOS/": "Chrome",
    "Chrome/": "Chrome",
    "Safari/": "Safari",
    "curl/": "curl",
    "python-": "a Python program",
    "PostmanRuntime/": "Postman",
}
SYSTEMS = {
    "iPhone": "an iPhone",
    "iPad": "an iPad",
    "Android": "Android",
    "Windows": "Windows",
    "CrOS": "ChromeOS",
    "Mac OS X": "macOS",
    "Linux": "Linux",
}


class Link(NamedTuple):
    token: str
    lifetime: timedelta


class Letter(NamedTuple):
    """context: as it was given to outbox.enqueue."""

    template: Template
    recipient: str
    context: Mapping[str, Any]
    link: Link | None = None


def one_line(value: object) -> object:
    """Nothing that is filled in makes a line, a header or an invisible character of its own."""
    if isinstance(value, Markup):
        return value
    visible = (letter if letter.isprintable() else " " for letter in str(value))
    return " ".join("".join(visible).split())


templates = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "mails"),
    autoescape=select_autoescape(disabled_extensions=("txt",), default=True),
    undefined=StrictUndefined,  # a mail with a gap is not sent
    finalize=one_line,
    trim_blocks=True,
    lstrip_blocks=True,
)


def compose(letter: Letter, settings: Settings) -> EmailMessage:
    values = values_of(letter, settings)
    subject, text = read_text(templates.get_template(f"{letter.template}.txt").render(values))
    html = templates.get_template(f"{letter.template}.html").render(values, subject=subject)
    sender = settings.sender
    message = EmailMessage(policy.SMTP)
    message["From"] = Address(sender.name, addr_spec=sender.address)
    message["To"] = recipient_header(letter.recipient)
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=sender.domain)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes in answer
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def read_text(rendered: str) -> tuple[str, str]:
    """A text template begins with `Subject: …`."""
    first, _, text = rendered.partition("\n")
    if not first.startswith("Subject: "):
        raise ValueError("the first line is no Subject")
    return first.removeprefix("Subject: ").strip(), text.strip() + "\n"


def values_of(letter: Letter, settings: Settings) -> dict[str, Any]:
    """What a template can name."""
    context = letter.context
    link = letter.link
    page = f"{settings.pages_url}/{PAGES[letter.template]}" if link else None
    return {
        "service": settings.sender.service,
        "recipient": letter.recipient,
        "at": moment(str(context["at"])),
        "origin": origin(str(context["ip_address"]), str(context["user_agent"])),
        "link": link and f"{page}#token={link.token}",
        "lifetime": link and duration(link.lifetime),
        # Without a token, where somebody asks for a link.
        "reset_page": f"{settings.pages_url}/{PAGES[Template.RESET_PASSWORD]}",
    }


def moment(text: str) -> str:
    at = datetime.fromisoformat(text).astimezone(UTC)
    return f"{at.day} {MONTHS[at.month - 1]} {at:%Y, %H:%M} UTC"


# Not strftime's, which speak the language of the machine.
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def origin(ip: str, user_agent: str) -> str:
    try:
        address = str(ip_address(ip))
    except ValueError:
        address = "an unknown address"
    return f"{address}, {program(user_agent)}"


def program(user_agent: str) -> str:
    browser = next((name for sign, name in BROWSERS.items() if sign in user_agent), None)
    system = next((name for sign, name in SYSTEMS.items() if sign in user_agent), None)
    known = browser or "an unknown program"
    return f"{known} on {system}" if system else known


def duration(lifetime: timedelta) -> str:
    minutes = round(lifetime.total_seconds() / 60)
    count, unit = (minutes // 60, "hour") if minutes % 60 == 0 else (minutes, "minute")
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
