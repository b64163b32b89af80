"""Settings: a wrong value stops the start with a sentence, and none of them tells a secret."""

import re
import secrets
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.config import Settings, load_settings
from tests.conftest import ClientFactory
from tests.people import ADA, log_in, register

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two keys that have no default, and nothing else."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SECRET_KEY", secrets.token_hex(32))
    monkeypatch.setenv("DATABASE_URL", "sqlite:///./app.db")


class Environment:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def load(self, **values: str) -> Settings:
        for key, value in values.items():
            self.monkeypatch.setenv(key, value)
        return load_settings()

    def refused(self, **values: str) -> list[str]:
        """The sentences that the start ends with."""
        with pytest.raises(SystemExit) as end:
            self.load(**values)
        assert end.value.code == 2
        output = self.capsys.readouterr()
        assert output.out == ""
        return output.err.splitlines()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Environment:
    return Environment(monkeypatch, capsys)


# Wrong values

KEY = "5f0c86e1b2d94a7f8c3e6b1d0a9f7e2c41d7a3960be85f2c7794e1d83a60bf25"
SHORT_SECRETS = ["short", "x" * 31, "é" * 15]
SAMPLE_SECRETS = [
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababababababababababababababababababababababababab",
    "changemechangemechangemechangemechangeme",
    "CHANGE-THIS-PLEASE-0123456789abcdef",
    "your-secret-key-goes-here-0123456789",
    "a-string-secret-at-least-256-bits-long",
    "super-secret-password-for-development",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
]  # the last one stands in the FastAPI tutorial, the last but two at jwt.io
WRONG_URLS = [
    "app.db",
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "http://host/db",
    "mysql://user:word@host/db",
    "postgresql+asyncpg://user:word@host/db",
    "postgresql://user:word@host:port/db",
]
WRONG_ORIGINS = [
    "*",
    "null",
    "app.example.com",
    "https://",
    "https://[::1",
    "ftp://app.example.com",
    "file:///index.html",
    "https://app.example.com/",
    "https://app.example.com/path",
    "https://app.example.com?x",
    "https://App.Example.com",
    "https://user@app.example.com",
    "https://good.example,bad",
    '["https://app.example.com"]',
]
WRONG_MAIL_SERVERS = [
    "mail.example.com",
    "mail.example.com:587",
    "http://mail.example.com",
    "smtp+tls://mail.example.com",
    "smtp:",
    "smtp://",
    "smtp://:587",
    "smtp://user:word@",
    "smtp://user:word@:587",
    "smtp://mail.example.com:0",
    "smtp://mail.example.com:65536",
    "smtp://mail.example.com:smtp",
    "smtp://mail.example.com:-1",
    "smtp://mail example.com",
    "smtp://mail.example.com,mail.example.org",
    "smtp://-mail.example.com",
    "smtp://mail..example.com",
    "smtp://[::1",
    "smtp://[mail.example.com]",
    "smtp://user@mail.example.com",
    "smtp://user:@mail.example.com",
    "smtp://:word@mail.example.com",
    "smtp://us er:word@mail.example.com:port",
    "smtp://user:wo%0Ard@mail.example.com",
    "smtp://user:wo%00rd@mail.example.com",
    "smtp://user:wörd@mail.example.com",
    "smtp://user:50%@mail.example.com",
    "smtp://user:wo/rd@mail.example.com",
    "smtp://user:wo#rd@mail.example.com",
    "smtp://user:wo?rd@mail.example.com",
    "smtp://mail.example.com/path",
    "smtp://mail.example.com?tls=no",
    "smtp://mail.example.com?",
    "smtp://mail.example.com#x",
]
WRONG_SENDERS = [
    "Example",
    "example.com",
    "@example.com",
    "no-reply@",
    "no reply@example.com",
    "no-reply@exam ple.com",
    "no-reply@example.com, other@example.com",
    "Example <no-reply@example.com> trailing",
    "Example <no-reply@example.com",
    "Example <<no-reply@example.com>>",
    "Example <no-reply@example.com> <other@example.com>",
    "Example <>",
    "Example\r\nBcc: eve@example.com <no-reply@example.com>",
    "Example <no-reply@example.com\nBcc: eve@example.com>",
    "no..reply@example.com",
    "no-reply@-example.com",
    f"{'x' * 201}@example.com",
]
WRONG_VALUES = {
    "SECRET_KEY": [*SHORT_SECRETS, *SAMPLE_SECRETS],
    "SECRET_KEY_FALLBACKS": ["short", "a" * 64, f"{KEY},short"],
    "DATABASE_URL": WRONG_URLS,
    "DATABASE_POOL_SIZE": ["0", "-1", "201", "eight", "1.5"],
    "DEBUG": ["maybe", "2", "tru"],
    "BACKEND_CORS_ORIGINS": WRONG_ORIGINS,
    "TRUSTED_PROXIES": ["nginx", "10.0.0.1/8", "*", "256.0.0.1", "127.0.0.1; ::1", "10.0.0.0/33"],
    "ALGORITHM": ["none", "HS512", "RS256", "hs256", "ES384"],
    "ISSUER": ["x" * 201],
    "AUDIENCE": ["x" * 201],
    "ACCESS_TOKEN_EXPIRE_MINUTES": ["0", "-1", "1441", "nan", "inf", "soon"],
    "REFRESH_TOKEN_EXPIRE_DAYS": ["0", "-1", "31", "nan", "inf", "a week"],
    "SESSION_MAX_DAYS": ["0", "-1", "366", "nan", "inf", "long"],
    "REFRESH_GRACE_SECONDS": ["-1", "226", "nan", "inf", "long"],
    "PASSWORD_MIN_LENGTH": ["7", "0", "129", "15.5", "long"],
    "HASHING_THREADS": ["0", "-1", "257", "all"],
    "HASHING_QUEUE": ["0", "-1", "10001", "long"],
    "REGISTRATION_OPEN": ["perhaps"],
    "SMTP_URL": WRONG_MAIL_SERVERS,
    "MAIL_FROM": WRONG_SENDERS,
    "ENABLE_TOKEN_ENDPOINT": ["perhaps"],
    "ENABLE_DOCS": ["perhaps"],
}
REFUSALS = [(key, value) for key, values in WRONG_VALUES.items() for value in values]


