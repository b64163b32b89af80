"""Passwords: which are taken, what counts as the same, old hashes, and the price of a log-in."""

import asyncio
import logging
import unicodedata
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from io import StringIO
from threading import Event, Lock
from typing import Any

import argon2
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import event, text
from sqlmodel import Session

from app.core.hashing import Verification, context, verify
from app.core.logs import JsonFormatter
from app.core.passwords import Passwords, Place, available_cores
from app.core.refusals import Reason, Refusal
from app.db.session import Database
from app.models.mail import Purpose
from tests.answers import differences, refused_as
from tests.conftest import ClientFactory, make_settings
from tests.jars import other_browser
from tests.links import database_of, mint, reset
from tests.people import ADA, log_in, register, sign_up_and_in, who_am_i
from tests.rows import (
    all_logins,
    all_users,
    change_password,
    change_user,
    execute,
    statements,
    the_user,
)

pytestmark = pytest.mark.real_hashes

TODAYS_HASH = "$argon2id$v=19$m=19456,t=2,p=1$"
EMOJI = [chr(0x1F400 + i) for i in range(60)]  # animals, of four bytes each


def ada_with(password: str) -> dict[str, str]:
    return ADA | {"password": password}


def log_in_with(client: TestClient, password: str) -> Response:
    """In a browser that holds nothing."""
    return log_in(other_browser(client), ada_with(password))


# Which passwords are taken

TAKEN = {
    "the shortest": "fifteen letters",
    "no letters": "  .,-;:!?/()=&%$",
    "only lower case": "onlysmallletters",
    "spaces": "a b c d e f g h",
    "emoji": "".join(EMOJI[:15]),
    "other scripts": "пароль из десяти слов и ещё",
    "right to left": "סיסמה ארוכה מאוד באמת",
    "a NUL": "nine tall\0herons at dawn",
    "control characters": "nine tall\t\r\n\x1b\x7fherons",
    "SQL": "'; DROP TABLE users; -- \" \\",
    "a format string": "%s%n{0.__class__}{{7*7}}",
    "zero-width joiners": "👩\u200d👩\u200d👧 by the quiet river",
    "over 72 bytes": "a quite long sentence about otters " * 3,
    "the longest": "".join(EMOJI[i % 60] for i in range(1024)),
}


@pytest.mark.proves("6.2.5", "6.2.9", "PWD-03")
@pytest.mark.parametrize("password", TAKEN.values(), ids=TAKEN.keys())
def test_a_password_may_hold_anything_and_be_long(client: TestClient, password: str) -> None:
    assert register(client, ada_with(password)).status_code == 201
    assert log_in_with(client, password).status_code == 200


@pytest.mark.proves("6.2.1")
def test_length_is_counted_in_characters_not_in_bytes(client: TestClient) -> None:
    answer = register(client, ada_with("".join(EMOJI[:14])))  # 56 bytes
    assert refused_as(answer) == (422, "password_too_short")
    assert register(client, ada_with("".join(EMOJI[:15]))).status_code == 201


def test_length_is_counted_after_composition(client: TestClient) -> None:
    """Fourteen letters with accents are 28 code points on some keyboards."""
    decomposed = unicodedata.normalize("NFD", "àâéèêëîïôöùûüç")
    assert len(decomposed) == 28
    assert refused_as(register(client, ada_with(decomposed))) == (422, "password_too_short")


@pytest.mark.proves("6.2.1")
@pytest.mark.parametrize("length", [1, 7, 8, 14])
def test_a_short_password_is_refused(client: TestClient, database: Database, length: int) -> None:
    assert register(client, ada_with("".join(EMOJI[:length]))).status_code == 422
    assert all_users(database) == []


def test_an_empty_password_is_refused(client: TestClient) -> None:
    assert register(client, ada_with("")).status_code == 422
    assert refused_as(log_in_with(client, "")) == (422, "validation_failed")


@pytest.mark.proves("PWD-03")
def test_a_password_of_more_than_1024_characters_is_refused(
    client: TestClient, database: Database
) -> None:
    password = "".join(EMOJI[i % 60] for i in range(1025))
    assert refused_as(register(client, ada_with(password))) == (422, "validation_failed")
    assert refused_as(log_in_with(client, password)) == (422, "validation_failed")
    assert all_users(database) == []


