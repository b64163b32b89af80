"""What is fed to the fuzzer's targets, whatever the bytes, and what must hold then.

A target takes bytes as they could come from anybody, and raises where its promise is broken. The
first line of its docstring is the promise. tests/torture/test_fuzz_targets.py runs each on its
seeds, and on whatever has ever broken it.
"""

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, message_from_string, policy
from email.message import EmailMessage
from functools import cache
from html.parser import HTMLParser
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.boundary import Boundary
from app.api.client import client_address, unnamed_proxy
from app.api.cookies import access_cookie, device_cookie, put, refresh_cookie, take_cookies
from app.api.cors import Cors
from app.api.csrf import is_cross_origin
from app.api.dependencies import access_token_scheme
from app.api.strict_json import StrictJsonRequest
from app.core.client import LONGEST_ADDRESS, network_of
from app.core.config import Settings
from app.core.jws import InvalidToken, encode_bytes
from app.core.keys import derived_keys
from app.core.refusals import Reason
from app.core.smtp import read_sender, read_smtp_url
from app.core.tokens import ACCESS_CLAIMS, DEVICE_CLAIMS, REFRESH_CLAIMS, ClientId, Tokens
from app.models.mail import PURPOSES, Template
from app.models.user import LONGEST_EMAIL, canonical_email
from app.services.letters import Letter, Link, compose
from tests.mailbox import LINK, html_of, text_of

APP = "https://app.example.com"
KEY = hashlib.sha256(b"of nobody").hexdigest()  # the same each time, as the seeds are
LONGEST_IP_ADDRESS = 45  # characters: what the columns hold
SOMEBODY = UUID("0197a3f0-0000-7000-8000-000000000000")
SOME_LOGIN = UUID("0197a3f0-0000-7000-8000-000000000001")


# Tokens


def tokens(data: bytes) -> None:
    """No token is read but one that was issued, by its one spelling, as what it is."""
    text = data.decode("latin-1")
    for reader, issued in deployments():
        what, meaning = issued.get(text, ("", None))
        for name in ("access", "refresh", "device"):
            try:
                found = getattr(reader, f"read_{name}")(text)
            except InvalidToken:
                assert what != name, "a token of ours is refused"
            else:
                assert (what, meaning) == (name, found), "a token that was never issued is read"
        login = SOME_LOGIN if what in ("access", "refresh") else None
        assert reader.login_of(text) == login


@cache
def deployments() -> list[tuple[Tokens, dict[str, tuple[str, Any]]]]:
    """One for each algorithm, and what each has issued."""
    ed25519_key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    p256_key = ec.derive_private_key(4711, ec.SECP256R1())
    readers = [Tokens(settings())]
    with TemporaryDirectory() as folder:
        for algorithm, key in (("EdDSA", ed25519_key), ("ES256", p256_key)):
            file = Path(folder) / algorithm
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            file.write_bytes(pem)
            one = settings(algorithm=algorithm, signing_key_file=file, issuer=algorithm)
            readers.append(Tokens(one))
    return [(reader, issue(reader)) for reader in readers]


def issue(reader: Tokens) -> dict[str, tuple[str, Any]]:
    later = datetime.now(UTC) + timedelta(days=20)
    access, _ = reader.issue_access(SOMEBODY, SOME_LOGIN, ClientId.BROWSER, later)
    refresh = reader.issue_refresh(SOME_LOGIN, ClientId.PROGRAM, 1_800_000_000_000_000, later)
    device = reader.issue_device(SOMEBODY, SOME_LOGIN, datetime.now(UTC))
    return {
        access: ("access", reader.read_access(access)),
        refresh: ("refresh", reader.read_refresh(refresh)),
        device: ("device", reader.read_device(device)),
    }