@pytest.mark.proves("9.1.2", "11.2.3", "JWT-07")
@pytest.mark.parametrize(("key", "value"), REFUSALS)
def test_a_wrong_value_is_refused_in_one_sentence_with_its_key_and_what_to_put_there(
    environment: Environment, key: str, value: str
) -> None:
    (sentence,) = environment.refused(**{key: value})
    assert sentence.startswith(key)
    assert "put there " in sentence
    assert sentence.endswith(".")


ORIGINS_THAT_NO_BROWSER_SENDS = [
    "https://app.example.com:443",
    "http://localhost:80",
    "https://app.example.com:",
    "https://app.example.com:99999",
    "https://*.example.com",
    "https://app example.com",
    "https://münchen.de",
]


@pytest.mark.parametrize("origin", ORIGINS_THAT_NO_BROWSER_SENDS)
def test_an_origin_that_no_browser_sends_is_refused(environment: Environment, origin: str) -> None:
    """It would never match, and its owner would look for the mistake elsewhere."""
    (sentence,) = environment.refused(BACKEND_CORS_ORIGINS=origin)
    assert sentence.startswith("BACKEND_CORS_ORIGINS")


@pytest.mark.parametrize(
    "host", ["auth.example.com:8000", "https://auth.example.com", "auth.example.com/", "*", "a b"]
)
def test_a_host_that_no_request_names_is_refused(environment: Environment, host: str) -> None:
    """Every request would be answered 421."""
    (sentence,) = environment.refused(ALLOWED_HOSTS=host)
    assert sentence.startswith("ALLOWED_HOSTS")


def test_an_access_token_that_would_be_born_expired_is_refused(environment: Environment) -> None:
    """Tokens count whole seconds."""
    (sentence,) = environment.refused(ACCESS_TOKEN_EXPIRE_MINUTES="0.001")
    assert sentence.startswith("ACCESS_TOKEN_EXPIRE_MINUTES")


