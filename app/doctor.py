"""What `python -m app doctor` looks at: each problem with what is wrong and what to put there."""

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, func, select

from app.core.config import NOT_UTF8, Settings, SettingsError, explain
from app.core.hashing import hash_password
from app.core.keys import access_keys
from app.core.metrics import check_folder
from app.core.password_policy import PasswordPolicy
from app.core.passwords import available_cores, share_of_cores
from app.core.refusals import Refusal
from app.core.smtp import Conversation, Unreachable
from app.db.migrations import is_migrated
from app.db.session import Database

RELEASED = datetime(2026, 11, 1, tzinfo=UTC)  # a clock that shows less is wrong
LARGEST_SKEW = 2  # seconds between this clock and the database's
LONGEST_WAIT = 5  # seconds for a hash; the database is not waited for any longer either
PROCESSOR = Path("/proc/cpuinfo")  # of Linux
HIDDEN = "(hidden)"


class Finding(NamedTuple):
    verdict: str  # ok, note or wrong
    text: str


def ok(text: str) -> Finding:
    return Finding("ok", text)


def note(text: str) -> Finding:
    return Finding("note", text)


def wrong(text: str) -> Finding:
    return Finding("wrong", text)


def examine(env_file: Path) -> int:
    """Print the configuration and every finding; 1 where something is wrong."""
    findings = [*check_python()]
    try:
        findings += check_env_file(env_file)
        settings = Settings()
    except UnicodeDecodeError:
        findings.append(wrong(NOT_UTF8))
    except ValidationError as error:
        findings += [wrong(sentence) for sentence in explain(error)]
    else:
        print_settings(settings, env_file)
        checks: tuple[Callable[[Settings], Iterator[Finding]], ...]
        checks = (
            check_debug,
            check_keys,
            check_password_policy,
            check_clock,
            check_database,
            check_mail,
            check_hashing,
            check_metrics,
        )
        for check in checks:
            findings += check(settings)
    for finding in findings:
        print(f"{finding.verdict:6} {finding.text}")
    return int(any(finding.verdict == "wrong" for finding in findings))


def print_settings(settings: Settings, env_file: Path) -> None:
    in_environment = {key.upper() for key, value in os.environ.items() if value}
    in_file = {key.upper() for key, value in dotenv_values(env_file).items() if value}
    print("The configuration; an environment variable wins over .env:")
    for name in type(settings).model_fields:
        key = name.upper()
        source = "environment" if key in in_environment else ".env" if key in in_file else "default"
        print(f"  {key:28} {source:12} {shown(settings, name)}")
    print()


def shown(settings: Settings, name: str) -> str:
    """Never a secret, and of the database's address everything but its passwords."""
    if name == "database_url":
        url = settings.database
        hidden = {key: HIDDEN for key in url.query if "password" in key.lower()}
        return url.update_query_dict(hidden).render_as_string(hide_password=True)
    effective = {  # where nothing means a value that the service works out
        "refresh_grace_seconds": settings.grace.total_seconds(),
        "hashing_threads": settings.hashing_threads or share_of_cores(),
        "enable_docs": settings.docs_enabled,
    }
    return printable(effective.get(name, getattr(settings, name)))