def claims(data: bytes) -> None:
    """Whatever is signed with our key is read as it is written, or refused: no other exception."""
    reader, issued = deployments()[0]
    kinds = {"access": ACCESS_CLAIMS, "refresh": REFRESH_CLAIMS, "device": DEVICE_CLAIMS}
    for token, (name, _) in issued.items():
        signed = f"{token.partition('.')[0]}.{encode_bytes(data)}"
        key = derived_keys(settings(), name).signing_key
        assert isinstance(key, bytes)
        forged = f"{signed}.{encode_bytes(hmac.digest(key, signed.encode(), 'sha256'))}"
        reader.login_of(forged)
        try:
            found = getattr(reader, f"read_{name}")(forged)
        except InvalidToken:
            continue
        written = json.loads(data)
        assert kinds[name] <= written.keys()
        assert written["client_id"] in {*ClientId}
        for field, of in (("login_id", "sid"), ("user_id", "sub"), ("device_id", "did")):
            if hasattr(found, field):
                assert getattr(found, field) == UUID(written[of])
        assert getattr(found, "n", 0) == written.get("n", 0) or name == "access"


# Cookies and headers


def cookies(data: bytes) -> None:
    """Of cookies only ours come in, exactly as they were set, and none that somebody doubled."""
    lines = data.split(b"\n")
    others = [(b"accept", b"*/*"), (b"cookie2", b"__Host-access=x")]
    scope: Scope = {
        "type": "http",
        "headers": [*((b"cookie", line) for line in lines), *others],
        "state": {},
    }
    take_cookies(scope, settings())
    assert scope["headers"] == others
    for kind, name in (
        ("access_cookie", access_cookie(settings())),
        ("refresh_cookie", refresh_cookie(settings())),
        ("device_cookie", device_cookie(settings())),
    ):
        ours = re.compile(rf"[ \t]*{name}(?:=(.*?))?[ \t]*", re.DOTALL)
        pairs = (pair for line in lines for pair in line.decode("latin-1").split(";"))
        values = {match[1] or "" for pair in pairs if (match := ours.fullmatch(pair))}
        expected = "" if values else None
        assert scope["state"][kind] == (values.pop() if len(values) == 1 else expected)
    value = "".join(re.findall(r"[A-Za-z0-9_.-]", data.decode("latin-1")))
    assert_kept(value)


def assert_kept(value: str) -> None:
    """A browser sends back what it was given, and reads nothing else into it."""
    response = Response()
    put(response, settings(), access_cookie(settings()), value, 900)
    pair, *attributes = response.headers["set-cookie"].split("; ")
    assert attributes == ["HttpOnly", "Max-Age=900", "Path=/", "SameSite=lax", "Secure"]
    scope: Scope = {"headers": [(b"cookie", f"other=1; {pair}".encode())], "state": {}}
    take_cookies(scope, settings())
    assert scope["state"]["access_cookie"] == value


def forwarded(data: bytes) -> None:
    """Nobody is believed about an address who is no trusted proxy, nor what stands left of one."""
    peer, *lines = data.decode("latin-1").split("\n")
    trusted = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    scope: Scope = {
        "type": "http",
        "client": (peer, 4711),
        "headers": [(b"x-forwarded-for", line.encode("latin-1")) for line in lines],
    }
    headers = Headers(scope=scope)
    found = client_address(scope, headers, trusted)
    unnamed_proxy(scope, headers, trusted)
    network_of(found)
    hops = [hop for line in lines for hop in line.split(",")]
    believed = [peer]
    while hops and any(in_network(believed[-1], network) for network in trusted):
        believed.append(address_in(hops.pop()))
    nearest = believed[-1] or peer
    assert found in (nearest, canonical(nearest), canonical(peer))
    assert found == peer or len(found) <= LONGEST_IP_ADDRESS


def address_in(hop: str) -> str:
    """With a port or without; empty where it is none."""
    hop = hop.strip()
    bare = re.sub(r"\A\[([^]]*)\](:[0-9]+)?\Z|\A([0-9.]+):[0-9]+\Z", r"\1\3", hop)
    return canonical(bare)


def canonical(text: str) -> str:
    if len(text) > LONGEST_ADDRESS:
        return ""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return ""
    if getattr(address, "scope_id", None):
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def in_network(text: str, network: Any) -> bool:
    address = canonical(text)
    return bool(address) and ip_address(address) in network