@pytest.mark.parametrize("key", ["SECRET_KEY", "DATABASE_URL"])
def test_a_key_without_a_default_must_be_there(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.delenv(key)
    (sentence,) = environment.refused()
    assert sentence.startswith(f"{key} is missing: put there ")


@pytest.mark.parametrize("key", ["SECRET_KEY", "DATABASE_URL"])
def test_an_empty_key_is_a_missing_one(environment: Environment, key: str) -> None:
    (sentence,) = environment.refused(**{key: ""})
    assert sentence.startswith(f"{key} is missing: put there ")


def test_every_wrong_key_gets_a_sentence_of_its_own(environment: Environment) -> None:
    sentences = environment.refused(SECRET_KEY="short", DEBUG="maybe", TRUSTED_PROXIES="a, b, c")
    assert [sentence.split()[0] for sentence in sentences] == [
        "SECRET_KEY",
        "DEBUG",
        "TRUSTED_PROXIES",
    ]


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
def test_an_asymmetric_algorithm_needs_a_key_file(environment: Environment, algorithm: str) -> None:
    (sentence,) = environment.refused(ALGORITHM=algorithm)
    assert sentence.startswith("SIGNING_KEY_FILE")
    assert "python -m app keygen" in sentence


@pytest.mark.parametrize("key", ["SIGNING_KEY_FILE", "VERIFICATION_KEY_FILES"])
def test_a_key_file_without_its_algorithm_is_a_mistake(environment: Environment, key: str) -> None:
    """Its owner believes that tokens are signed with it."""
    (sentence,) = environment.refused(**{key: "key.pem"})
    assert sentence.startswith("ALGORITHM")


# Secrets are never shown

SECRETS = [
    {"SECRET_KEY": "hunter2"},
    {"SECRET_KEY": "changeme-hunter2-changeme-hunter2-changeme"},
    {"SECRET_KEY_FALLBACKS": "hunter2,hunter2"},
    {"DATABASE_URL": "hunter2"},
    {"DATABASE_URL": "mysql://ada:hunter2@host/db"},
    {"DATABASE_URL": "postgresql://ada:p@ss:hunter2@host/db"},
    {"DATABASE_URL": "postgresql://ada:hunter2@host:port/db"},
    {"DATABASE_URL": "postgresql+asyncpg://ada:hunter2@host/db", "DEBUG": "maybe"},
    {"REFRESH_GRACE_SECONDS": "1000", "DATABASE_URL": "postgresql://ada:hunter2@host/db"},
    {"SMTP_URL": "hunter2"},
    {"SMTP_URL": "smtp://ada:hunter2@host:port"},
    {"SMTP_URL": "smtp://ada:hunter2/@host"},
    {"SMTP_URL": "smtp://ada:hunter2%@host"},
    {"SMTP_URL": "smtp://:hunter2@host"},
    {"SMTP_URL": "smtp://ada:hunter2@ho st", "DEBUG": "maybe"},
]


@pytest.mark.proves("13.3.2", "CFG-06")
@pytest.mark.parametrize("values", SECRETS)
def test_no_sentence_shows_a_secret(environment: Environment, values: dict[str, str]) -> None:
    sentences = environment.refused(**values)
    assert sentences
    assert "hunter2" not in " ".join(sentences)


@pytest.mark.proves("13.3.2", "CFG-06")
def test_printing_the_settings_shows_no_secret(environment: Environment) -> None:
    key = secrets.token_hex(32)
    former = secrets.token_hex(32)
    settings = environment.load(
        SECRET_KEY=key,
        SECRET_KEY_FALLBACKS=former,
        DATABASE_URL="postgresql://ada:hunter2@host/db",
        SMTP_URL="smtp://ada:hunter2@mail.example.com",
        MAIL_FROM="a@example.com",
        PUBLIC_URL="https://auth.example.com",
    )
    for shown in (
        repr(settings),
        str(settings),
        repr(settings.database),
        repr(settings.smtp_server),
        str(settings.smtp_server),
        settings.model_dump_json(),
    ):
        assert not any(secret in shown for secret in (key, former, "hunter2"))


# Values as they are meant


@pytest.mark.proves("7.1.1")
def test_the_defaults_are_those_of_the_documentation(environment: Environment) -> None:
    settings = environment.load()
    assert settings.debug is False
    assert settings.docs_enabled is False
    assert settings.algorithm == "HS256"
    assert settings.access_lifetime == timedelta(minutes=15)
    assert settings.idle_lifetime == timedelta(days=7)
    assert settings.absolute_lifetime == timedelta(days=30)
    assert settings.grace == timedelta(seconds=60)
    assert (settings.issuer, settings.audience) == ("fastapi-auth", "fastapi-auth")
    assert settings.password_min_length == 15
    assert settings.registration_open
    assert settings.enable_token_endpoint
    assert settings.backend_cors_origins == settings.trusted_proxies == ()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_way_to_write_postgresql_means_psycopg2(
    environment: Environment, scheme: str
) -> None:
    url = environment.load(
        DATABASE_URL=f"{scheme}://ada:hunter2@host:5433/db?sslmode=require"
    ).database
    assert url.drivername == "postgresql+psycopg2"
    assert url.render_as_string(hide_password=False).endswith(
        "//ada:hunter2@host:5433/db?sslmode=require"
    )


def test_several_hosts_are_written_behind_the_question_mark(environment: Environment) -> None:
    url = environment.load(
        DATABASE_URL="postgresql://ada:hunter2@/db?host=one:5433&host=two"
    ).database
    assert url.query["host"] == ("one:5433", "two")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://ada:hunter2@one:5433,two:5433/db", "several hosts are written"),
        ("postgresql://ada:hunter2@/db?host=a,b,c&port=1,2", "each of its hosts takes one port"),
    ],
)
def test_several_hosts_written_in_another_way_are_refused(
    environment: Environment, url: str, complaint: str
) -> None:
    (sentence,) = environment.refused(DATABASE_URL=url)
    assert complaint in sentence


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_a_file_is_a_database_too(environment: Environment, scheme: str) -> None:
    assert environment.load(DATABASE_URL=f"{scheme}:///./app.db").database.database == "./app.db"


