"""`python -m app`: what a person at the keyboard does with the service."""

import io
import os
import re
import secrets
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from app import doctor
from app.cli import main as command_line
from app.core.config import Settings
from app.main import create_app
from tests.links import database_of, reset
from tests.mailbox import smtp_server
from tests.people import ADA, get_tokens, log_in, register
from tests.rows import change_user

ROOT = Path(__file__).parents[1]
SECRET = secrets.token_hex(32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, whose .env counts, with nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    umask = os.umask(0o022)
    yield tmp_path
    os.umask(umask)


@pytest.fixture
def configured(folder: Path) -> Path:
    """The same folder, configured and migrated."""
    write_env(folder, f"SECRET_KEY={SECRET}", "DATABASE_URL=sqlite:///./app.db", "DEBUG=true")
    assert main(["migrate"]) == 0
    return folder


def write_env(folder: Path, *lines: str) -> None:
    path = folder / ".env"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)


def add_to_env(folder: Path, *lines: str) -> None:
    write_env(folder, (folder / ".env").read_text(), *lines)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def main(command: list[str]) -> int:
    """On a thread of its own, because browser tests leave an event loop running on this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(command_line, command).result()


def last_words(command: list[str]) -> str:
    """What a command says when it refuses."""
    with pytest.raises(SystemExit) as refusal:
        main(command)
    return str(refusal.value)


def type_password(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))


def test_help_and_the_name_of_a_missing_package_need_no_package() -> None:
    bare = [sys.executable, "-S", "-m", "app"]
    help_text = subprocess.run([*bare, "help"], cwd=ROOT, capture_output=True, text=True)
    assert "create-admin" in help_text.stdout
    migrate = subprocess.run([*bare, "migrate"], cwd=ROOT, capture_output=True, text=True)
    assert migrate.returncode == 1
    assert migrate.stderr.startswith("The package pydantic is not installed here")
    assert len(migrate.stderr.splitlines()) == 1


@pytest.mark.proves("11.2.3", "13.3.2")
def test_setup_writes_a_secret_of_its_own_for_the_owner_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        monkeypatch.chdir(folder / name)
        assert main(["setup"]) == 0
        assert mode(Path(".env")) == 0o600
        assert mode(Path("app.db")) == 0o600
        keys.append(Settings().secret_key.get_secret_value())
    assert keys[0] != keys[1]


def test_setup_leaves_an_env_file_as_it_is(configured: Path) -> None:
    before = (configured / ".env").read_bytes()
    assert main(["setup"]) == 0
    assert (configured / ".env").read_bytes() == before


def test_setup_writes_no_env_file_where_the_environment_has_the_secret(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///./app.db")
    assert main(["setup"]) == 0
    assert not (folder / ".env").exists()


@pytest.mark.proves("13.4.2", "ER-02")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_debug_refuses_to_listen_on_more_than_loopback(configured: Path, host: str) -> None:
    assert "DEBUG" in last_words(["run", "--host", host])


def test_a_taken_port_is_named_with_another_one_to_try(configured: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"PORT={port + 1}" in last_words(["run", "--port", str(port)])


def test_an_administrator_is_made_and_logs_in(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_password(monkeypatch, ADA["password"])
    assert main(["create-admin", ADA["email"]]) == 0
    with TestClient(create_app(Settings())) as client:
        token = get_tokens(client)["access_token"]
        me = client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
    assert me.json()["is_admin"] is True


@pytest.mark.proves("6.3.2", "PWD-08")
def test_an_administrator_needs_a_good_password(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_password(monkeypatch, "shortish")
    assert "15 characters" in last_words(["create-admin", ADA["email"]])


def test_whoever_only_signed_up_with_the_address_does_not_become_an_administrator(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody could have, and would wait for this. The password that is typed here counts."""
    planted = ADA | {"password": "somebody else's words"}
    with TestClient(create_app(Settings())) as client:
        register(client, planted)
        get_tokens(client, planted)
    type_password(monkeypatch, ADA["password"])
    assert main(["create-admin", ADA["email"]]) == 0
    with TestClient(create_app(Settings())) as client:
        assert log_in(client, planted).status_code == 401
        me = log_in(client).json()["user"]
    assert (me["is_admin"], me["email_verified"]) == (True, True)


def test_a_disabled_account_is_made_no_administrator_and_gets_no_link(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(Settings())) as client:
        register(client)
        change_user(database_of(client), ADA["email"], is_active=False)
    assert "disabled" in last_words(["create-admin", ADA["email"]])
    assert "disabled" in last_words(["reset-link", ADA["email"]])