def test_half_a_character_is_refused(client: TestClient) -> None:
    """A lone surrogate is valid JSON and no text: nothing could be hashed."""
    body = b'{"email": "ada@example.com", "password": "nine tall herons \\ud83d at dawn"}'
    json = {"Content-Type": "application/json"}
    for path in ("/api/v1/auth/register", "/api/v1/auth/login"):
        answer = client.post(path, content=body, headers=json)
        assert 400 <= answer.status_code < 500, path


def test_the_shortest_length_is_a_setting(make_client: ClientFactory) -> None:
    client = make_client(password_min_length=20)
    answer = register(client, ada_with("nineteen letters ab"))
    assert refused_as(answer) == (422, "password_too_short")
    assert answer.json()["min_length"] == 20
    assert register(client, ada_with("twenty letters and b")).status_code == 201


def test_the_shortest_length_does_not_lock_older_passwords_out(
    make_client: ClientFactory,
) -> None:
    short = "ten chars."
    assert register(make_client(password_min_length=8), ada_with(short)).status_code == 201
    assert log_in_with(make_client(password_min_length=15), short).status_code == 200


@pytest.mark.proves("6.2.4", "PWD-08")
@pytest.mark.parametrize(
    "password",
    ["asdfghjklzxcvbnm", "ASDFGHJKLzxcvbnm", "123456789123456789123", "bobafett1234567", "z" * 20],
)
def test_a_common_password_is_refused(
    client: TestClient, database: Database, password: str
) -> None:
    assert refused_as(register(client, ada_with(password))) == (422, "password_too_common")
    assert all_users(database) == []


@pytest.mark.proves("6.2.5")
def test_a_passphrase_may_contain_a_common_password(client: TestClient) -> None:
    assert register(client, ada_with("asdfghjklzxcvbnm is no good one")).status_code == 201


def test_a_refused_password_costs_no_hash(
    client: TestClient, hashes: list[str], database: Database
) -> None:
    with statements(database) as sent:
        register(client, ada_with("too short"))
        register(client, ada_with("asdfghjklzxcvbnm"))
    assert (hashes, sent) == ([], [])


@pytest.fixture
def log() -> Iterator[StringIO]:
    lines = StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    logging.root.addHandler(handler)
    yield lines
    logging.root.removeHandler(handler)


@pytest.mark.proves("16.2.5", "16.5.1")
def test_no_answer_and_no_log_line_shows_a_password(client: TestClient, log: StringIO) -> None:
    secret = "an unusual walrus in the attic"
    answers = [
        register(client, ada_with(secret)),
        log_in_with(client, secret),
        log_in_with(client, secret + "!"),
        register(client, ada_with(secret), is_admin=True),
        client.post("/api/v1/auth/login", json={"email": "x", "password": secret}),
        client.post("/api/v1/auth/login", json={"email": ADA["email"], "password": [secret]}),
        client.post("/api/v1/auth/login", content=f'{{"password": "{secret}",'.encode()),
        client.post("/api/v1/auth/token", data={"grant_type": "x", "password": secret * 40}),
    ]
    assert log.getvalue().count('"event": "request"') == len(answers)
    for written in (log.getvalue(), *(answer.text for answer in answers)):
        assert "walrus" not in written
        assert "$argon2" not in written


# What counts as the same password


@pytest.mark.proves("6.2.8", "PWD-05")
def test_composed_and_decomposed_letters_are_the_same(client: TestClient) -> None:
    """Keyboards differ in how they write é (NIST SP 800-63B-4, 3.1.1.2)."""
    composed = "café crème à la plage"
    decomposed = unicodedata.normalize("NFD", composed)
    register(client, ada_with(decomposed))
    assert log_in_with(client, composed).status_code == 200
    assert log_in_with(client, decomposed).status_code == 200