@pytest.mark.parametrize(
    ("minutes", "seconds"), [("60", 60), ("15", 60), ("4", 60), ("2", 30), ("1", 15)]
)
def test_a_shorter_access_lifetime_shortens_the_default_grace_period(
    environment: Environment, minutes: str, seconds: int
) -> None:
    settings = environment.load(ACCESS_TOKEN_EXPIRE_MINUTES=minutes)
    assert settings.grace == timedelta(seconds=seconds)


@pytest.mark.parametrize("seconds", ["0", "0.5", "30", "225"])
def test_the_grace_period_may_be_up_to_a_quarter_of_the_access_lifetime(
    environment: Environment, seconds: str
) -> None:
    settings = environment.load(REFRESH_GRACE_SECONDS=seconds)
    assert settings.grace == timedelta(seconds=float(seconds))


def test_the_limit_of_the_grace_period_is_said(environment: Environment) -> None:
    (sentence,) = environment.refused(REFRESH_GRACE_SECONDS="31", ACCESS_TOKEN_EXPIRE_MINUTES="2")
    assert sentence.startswith("REFRESH_GRACE_SECONDS: put there at most 30, ")


def test_lists_are_separated_by_commas(environment: Environment) -> None:
    settings = environment.load(
        BACKEND_CORS_ORIGINS="https://app.example.com, http://localhost:3000,",
        ALLOWED_HOSTS="auth.example.com,localhost",
        TRUSTED_PROXIES="127.0.0.1, ::1, 10.0.0.0/8",
    )
    assert settings.backend_cors_origins == ("https://app.example.com", "http://localhost:3000")
    assert settings.allowed_hosts == ("auth.example.com", "localhost")
    assert [str(network) for network in settings.trusted_proxies] == [
        "127.0.0.1/32",
        "::1/128",
        "10.0.0.0/8",
    ]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "https://[::1]:8443",
        "https://xn--mnchen-3ya.de",
    ],
)
def test_an_origin_is_taken_as_a_browser_sends_it(environment: Environment, origin: str) -> None:
    assert environment.load(BACKEND_CORS_ORIGINS=origin).backend_cors_origins == (origin,)


@pytest.mark.proves("13.4.5")
@pytest.mark.parametrize(
    ("debug", "enable_docs", "shown"),
    [("true", "", True), ("false", "", False), ("true", "false", False), ("false", "true", True)],
)
def test_the_docs_follow_debug_unless_told_otherwise(
    environment: Environment, debug: str, enable_docs: str, shown: bool
) -> None:
    assert environment.load(DEBUG=debug, ENABLE_DOCS=enable_docs).docs_enabled is shown