HEADERS = {
    b"o": b"origin",
    b"s": b"sec-fetch-site",
    b"h": b"host",
    b"a": b"authorization",
    b"l": b"content-length",
    b"m": b"access-control-request-method",
    b"r": b"access-control-request-headers",
}


def headers(data: bytes) -> None:
    """Pages elsewhere get nothing done and nothing told, however their headers look."""
    query, *lines = data.split(b"\n")
    scope: Scope = {
        "type": "http",
        "method": "OPTIONS" if any(line[:1] == b"m" for line in lines) else "POST",
        "path": "/api/v1/auth/login",
        "query_string": query,
        "headers": [(HEADERS[line[:1]], line[1:]) for line in lines if line[:1] in HEADERS],
        "state": {"access_cookie": "cookie", "request_id": "id"},
    }
    sent = Headers(scope=scope)
    reason = Boundary(answer_nothing, settings(allowed_hosts=("testserver",))).refuse(scope)
    if sent.get("host", "").partition(":")[0].lower() not in ("testserver", ""):
        assert reason is Reason.WRONG_HOST
    assert_same_origin_gate(sent)
    assert_cors(scope, sent)
    assert_bearer(scope, sent)
    fields = [name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
    if reason is None:
        assert len(fields) == len(set(fields)), "a parameter stands there twice"


def assert_same_origin_gate(sent: Headers) -> None:
    if is_cross_origin(sent, {APP}):
        return
    origins, fetch_sites = sent.getlist("origin"), sent.getlist("sec-fetch-site")
    assert (
        origins == [APP]
        or fetch_sites in (["same-origin"], ["none"])
        or not (origins or fetch_sites)
        or (not fetch_sites and re.fullmatch(r".*?://(.+)", origins[0])[1] == sent["host"])  # type: ignore[index]
    )


def assert_cors(scope: Scope, sent: Headers) -> None:
    received: list[Message] = []

    async def send(message: Message) -> None:
        received.append(message)

    asked: list[Scope] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        await Response()(scope, receive, send)

    run_at_once(Cors(inner, settings(backend_cors_origins=(APP,)))(scope, nothing, send))
    told = Headers(raw=received[0]["headers"])
    granted = told.get("access-control-allow-origin")
    assert granted in (None, APP)
    assert (granted is None) or APP in sent.getlist("origin")
    if scope["method"] == "OPTIONS" and "origin" in sent:
        assert not asked
        assert granted or received[0]["status"] == 400


def assert_bearer(scope: Scope, sent: Headers) -> None:
    """The header's token or none, and the cookie's only where there is no such header."""
    found = run_at_once(access_token_scheme(Request(scope)))
    authorizations = sent.getlist("authorization")
    if any(re.match(r"\s*bearer\b", one, re.IGNORECASE) for one in authorizations):
        assert found == "" or [f"bearer {found}"] == [
            re.sub(r"(?i)\Abearer +", "bearer ", one) for one in authorizations
        ]
    else:
        assert found == "cookie"


async def answer_nothing(scope: Scope, receive: Receive, send: Send) -> None: ...


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def run_at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """One that waits for nobody, so that it needs no loop."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("it waits")


def bodies(data: bytes) -> None:
    """Of JSON only what everybody reads alike is read: UTF-8, no field twice, no NaN."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    request = StrictJsonRequest({"type": "http", "headers": []}, receive)
    try:
        value = run_at_once(request.json())
    except (ValueError, RecursionError):  # FastAPI answers both with 400 or 422
        return
    text = data.decode("utf-8")
    assert text.strip(" \t\r\n")[0] in '{["-0123456789tfn'
    pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    assert "NaN" not in json.dumps(value)
    assert_no_field_twice(pairs)


def assert_no_field_twice(value: Any) -> None:
    if isinstance(value, list):
        names = [part[0] for part in value if isinstance(part, tuple)]
        assert len(names) == len(set(names))
        for part in value:
            assert_no_field_twice(part[1] if isinstance(part, tuple) else part)


# Addresses and mails


def addresses(data: bytes) -> None:
    """An address that is taken has one spelling; of settings, what is unusable is a ValueError."""
    text = data.decode("utf-8", "surrogatepass") if is_utf8(data) else data.decode("latin-1")
    with suppress(ValueError):
        email = canonical_email(text)
        assert canonical_email(email) == email == email.strip()
        assert email.isprintable()
        assert len(email) <= LONGEST_EMAIL
    with suppress(ValueError):
        sender = read_sender(text)
        assert sender.domain
        assert (sender.name + sender.address).isprintable()
    with suppress(ValueError):
        server = read_smtp_url(text)
        assert 0 < server.port < 65536
        assert repr(server) == repr(replace(server, password=""))  # it is not shown


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def mails(data: bytes) -> None:
    """Whoever it is for and whatever was sent, a mail is valid, and holds nothing but ours."""
    fields = (data.decode("utf-8", "replace").split("\0") + [""] * 6)[:6]
    which, recipient, ip, user_agent, sender, token = fields
    template = list(Template)[sum(map(ord, which)) % len(Template)]
    try:
        recipient = canonical_email(recipient)
        read_sender(sender)
    except ValueError:
        return
    if read_sender(sender).domain == "localhost":
        return
    link = Link("".join(re.findall(r"[A-Za-z0-9_-]", token)) or "x", timedelta(hours=24))
    context = {"ip_address": ip, "user_agent": user_agent}
    written = compose_with(template, recipient, sender, link, context)
    read_back = message_from_bytes(as_sent(written), policy=policy.SMTPUTF8)
    assert isinstance(read_back, EmailMessage)
    assert not read_back.defects
    plain = compose_with(template, "ada@example.com", sender, link, PLAIN)
    assert read_back.keys() == plain.keys()
    # A long one begins in the line after its name, and Python reads that line's space with it.
    assert read_back["Subject"].lstrip(" ") == plain["Subject"]
    assert_addressed(as_sent(written).decode(), recipient)
    assert shape(html_of(read_back)) == shape(html_of(plain))
    assert text_of(read_back).count("\n") == text_of(plain).count("\n")
    if template in PURPOSES:
        (found,) = LINK.findall(text_of(read_back))
        assert found == LINK.findall(text_of(plain))[0]
        assert f'href="{found}"' in html_of(read_back)


def assert_addressed(sent: str, recipient: str) -> None:
    (address,) = message_from_string(sent, policy=policy.SMTPUTF8)["To"].addresses
    user, _, domain = recipient.rpartition("@")
    assert address.username == user
    assert canonical_email(f"x@{address.domain}") == f"x@{domain}"


PLAIN = {"ip_address": "203.0.113.9", "user_agent": "curl/8"}


def compose_with(
    template: Template, recipient: str, sender: str, link: Link, context: dict[str, str]
) -> EmailMessage:
    letter = Letter(
        template,
        recipient,
        {"at": "2026-11-24T12:00:00+00:00", **context},
        link if template in PURPOSES else None,
    )
    return compose(letter, mailing().model_copy(update={"mail_from": sender}))


@cache
def mailing() -> Settings:
    return settings(public_url="https://auth.example.com")


def as_sent(message: EmailMessage) -> bytes:
    """As smtplib does: in UTF-8 only where an address needs it."""
    international = not str(message["To"].addresses[0].addr_spec).isascii()
    return message.as_bytes(policy=policy.SMTPUTF8 if international else policy.SMTP)


class Shape(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.tags.append(data)


def shape(html: str) -> list[Any]:
    """Its tags and what stands in them, without the text."""
    parser = Shape()
    parser.feed(html)
    parser.close()
    return parser.tags


@cache
def settings(**changes: Any) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        secret_key=KEY,
        database_url="sqlite:///./never-opened.db",
        access_token_expire_minutes=1440,
        **changes,
    )


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (tokens, claims, cookies, forwarded, headers, bodies, addresses, mails)
}


