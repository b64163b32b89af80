"""Passwords that were stolen elsewhere, looked up in a file of their hashes."""

from hashlib import sha1
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.config import SettingsError
from app.db.session import Database
from app.models.mail import Purpose
from tests.conftest import ClientFactory, make_settings
from tests.links import mint, reset
from tests.people import ADA, log_in, register, sign_up_and_in
from tests.rows import all_users

STOLEN = "brown badgers knitting scarves"
COUNT = 3000  # lines: more than a few steps of halving


def write(path: Path, *passwords: str, count: bool = True, end: str = "\n") -> Path:
    """As Pwned Passwords gives it: sorted, upper case, each with how often it was seen."""
    others = [f"stolen {number}" for number in range(COUNT)]
    hashes = sorted(sha1(one.encode()).hexdigest().upper() for one in [*others, *passwords])
    text = end.join(f"{one}:{len(one)}" if count else one for one in hashes)
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def client(make_client: ClientFactory, tmp_path: Path) -> TestClient:
    return make_client(breached_passwords_file=write(tmp_path / "stolen.txt", STOLEN))


@pytest.mark.proves("6.2.12", "PWD-08")
def test_a_stolen_password_is_refused_wherever_one_is_chosen(client: TestClient) -> None:
    sign_up_and_in(client)
    change = {"current_password": ADA["password"], "new_password": STOLEN}
    answers = [
        register(client, {"email": "new@example.com", "password": STOLEN}),
        client.put("/api/v1/users/me/password", json=change),
        reset(client, mint(client, Purpose.RESET_PASSWORD), STOLEN),
    ]
    found = [(answer.status_code, answer.json()["code"]) for answer in answers]
    assert found == [(422, "password_breached")] * 3
    assert log_in(client).status_code == 200


@pytest.mark.proves("6.2.12")
def test_a_password_that_is_not_in_the_file_is_taken(client: TestClient) -> None:
    assert register(client, ADA).status_code == 201
    other = {"email": "bob@example.com", "password": STOLEN + "!"}
    assert register(client, other).status_code == 201


@pytest.mark.proves("6.2.12")
@pytest.mark.parametrize("number", [0, 1, COUNT // 2, COUNT - 1, COUNT])
@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_line_of_the_file_counts(
    make_client: ClientFactory,
    database: Database,
    tmp_path: Path,
    number: int,
    count: bool,
    end: str,
) -> None:
    """The first and the last, with counts and without, and with line ends of Windows."""
    passwords = [*(f"stolen {one}" for one in range(COUNT)), STOLEN]
    by_hash = sorted(passwords, key=lambda one: sha1(one.encode()).hexdigest())
    path = write(tmp_path / "all.txt", STOLEN, count=count, end=end)
    client = make_client(breached_passwords_file=path, password_min_length=8)
    answer = register(client, {"email": "a@b.example", "password": by_hash[number]})
    assert (answer.status_code, answer.json()["code"]) == (422, "password_breached")
    assert all_users(database) == []


@pytest.mark.proves("6.2.12", "14.2.3")
@pytest.mark.parametrize("content", [b"", b"password\n", b"not a hash", b"\x00" * 80])
def test_a_file_that_is_none_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """Rather than that every password passes, and nobody knows."""
    from app.core.password_policy import PasswordPolicy

    path = tmp_path / "none.txt"
    path.write_bytes(content)
    settings = make_settings("sqlite:///./x.db", breached_passwords_file=path)
    with pytest.raises(SettingsError, match="BREACHED_PASSWORDS_FILE is wrong"):
        PasswordPolicy(settings)
    path.unlink()
    with pytest.raises(SettingsError, match="BREACHED_PASSWORDS_FILE is wrong"):
        PasswordPolicy(settings)
