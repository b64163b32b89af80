"""What is signed, hashed and drawn by lot, and that the inventory of it is complete."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.hashing import BCRYPT_LIMIT, context
from app.core.identifiers import new_id
from app.core.keys import derive_key
from app.db.session import Database
from app.models import OneTimeToken
from app.models.mail import Purpose
from app.services.one_time_tokens import fingerprint, mint
from tests.people import ADA, register
from tests.proof import ROOT
from tests.rows import the_user
from tests.security.document import sections, table

pytestmark = pytest.mark.real_hashes

SOURCES = sorted((ROOT / "app").rglob("*.py"))
LIBRARIES = {"cryptography", "hashlib", "hmac", "jwt", "passlib", "random", "secrets", "ssl"}
UNVETTED = {
    "Crypto",
    "Cryptodome",
    "jose",
    "ecdsa",
    "rsa",
    "nacl",
    "M2Crypto",
    "authlib",
    "OpenSSL",
}


def imports(path: Path) -> set[str]:
    """The packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found


def calls(path: Path) -> Iterator[ast.Call]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return (node for node in nodes if isinstance(node, ast.Call))


@pytest.mark.proves("11.1.2", "11.1.3")
def test_the_inventory_lists_every_use_of_cryptography_and_no_other() -> None:
    told = {row["file"]: {*row["uses"].split(", ")} for row in table("Cryptography")}
    found = {str(path.relative_to(ROOT).as_posix()): imports(path) & LIBRARIES for path in SOURCES}
    assert told == {file: used for file, used in found.items() if used}


@pytest.mark.proves("11.1.4")
def test_there_is_a_plan_for_other_algorithms() -> None:
    plan = sections()["Cryptography"].partition("**What comes next.**")[2]
    assert all(word in plan for word in ("quantum", "ML-DSA", "argon2", "`ALGORITHM`"))


@pytest.mark.proves("11.2.1")
def test_only_vetted_libraries_are_used() -> None:
    """And none is written here: what looks like a cipher or a hash is called, not made."""
    used = set().union(*map(imports, SOURCES))
    assert used & UNVETTED == set()
    assert used & LIBRARIES


@pytest.mark.proves("11.4.1", "11.4.3")
def test_no_broken_hash_is_used_but_to_look_into_files_of_breached_passwords() -> None:
    weak = defaultdict(set)
    for path in SOURCES:
        for call in calls(path):
            if name := re.search(r"\b(md5|sha1|md4|ripemd160|SHA1|MD5)\b", ast.unparse(call.func)):
                weak[path.name].add(name[0])
                assert "usedforsecurity=False" in ast.unparse(call)
    assert weak == {"password_policy.py": {"sha1"}}


@pytest.mark.proves("11.4.2")
def test_a_password_is_hashed_by_argon2id_with_todays_parameters(
    client: TestClient, database: Database
) -> None:
    register(client)
    stored = the_user(database, ADA["email"]).hashed_password
    found = re.fullmatch(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([^$]+)\$[^$]+", stored)
    assert found
    memory, passes, lanes = map(int, found.groups()[:3])
    assert (memory >= 19456, passes >= 2, lanes) == (True, True, 1)
    assert len(found[4]) * 6 >= 128  # bits of salt
    assert context().hash(ADA["password"]) != context().hash(ADA["password"])


@pytest.mark.proves("11.4.2", "6.2.8")
def test_a_long_password_is_never_given_to_bcrypt() -> None:
    """It would be cut after 72 bytes; the one scheme that hashes takes all of it."""
    long = "a" * BCRYPT_LIMIT
    assert not context().verify(f"{long}b", context().hash(f"{long}c"))
    assert context().default_scheme() == "argon2"


@pytest.mark.proves("11.2.4")
def test_no_secret_is_compared_character_by_character() -> None:
    """`==` on a token, a hash or a signature would tell by its time how much of it was right."""
    secret = re.compile(r"(?<!_)(token|hash|signature|digest|secret|password)s?$")
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                # In a statement the database looks an index up: that is no comparison here.
                if any(secret.search(side) for side in sides) and "col(" not in sides[0]:
                    found.append(f"{path.name}: {ast.unparse(node)}")
    # cli.py asks twice for the new password of an administrator, of one person at a keyboard.
    assert found == ["cli.py: getpass.getpass('Once more: ') != password"]


# Keys


@pytest.mark.proves("11.1.1", "13.1.4")
def test_every_key_has_a_purpose_a_length_and_a_rotation() -> None:
    rows = table("Keys")
    assert all(all(row.values()) for row in rows)
    purposes = {row["secret"].partition(" / ")[2] for row in rows} - {""}
    called = {
        call.args[1].value
        for path in SOURCES
        for call in calls(path)
        if ast.unparse(call.func) in ("derive_key", "derived_keys")
        and isinstance(call.args[1], ast.Constant)
    }
    assert purposes == called


@pytest.mark.proves("11.1.1", "11.2.3")
def test_no_two_purposes_share_a_key_and_each_has_256_bits() -> None:
    purposes = {row["secret"].partition(" / ")[2] for row in table("Keys")} - {""}
    keys = {derive_key("a secret that is long enough for all", purpose) for purpose in purposes}
    assert len(keys) == len(purposes)
    assert {len(key) for key in keys} == {32}


@pytest.mark.proves("13.1.4")
def test_every_secret_of_the_settings_is_in_the_table_of_keys() -> None:
    from app.core.config import Settings

    secret = {
        name.upper()
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation) or name == "signing_key_file"
    }
    text = sections()["Keys"]
    assert {name for name in secret if f"`{name}`" not in text} == set()


# Chance


@pytest.mark.proves("11.5.1")
def test_chance_comes_from_the_operating_system() -> None:
    """`random` would let whoever sees a few numbers foretell the next. Only pauses are drawn by
    it, and by its SystemRandom.
    """
    drawn = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(one.name == "random" for one in node.names):
                drawn.add(f"{path.name}: random")
            if isinstance(node, ast.ImportFrom) and node.module in ("random", "uuid"):
                names = {alias.name for alias in node.names} - {"UUID", "SystemRandom"}
                drawn |= {f"{path.name}: {name}" for name in names}
    assert drawn == set()


@pytest.mark.proves("11.5.1", "EV-04")
def test_one_time_tokens_have_256_bits_and_no_structure(
    client: TestClient, database: Database
) -> None:
    register(client)
    user = the_user(database, ADA["email"])

    def mint_many(session: object) -> list[str]:
        return [
            mint(session, user.id, Purpose.VERIFY_EMAIL, user.email)  # type: ignore[arg-type]
            for _ in range(1000)
        ]

    tokens = database.run_write(mint_many)
    assert {len(token) for token in tokens} == {43}  # 256 bits in base64url
    assert len({token[:4] for token in tokens}) > 990  # no common beginning, no counting
    for place in range(42):  # the last character holds four bits only
        assert len({token[place] for token in tokens}) > 55
    stored = database.run_read(lambda s: s.get(OneTimeToken, fingerprint(tokens[0])))
    assert stored
    assert tokens[0] not in str(stored.model_dump())


@pytest.mark.proves("11.5.2")
def test_forked_processes_draw_different_ids_and_tokens() -> None:
    """Nothing is seeded before a worker is forked."""
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as workers:
        drawn = [one for many in workers.map(draw, [5000] * 4) for one in many]
    assert len(set(drawn)) == len(drawn) == 40_000


def draw(count: int) -> list[str]:
    import secrets

    return [text for _ in range(count) for text in (secrets.token_urlsafe(32), new_id().hex)]
