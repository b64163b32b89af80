"""Every setting, read from the environment or `.env` and checked before anything starts.

A wrong value stops the start with one sentence that names the key and what to put there.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.core.smtp import Sender, SmtpServer, read_sender, read_smtp_url

Algorithm = Literal["HS256", "EdDSA", "ES256"]

# SHA-256 of secrets long enough to pass the length check that stand in tutorials:
# hashed, so that this file does not offer one more to copy.
PUBLISHED_SECRETS = frozenset(
    {
        # the FastAPI tutorial's, 09d25e09…
        "570dad43de1af4c925f92c16a68a50936da42b7dd6fdeb24850507a1199aac89",
    }
)
# As a browser sends them: lower case, international names in punycode, no path.
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
ORIGIN = re.compile(rf"https?://({HOST.pattern})(:(?P<port>[1-9][0-9]{{0,4}}))?")
ADDRESS = re.compile(rf"{ORIGIN.pattern}(/[A-Za-z0-9._~-]+)*")
PRINTABLE_ASCII = r"^[\x21-\x7e]+$"
A_NUMBER_AN_HOUR = "how many at once, and an hour in the long run: a whole number above 0"
PLACEHOLDER_WORDS = ("change", "example", "placeholder", "secret", "password", "insecure", "your-")


class Settings(BaseSettings):
    """The effective configuration. Each description completes "put there …"."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    secret_key: SecretStr = Field(
        description="32 or more random characters, such as `openssl rand -hex 32` prints"
    )
    secret_key_fallbacks: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="former values of SECRET_KEY, separated by commas"
    )
    database_url: SecretStr = Field(
        description="sqlite:///./app.db or postgresql://user:password@host/database"
    )
    database_pool_size: int = Field(8, ge=1, le=200, description="a whole number from 1 to 200")
    debug: bool = Field(False, description="true on a laptop, false everywhere else")

    backend_cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="exact origins, such as https://app.example.com, separated by commas"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="host names without port, separated by commas, or nothing for any"
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (), description="addresses or networks of your proxies, such as 127.0.0.1, 10.0.0.0/8"
    )

    algorithm: Algorithm = Field("HS256", description="HS256, EdDSA or ES256")
    signing_key_file: Path | None = Field(
        None, description="a private key's PEM file, such as `python -m app keygen key.pem` writes"
    )
    verification_key_files: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="PEM files of the next or the former key, separated by commas"
    )
    issuer: str = Field(
        "fastapi-auth",
        max_length=200,
        pattern=PRINTABLE_ASCII,
        description="a name or URL of this service, up to 200 ASCII characters without spaces",
    )
    audience: str = Field(
        "fastapi-auth",
        max_length=200,
        pattern=PRINTABLE_ASCII,
        description="a name or URL of the API, up to 200 ASCII characters without spaces",
    )

    access_token_expire_minutes: float = Field(
        15, ge=1 / 60, le=1440, description="minutes, from a second (0.017) to a day (1440)"
    )
    refresh_token_expire_days: float = Field(
        7, gt=0, le=365, description="days, above 0 and at most SESSION_MAX_DAYS"
    )
    session_max_days: float = Field(30, gt=0, le=365, description="days, above 0 and at most 365")
    refresh_grace_seconds: float | None = Field(
        None,
        ge=0,
        description="seconds, at most a quarter of the access lifetime, or 0 for strict single use",
    )

    password_min_length: int = Field(
        15, ge=8, le=128, description="a whole number of characters from 8 to 128"
    )
    hashing_threads: int | None = Field(
        None, ge=1, le=256, description="a whole number from 1 to 256, or nothing: one a core"
    )
    hashing_queue: int = Field(
        64, ge=1, le=10_000, description="how many log-ins may wait, from 1 to 10000"
    )

    password_context_words: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names of your product and organisation, separated by commas"
    )
    breached_passwords_file: Path | None = Field(
        None, description="a file of SHA-1 hashes in hexadecimal, one a line, sorted"
    )

    registration_open: bool = Field(True, description="true or false")
    require_verified_email: bool = Field(False, description="true or false")
    sessions_per_user: int = Field(100, ge=1, le=10_000, description="a number from 1 to 10000")

    smtp_url: SecretStr | None = Field(
        None,
        description="smtp://user:password@host:587, or smtps://user:password@host:465",
    )
    mail_from: str = Field(
        "FastAPI Auth <no-reply@localhost>",
        max_length=200,
        description="who your mails are from, such as Example <no-reply@example.com>",
    )
    frontend_url: str | None = Field(
        None, description="where your front end's pages are, such as https://app.example.com"
    )
    public_url: str | None = Field(
        None, description="where this service is reached, such as https://auth.example.com"
    )

    login_attempts_per_account: int = Field(10, ge=1, le=1000, description=A_NUMBER_AN_HOUR)
    login_attempts_per_network: int = Field(100, ge=1, le=100_000, description=A_NUMBER_AN_HOUR)
    mails_per_address: int = Field(3, ge=1, le=1000, description=A_NUMBER_AN_HOUR)
    sign_ups_per_network: int = Field(20, ge=1, le=100_000, description=A_NUMBER_AN_HOUR)
    audit_retention_days: int = Field(
        365, ge=30, le=3650, description="a whole number of days from 30 to 3650"
    )
    enable_metrics: bool = Field(False, description="true or false")

    enable_token_endpoint: bool = Field(True, description="true or false")
    enable_docs: bool | None = Field(None, description="true, false, or nothing: as DEBUG")

    @field_validator(
        "secret_key_fallbacks",
        "backend_cors_origins",
        "allowed_hosts",
        "trusted_proxies",
        "verification_key_files",
        "password_context_words",
        mode="before",
    )
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("secret_key")
    @classmethod
    def _check_secret(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        if len(secret.encode()) < 32:
            raise ValueError("it is shorter than 32 bytes")
        if hashlib.sha256(secret.encode()).hexdigest() in PUBLISHED_SECRETS:
            raise ValueError("it stands in a public tutorial")
        if is_sample(secret):
            raise ValueError("it looks like a sample, not like random characters")
        return value

    @field_validator("secret_key_fallbacks")
    @classmethod
    def _check_fallbacks(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(cls._check_secret(secret) for secret in value)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        url = read_database_url(value.get_secret_value())
        if url.get_backend_name() == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise ValueError("SQLite in memory would forget everybody at each restart")
            if url.query:
                raise ValueError("SQLite takes nothing after a question mark here")
            return value
        try:
            url.get_dialect()().create_connect_args(url)
        except ArgumentError:
            raise ValueError("each of its hosts takes one port") from None
        return value

    @field_validator("signing_key_file", "verification_key_files")
    @classmethod
    def _check_paths(cls, value: Path | tuple[Path, ...] | None) -> object:
        if "-----" in str(value):
            raise ValueError("it holds a key itself")
        return value

    @field_validator("backend_cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                raise ValueError("* is refused, because these requests carry credentials")
            if not (parts := ORIGIN.fullmatch(origin)) or int(parts["port"] or 1) > 65535:
                raise ValueError(f"{origin!r} is not scheme://host or scheme://host:port")
            if re.fullmatch("http:.*:80|https:.*:443", origin):
                raise ValueError(f"browsers leave the port out of {origin!r}")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value:
            read_smtp_url(value.get_secret_value())
        return value

    @field_validator("mail_from")
    @classmethod
    def _check_mail_from(cls, value: str) -> str:
        read_sender(value)
        return value

    @field_validator("frontend_url", "public_url")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        address = value.rstrip("/")
        if not ADDRESS.fullmatch(address):
            raise ValueError("it is not http:// or https:// with a host name, and perhaps a path")
        return address

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not HOST.fullmatch(host.lower()):
                raise ValueError(f"{host!r} is not a host name")
        return value

    @model_validator(mode="after")
    def _check_lifetimes(self) -> Self:
        if self.refresh_token_expire_days > self.session_max_days:
            raise ValueError("REFRESH_TOKEN_EXPIRE_DAYS: put there at most SESSION_MAX_DAYS")
        if self.access_lifetime > self.idle_lifetime:
            raise ValueError(
                "ACCESS_TOKEN_EXPIRE_MINUTES: put there less than REFRESH_TOKEN_EXPIRE_DAYS"
            )
        longest = self.access_lifetime.total_seconds() / 4
        if self.refresh_grace_seconds and self.refresh_grace_seconds < 0.1:
            raise ValueError("REFRESH_GRACE_SECONDS: put there 0.1 or more, or 0 for strict use")
        if self.refresh_grace_seconds and self.refresh_grace_seconds > longest:
            raise ValueError(
                f"REFRESH_GRACE_SECONDS: put there at most {longest:g}, a quarter of the access "
                "lifetime, so that a stolen token cannot hide in the grace period"
            )
        return self

    @model_validator(mode="after")
    def _check_key_files(self) -> Self:
        if self.algorithm != "HS256" and not self.signing_key_file:
            raise ValueError(
                f"SIGNING_KEY_FILE is missing: ALGORITHM={self.algorithm} needs it; put there a "
                "private key's PEM file, such as `python -m app keygen key.pem` writes"
            )
        if self.algorithm == "HS256" and (self.signing_key_file or self.verification_key_files):
            raise ValueError("ALGORITHM: key files are given, so put there EdDSA or ES256")
        return self

    @model_validator(mode="after")
    def _check_mail(self) -> Self:
        if self.smtp_url and not (self.frontend_url or self.public_url):
            raise ValueError(
                "PUBLIC_URL is missing: SMTP_URL sends mails with links, which are never built "
                "from the Host header; put there where this service is reached, such as "
                "https://auth.example.com, or set FRONTEND_URL to where your own pages are"
            )
        if self.smtp_url and self.sender.domain == "localhost":
            raise ValueError(
                "MAIL_FROM is missing: nobody takes mails from localhost; put there who yours are "
                "from, such as Example <no-reply@example.com>"
            )
        if self.require_verified_email and not self.sends_mail:
            raise ValueError(
                "SMTP_URL is missing: REQUIRE_VERIFIED_EMAIL=true needs it; put there "
                "smtp://user:password@host:587"
            )
        return self

    @property
    def sends_mail(self) -> bool:
        """DEBUG=true prints mails where there is no SMTP server."""
        return self.smtp_url is not None or self.debug

    @cached_property
    def smtp_server(self) -> SmtpServer | None:
        return read_smtp_url(self.smtp_url.get_secret_value()) if self.smtp_url else None

    @cached_property
    def sender(self) -> Sender:
        return read_sender(self.mail_from)

    @property
    def pages_url(self) -> str:
        """Where the links in mails lead: to a front end's pages, or to our own."""
        own = self.public_url or "http://127.0.0.1:8000"
        return self.frontend_url or f"{own}/account"

    @property
    def database(self) -> URL:
        return read_database_url(self.database_url.get_secret_value())

    @cached_property
    def access_lifetime(self) -> timedelta:
        return timedelta(minutes=self.access_token_expire_minutes)

    @cached_property
    def idle_lifetime(self) -> timedelta:
        return timedelta(days=self.refresh_token_expire_days)

    @cached_property
    def absolute_lifetime(self) -> timedelta:
        return timedelta(days=self.session_max_days)

    @cached_property
    def grace(self) -> timedelta:
        """How long a refresh token counts as young (docs/rotation.md)."""
        if self.refresh_grace_seconds is not None:
            return timedelta(seconds=self.refresh_grace_seconds)
        return min(timedelta(seconds=60), self.access_lifetime / 4)

    @property
    def docs_enabled(self) -> bool:
        return self.debug if self.enable_docs is None else self.enable_docs


def is_sample(secret: str) -> bool:
    """Few different characters, a text that repeats itself or counts up, or a word of samples."""
    steps = [ord(after) - ord(before) for before, after in pairwise(secret)]
    return (
        len(set(secret)) < 8
        or secret in (secret + secret)[1:-1]
        or steps.count(1) > len(steps) / 2
        or any(word in secret.lower() for word in PLACEHOLDER_WORDS)
    )


def read_database_url(text: str) -> URL:
    """`postgres://` and `postgresql://` mean psycopg2 here, which SQLAlchemy 2.1 no longer assumes.

    Raises ValueError where it is no URL of a database that this project supports.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # whose message may quote the password
        if "," in text.partition("?")[0]:  # as libpq takes them
            raise ValueError("several hosts are written /database?host=one:5432&host=two") from None
        raise ValueError("it is not a database URL") from None
    if "@" in (url.host or ""):
        raise ValueError("an @ in the password is written %40")
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg2"):
        return url.set(drivername="postgresql+psycopg2")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return url
    raise ValueError(f"{url.drivername} is not supported")


NOT_UTF8 = ".env is not UTF-8: save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)."


class SettingsError(Exception):
    """Sentences that each name a key, say what is wrong with it and what to put there."""


def load_settings() -> Settings:
    """Read the environment and `.env`. Ends the process with one sentence a wrong key."""
    try:
        return Settings()
    except ValidationError as error:
        refuse_to_start(*explain(error))
    except UnicodeDecodeError:
        refuse_to_start(NOT_UTF8)


def refuse_to_start(*sentences: str) -> NoReturn:
    sys.stderr.write("\n".join(sentences) + "\n")
    sys.exit(2)


def explain(error: ValidationError) -> Iterator[str]:
    """One sentence a key. Values are not shown: some are secret."""
    explained = set()
    for problem in error.errors(include_url=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            yield f"{message}."
            continue
        name = str(problem["loc"][0])
        if name in explained:
            continue
        explained.add(name)
        put = Settings.model_fields[name].description
        if problem["type"] == "missing":
            yield f"{name.upper()} is missing: put there {put}."
        else:
            yield f"{name.upper()} is wrong ({message}): put there {put}."