DIFFERENT = {
    "upper case": str.upper,
    "title case": str.title,
    "leading space": lambda password: " " + password,
    "trailing space": lambda password: password + " ",
    "trailing newline": lambda password: password + "\n",
    "trailing tab": lambda password: password + "\t",
    "doubled space": lambda password: password.replace(" ", "  ", 1),
    "no-break space": lambda password: password.replace(" ", "\u00a0"),
    "without accent": lambda password: password.replace("é", "e"),
    "fullwidth letter": lambda password: password.replace("a", "\uff41"),
    "ligature": lambda password: password.replace("fi", "\ufb01"),
    "Cyrillic look-alike": lambda password: password.replace("a", "\u0430"),
    "variation selector": lambda password: password + "\ufe0f",
    "zero-width joiner": lambda password: password + "\u200d",
    "right-to-left mark": lambda password: password + "\u200f",
    "one letter less": lambda password: password[:-1],
    "one letter more": lambda password: password + "s",
    "NUL at the end": lambda password: password + "\0",
    "NUL and more": lambda password: password + "\0anything",
}


@pytest.mark.proves("PWD-05")
def test_what_only_looks_alike_is_another_password(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_account=len(DIFFERENT))
    password = "five small figs in a café"
    register(client, ada_with(password))
    changed = {name: change(password) for name, change in DIFFERENT.items()}
    assert password not in changed.values()
    answers = {name: refused_as(log_in_with(client, other)) for name, other in changed.items()}
    assert answers == dict.fromkeys(DIFFERENT, (401, "invalid_credentials"))


@pytest.mark.proves("6.2.8", "PWD-07")
def test_spaces_around_a_password_are_part_of_it(client: TestClient) -> None:
    register(client, ada_with("  nine tall herons \n"))
    assert log_in_with(client, "nine tall herons").status_code == 401
    assert log_in_with(client, "  nine tall herons \n").status_code == 200


@pytest.mark.proves("PWD-04")
def test_what_follows_a_nul_counts(client: TestClient) -> None:
    register(client, ada_with("fifteen letters\0b"))
    for other in ("fifteen letters\0c", "fifteen letters\0", "fifteen letters"):
        assert log_in_with(client, other).status_code == 401
    assert log_in_with(client, "fifteen letters\0b").status_code == 200


@pytest.mark.proves("6.2.8", "PWD-02")
@pytest.mark.parametrize(
    "password",
    ["".join(chr(33 + i % 90) for i in range(130)), "".join(EMOJI[:25])],
    ids=["130 letters", "25 emoji"],
)
def test_a_long_password_is_compared_to_its_end(client: TestClient, password: str) -> None:
    """bcrypt looked at 72 bytes."""
    register(client, ada_with(password))
    cut = password.encode()[:72].decode()
    for other in (cut, password[:-1], password[:-1] + "~", cut + "~" * (len(password) - len(cut))):
        assert refused_as(log_in_with(client, other)) == (401, "invalid_credentials")
    assert log_in_with(client, password).status_code == 200


# Old hashes, as other systems wrote them

PASSWORD = ADA["password"]
OLD_HASHES = {
    "bcrypt": "$2b$04$ELWVpfw/hJr8/WSe0uGoAOYjVyuarTggz56bOcMZwCprhLwjAq9Rm",
    "bcrypt 2a": "$2a$04$eFSGtqPyKtctsgWkq81DsOP/AIcnA6Ulv1FZJM2Nbng9SG4tQ.M3.",
    "bcrypt of PHP": "$2y$04$HPhaHvL4JV5RH41E9vr3fOzagkt8XRyCxrDVVUcs..8yDc1M54hDe",
    "bcrypt_sha256": "$bcrypt-sha256$v=2,t=2b,r=4$hDNm0tqev021tJsF7RbbKu"
    "$Ch/dKfPEyDZo9pgv0MZeOH7wvInxP5a",
    "pbkdf2_sha256": "$pbkdf2-sha256$2000$O4ewFiJEqNX6/9.7lzJGiA"
    "$dDiZ2Dm3f0MXQBMo.I7TmEprqC/qo8XYsLfExBiTt/o",
    "pbkdf2_sha512": "$pbkdf2-sha512$2000$gJDSujdGaE2JUSolpNR6zw"
    "$C/yNaKpv02plgG/BYNzdfDCXra8qqKBfWYfAmQYbrqEeEDgFthmvG1Z5FZKXpjr5z/1x1LCLKhRq641Iyk9.Jw",
    "Django": "pbkdf2_sha256$2000$Zx81abcdEFGH$FIKak85ZKHDXQL4mxLD2FHCBR17hFbmM6g5lFWoD4T8=",
    "weaker argon2id": "$argon2id$v=19$m=64,t=1,p=1$Y4yRMuY8p/QeIwQAQAhhrA"
    "$/EU5pcK0ArOF1fvrcxuBSpDn/bV5j8CzK7Z5KhCjf6c",
    "argon2i": "$argon2i$v=19$m=19456,t=2,p=1$TMm5V+pdyzlnjFFKCWFsbQ"
    "$3ZVMW/3Ajoc8R4CnpKF8YpJlUaqNpiANy55S62pk8so",
}
LONG_PASSWORD = ("a long walk along the river with seven herons and one very old umbrella, " * 2)[
    :110
]
BCRYPT_OF_ITS_FIRST_72_BYTES = "$2b$04$PZJM/fNTcNzkAe8kstS6gupkGY9npJLO35pDSXvLWujWOnYvEaoL6"