def seeds(name: str) -> list[bytes]:
    """What is as it should be, and what has been tried against others, to begin with."""
    if name == "tokens":
        return [text.encode() for _, issued in deployments() for text in issued]
    if name == "claims":
        written = [text.split(".")[1] for text in deployments()[0][1]]
        return [urlsafe_b64decode(part + "==") for part in written]
    return SEEDS[name]


SEEDS = {
    "cookies": [
        b"__Host-access=a.b-c_d; __Host-refresh=e; __Host-device=f",
        b"theme=dark; __Host-access=a\n__Host-access=b;__Host-refresh",
        b'\xa0__Host-refresh=planted; __Host-refresh="quoted"; \t__Host-device =x',
        b"=__Host-access=nameless; __Host-access==; ; ;;__host-access=small",
    ],
    "forwarded": [
        b"10.0.0.1\n203.0.113.9",
        b"10.0.0.1\n198.51.100.7, 10.0.0.2\n203.0.113.9:4711, [fd00::1]:80",
        b"fd00::1\n::ffff:203.0.113.9, ::ffff:10.0.0.3",
        b"203.0.113.1\n10.0.0.1",
        b"/run/socket\nunknown, 10.0.0.1, fe80::1%eth0",
        b"10.0.0.2\n0?, [fd/7,[]:80",
        b"\t" * 60 + b"fd00::1\n203.0.113.9",
        b"10.0.0.1\n" + b" " * 60 + b"fd00::2",
    ],
    "headers": [
        b"a=1&b=2\nhtestserver\nohttps://app.example.com\nsSame-Origin\nl100",
        b"a=1&a=2\nhtestserver:8000\nohttps://testserver:8000\naBearer a.b.c",
        b"\nhevil.example\nonull\nscross-site\nabearer  x\naBasic Og==",
        b"\nhtestserver\nohttps://app.example.com\nmPUT\nrcontent-type, x-request-id",
        b"\nhtestserver\nohttps://app.example.com.evil.example\nmPUT\nsnone",
        b"\nhtestserver\nohttps://evil.example://testserver\nssame-site\nl70000",
    ],
    "bodies": [
        b'{"email": "ada@example.com", "password": "nine tall herons at dawn"}',
        b'{"email": "a@b.org", "email": "c@d.org", "n": [1, -2.5e3, true, null, {"a": {}}]}',
        b'\xef\xbb\xbf{"a": NaN, "b": Infinity, "c": -Infinity, "d": "\\ud800\\u0000"}',
        '{"a": "ä"}'.encode("utf-16"),
        b"[" * 2000,
        b"1" * 4400,
    ],
    "addresses": [
        b"ada@example.com",
        b"  Ada.Lovelace+tag@EXAMPLE.com ",
        "Äda@bücher.example".encode(),
        "\u0130@\u212bngstr\u00f6m.org".encode(),
        b"Example <no-reply@example.com>",
        b'"Example, Inc." <no-reply@example.com>',
        b"smtp://user:p%40ss@mail.example.net:587",
        b"smtps://[2001:db8::25]:465",
        b"smtp://u:s@s",
    ],
    "mails": [
        b"\0ada@example.com\0\0\0a@b.o" + b"d" * 35 + b"rg\0",
        b"\0ada@example.com\x00203.0.113.9\0Mozilla/5.0 (X11; Linux) Firefox/140\0a@b.org\0tok",
        b"1\0a@xn--bcher-kva.example\0::1\0curl/8\0Example <no-reply@example.com>\0x-_",
        '2\0äda@bücher.example\0\0<a href="//evil">\0"B, Inc." <b@c.org>\0y'.encode(),
        b"3\0a@example.com\0x\r\nBcc: eve@example.com\0{{ 7 * 7 }}\r\n\r\n<p>\0A<b@c.org>\0z",
        "4\0ceo@groß.de\0\0\0a@b.org\0t".encode(),
        b"5\0=?utf-8?q?a=0d=0asubject=3a_you_won=0d=0ax=3a_?=@example.com\0\0\0a@b.org\0t",
        b"6\0=?utf-8?b?yqpyoiax?=@example.com\0\0\0a@b.org\0t",
        *(b"%d\0a!#$%%&'*+/=?^_`{|}~-@example.com\0\0\0a@b.org\0t" % n for n in range(10)),
    ],
}