MAIL = {
    "SMTP_URL": "smtp://mail.example.com",
    "MAIL_FROM": "Example <no-reply@example.com>",
    "PUBLIC_URL": "https://auth.example.com",
}


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://mail.example.com", "mail.example.com", 587, False),
        ("smtps://mail.example.com", "mail.example.com", 465, True),
        ("smtp://mail.example.com:2525", "mail.example.com", 2525, False),
        ("SMTPS://Mail.Example.com:1/", "mail.example.com", 1, True),
        ("smtp://[2001:db8::1]:25", "2001:db8::1", 25, False),
        ("smtp://localhost:25", "localhost", 25, False),
        ("smtp://mail_relay", "mail_relay", 587, False),
    ],
)
def test_a_mail_server_has_a_host_a_port_and_a_protection(
    environment: Environment, url: str, host: str, port: int, tls: bool
) -> None:
    server = environment.load(**MAIL | {"SMTP_URL": url}).smtp_server
    assert server
    assert (server.host, server.port, server.tls) == (host, port, tls)
    assert (server.user, server.password) == ("", "")


@pytest.mark.parametrize(
    ("written", "user", "password"),
    [
        ("ada:hunter2", "ada", "hunter2"),
        ("ada%40example.com:p%40ss%3A%2F%3F%23%25", "ada@example.com", "p@ss:/?#%"),
        ("ada@example.com:hunter2", "ada@example.com", "hunter2"),
        ("ada:a+b%20c:d", "ada", "a+b c:d"),
    ],
)
def test_user_and_password_are_decoded(
    environment: Environment, written: str, user: str, password: str
) -> None:
    server = environment.load(**MAIL | {"SMTP_URL": f"smtp://{written}@host"}).smtp_server
    assert server
    assert (server.user, server.password) == (user, password)


@pytest.mark.proves("12.3.1")
@pytest.mark.parametrize(
    ("host", "is_this_machine"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("mail.example.com", False),
    ],
)
def test_only_this_machine_is_spoken_to_in_the_clear(
    environment: Environment, host: str, is_this_machine: bool
) -> None:
    server = environment.load(**MAIL | {"SMTP_URL": f"smtp://{host}"}).smtp_server
    assert server
    assert server.is_this_machine is is_this_machine


@pytest.mark.parametrize(
    ("written", "name", "address"),
    [
        ("Example <no-reply@example.com>", "Example", "no-reply@example.com"),
        ('"Example, Inc." <a@example.com>', "Example, Inc.", "a@example.com"),
        ("Bücher & Mehr <a+b@Example.COM>", "Bücher & Mehr", "a+b@example.com"),
        ("no-reply@example.com", "", "no-reply@example.com"),
        ("<no-reply@example.com>", "", "no-reply@example.com"),
        ("Intranet <auth@mail.corp.local>", "Intranet", "auth@mail.corp.local"),
    ],
)
def test_a_sender_has_a_name_or_none(
    environment: Environment, written: str, name: str, address: str
) -> None:
    sender = environment.load(MAIL_FROM=written).sender
    assert (sender.name, sender.address) == (name, address)
    assert sender.service == (name or address.partition("@")[2])


@pytest.mark.parametrize(
    ("missing", "named"), [("MAIL_FROM", "MAIL_FROM"), ("PUBLIC_URL", "PUBLIC_URL")]
)
def test_a_mail_server_needs_a_sender_and_a_place_for_links_to_lead_to(
    environment: Environment, missing: str, named: str
) -> None:
    (sentence,) = environment.refused(**{k: v for k, v in MAIL.items() if k != missing})
    assert sentence.startswith(f"{named} is missing")
    assert "put there " in sentence


def test_verified_addresses_need_a_mail_server(environment: Environment) -> None:
    (sentence,) = environment.refused(REQUIRE_VERIFIED_EMAIL="true")
    assert sentence.startswith("SMTP_URL is missing")
    assert "put there " in sentence