def test_a_link_to_hand_over_works(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://auth.example.com")
    with TestClient(create_app(Settings())) as client:
        register(client)
        assert main(["reset-link", ADA["email"].upper()]) == 0
        address, _, token = capsys.readouterr().out.split()[-1].partition("#token=")
        assert address == "https://auth.example.com/account/reset-password"
        assert reset(client, token, "seven loud geese on ice").status_code == 204


def test_a_link_for_nobody_is_none(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://auth.example.com")
    assert "no account" in last_words(["reset-link", ADA["email"]])


def test_a_link_that_would_lead_nowhere_is_none(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBUG", "false")
    assert "PUBLIC_URL" in last_words(["reset-link", ADA["email"]])


def test_somebody_who_has_an_account_becomes_an_administrator_and_keeps_the_password(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_password(monkeypatch, ADA["password"])
    main(["create-admin", ADA["email"]])
    type_password(monkeypatch, "another password entirely")
    main(["create-admin", ADA["email"].upper()])
    assert "is an administrator now" in capsys.readouterr().out


def test_an_address_that_is_none_is_refused_without_echoing_the_password(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_password(monkeypatch, ADA["password"])
    said = last_words(["create-admin", "nobody"]) + capsys.readouterr().err
    assert "email" in said
    assert ADA["password"] not in said


def test_a_command_before_the_migrations_says_to_migrate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_env(folder, f"SECRET_KEY={SECRET}", "DATABASE_URL=sqlite:///./app.db")
    type_password(monkeypatch, ADA["password"])
    assert "python -m app migrate" in last_words(["create-admin", ADA["email"]])


@pytest.mark.proves("11.1.1", "13.3.2")
def test_keygen_writes_for_the_owner_only_and_never_over_a_file(configured: Path) -> None:
    assert main(["keygen", "key.pem"]) == 0
    assert mode(configured / "key.pem") == 0o600
    before = (configured / "key.pem").read_bytes()
    assert "key.pem cannot be written" in last_words(["keygen", "key.pem"])
    assert (configured / "key.pem").read_bytes() == before


@pytest.mark.proves("11.6.1")
@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
def test_the_service_signs_with_a_generated_key(configured: Path, algorithm: str) -> None:
    main(["keygen", "key.pem", "--algorithm", algorithm])
    add_to_env(configured, f"ALGORITHM={algorithm}", "SIGNING_KEY_FILE=key.pem")
    with TestClient(create_app(Settings())) as client:
        keys = client.get("/.well-known/jwks.json").json()["keys"]
    assert [key["alg"] for key in keys] == [algorithm]


def test_doctor_finds_nothing_wrong_after_setup(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["setup"])
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "no migration is missing" in said
    assert Settings().secret_key.get_secret_value() not in said


@pytest.mark.proves("13.3.2", "CFG-06")
def test_doctor_shows_no_secret(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    former = secrets.token_hex(32)
    url = "postgresql://auth:first-sesame@127.0.0.1:1/auth?sslpassword=second-sesame"
    add_to_env(configured, f"SECRET_KEY_FALLBACKS={former}", f"DATABASE_URL={url}")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "127.0.0.1:1/auth" in said
    for secret in (SECRET, former, "first-sesame", "second-sesame"):
        assert secret not in said


def unset_secret(folder: Path) -> None:
    write_env(folder, "DATABASE_URL=sqlite:///./app.db")


def no_env_file(folder: Path) -> None:
    (folder / ".env").unlink()


def env_file_for_all(folder: Path) -> None:
    (folder / ".env").chmod(0o644)


def misspelt_key(folder: Path) -> None:
    add_to_env(folder, "BACKEND_CORS_ORIGIN=https://app.example.com")


def wrong_value(folder: Path) -> None:
    add_to_env(folder, "PASSWORD_MIN_LENGTH=4")


def debug_in_public(folder: Path) -> None:
    add_to_env(folder, "BACKEND_CORS_ORIGINS=https://app.example.com")


def no_key_file(folder: Path) -> None:
    add_to_env(folder, "ALGORITHM=EdDSA", "SIGNING_KEY_FILE=nowhere.pem")


def key_file_for_all(folder: Path) -> None:
    main(["keygen", "key.pem"])
    (folder / "key.pem").chmod(0o640)
    add_to_env(folder, "ALGORITHM=EdDSA", "SIGNING_KEY_FILE=key.pem")


def no_database(folder: Path) -> None:
    (folder / "app.db").unlink()


def no_migrations(folder: Path) -> None:
    main(["downgrade"])


def no_server(folder: Path) -> None:
    add_to_env(folder, "DATABASE_URL=postgresql://auth:sesame@127.0.0.1:1/auth")


MAILING = ("MAIL_FROM=Example <no-reply@example.com>", "PUBLIC_URL=https://auth.example.com")


def no_mail_server(folder: Path) -> None:
    add_to_env(folder, "SMTP_URL=smtp://ada:sesame@127.0.0.1:1", *MAILING)


def links_over_http(folder: Path) -> None:
    add_to_env(folder, "SMTP_URL=smtp://127.0.0.1:1", *MAILING, "FRONTEND_URL=http://a.example.com")


def database_for_all(folder: Path) -> None:
    (folder / "app.db").chmod(0o644)


@pytest.mark.proves("13.3.2")
@pytest.mark.parametrize(
    ("spoil", "advice"),
    [
        (unset_secret, "SECRET_KEY is missing"),
        (no_env_file, "python -m app setup"),
        (env_file_for_all, "chmod 600 .env"),
        (misspelt_key, "put there BACKEND_CORS_ORIGINS"),
        (wrong_value, "PASSWORD_MIN_LENGTH"),
        (debug_in_public, "app.example.com"),
        (no_key_file, "nowhere.pem"),
        (key_file_for_all, "chmod 600 key.pem"),
        (no_database, "python -m app migrate"),
        (no_migrations, "python -m app migrate"),
        (no_server, "the database does not answer"),
        (database_for_all, "chmod o= app.db"),
        (no_mail_server, "the mail server 127.0.0.1:1 cannot be used (Connection refused)"),
        (links_over_http, "FRONTEND_URL: links in mails would lead over plain http"),
    ],
)
def test_doctor_says_what_is_wrong(
    configured: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    advice: str,
) -> None:
    spoil(configured)
    assert main(["doctor"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong ")]
    assert any(advice in line for line in wrong), wrong


def test_doctor_talks_to_the_mail_server_and_sends_nothing(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with smtp_server(login=("ada", "sesame")) as mailbox:
        add_to_env(configured, f"SMTP_URL={mailbox.url}", *MAILING)
        assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"the mail server takes us: 127.0.0.1:{mailbox.port}" in said
    assert "user ada" in said
    assert "sesame" not in said
    assert {"AUTH", "QUIT"} <= {*mailbox.steps}
    assert "MAIL" not in mailbox.steps


@pytest.mark.parametrize(
    ("debug", "said"),
    [("true", "mails are printed"), ("false", "nobody can reset a password")],
)
def test_doctor_says_what_becomes_of_mails_without_a_server(
    configured: Path, capsys: pytest.CaptureFixture[str], debug: str, said: str
) -> None:
    add_to_env(configured, f"DEBUG={debug}")
    assert main(["doctor"]) == 0
    assert said in capsys.readouterr().out


def test_doctor_makes_no_database(configured: Path) -> None:
    (configured / "app.db").unlink()
    main(["doctor"])
    assert not (configured / "app.db").exists()


@pytest.fixture
def fifty_hashes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """On each of two cores, by a build that cannot be bettered."""
    monkeypatch.setattr("app.doctor.available_cores", lambda: 2)
    monkeypatch.setattr("app.doctor.share_of_cores", lambda: 2)
    monkeypatch.setattr("app.doctor.hashes_a_second", lambda threads: 50 * threads)
    monkeypatch.setattr("app.doctor.has_faster_build", lambda: False)


def said_of_hashing(capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if "hashing a password" in line)
    return lines[first:]


@pytest.mark.real_hashes
def test_doctor_measures_what_a_hash_costs_here(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said_of_hashing(capsys)[0]
    found = re.search(r"takes (\d+) ms and 19 MiB: (\d+) a second on one thread", line)
    assert found, line
    assert int(found[1]) * int(found[2]) == pytest.approx(1000, rel=0.2)


@pytest.mark.usefixtures("fifty_hashes_a_second")
def test_doctor_advises_a_queue_that_nobody_waits_long_in(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_to_env(configured, "HASHING_QUEUE=1500")
    assert said_of_hashing(capsys) == [
        "ok     hashing a password takes 20 ms and 19 MiB: 50 a second on one thread, 100 on 2; "
        "the last of a full queue waits 15.0 seconds",
        "note   HASHING_QUEUE: 15 seconds are long to wait; put there 500.",
    ]
    add_to_env(configured, "HASHING_QUEUE=500")
    assert len(said_of_hashing(capsys)) == 1


@pytest.mark.usefixtures("fifty_hashes_a_second")
def test_doctor_advises_no_more_hashing_threads_than_cores(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_to_env(configured, "HASHING_THREADS=8")
    [cost, advice] = said_of_hashing(capsys)
    assert "100 on 2" in cost
    assert "HASHING_THREADS: 8 take 152 MiB" in advice
    assert "put there 2." in advice
    add_to_env(configured, "HASHING_THREADS=2")
    assert len(said_of_hashing(capsys)) == 1


@pytest.mark.parametrize(
    ("tag", "flags", "advised"),
    [
        ("cp310-abi3-manylinux_2_28_x86_64", "sse2 avx avx2 bmi2", True),
        ("cp310-abi3-musllinux_1_2_x86_64", "sse2 avx avx2 bmi2", True),
        ("cp310-abi3-linux_x86_64", "sse2 avx avx2 bmi2", False),  # built here
        ("cp310-abi3-manylinux_2_28_x86_64", "sse2 avx", False),
        ("cp310-abi3-manylinux_2_28_aarch64", "asimd", False),
        ("cp310-abi3-manylinux_2_28_x86_64", None, False),  # nothing says what it can
    ],
)
def test_doctor_advises_a_faster_build_where_it_is_known_to_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, flags: str | None, advised: bool
) -> None:
    processor = tmp_path / "cpuinfo"
    if flags is not None:
        processor.write_text(f"model name\t: Example\nflags\t\t: fpu {flags} xsave\n")
    monkeypatch.setattr(doctor, "PROCESSOR", processor)
    package = SimpleNamespace(read_text=lambda name: f"Tag: {tag}\n" if name == "WHEEL" else None)
    monkeypatch.setattr(doctor, "distribution", lambda _: package)
    assert doctor.has_faster_build() is advised