def with_hash(client: TestClient, database: Database, hashed_password: str) -> None:
    register(client)
    change_user(database, ADA["email"], hashed_password=hashed_password)


@pytest.mark.proves("11.2.2", "PWD-11")
def test_an_old_hash_logs_in_and_is_upgraded(client: TestClient, database: Database) -> None:
    register(client)
    for name, old_hash in OLD_HASHES.items():
        change_user(database, ADA["email"], hashed_password=old_hash)
        assert log_in_with(client, PASSWORD).status_code == 200, name
        assert the_user(database, ADA["email"]).hashed_password.startswith(TODAYS_HASH), name
        assert log_in_with(client, PASSWORD).status_code == 200, name


def test_a_wrong_password_neither_passes_nor_changes_an_old_hash(
    client: TestClient, database: Database
) -> None:
    register(client)
    for old_hash in OLD_HASHES.values():
        change_user(database, ADA["email"], hashed_password=old_hash)
        answer = log_in_with(client, PASSWORD + "!")
        assert refused_as(answer) == (401, "invalid_credentials"), old_hash
        assert the_user(database, ADA["email"]).hashed_password == old_hash


def test_programs_upgrade_an_old_hash_too(client: TestClient, database: Database) -> None:
    with_hash(client, database, OLD_HASHES["bcrypt"])
    form = {"grant_type": "password", "username": ADA["email"], "password": PASSWORD}
    assert client.post("/api/v1/auth/token", data=form).status_code == 200
    assert the_user(database, ADA["email"]).hashed_password.startswith(TODAYS_HASH)


def test_a_hash_of_today_stays_as_it_is(client: TestClient, database: Database) -> None:
    register(client)
    before = the_user(database, ADA["email"]).hashed_password
    assert before.startswith(TODAYS_HASH)
    log_in(client)
    assert the_user(database, ADA["email"]).hashed_password == before


def test_a_long_password_whose_end_bcrypt_ignored_logs_in_before_and_after_the_upgrade(
    client: TestClient, database: Database
) -> None:
    with_hash(client, database, BCRYPT_OF_ITS_FIRST_72_BYTES)
    assert log_in_with(client, LONG_PASSWORD).status_code == 200
    assert log_in_with(client, LONG_PASSWORD).status_code == 200


@pytest.mark.proves("PWD-02")
@pytest.mark.parametrize("end", ["", "?" + LONG_PASSWORD[73:]], ids=["cut", "changed"])
def test_from_its_upgrade_on_a_long_password_counts_to_its_end(
    client: TestClient, database: Database, end: str
) -> None:
    with_hash(client, database, BCRYPT_OF_ITS_FIRST_72_BYTES)
    log_in_with(client, LONG_PASSWORD)
    answer = log_in_with(client, LONG_PASSWORD[:72] + end)
    assert refused_as(answer) == (401, "invalid_credentials")


