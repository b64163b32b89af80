"""Which new passwords are refused: what others would guess about somebody, and what was stolen."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.core.config import SettingsError
from app.core.password_policy import PasswordPolicy, is_breached, is_made_of, words_in
from app.core.refusals import Reason, Refusal
from app.db.session import Database
from app.models.mail import Purpose
from app.services.backend import Backend
from tests.answers import refused_as
from tests.conftest import ClientFactory, make_settings
from tests.links import mint, reset
from tests.people import ADA, log_in, register, who_am_i
from tests.rows import all_users

ROOT = Path(__file__).parents[1]
PERSONAL = (422, "password_too_personal")
BREACHED = (422, "password_breached")
GRACE = {"email": "grace.hopper@navy.example", "full_name": "Grace Brewster Hopper"}
GOOD = "a teapot full of gravel"


def sha1(password: str) -> str:
    return hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()


def sorted_hashes(*passwords: str) -> list[str]:
    return sorted(sha1(password) for password in passwords)


def write(path: Path, lines: list[str], end: str = "\n", last: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + last).encode())
    return path


# Every way to set one


def by_register(client: TestClient, password: str) -> Response:
    return register(client, ADA | {"email": "ada2@example.com", "password": password})


def by_reset(client: TestClient, password: str) -> Response:
    return reset(client, mint(client, Purpose.RESET_PASSWORD), password)


def by_change(client: TestClient, password: str) -> Response:
    log_in(client)
    body = {"current_password": ADA["password"], "new_password": password}
    return client.put("/api/v1/users/me/password", json=body)


ways = pytest.mark.parametrize("set_password", [by_register, by_reset, by_change])


@pytest.mark.proves("6.2.4", "6.2.11", "6.2.12", "PWD-08")
@ways
@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("passwordpassword", (422, "password_too_common")),
        ("ada.example.2026", PERSONAL),
        ("FastAPI-Auth-2026!", PERSONAL),
        ("Teapots.2026-2027", PERSONAL),
        ("stolen from somewhere", BREACHED),
        ("tooshort", (422, "password_too_short")),
    ],
)
def test_a_bad_password_is_refused_with_its_reason_wherever_it_is_set(
    make_client: ClientFactory,
    tmp_path: Path,
    set_password: Callable[..., Response],
    password: str,
    expected: tuple[int, str],
) -> None:
    stolen = write(tmp_path / "stolen.txt", sorted_hashes("stolen from somewhere", "other"))
    client = make_client(breached_passwords_file=stolen, password_context_words="Teapots, Kettle")
    register(client)
    assert refused_as(set_password(client, password)) == expected
    assert set_password(client, GOOD).status_code < 300
    assert log_in(client, ADA | {"password": password}).status_code == 401


# Made of what is known


@pytest.mark.proves("6.2.11")
@pytest.mark.parametrize(
    "password",
    [
        "grace.hopper@navy.example",
        "Grace-Hopper-1906!",
        "GRACEHOPPERNAVY",
        "hopper hopper hopper",
        "brewsterbrewster1",
        "brewster, hop, grace!",  # four letters of one's own make no password
        "fastapi fastapi fastapi",
        "1!2@3#4$5%6^7&8 hopper",
        "example.navy.2026",
    ],
)
def test_a_password_made_of_the_name_or_the_address_is_refused(
    client: TestClient, database: Database, password: str
) -> None:
    answer = register(client, GRACE | {"password": password})
    assert refused_as(answer) == PERSONAL
    assert all_users(database) == []


@pytest.mark.proves("6.2.5", "6.2.11")
@pytest.mark.parametrize(
    "password",
    [
        "grace sails past seven lighthouses",
        "nine tall herons at dawn",
        "hopper and the moths",
        "authentic fastapianos",
        "123 456 789 012 345",
        "?!?!?!?!?!?!?!?!?",
        "пароль из десяти слов",
    ],
)
def test_a_name_in_a_password_of_ones_own_is_none_of_our_business(
    client: TestClient, password: str
) -> None:
    assert register(client, GRACE | {"password": password}).status_code == 201


@pytest.mark.proves("6.2.11")
def test_names_in_other_scripts_count_too(client: TestClient) -> None:
    person = {"email": "anna@example.com", "full_name": "Жанна Дьяченко"}
    answer = register(client, person | {"password": "ЖАННА-дьяченко-1877"})
    assert refused_as(answer) == PERSONAL


def test_accents_are_compared_as_they_are_composed(client: TestClient) -> None:
    person = {"email": "zoe@example.com", "full_name": "Zoé Müllér"}
    answer = register(client, person | {"password": "ZOE\u0301.mu\u0308lle\u0301r.2026"})
    assert refused_as(answer) == PERSONAL


def test_short_parts_of_a_name_do_not_count() -> None:
    """ "Li" is in half of all words."""
    assert words_in(["Li Wu", "x@y.zz", "B2B"]) == frozenset()
    assert not is_made_of("a list of little lies", words_in(["Li Wu"]))


@pytest.mark.proves("6.1.2", "6.2.11")
def test_the_words_are_ours_the_operators_and_those_of_the_hosts(sqlite_url: str) -> None:
    settings = make_settings(
        sqlite_url,
        password_context_words="Kettle & Sons,  Teapots3000",
        issuer="https://issuer.zebra.test",
        audience="aardvark",
        public_url="https://auth.quokka.test/x",
        frontend_url="https://numbat.test",
        allowed_hosts="wombat.test,10.0.0.1",
    )
    found = PasswordPolicy(settings).words
    assert {"fastapi", "auth"} <= found
    assert {"kettle", "sons", "teapots"} <= found
    assert {"issuer", "zebra", "aardvark", "quokka", "numbat", "wombat"} <= found
    assert not {"https", "x", "10"} & found


@pytest.mark.proves("6.1.2")
def test_without_any_setting_there_are_words(sqlite_url: str) -> None:
    assert {"fastapi", "auth"} <= PasswordPolicy(make_settings(sqlite_url)).words


@pytest.mark.parametrize("length", [1024, 1000])
def test_the_longest_password_is_looked_through_at_once(client: TestClient, length: int) -> None:
    names = " ".join(f"{a}{b}{c}" for a in "abcd" for b in "abcd" for c in "abc")[:190]
    person = {"email": "aaa@example.com", "full_name": names}
    assert refused_as(register(client, person | {"password": ("abc" * 400)[:length]})) == PERSONAL


@pytest.mark.proves("6.2.4", "6.2.11")
def test_the_command_line_refuses_them_too(make_client: ClientFactory) -> None:
    """An administrator's password least of all."""
    from app.models.user import UserCreate
    from app.services import console

    backend: Backend = make_client().app.state.backend  # type: ignore[attr-defined]
    person = UserCreate(email="root@example.com", password="root.example.2026")
    with pytest.raises(Refusal) as refused:
        asyncio.run(console.create_admin(backend, person))
    assert refused.value.reason is Reason.PASSWORD_TOO_PERSONAL