def printable(value: Any) -> str:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, tuple):
        return ", ".join(printable(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def check_python() -> Iterator[Finding]:
    yield ok(f"Python {sys.version.split()[0]}")


def check_env_file(path: Path) -> Iterator[Finding]:
    if not path.exists():
        if "SECRET_KEY" in os.environ:
            yield ok("no .env: everything comes from the environment")
        else:
            yield wrong("There is no .env: `make run` or `python -m app setup` writes one.")
        return
    if not os.access(path, os.R_OK):
        yield wrong(".env cannot be read by this user: chown it to whoever runs the service.")
        return
    yield from check_mode(path, ".env")
    for key in dotenv_values(path):
        if key.lower() not in Settings.model_fields:
            yield unknown_key(key)


def check_mode(path: Path, name: str) -> Iterator[Finding]:
    if sys.platform != "win32" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield wrong(f"{name} is open to other users of this machine: run `chmod 600 {path}`.")
    else:
        yield ok(f"{name} is open to its owner only")


def unknown_key(key: str) -> Finding:
    known = [name.upper() for name in Settings.model_fields]
    if nearest := get_close_matches(key.upper(), known, n=1):
        return wrong(f"{key} in .env is no setting, and is ignored: put there {nearest[0]}.")
    return note(f"{key} in .env is no setting of this service, and is ignored.")


def check_debug(settings: Settings) -> Iterator[Finding]:
    """DEBUG gives cookies without Secure: a configuration for the public must not have it."""
    if not settings.debug:
        return
    addresses = [*settings.backend_cors_origins, settings.issuer, settings.audience]
    hosts = {urlsplit(address).hostname or "" for address in addresses if "://" in address}
    public = sorted(host for host in hosts | {*settings.allowed_hosts} if not is_local(host))
    if public:
        yield wrong(
            f"DEBUG is true, and {', '.join(public)} is no name of this machine: put there "
            "false where others reach the service."
        )
    else:
        yield note("DEBUG is true: cookies travel over plain http, on this machine only")


def is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127.")


def check_keys(settings: Settings) -> Iterator[Finding]:
    try:
        keys = access_keys(settings)
    except SettingsError as error:
        yield wrong(str(error))
        return
    yield ok(f"access tokens are signed with {keys.algorithm}, key {keys.kid}")
    if settings.signing_key_file:
        yield from check_mode(settings.signing_key_file, "SIGNING_KEY_FILE")


def check_password_policy(settings: Settings) -> Iterator[Finding]:
    try:
        policy = PasswordPolicy(settings)
    except SettingsError as error:
        yield wrong(str(error))
        return
    words = ", ".join(sorted(policy.words))
    yield ok(f"passwords must not be made of a name, an address or these words: {words}")


def check_clock(_: Settings) -> Iterator[Finding]:
    now = datetime.now(UTC)
    if now < RELEASED:
        yield wrong(f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC, which is past: set it.")
    else:
        yield ok(f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC")


def check_database(settings: Settings) -> Iterator[Finding]:
    path = settings.database.database
    is_sqlite = settings.database.get_backend_name() == "sqlite"
    if is_sqlite and not Path(path or "").exists():  # connecting would make an empty one
        yield wrong(f"DATABASE_URL: {path} is not there yet: run `python -m app migrate`.")
        return
    database = Database(settings)
    try:
        yield from database.run_read(look_at_database)
        if is_sqlite:
            yield from check_database_file(Path(path or ""))
    except Refusal as refusal:
        yield wrong(
            f"DATABASE_URL: the database does not answer ({cause(refusal)}); put there "
            "the address, user and password of one that runs."
        )
    except SQLAlchemyError as error:
        orig = " ".join(str(getattr(error, "orig", error)).split())
        yield wrong(f"DATABASE_URL: it cannot be used ({orig}); put there a plain one.")
    finally:
        database.close()


def check_database_file(path: Path) -> Iterator[Finding]:
    if sys.platform != "win32" and path.stat().st_mode & stat.S_IRWXO:
        yield wrong(
            f"{path} with its password hashes is open to everybody on this machine: "
            f"run `chmod o= {path}*`."
        )


def look_at_database(session: Session) -> list[Finding]:
    dialect = session.get_bind().dialect
    findings = [ok(f"the database answers: {dialect.name}")]
    if is_migrated(session):
        findings.append(ok("no migration is missing"))
    else:
        findings.append(wrong("The database lacks migrations: run `python -m app migrate`."))
    if dialect.name == "postgresql":
        before = time.time()
        theirs: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        skew = abs(theirs.timestamp() - (before + time.time()) / 2)
        if skew > LARGEST_SKEW:
            findings.append(
                wrong(
                    f"This clock and the database's are {skew:.0f} seconds apart, which counts "
                    "against REFRESH_GRACE_SECONDS: let both follow a time server."
                )
            )
    return findings


def cause(refusal: Refusal) -> str:
    error = refusal.__cause__
    if isinstance(error, SQLAlchemyError):
        error = getattr(error, "orig", None) or error
    return " ".join(str(error or refusal).split())


def check_mail(settings: Settings) -> Iterator[Finding]:
    """As far as one can go without sending one."""
    server = settings.smtp_server
    if server is None:
        if settings.debug:
            yield note("there is no SMTP_URL: with DEBUG, mails are printed to standard error")
        else:
            yield note("there is no SMTP_URL: no mail is sent, and nobody can reset a password")
        return
    conversation = Conversation(server, settings.sender)
    try:
        conversation.open()
    except Unreachable as error:
        yield wrong(
            f"SMTP_URL: the mail server {server} cannot be used ({error}); put there the address, "
            "user and password of one that takes your mails."
        )
    else:
        user = f", user {server.user}" if server.user else ""
        yield ok(f"the mail server takes us: {server}, {server.protection}{user}")
    finally:
        conversation.close()
    pages = urlsplit(settings.pages_url)
    if pages.scheme == "http" and not is_local(pages.hostname or ""):
        key = "FRONTEND_URL" if settings.frontend_url else "PUBLIC_URL"
        yield wrong(f"{key}: links in mails would lead over plain http; put there https://.")


def check_hashing(settings: Settings) -> Iterator[Finding]:
    """What a log-in costs at least; the parameters are in app/core/hashing.py."""
    share = share_of_cores()
    threads = settings.hashing_threads or share
    busy = min(threads, available_cores())  # more of them only take memory
    alone = hashes_a_second(1)
    at_once = hashes_a_second(busy) if busy > 1 else alone
    wait = settings.hashing_queue / at_once
    together = f", {at_once:.0f} on {busy}" if busy > 1 else ""
    yield ok(
        f"hashing a password takes {1000 / alone:.0f} ms and 19 MiB: {alone:.0f} a second on one "
        f"thread{together}; the last of a full queue waits {wait:.1f} seconds"
    )
    advice = []
    if threads > share:
        advice.append(
            f"HASHING_THREADS: {threads} take {threads * 19} MiB and hash no faster than the "
            f"{share} that this process has cores for; put there {share}."
        )
    if wait > LONGEST_WAIT:
        enough = max(1, int(at_once * LONGEST_WAIT))
        advice.append(f"HASHING_QUEUE: {wait:.0f} seconds are long to wait; put there {enough}.")
    if has_faster_build():
        advice.append(
            "argon2 is built for any processor, and this one has AVX2: `make native-argon2` "
            "builds a faster one (docs/operations.md)."
        )
    if advice:
        yield note(" ".join(advice))


def hashes_a_second(threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:

        def hash_on_each(times: int) -> None:
            list(pool.map(hash_password, ["nine tall herons at dawn"] * threads * times))

        hash_on_each(1)  # the first one waits for the system's memory
        start = time.perf_counter()
        hash_on_each(3)
        return 3 * threads / (time.perf_counter() - start)


def has_faster_build() -> bool:
    """Only where it is known: wheels for Linux on x86-64 use SSE2 (tools/native_argon2.py)."""
    try:
        wheel = distribution("argon2-cffi-bindings").read_text("WHEEL") or ""
        processor = PROCESSOR.read_text(encoding="utf-8", errors="replace")
    except (PackageNotFoundError, OSError):
        return False
    return bool(re.search(r"(many|musl)linux\S*_x86_64", wheel)) and " avx2 " in processor


def check_metrics(settings: Settings) -> Iterator[Finding]:
    if not settings.enable_metrics:
        return
    try:
        check_folder()
    except SettingsError as error:
        yield wrong(str(error))
        return
    yield note("/metrics is on: see that your proxy keeps it from the public, as deploy/ does")