@pytest.mark.parametrize("scheme", ["bcrypt", "pbkdf2_sha256", "django_pbkdf2_sha256"])
def test_a_decomposed_password_logs_in_before_and_after_the_upgrade(
    client: TestClient, database: Database, scheme: str
) -> None:
    """Older systems hashed what the keyboard sent."""
    decomposed = unicodedata.normalize("NFD", "café crème à la plage")
    old_hash = context().handler(scheme).using(rounds=4).hash(decomposed)
    with_hash(client, database, old_hash)
    assert log_in_with(client, decomposed).status_code == 200
    assert log_in_with(client, decomposed).status_code == 200


def test_a_nul_is_a_wrong_password_for_bcrypt(client: TestClient, database: Database) -> None:
    """It would end there for C, and the library refuses it."""
    with_hash(client, database, OLD_HASHES["bcrypt"])
    answer = log_in_with(client, PASSWORD + "\0")
    assert refused_as(answer) == (401, "invalid_credentials")


def test_a_disabled_users_old_hash_is_not_touched(client: TestClient, database: Database) -> None:
    with_hash(client, database, OLD_HASHES["bcrypt"])
    change_user(database, ADA["email"], is_active=False)
    assert refused_as(log_in_with(client, PASSWORD)) == (401, "invalid_credentials")
    assert the_user(database, ADA["email"]).hashed_password == OLD_HASHES["bcrypt"]


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Something happens to the account while its password is being hashed."""
    at_once = Place.verify

    async def verify_slowly(self: Place, password: str, stored: str | None) -> Verification:
        verification = await at_once(self, password, stored)
        monkeypatch.setattr(Place, "verify", at_once)
        await asyncio.to_thread(happens)
        return verification

    monkeypatch.setattr(Place, "verify", verify_slowly)


def test_two_log_ins_at_once_may_both_upgrade_the_hash(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_hash(client, database, OLD_HASHES["bcrypt"])
    others: list[Response] = []
    meanwhile(monkeypatch, lambda: others.append(log_in_with(client, PASSWORD)))
    assert log_in_with(client, PASSWORD).status_code == 200
    assert [other.status_code for other in others] == [200]


@pytest.mark.parametrize("hashed_before", [None, OLD_HASHES["bcrypt"]], ids=["today's", "old"])
def test_a_password_that_changes_while_it_is_checked_logs_nobody_in(
    client: TestClient,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    hashed_before: str | None,
) -> None:
    register(client)
    if hashed_before:
        change_user(database, ADA["email"], hashed_password=hashed_before)
    changed = context().hash("a quite different one")
    meanwhile(monkeypatch, lambda: change_user(database, ADA["email"], hashed_password=changed))
    assert refused_as(log_in_with(client, PASSWORD)) == (401, "invalid_credentials")
    assert the_user(database, ADA["email"]).hashed_password == changed
    assert all_logins(database) == []


SLOW_LOGINS = """
    CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON logins FOR EACH ROW EXECUTE FUNCTION pause()