@pytest.mark.proves("14.2.1")
def test_a_refusal_repeats_nothing_of_the_password(client: TestClient) -> None:
    answer = register(client, GRACE | {"password": "grace.hopper.1906"})
    assert refused_as(answer) == PERSONAL
    assert "hopper" not in answer.text.lower()
    assert "set-cookie" not in answer.headers
    assert who_am_i(client).status_code == 401


# Stolen passwords


def found_in(path: Path, *passwords: str) -> list[bool]:
    return [is_breached(password, path) for password in passwords]


MANY = [f"password number {number}" for number in range(1000)]
FILES: dict[str, Callable[[Path, list[str]], Path]] = {
    "as it should be": lambda path, lines: write(path, lines),
    "without a last line break": lambda path, lines: write(path, lines, last=""),
    "CRLF": lambda path, lines: write(path, lines, "\r\n", "\r\n"),
    "CRLF without a last one": lambda path, lines: write(path, lines, "\r\n", ""),
    "empty lines at the end": lambda path, lines: write(path, lines, last="\n" * 200),
    "counts": lambda path, lines: write(
        path, [f"{line}:{7 ** (i % 20)}" for i, line in enumerate(lines)]
    ),
    "counts and CRLF": lambda path, lines: write(
        path, [f"{line}:{i}" for i, line in enumerate(lines)], "\r\n", "\r\n"
    ),
    "lower case": lambda path, lines: write(path, [line.lower() for line in lines]),
    "spaces after": lambda path, lines: write(path, [line + "  " for line in lines]),
}