@pytest.mark.proves("1.2.2", "UL-02")
@pytest.mark.parametrize("key", ["PUBLIC_URL", "FRONTEND_URL"])
@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "ftp://a.example", "https://", "//a.example", "https://a.example/?x="],
)
def test_links_lead_to_web_pages_only(environment: Environment, key: str, url: str) -> None:
    (sentence,) = environment.refused(**{key: url})
    assert sentence.startswith(key)


def test_keys_of_other_programs_are_ignored(environment: Environment) -> None:
    assert environment.load(POSTGRES_PASSWORD="x", PORT="80")


def test_settings_do_not_change_while_the_service_runs(environment: Environment) -> None:
    with pytest.raises(ValueError, match="frozen"):
        environment.load().debug = True


@pytest.mark.proves("13.3.4", "CFG-02")
def test_a_former_secret_logs_nobody_out(make_client: ClientFactory) -> None:
    former, new = secrets.token_hex(32), secrets.token_hex(32)
    before = make_client(secret_key=former)
    register(before)
    log_in(before)
    after = make_client(secret_key=new, secret_key_fallbacks=former)
    after.cookies = before.cookies
    assert after.get("/api/v1/users/me").json()["email"] == ADA["email"]
    assert after.post("/api/v1/auth/refresh").status_code == 200
    without = make_client(secret_key=new)
    without.cookies = after.cookies
    assert without.post("/api/v1/auth/refresh").status_code == 200  # signed anew on the way


@pytest.mark.proves("13.3.4", "CFG-02")
def test_a_secret_that_was_given_up_is_worth_nothing(make_client: ClientFactory) -> None:
    before = make_client(secret_key=secrets.token_hex(32))
    register(before)
    log_in(before)
    after = make_client(secret_key=secrets.token_hex(32))
    after.cookies = before.cookies
    assert after.get("/api/v1/users/me").status_code == 401
    assert after.post("/api/v1/auth/refresh").json()["code"] == "not_authenticated"


# The process


@pytest.mark.parametrize(
    "wrong",
    [{"SECRET_KEY": "short"}, {"ALGORITHM": "EdDSA", "SIGNING_KEY_FILE": "no-such-file.pem"}],
    ids=["short secret", "key file missing"],
)
def test_the_server_does_not_start_and_says_why(wrong: dict[str, str], tmp_path: Path) -> None:
    settings = {"SECRET_KEY": KEY, "DATABASE_URL": "sqlite:///./app.db"} | wrong
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT), "--port=0", "app.main:app"]
    done = subprocess.run(
        command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith([*wrong][-1])
    assert "put there " in sentence


# .env.example


def examples() -> dict[str, str]:
    """KEY=value, or # KEY=value where the default will do."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"(?:# )?([A-Z_]+)=(.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_the_example_holds_every_setting_and_no_other() -> None:
    assert examples().keys() == {name.upper() for name in Settings.model_fields}


@pytest.mark.proves("13.4.2", "ER-02")
def test_the_example_is_in_force_for_a_laptop_only() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    in_force = [line for line in lines if line and not line.startswith("#")]
    assert in_force == ["SECRET_KEY=", "DATABASE_URL=sqlite:///./app.db", "DEBUG=true"]


def test_every_key_of_the_example_has_a_comment() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    paragraphs = [p.splitlines() for p in text.split("\n\n")]
    for lines in paragraphs:
        keys = [i for i, line in enumerate(lines) if re.match(r"(# )?[A-Z_]+=", line)]
        assert not keys or keys[0] > 0, lines


def test_the_example_starts_once_it_has_a_secret(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    path.write_text(text.replace("SECRET_KEY=\n", f"SECRET_KEY={secrets.token_hex(32)}\n", 1))
    settings = Settings(_env_file=path)  # type: ignore[call-arg]
    assert settings.database.database == "./app.db"


def test_the_example_shows_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every line in force, nothing but these three changes."""
    path = tmp_path / ".env"
    path.write_text("".join(f"{key}={value}\n" for key, value in examples().items()))
    settings = Settings(_env_file=path)  # type: ignore[call-arg]
    for name, field in Settings.model_fields.items():
        if name not in ("secret_key", "database_url", "debug"):
            assert getattr(settings, name) == field.default, name


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| key | default |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = re.findall(r"`([A-Z_]+)`", " ".join(rows))
    assert len(named) > 15
    assert set(named) <= {name.upper() for name in Settings.model_fields}