"""


def is_asleep(session: Session) -> bool:
    asleep = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    return bool(session.connection().execute(asleep).scalar_one())


def test_a_change_of_the_password_waits_for_a_log_in_that_is_being_stored(
    client: TestClient, database: Database, database_url: str
) -> None:
    """Or it would find no login to end, and the login would outlive the password."""
    register(client)
    elsewhere = Database(make_settings(database_url))
    changed = context().hash("a quite different one")
    changes: list[Future[None]] = []

    def change_now(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO logins"):
            changes.append(pool.submit(change))
            wait(changes, timeout=0.3)

    def change() -> None:
        elsewhere.run_write(change_password, ADA["email"], changed)

    def change_while_it_is_stored() -> None:
        for _ in range(1000):
            if elsewhere.run_read(is_asleep):
                return change()
        raise TimeoutError

    with ThreadPoolExecutor(1) as pool:
        if database.dialect == "postgresql":  # one statement, which a trigger makes slow
            database.run_write(execute, text(SLOW_LOGINS))
            changes.append(pool.submit(change_while_it_is_stored))
        else:
            event.listen(database.engine, "before_cursor_execute", change_now)
        assert log_in(client).status_code == 200
        changes[0].result()
        if database.dialect == "postgresql":
            database.run_write(execute, text("DROP TRIGGER slow ON logins; DROP FUNCTION pause"))
    elsewhere.close()
    assert refused_as(who_am_i(client)) == (401, "session_revoked")
    assert all_logins(database) == []


def test_an_account_that_is_disabled_while_its_password_is_checked_does_not_log_in(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(client)
    meanwhile(monkeypatch, lambda: change_user(database, ADA["email"], is_active=False))
    assert refused_as(log_in_with(client, PASSWORD)) == (401, "invalid_credentials")
    assert all_logins(database) == []


UNUSABLE_HASHES = {
    "empty": "",
    "disabled": "!",
    "disabled, with the hash kept": "!" + OLD_HASHES["bcrypt"],
    "Unix locked": "*",
    "plain text": PASSWORD,
    "garbage": "garbage é \U0001f400 %s $ $$ $$$",
    "argon2 without a hash": TODAYS_HASH,
    "argon2 cut": OLD_HASHES["weaker argon2id"][:-8],
    "argon2 of another version": OLD_HASHES["weaker argon2id"].replace("v=19", "v=99"),
    "argon2 with words": "$argon2id$v=19$m=a,t=b,p=c$salt$hash",
    "argon2 with no memory": OLD_HASHES["weaker argon2id"].replace("m=64", "m=0"),
    "argon2 with all memory": OLD_HASHES["weaker argon2id"].replace("m=64", "m=4294967295"),
    "bcrypt cut": OLD_HASHES["bcrypt"][:40],
    "bcrypt with a wrong cost": OLD_HASHES["bcrypt"].replace("$04$", "$99$"),
    "bcrypt with wrong letters": OLD_HASHES["bcrypt"].replace("Fi", "?!").replace("EL", "é!"),
    "bcrypt_sha256 cut": OLD_HASHES["bcrypt_sha256"][:40],
    "pbkdf2 without rounds": "$pbkdf2-sha256$0$c2FsdA$aGFzaA",
    "pbkdf2 cut": "$pbkdf2-sha256$2000$",
    "Django with words": "pbkdf2_sha256$many$salt$hash",
    "Django disabled": "!iZPtzqJVKYZyTrnYqkpfW4MdPyPGkkzCdIu2pzRG",
    "MD5": "5f4dcc3b5aa765d61d8327deb882cf99",
    "SHA-512 of Unix": "$6$saltsalt$" + "x" * 86,
}


@pytest.mark.proves("11.2.5", "PWD-11")
def test_a_damaged_or_disabled_hash_is_a_wrong_password(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_account=len(UNUSABLE_HASHES))
    database = database_of(client)
    register(client)
    answers = {}
    for name, unusable in UNUSABLE_HASHES.items():
        change_user(database, ADA["email"], hashed_password=unusable)
        answers[name] = refused_as(log_in_with(client, PASSWORD))
        assert the_user(database, ADA["email"]).hashed_password == unusable
    assert answers == dict.fromkeys(UNUSABLE_HASHES, (401, "invalid_credentials"))


# Who has an account is nobody's business


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parameters of every argon2 that is computed from now on, whoever asks for it."""
    verify("", None)  # whatever is computed once in a process, has been
    computed: list[str] = []
    hash_secret, verify_secret = argon2.low_level.hash_secret, argon2.low_level.verify_secret

    def note_hash(*args: Any, **kwargs: Any) -> bytes:
        encoded = hash_secret(*args, **kwargs)
        computed.append(encoded.decode().rpartition("p=")[0])
        return encoded

    def note_verify(encoded: bytes, *args: Any, **kwargs: Any) -> bool:
        try:
            correct = verify_secret(encoded, *args, **kwargs)
        except argon2.exceptions.VerifyMismatchError:
            computed.append(encoded.decode().rpartition("p=")[0])
            raise
        computed.append(encoded.decode().rpartition("p=")[0])
        return correct

    monkeypatch.setattr(argon2.low_level, "hash_secret", note_hash)
    monkeypatch.setattr(argon2.low_level, "verify_secret", note_verify)
    return computed