@pytest.mark.proves("6.2.12")
@pytest.mark.parametrize("make", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_every_line_of_a_file_is_found_and_nothing_else(
    tmp_path: Path, make: Callable[[Path, list[str]], Path], size: int
) -> None:
    path = make(tmp_path / "stolen.txt", sorted_hashes(*MANY[:size]))
    PasswordPolicy(make_settings("sqlite:///x.db", breached_passwords_file=path))
    assert all(found_in(path, *MANY[:size]))
    assert not any(found_in(path, *(f"another {number}" for number in range(200))))


@pytest.mark.proves("6.2.12")
def test_a_hundred_thousand_lines_are_searched_in_a_few_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = [f"pass {number}" for number in range(100_000)]
    lines = sorted_hashes(*passwords)
    path = write(tmp_path / "stolen.txt", [f"{line}:{i}" for i, line in enumerate(lines)], "\r\n")
    by_hash = {sha1(password): password for password in passwords}
    ends = [by_hash[lines[i]] for i in (0, 1, 49_999, 50_000, -2, -1)]
    assert all(found_in(path, *ends, *passwords[::997]))
    assert not any(found_in(path, *(f"another {number}" for number in range(500))))

    looks = []
    from app.core import password_policy

    line_at = password_policy.line_at
    monkeypatch.setattr(
        password_policy, "line_at", lambda *args: looks.append(args) or line_at(*args)
    )
    is_breached("not in there", path)
    assert len(looks) < 30


def test_hashes_that_differ_in_their_last_letter_are_told_apart(tmp_path: Path) -> None:
    wanted = sha1("stolen")
    neighbours = [f"{int(wanted, 16) + step:040X}" for step in (-2, -1, 1, 2)]
    assert not is_breached("stolen", write(tmp_path / "without.txt", neighbours))
    assert is_breached("stolen", write(tmp_path / "with.txt", sorted([*neighbours, wanted])))


def test_a_part_of_a_hash_is_no_hit(tmp_path: Path) -> None:
    """As the last line of a download that broke off."""
    lines = [*sorted_hashes("a", "b"), ""]
    path = write(tmp_path / "stolen.txt", lines, last=sha1("stolen")[:39])
    assert not is_breached("stolen", path)


@pytest.mark.proves("6.2.12")
def test_a_stolen_password_is_compared_exactly(make_client: ClientFactory, tmp_path: Path) -> None:
    """Another one that looks like it may be a good one."""
    stolen = write(tmp_path / "stolen.txt", sorted_hashes("Correct Horse Battery"))
    client = make_client(breached_passwords_file=stolen)
    refused = register(client, ADA | {"password": "Correct Horse Battery"})
    assert refused_as(refused) == BREACHED
    assert register(client, ADA | {"password": "correct horse battery"}).status_code == 201


@pytest.mark.proves("6.2.10", "6.2.12")
def test_a_password_that_is_stolen_later_still_logs_in(
    make_client: ClientFactory, tmp_path: Path
) -> None:
    """It is looked up when it is chosen; nobody is shut out of their account."""
    register(make_client())
    stolen = write(tmp_path / "stolen.txt", sorted_hashes(ADA["password"]))
    assert log_in(make_client(breached_passwords_file=stolen)).status_code == 200


def test_a_file_that_goes_while_the_service_runs_lets_no_password_through(
    make_client: ClientFactory, tmp_path: Path
) -> None:
    """What cannot be looked up is not taken, and log-ins go on."""
    stolen = write(tmp_path / "stolen.txt", sorted_hashes("stolen"))
    client = make_client(breached_passwords_file=stolen)
    register(client)
    stolen.unlink()
    answer = register(client, ADA | {"email": "bob@example.com", "password": GOOD})
    assert refused_as(answer) == (503, "busy")
    assert log_in(client).status_code == 200


def unsorted(path: Path) -> Path:
    return write(path, [sha1(password) for password in MANY])


def by_count(path: Path) -> Path:
    lines = [f"{sha1(password)}:{9999 - i}" for i, password in enumerate(MANY)]
    return write(path, lines, "\r\n")


WRONG_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "directory"),
    "empty": (lambda path: path.touch(), "SHA-1"),
    "only line breaks": (lambda path: path.write_text("\n\n\n"), "SHA-1"),
    "passwords": (lambda path: write(path, ["password", "letmein"]), "SHA-1"),
    "NTLM": (lambda path: write(path, ["0" * 32, "1" * 32]), "SHA-1"),
    "SHA-256": (lambda path: write(path, ["0" * 64, "1" * 64]), "SHA-1"),
    "with a title": (lambda path: write(path, ["hash:count", *sorted_hashes("x")]), "SHA-1"),
    "UTF-16": (lambda path: path.write_text("\n".join(sorted_hashes("x")), "utf-16"), "SHA-1"),
    "zipped": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(500)), "SHA-1"),
    "unsorted": (unsorted, "order"),
    "by count": (by_count, "order"),
    "backwards": (lambda path: write(path, sorted_hashes("a", "b")[::-1]), "order"),
}


@pytest.mark.proves("6.2.12")
@pytest.mark.parametrize(("make", "why"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_file_that_cannot_be_searched_stops_the_start(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    """Searched in vain it would let every stolen password through, and nobody would know."""
    path = tmp_path / "stolen.txt"
    make(path)
    with pytest.raises(SettingsError) as refused:
        PasswordPolicy(make_settings("sqlite:///x.db", breached_passwords_file=path))
    sentence = str(refused.value)
    assert sentence.startswith("BREACHED_PASSWORDS_FILE is wrong (")
    assert why in sentence
    assert "put there " in sentence


@pytest.mark.parametrize("command", [["uvicorn", "--port=0", "app.main:app"], ["app", "run"]])
def test_the_server_does_not_start_and_says_why(tmp_path: Path, command: list[str]) -> None:
    environment = {
        "SECRET_KEY": hashlib.sha256(b"anything").hexdigest(),
        "DATABASE_URL": f"sqlite:///{tmp_path}/app.db",
        "BREACHED_PASSWORDS_FILE": "no-such-file.txt",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("BREACHED_PASSWORDS_FILE is wrong (no-such-file.txt: No such file")