def nobody(client: TestClient, database: Database) -> dict[str, str]:
    return {"email": "nobody@example.com", "password": PASSWORD}


def wrong_password(client: TestClient, database: Database) -> dict[str, str]:
    return ada_with("a wrong password for her")


def disabled(client: TestClient, database: Database) -> dict[str, str]:
    change_user(database, ADA["email"], is_active=False)
    return ADA


def without_password(client: TestClient, database: Database) -> dict[str, str]:
    change_user(database, ADA["email"], hashed_password="!")
    return ADA


def damaged_hash(client: TestClient, database: Database) -> dict[str, str]:
    change_user(database, ADA["email"], hashed_password=UNUSABLE_HASHES["argon2 cut"])
    return ADA


def after_a_reset(client: TestClient, database: Database) -> dict[str, str]:
    reset(client, mint(client, Purpose.RESET_PASSWORD), "seven old clocks in a row")
    return ADA


failures = pytest.mark.parametrize(
    "failure", [nobody, wrong_password, disabled, without_password, damaged_hash, after_a_reset]
)


@failures
def test_every_failed_log_in_costs_one_hash_and_three_statements(
    client: TestClient, database: Database, hashes: list[str], failure: Any
) -> None:
    """Counted, because a clock would not tell apart what a patient attacker can.

    The account is looked up, the attempt is taken from the budgets, the failure is noted.
    """
    register(client)
    credentials = failure(client, database)
    hashes.clear()
    with statements(database) as sent:
        assert log_in(client, credentials).status_code == 401
    assert hashes == [TODAYS_HASH.removesuffix("p=1$")]
    beginnings = [" ".join(statement.split()[:3]) for statement in sent]
    assert beginnings[0].startswith("SELECT")
    assert beginnings[1:] == ["INSERT INTO budgets", "INSERT INTO audit_events"]


@pytest.mark.proves("6.3.8", "EN-01")
@failures
def test_every_failed_log_in_has_the_same_answer(
    client: TestClient, database: Database, failure: Any
) -> None:
    """Each from a network of its own, as the headers say what is left to the network."""
    register(client)
    answer = log_in(other_browser(client, "192.0.2.1"), failure(client, database))
    assert refused_as(answer) == (401, "invalid_credentials")
    stranger = ADA | {"email": "nobody2@example.com"}
    assert differences(answer, log_in(other_browser(client, "192.0.2.2"), stranger)) == set()


@pytest.mark.proves("6.3.4", "EN-01")
@failures
def test_every_failed_password_grant_has_the_same_answer(
    client: TestClient, database: Database, hashes: list[str], failure: Any
) -> None:
    register(client)
    credentials = failure(client, database)
    hashes.clear()
    answers = []
    for email, network in (
        (credentials["email"], "192.0.2.1"),
        ("nobody2@example.com", "192.0.2.2"),
    ):
        form = {"username": email, "password": credentials["password"], "grant_type": "password"}
        program = other_browser(client, network)
        answers.append(program.post("/api/v1/auth/token", data=form))
    assert answers[0].json()["error"] == "invalid_grant"
    assert differences(*answers) == set()
    assert len(hashes) == 2


# Hashing is capped


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> "HeldUp":
    work = HeldUp()
    monkeypatch.setattr("app.core.hashing.verify", work.verify)
    return work


class HeldUp:
    """Hashing that takes until it is let go, and counts how much of it goes on at once."""

    def __init__(self) -> None:
        self.may_end = Event()
        self.both = Event()  # that may hash at once have begun
        self.active = self.most = 0
        self._lock = Lock()

    def __enter__(self) -> None:
        """However the block ends, what waits inside it is let go."""

    def __exit__(self, *_: object) -> None:
        self.may_end.set()

    def verify(self, password: str, stored: str | None) -> Verification:
        with self._lock:
            self.active += 1
            self.most = max(self.most, self.active)
            if self.most == 2:
                self.both.set()
        self.may_end.wait()
        with self._lock:
            self.active -= 1
        return Verification(False)


@pytest.mark.proves("15.2.2")
def test_when_the_hashing_queue_is_full_log_ins_are_told_to_come_back(
    make_client: ClientFactory, held_up: HeldUp
) -> None:
    client = make_client(hashing_threads=2, hashing_queue=3)
    networks = [f"192.0.2.{number % 2}" for number in range(6)]  # each has half of the queue
    with ThreadPoolExecutor(6) as browsers, held_up:
        tries = [
            browsers.submit(log_in, other_browser(client, network), ADA) for network in networks
        ]
        done, waiting = wait(tries, timeout=30, return_when=FIRST_COMPLETED)
        (refused,) = (try_.result() for try_ in done)
        assert held_up.both.wait(30)
        assert refused_as(refused) == (503, "busy")
        assert refused.headers["retry-after"] == "2"
        assert refused_as(register(client)) == (503, "busy")
        form = {"grant_type": "password", "username": ADA["email"], "password": PASSWORD}
        program = client.post("/api/v1/auth/token", data=form)
        assert (program.status_code, program.json()["error"]) == (503, "temporarily_unavailable")
        assert program.headers["retry-after"] == "2"
        # Nobody else waits.
        assert client.get("/health/live").status_code == 200
        assert client.get("/api/v1/users/me").status_code == 401
    assert {try_.result().status_code for try_ in waiting} == {401}
    assert held_up.most == 2


@pytest.mark.proves("15.2.2")
@pytest.mark.parametrize(("how", "hashes"), [("changed", 2), ("reset", 1), ("had to be reset", 2)])
def test_a_new_password_is_hashed_out_of_its_networks_share(
    make_mailing_client: ClientFactory, monkeypatch: pytest.MonkeyPatch, how: str, hashes: int
) -> None:
    """Or one network could fill the queue all the same: half of it while its passwords are checked,
    and half while its new ones are hashed.
    """
    client = make_mailing_client()
    sign_up_and_in(client)
    change_user(database_of(client), ADA["email"], must_change_password=how == "had to be reset")
    token = mint(client, Purpose.RESET_PASSWORD)
    networks: list[str] = []
    place = Passwords.place

    def noted(passwords: Passwords, network: str = "") -> Any:
        networks.append(network)
        return place(passwords, network)

    monkeypatch.setattr(Passwords, "place", noted)
    new = "seven loud geese on ice"
    if how == "changed":
        body = {"current_password": PASSWORD, "new_password": new}
        answer = client.put("/api/v1/users/me/password", json=body)
    else:
        answer = reset(client, token, new)
    assert answer.is_success
    assert networks == ["testclient"] * hashes


@pytest.mark.proves("15.4.1")
def test_the_queue_has_room_again_when_its_work_is_done(
    make_client: ClientFactory, held_up: HeldUp
) -> None:
    client = make_client(hashing_threads=1, hashing_queue=1)
    held_up.may_end.set()
    for _ in range(5):
        assert refused_as(log_in_with(client, PASSWORD)) == (401, "invalid_credentials")


def test_a_hash_that_fails_gives_its_place_back() -> None:
    async def fail_three_times() -> None:
        passwords = Passwords(threads=1, queue=1)
        for _ in range(3):
            with pytest.raises(TypeError):
                await passwords.hash(None, "")  # type: ignore[arg-type]
        assert await passwords.hash(PASSWORD, "")
        passwords.close()

    asyncio.run(fail_three_times())


@pytest.mark.proves("15.2.2")
def test_there_are_as_many_hashing_threads_as_cores(held_up: HeldUp) -> None:
    """More would only take memory: 19 MiB each."""

    async def flood() -> None:
        passwords = Passwords(threads=None, queue=20)
        with held_up:
            room = available_cores() + 20
            tries = [
                asyncio.ensure_future(passwords.verify("x", None, "")) for _ in range(room + 1)
            ]
            done, waiting = await asyncio.wait(
                tries, timeout=30, return_when=asyncio.FIRST_COMPLETED
            )
            (refused,) = (try_.exception() for try_ in done)
            assert isinstance(refused, Refusal)
            assert refused.reason is Reason.BUSY
        await asyncio.wait(waiting)
        passwords.close()

    asyncio.run(flood())
    assert held_up.most <= available_cores()
