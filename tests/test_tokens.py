"""Tokens as an attacker sends them: changed, forged, mistaken for one another, of another key.

Whatever is wrong with a token, the answer is one and the same 401: it tells nobody which check
the token failed. The ids (JWT-01 …) are those of the list of attacks.
"""

import hmac
import json
import secrets
import shutil
import socket
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import jwt
import pytest
import time_machine
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError

from app.core.config import Settings, SettingsError, explain
from app.core.jws import Signature
from app.core.keys import derive_key, derived_keys, generate_key
from app.core.tokens import ClientId, Tokens
from app.db.session import Database
from app.main import create_app
from app.models import User
from tests.conftest import ClientFactory, make_settings
from tests.people import ADA, BOB, bearer, get_tokens, log_in, register

ME = "/api/v1/users/me"
TOKEN = "/api/v1/auth/token"
REFRESH = "/api/v1/auth/refresh"
JWKS = "/.well-known/jwks.json"
ACCESS_COOKIE = "__Host-access"
REFRESH_COOKIE = "__Host-refresh"
ASYMMETRIC = ["EdDSA", "ES256"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What a token is worth does not depend on the database."""
    return sqlite_url


class Target(NamedTuple):
    """A service with Ada and Bob logged in, and what an attacker has seen of it."""

    client: TestClient
    settings: Settings
    access: str  # Ada's
    refresh: str
    bobs_access: str
    to_nobody: dict[str, Any]  # the answer that somebody without any token gets

    @property
    def header(self) -> dict[str, Any]:
        return jwt.get_unverified_header(self.access)

    @property
    def claims(self) -> dict[str, Any]:
        return decode_claims(self.access)


def target_at(settings: Settings) -> Iterator[Target]:
    with TestClient(
        create_app(settings), base_url="https://testserver", raise_server_exceptions=False
    ) as client:
        register(client, ADA)
        register(client, BOB)
        ada, bob = get_tokens(client, ADA), get_tokens(client, BOB)
        tokens = ada["access_token"], ada["refresh_token"], bob["access_token"]
        to_nobody = client.get(ME)
        assert to_nobody.status_code == 401
        yield Target(client, settings, *tokens, problem_without_id(to_nobody))


@pytest.fixture(scope="module")
def fresh_url(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    def make() -> str:
        path = tmp_path_factory.mktemp("tokens") / "app.db"
        shutil.copy(migrated_sqlite, path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture(scope="module")
def target(fresh_url: Callable[[], str]) -> Iterator[Target]:
    """One for all attacks on HS256: none of them may change anything, so they share it."""
    yield from target_at(make_settings(fresh_url()))


@pytest.fixture(scope="module", params=ASYMMETRIC)
def asymmetric(
    request: pytest.FixtureRequest,
    fresh_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    path = key_file(tmp_path_factory.mktemp("keys") / "key.pem", generate_key(request.param))
    settings = make_settings(fresh_url(), algorithm=request.param, signing_key_file=path)
    yield from target_at(settings)


def key_file(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# How an attacker builds a token: by hand, because a library would refuse to write most of these.


def encode(part: bytes) -> str:
    return urlsafe_b64encode(part).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encode_json(part: object) -> str:
    return encode(json.dumps(part, separators=(",", ":")).encode())


def decode_claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(decode(token.split(".")[1]))
    return claims


def forge(header: object, claims: object, key: bytes, digest: str = "sha256") -> str:
    """A JWS with an HMAC, whatever the header says."""
    return sign(f"{encode_json(header)}.{encode_json(claims)}", key, digest)


def sign(signed_part: str, key: bytes, digest: str = "sha256") -> str:
    return f"{signed_part}.{encode(hmac.digest(key, signed_part.encode(), digest))}"


def access_key(target: Target) -> bytes:
    """The right key: a refusal is then due to what the test changed, and to nothing else."""
    return derive_key(target.settings.secret_key.get_secret_value(), "access")


def as_bearer(target: Target, token: str) -> Response:
    return target.client.get(ME, headers=bearer(token))


def as_cookie(target: Target, token: str) -> Response:
    return target.client.get(ME, headers={"Cookie": f"{ACCESS_COOKIE}={token}"})


def problem_without_id(answer: Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert body.pop("request_id") == answer.headers["x-request-id"]
    return body


def assert_refused(target: Target, token: str) -> None:
    """Refused both ways, with the very answer that somebody without any token gets."""
    for answer in (as_bearer(target, token), as_cookie(target, token)):
        assert answer.status_code == 401, token
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert problem_without_id(answer) == target.to_nobody


# The control: what this file signs by hand is accepted, so the refusals below mean something.


def test_a_token_signed_by_hand_with_the_right_key_is_accepted(target: Target) -> None:
    token = forge(target.header, target.claims, access_key(target))
    assert as_bearer(target, token).json()["email"] == ADA["email"]
    assert as_cookie(target, token).json()["email"] == ADA["email"]


def test_a_token_that_pyjwt_signed_is_accepted(target: Target) -> None:
    """An upgrade logs nobody out: version 0.2 left the whole of it to PyJWT."""
    algorithm, key = target.header["alg"], access_key(target)
    headers = {"typ": target.header["typ"], "kid": target.header["kid"]}
    token = jwt.encode(target.claims, key, algorithm=algorithm, headers=headers)
    assert as_bearer(target, token).status_code == 200


def test_a_header_in_another_spelling_than_ours_is_refused(target: Target) -> None:
    """It says the same, and only somebody with our key could have signed it."""
    header = encode(json.dumps(target.header).encode())
    spaced = f"{header}.{encode_json(target.claims)}"
    signature = forge(target.header, target.claims, access_key(target))
    assert_refused(target, f"{spaced}.{signature.split('.')[2]}")


# Signatures


@pytest.mark.proves("9.1.1", "9.1.2", "JWT-01", "JWT-02")
@pytest.mark.parametrize(
    "alg",
    ["none", "None", "NONE", "nOnE", "none ", " none", "", None, ["HS256"], ["none"], 5, True, {}],
    ids=repr,
)
@pytest.mark.parametrize("shape", ["empty", "missing", "kept", "signed"])
def test_a_token_that_names_no_algorithm_is_refused(
    target: Target, alg: object, shape: str
) -> None:
    """JWT-01, JWT-02."""
    header = target.header | {"alg": alg}
    assert_refused(target, unsigned(header, target, shape))


@pytest.mark.proves("JWT-02")
@pytest.mark.parametrize("shape", ["empty", "missing", "kept", "signed"])
def test_a_token_without_an_algorithm_is_refused(target: Target, shape: str) -> None:
    """JWT-02."""
    header = {name: value for name, value in target.header.items() if name != "alg"}
    assert_refused(target, unsigned(header, target, shape))


def unsigned(header: object, target: Target, shape: str) -> str:
    signed_part = f"{encode_json(header)}.{encode_json(target.claims)}"
    return {
        "empty": f"{signed_part}.",
        "missing": signed_part,
        "kept": f"{signed_part}.{target.access.split('.')[2]}",
        "signed": sign(signed_part, access_key(target)),
    }[shape]


@pytest.mark.proves("JWT-01")
@pytest.mark.parametrize(
    "header", [{}, {"alg": "none"}, {"alg": "none", "typ": "JWT"}, {"alg": "HS256"}], ids=str
)
def test_a_header_that_is_not_the_whole_of_ours_is_refused(
    target: Target, header: dict[str, str]
) -> None:
    """JWT-01."""
    assert_refused(target, forge(header, target.claims, access_key(target)))
    assert_refused(target, forge(header, target.claims, b""))


@pytest.mark.proves("9.1.2", "11.4.3", "JWT-04")
@pytest.mark.parametrize("digest", ["sha384", "sha512", "sha1", "md5"])
def test_the_right_key_with_another_hash_is_refused(target: Target, digest: str) -> None:
    """JWT-04: one algorithm a key. Both as the header says, and against what it says."""
    names = {"sha384": "HS384", "sha512": "HS512", "sha1": "HS1", "md5": "HMD5"}
    header = target.header | {"alg": names[digest]}
    assert_refused(target, forge(header, target.claims, access_key(target), digest))
    assert_refused(target, forge(target.header, target.claims, access_key(target), digest))


@pytest.mark.proves("JWT-04")
def test_a_header_that_names_another_hash_than_the_signature_has_is_refused(
    target: Target,
) -> None:
    """JWT-04."""
    header = target.header | {"alg": "HS512"}
    assert_refused(target, forge(header, target.claims, access_key(target)))


@pytest.mark.proves("7.2.1", "9.1.1", "JWT-06")
@pytest.mark.parametrize("bit", range(0, 256, 13))
def test_a_signature_with_one_bit_flipped_is_refused(target: Target, bit: int) -> None:
    """JWT-06."""
    signed_part, _, signature = target.access.rpartition(".")
    raw = bytearray(decode(signature))
    raw[bit // 8] ^= 1 << bit % 8
    assert_refused(target, f"{signed_part}.{encode(bytes(raw))}")


@pytest.mark.proves("JWT-06")
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("place", [0, 5, 17, -1])
def test_a_header_or_claims_with_one_character_changed_are_refused(
    target: Target, part: int, place: int
) -> None:
    """JWT-06."""
    parts = target.access.split(".")
    characters = list(parts[part])
    characters[place] = "A" if characters[place] != "A" else "B"
    parts[part] = "".join(characters)
    assert_refused(target, ".".join(parts))


@pytest.mark.proves("JWT-06")
def test_a_signature_in_a_second_spelling_is_refused(target: Target) -> None:
    """JWT-06. The last character has two bits that count for nothing: three more tokens."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    place = alphabet.index(target.access[-1])
    for other in range(1, 4):
        assert_refused(target, target.access[:-1] + alphabet[place ^ other])


@pytest.mark.proves("JWT-06")
@pytest.mark.parametrize("length", [0, 1, 16, 31])
def test_a_truncated_signature_is_refused(target: Target, length: int) -> None:
    """JWT-06."""
    signed_part, _, signature = target.access.rpartition(".")
    assert_refused(target, f"{signed_part}.{encode(decode(signature)[:length])}")


@pytest.mark.proves("JWT-06")
def test_a_signature_without_its_last_character_is_refused(target: Target) -> None:
    """JWT-06."""
    assert_refused(target, target.access[:-1])


@pytest.mark.proves("9.1.1", "JWT-06")
def test_the_signature_of_another_valid_token_is_refused(target: Target) -> None:
    """JWT-06."""
    *_, bobs_signature = target.bobs_access.split(".")
    assert_refused(target, target.access.rpartition(".")[0] + "." + bobs_signature)


@pytest.mark.proves("JWT-06")
def test_somebody_elses_claims_under_a_valid_signature_are_refused(target: Target) -> None:
    """JWT-06."""
    header, _, signature = target.access.split(".")
    assert_refused(target, f"{header}.{target.bobs_access.split('.')[1]}.{signature}")


@pytest.mark.proves("JWT-07")
@pytest.mark.parametrize("secret", ["", "secret", "changeme", "changethis", "supersecret"])
def test_a_token_signed_with_a_guessed_secret_is_refused(target: Target, secret: str) -> None:
    """JWT-07."""
    assert_refused(target, forge(target.header, target.claims, secret.encode()))


@pytest.mark.proves("JWT-07")
def test_a_token_signed_with_the_secret_key_itself_is_refused(target: Target) -> None:
    """JWT-07: tokens are signed with derived keys, so guessing at one tests no SECRET_KEY."""
    secret = target.settings.secret_key.get_secret_value()
    assert_refused(target, forge(target.header, target.claims, secret.encode()))
    assert_refused(target, forge(target.header, target.claims, bytes.fromhex(secret)))


@pytest.mark.proves("11.2.3", "JWT-07")
@pytest.mark.parametrize(
    "secret",
    [
        "secret",
        "changeme",
        "changethis",
        "your-secret-key",
        "supersecret",
        "changethis" * 4,
        "your-256-bit-secret-your-256-bit-secret",
        "super-secret-key-for-our-application",
        "x" * 64,
        "0123456789" * 3,
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    ],
)
def test_a_published_or_weak_secret_stops_the_start(sqlite_url: str, secret: str) -> None:
    """JWT-07."""
    with pytest.raises(ValidationError) as refused:
        make_settings(sqlite_url, secret_key=secret)
    (sentence,) = explain(refused.value)
    assert sentence.startswith("SECRET_KEY is wrong")
    assert secret not in sentence


def key_texts(target: Target) -> dict[str, bytes]:
    """Every form in which an attacker may hold the public key."""
    (jwk,) = target.client.get(JWKS).json()["keys"]
    public = jwt.PyJWK(jwk).key
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "pem": pem,
        "pem without newline": pem.rstrip(b"\n"),
        "pem with CRLF": pem.replace(b"\n", b"\r\n"),
        "body of the pem": b"".join(pem.splitlines()[1:-1]),
        "der": public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "x": decode(jwk["x"]),
        "x as text": jwk["x"].encode(),
        "jwk": json.dumps(jwk).encode(),
        "compact jwk": json.dumps(jwk, separators=(",", ":")).encode(),
        "jwks": target.client.get(JWKS).content,
        "kid": jwk["kid"].encode(),
    }


@pytest.mark.proves("9.1.2", "JWT-03")
def test_the_public_key_is_no_hmac_secret(asymmetric: Target) -> None:
    """JWT-03: HS256 with a key that everybody may read, under each algorithm's name."""
    texts = key_texts(asymmetric)
    assert len(texts) == 11
    for alg in ("HS256", asymmetric.settings.algorithm):
        header = asymmetric.header | {"alg": alg}
        for text in texts.values():
            assert_refused(asymmetric, forge(header, asymmetric.claims, text))


@pytest.mark.proves("JWT-03")
def test_the_hmac_key_signs_no_access_token_in_asymmetric_mode(asymmetric: Target) -> None:
    """JWT-03: nor with the key id that it has elsewhere."""
    ring = derived_keys(asymmetric.settings, "access")
    for kid in (asymmetric.header["kid"], ring.kid):
        header = asymmetric.header | {"alg": "HS256", "kid": kid}
        assert_refused(asymmetric, forge(header, asymmetric.claims, access_key(asymmetric)))


@pytest.mark.proves("JWT-03", "JWT-08")
def test_another_private_key_under_our_key_id_is_refused(asymmetric: Target) -> None:
    """JWT-03, JWT-08."""
    algorithm = asymmetric.settings.algorithm
    stranger = generate_key(algorithm)
    token = jwt.encode(asymmetric.claims, stranger, algorithm=algorithm, headers=asymmetric.header)
    assert_refused(asymmetric, token)


@pytest.mark.proves("JWT-06")
@pytest.mark.parametrize("position", [0, 200, 400, 511])
def test_an_asymmetric_signature_with_one_bit_flipped_is_refused(
    asymmetric: Target, position: int
) -> None:
    """JWT-06."""
    signed_part, _, signature = asymmetric.access.rpartition(".")
    raw = bytearray(decode(signature))
    raw[position // 8] ^= 1 << position % 8
    assert_refused(asymmetric, f"{signed_part}.{encode(bytes(raw))}")


@pytest.mark.proves("JWT-06")
def test_an_all_zero_signature_is_refused(asymmetric: Target) -> None:
    """JWT-06, and the "psychic signature" of CVE-2022-21449."""
    signed_part = asymmetric.access.rpartition(".")[0]
    assert_refused(asymmetric, f"{signed_part}.{encode(bytes(64))}")


@pytest.mark.proves("JWT-01")
def test_unsigned_tokens_are_refused_in_asymmetric_mode(asymmetric: Target) -> None:
    """JWT-01."""
    header = asymmetric.header | {"alg": "none"}
    signed_part = f"{encode_json(header)}.{encode_json(asymmetric.claims)}"
    assert_refused(asymmetric, f"{signed_part}.")
    assert_refused(asymmetric, signed_part)
    assert_refused(asymmetric, f"{signed_part}.{asymmetric.access.split('.')[2]}")


# Keys that the token itself brings along


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    """A listener that nobody may ever connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.proves("1.3.6", "9.1.3", "13.2.4", "JWT-08")
@pytest.mark.parametrize("name", ["jku", "x5u"])
@pytest.mark.parametrize("scheme", ["http", "https", "file"])
def test_a_key_address_in_the_header_is_never_fetched(
    asymmetric: Target, canary: socket.socket, name: str, scheme: str
) -> None:
    """JWT-08."""
    host, port = canary.getsockname()
    assert_refused(asymmetric, by_stranger(asymmetric, {name: f"{scheme}://{host}:{port}/keys"}))


@pytest.mark.proves("9.1.3", "JWT-08")
def test_a_key_in_the_header_is_not_believed(asymmetric: Target) -> None:
    """JWT-08: jwk, x5c and the thumbprints, with and without our key id."""
    algorithm = asymmetric.settings.algorithm
    stranger = serialization.load_pem_private_key(generate_key(algorithm).encode(), None)
    jwk = public_jwk(stranger.public_key())
    der = stranger.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for extra in (
        {"jwk": jwk},
        {"jwk": jwk, "kid": "mine"},
        {"x5c": [urlsafe_b64encode(der).decode()]},
        {"x5t": "AAAA"},
        {"x5t#S256": "AAAA"},
    ):
        assert_refused(asymmetric, by_stranger(asymmetric, extra))


def public_jwk(key: Any) -> dict[str, Any]:
    kind = "OKPAlgorithm" if isinstance(key, ed25519.Ed25519PublicKey) else "ECAlgorithm"
    jwk: dict[str, Any] = getattr(jwt.algorithms, kind).to_jwk(key, as_dict=True)
    return jwk


def by_stranger(target: Target, extra: dict[str, Any]) -> str:
    """Signed with the attacker's own key, which `extra` is to smuggle in."""
    key = generate_key(target.settings.algorithm)
    headers = target.header | extra
    return jwt.encode(target.claims, key, algorithm=target.settings.algorithm, headers=headers)


@pytest.mark.proves("JWT-08", "JWT-20")
@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/keys"},
        {"x5c": ["AAAA"]},
        {"crit": ["x"], "x": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"b64": False},
        {"b64": True},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"enc": "A256GCM"},
        {"p2c": 10**9},
        {"x": 1},
    ],
    ids=lambda extra: "+".join(extra),
)
def test_a_header_that_holds_more_than_ours_is_refused(
    target: Target, extra: dict[str, Any]
) -> None:
    """JWT-08, JWT-20: even with the right signature, so none of it is ever interpreted."""
    header = target.header | extra
    assert_refused(target, forge(header, target.claims, access_key(target)))


@pytest.mark.proves("9.1.3", "JWT-08")
@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "' UNION SELECT 'secret' --",
        "| sleep 5",
        "http://127.0.0.1:9/key",
        "\x00",
        "",
        "x" * 900,
        "ключ",
        None,
        0,
        [],
        ["a"],
        {},
        True,
    ],
    ids=repr,
)
def test_a_key_id_only_selects_among_our_keys(target: Target, kid: object) -> None:
    """JWT-08: signed with the right key, with an empty one, and with what the id seems to name."""
    header = target.header | {"kid": kid}
    for key in (access_key(target), b"", b"secret"):
        assert_refused(target, forge(header, target.claims, key))


@pytest.mark.proves("JWT-08")
def test_a_token_without_a_key_id_is_refused(target: Target) -> None:
    """JWT-08."""
    header = {"alg": "HS256", "typ": "at+jwt"}
    assert_refused(target, forge(header, target.claims, access_key(target)))


@pytest.mark.proves("9.2.2", "JWT-17")
@pytest.mark.parametrize(
    "typ", ["JWT", "AT+JWT", "at+jwt ", "application/at+jwt", "rt+jwt", "", None, 5, ["at+jwt"]]
)
def test_a_token_of_another_type_is_refused(target: Target, typ: object) -> None:
    """JWT-17."""
    header = target.header | {"typ": typ}
    assert_refused(target, forge(header, target.claims, access_key(target)))


# Shapes


def shapes(token: str) -> dict[str, str]:
    header, claims, signature = token.split(".")
    as_json = json.dumps({"payload": claims, "protected": header, "signature": signature})
    deep = encode(b"[" * 1400)  # in a token that is not too long to be looked at
    wide = encode(decode(header).decode().encode("utf-16"))
    not_utf8 = encode(bytes([0xFF, 0xFE, 0x80]))
    return {
        "empty": "",
        "one segment": header,
        "two segments": f"{header}.{claims}",
        "four segments": f"{token}.{signature}",
        "five segments, as a JWE": f"{header}.{claims}.{signature}.{claims}.{signature}",
        "dots": ".." * 2,
        "ten thousand dots": "." * 10_000,
        "JSON serialization": as_json.replace(" ", ""),
        "detached payload": f"{header}..{signature}",
        "100 kB": f"{header}.{'A' * 100_000}.{signature}",
        "a megabyte": "A" * 1_000_000,
        "a header 100,000 levels deep": f"{encode(b'[' * 100_000)}.{claims}.{signature}",
        "a header as deep as fits": f"{deep}.e30.{signature}",
        "a UTF-16 header": f"{wide}.{claims}.{signature}",
        "a header that is not UTF-8": f"{not_utf8}.{claims}.{signature}",
        "a header that is no object": f"{encode(b'[]')}.{claims}.{signature}",
        "a header that is NaN": f"{encode(b'NaN')}.{claims}.{signature}",
        "a header of NUL bytes": f"{encode(bytes(30))}.{claims}.{signature}",
        "one padding character": f"{token}=",
        "two padding characters": f"{token}==",
        "padding inside": f"{header}=.{claims}.{signature}",
        "the other base64 alphabet": token.replace("-", "+").replace("_", "/") + "/",
        "percent-encoded": token.replace(".", "%2E"),
        "upper case": token.upper(),
        "a comma": f"{token},{token}",
        "quoted": f"%22{token}%22",
    }


SHAPES = list(shapes("e30.e30.AAAA"))


@pytest.mark.proves("11.2.5", "JWT-19")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_of_another_shape_is_refused(target: Target, shape: str) -> None:
    """JWT-19: never a 500."""
    assert_refused(target, shapes(target.access)[shape])


def test_a_token_of_any_length_is_read(target: Target) -> None:
    """base64 without padding has three kinds of lengths, and a decoder that needs it back."""
    signature = Signature(derived_keys(target.settings, "refresh"), "rt+jwt")
    for length in range(60):
        claims = {"text": "x" * length}
        assert signature.verify(signature.sign(claims)) == claims


@pytest.mark.proves("11.2.5", "JWT-19")
@pytest.mark.parametrize(("length", "status"), [(2048, 200), (2050, 401)])
def test_a_token_longer_than_2048_characters_is_not_looked_at(
    target: Target, length: int, status: int
) -> None:
    """JWT-19: with the right signature. (None of ours has 2049: base64 has no such length.)"""
    padded = (
        forge(target.header, target.claims | {"more": "x" * count}, access_key(target))
        for count in range(length)
    )
    token = next(token for token in padded if len(token) == length)
    assert as_bearer(target, token).status_code == status


@pytest.mark.proves("JWT-19")
@pytest.mark.parametrize("space", [" ", "\t", "\n", "\r\n", "\x0b", "\x00", "\x1f", "\u00a0"])
@pytest.mark.parametrize("place", ["inside", "before the signature"])
def test_white_space_inside_a_token_is_refused(target: Target, space: str, place: str) -> None:
    """JWT-19: base64 decoders skip what they do not know."""
    cut = 40 if place == "inside" else target.access.rindex(".") + 1
    token = (target.access[:cut] + space + target.access[cut:]).encode("latin-1")
    for headers in (
        [(b"Authorization", b"Bearer " + token)],
        [(b"Cookie", ACCESS_COOKIE.encode() + b"=" + token)],
    ):
        answer = target.client.get(ME, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"] == "not_authenticated"


@pytest.mark.proves("JWT-19")
@pytest.mark.parametrize("header", [b"\xff\xfe\x00", "Bearer ключ".encode(), b"Bearer \xf0\x9f"])
def test_a_header_of_other_bytes_than_ascii_is_refused(target: Target, header: bytes) -> None:
    """JWT-19."""
    assert target.client.get(ME, headers=[(b"Authorization", header)]).status_code == 401


@pytest.mark.proves("JWT-19")
@pytest.mark.parametrize(
    "claims",
    [b"[]", b"null", b"5", b'"text"', b"", b"{", b"\xff\xfe", b"NaN", b"{}{}", b"[" * 1250],
    ids=repr,
)
def test_claims_that_are_no_object_are_refused(target: Target, claims: bytes) -> None:
    """JWT-19: with the right signature."""
    token = sign(f"{encode_json(target.header)}.{encode(claims)}", access_key(target))
    assert_refused(target, token)


# Claims, under the right signature: a mistake of our own, or a token of a sibling service


@pytest.mark.proves("9.2.1", "10.3.2")
@pytest.mark.parametrize("name", ["iss", "aud", "sub", "client_id", "sid", "iat", "exp", "jti"])
def test_a_token_that_lacks_a_claim_is_refused(target: Target, name: str) -> None:
    """RFC 9068, 2.2; ASVS 5.0 9.2.1."""
    claims = {key: value for key, value in target.claims.items() if key != name}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("JWT-13", "JWT-21")
@pytest.mark.parametrize("name", ["iss", "aud", "sub", "client_id", "sid", "jti"])
@pytest.mark.parametrize("value", [None, 5, True, [], ["x"], {}], ids=repr)
def test_a_text_claim_of_another_type_is_refused(target: Target, name: str, value: object) -> None:
    """JWT-13, JWT-21."""
    claims = target.claims | {name: value}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("9.2.1", "JWT-12")
@pytest.mark.parametrize("name", ["iat", "exp"])
@pytest.mark.parametrize(
    "value",
    [None, True, [], {}, "", "soon", "9999999999", float("inf"), -float("inf"), float("nan")],
    ids=repr,
)
def test_a_time_claim_of_another_type_is_refused(target: Target, name: str, value: object) -> None:
    """JWT-12: never a 500 either."""
    claims = target.claims | {name: value}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("9.2.4", "JWT-13")
@pytest.mark.parametrize(
    "issuer",
    [
        "someone-else",
        "fastapi-auth/",
        "Fastapi-Auth",
        "fastapi",
        " fastapi-auth",
        ["fastapi-auth"],
        ["fastapi-auth", "someone-else"],
    ],
    ids=str,
)
def test_a_token_of_another_issuer_is_refused(target: Target, issuer: object) -> None:
    """JWT-13."""
    claims = target.claims | {"iss": issuer}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("9.2.3", "10.3.1", "JWT-13")
@pytest.mark.parametrize(
    "audience",
    [
        "another-api",
        "fastapi",
        "fastapi-auth-admin",
        "fastapi-auth/",
        ["fastapi-auth"],
        ["fastapi-auth", "another-api"],
        ["another-api"],
        {"fastapi-auth": 1},
    ],
    ids=str,
)
def test_a_token_for_another_audience_is_refused(target: Target, audience: object) -> None:
    """JWT-13: a list is refused too, even with us in it (our tokens have one audience)."""
    claims = target.claims | {"aud": audience}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("9.2.4", "JWT-22")
@pytest.mark.parametrize("changes", [{"issuer": "other-auth"}, {"audience": "other-api"}], ids=str)
def test_a_token_of_a_second_instance_with_the_same_secret_is_refused(
    target: Target, changes: dict[str, str]
) -> None:
    """JWT-22."""
    sibling = Tokens(target.settings.model_copy(update=changes))
    user_id, login_id = UUID(target.claims["sub"]), UUID(target.claims["sid"])
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    token, _ = sibling.issue_access(user_id, login_id, ClientId.PROGRAM, tomorrow)
    assert_refused(target, token)


@pytest.mark.proves("9.2.1", "JWT-12")
@pytest.mark.parametrize("age", [0, 1, 60, 86_400, 10**10])
def test_an_expired_token_is_refused(target: Target, age: int) -> None:
    """JWT-12: to the second, without a leeway; whoever checks `exp` late keeps a thief in."""
    claims = target.claims | {"exp": int(time.time()) - age}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("9.2.1", "JWT-12")
def test_an_access_token_expires_when_its_lifetime_is_over(target: Target) -> None:
    """JWT-12."""
    end = target.claims["exp"]
    with time_machine.travel(end - 1, tick=False):
        assert as_bearer(target, target.access).status_code == 200
    with time_machine.travel(end, tick=False):
        assert_refused(target, target.access)


@pytest.mark.proves("9.2.1", "JWT-12")
@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize("ahead", [61, 3600, 10**10])
def test_a_token_from_the_future_is_refused(target: Target, name: str, ahead: int) -> None:
    """JWT-12."""
    now = int(time.time())
    token = forge(target.header, target.claims | {name: now + ahead}, access_key(target))
    with time_machine.travel(now, tick=False):
        assert_refused(target, token)


@pytest.mark.proves("JWT-12")
def test_a_server_whose_clock_is_a_minute_ahead_logs_nobody_out(target: Target) -> None:
    """JWT-12, the other side: iat in our future is skew, up to 60 seconds."""
    now = int(time.time())
    token = forge(target.header, target.claims | {"iat": now + 60}, access_key(target))
    with time_machine.travel(now, tick=False):
        assert as_bearer(target, token).status_code == 200


@pytest.mark.proves("JWT-21")
@pytest.mark.parametrize(
    "subject",
    ["", "0", "null", "-1", "9" * 20, "ada@example.com", "' OR 1=1 --", "00000000", "\x00"],
)
@pytest.mark.parametrize("name", ["sub", "sid"])
def test_an_identifier_that_is_none_is_refused(target: Target, name: str, subject: str) -> None:
    """JWT-21."""
    claims = target.claims | {name: subject}
    assert_refused(target, forge(target.header, claims, access_key(target)))


@pytest.mark.proves("JWT-21")
def test_an_unknown_user_or_login_is_401(target: Target) -> None:
    """JWT-21: neither 404 nor 500."""
    unknown = "00000000-0000-4000-8000-000000000000"
    for changes in ({"sub": unknown}, {"sid": unknown}, {"sub": unknown, "sid": unknown}):
        token = forge(target.header, target.claims | changes, access_key(target))
        for answer in (as_bearer(target, token), as_cookie(target, token)):
            assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")


@pytest.mark.proves("8.2.2", "10.3.2", "JWT-21")
def test_a_login_counts_only_for_its_own_user(target: Target) -> None:
    """JWT-21: Ada's sub with Bob's sid, and the other way round."""
    ada, bob = target.claims, decode_claims(target.bobs_access)
    for claims in (ada | {"sid": bob["sid"]}, ada | {"sub": bob["sub"]}):
        answer = as_bearer(target, forge(target.header, claims, access_key(target)))
        assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")


@pytest.mark.proves("10.3.3", "JWT-21")
def test_a_deleted_users_token_is_not_that_of_the_next_owner_of_the_address(
    client: TestClient, database: Database
) -> None:
    """JWT-21."""
    register(client)
    tokens = get_tokens(client)
    database.run_write(
        lambda session: session.delete(
            session.get(User, UUID(decode_claims(tokens["access_token"])["sub"]))
        )
    )
    register(client)
    get_tokens(client)
    answer = client.get(ME, headers=bearer(tokens["access_token"]))
    assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert client.post(TOKEN, data=form).json()["error"] == "invalid_grant"


# Tokens of one kind for another


@pytest.mark.proves("9.2.2", "JWT-17")
def test_a_refresh_token_is_no_access_token(target: Target) -> None:
    """JWT-17."""
    assert_refused(target, target.refresh)


@pytest.mark.proves("JWT-17")
def test_a_refresh_token_is_no_access_token_in_asymmetric_mode(asymmetric: Target) -> None:
    """JWT-17."""
    assert_refused(asymmetric, asymmetric.refresh)


@pytest.mark.proves("JWT-17")
def test_an_access_token_refreshes_nothing(target: Target) -> None:
    """JWT-17."""
    cookie = {"Cookie": f"{REFRESH_COOKIE}={target.access}"}
    assert target.client.post(REFRESH, headers=cookie).json()["code"] == "not_authenticated"
    form = {"grant_type": "refresh_token", "refresh_token": target.access}
    assert target.client.post(TOKEN, data=form).json()["error"] == "invalid_grant"


@pytest.mark.proves("JWT-17")
def test_an_access_token_dressed_as_a_refresh_token_refreshes_nothing(target: Target) -> None:
    """JWT-17: with every claim of a refresh token, by the key of access tokens."""
    claims = target.claims | decode_claims(target.refresh)
    for header in (target.header | {"typ": "rt+jwt"}, jwt.get_unverified_header(target.refresh)):
        form = {
            "grant_type": "refresh_token",
            "refresh_token": forge(header, claims, access_key(target)),
        }
        assert target.client.post(TOKEN, data=form).json()["error"] == "invalid_grant"


@pytest.mark.proves("9.2.2", "11.1.1", "JWT-17")
@pytest.mark.parametrize(
    "purpose", ["refresh", "device", "mail", "verify-email", "reset-password", "mfa", "csrf", ""]
)
def test_a_key_of_another_purpose_signs_no_access_token(target: Target, purpose: str) -> None:
    """JWT-17: mail links and device cookies have keys of their own, whatever they claim to be."""
    key = derive_key(target.settings.secret_key.get_secret_value(), purpose)
    own_kid = derived_keys(target.settings, purpose).kid
    for kid in (target.header["kid"], own_kid):
        assert_refused(target, forge(target.header | {"kid": kid}, target.claims, key))


@pytest.mark.proves("JWT-17")
@pytest.mark.parametrize("typ", ["mail+jwt", "verify+jwt", "reset+jwt", "device+jwt", "JWT"])
def test_a_token_of_a_mail_link_is_no_access_token(target: Target, typ: str) -> None:
    """JWT-17."""
    assert_refused(target, forge(target.header | {"typ": typ}, target.claims, access_key(target)))


@pytest.mark.proves("JWT-12", "JWT-13")
@pytest.mark.parametrize(
    "changes",
    [
        {"n": -1},
        {"n": 1.5},
        {"n": "1"},
        {"n": True},
        {"n": None},
        {"n": 2**53},
        {"n": 2**70},
        {"client_id": "admin"},
        {"client_id": ["program"]},
        {"client_id": None},
        {"sid": "x"},
        {"sid": 5},
        {"exp": None},
        {"exp": 1e400},
        {"iss": "other"},
        {"aud": ["fastapi-auth"]},
    ],
    ids=str,
)
def test_a_refresh_token_with_a_wrong_claim_refreshes_nothing(
    target: Target, changes: dict[str, Any]
) -> None:
    """JWT-12, JWT-13: never a 500, and the login goes on."""
    key = derive_key(target.settings.secret_key.get_secret_value(), "refresh")
    header = jwt.get_unverified_header(target.refresh)
    token = forge(header, decode_claims(target.refresh) | changes, key)
    form = {"grant_type": "refresh_token", "refresh_token": token}
    answer = target.client.post(TOKEN, data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert as_bearer(target, target.access).status_code == 200


@pytest.mark.parametrize("name", ["iss", "aud", "client_id", "sid", "n", "exp"])
def test_a_refresh_token_that_lacks_a_claim_refreshes_nothing(target: Target, name: str) -> None:
    key = derive_key(target.settings.secret_key.get_secret_value(), "refresh")
    header = jwt.get_unverified_header(target.refresh)
    claims = {k: value for k, value in decode_claims(target.refresh).items() if k != name}
    cookie = {"Cookie": f"{REFRESH_COOKIE}={forge(header, claims, key)}"}
    answer = target.client.post(REFRESH, headers=cookie)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_each_kind_of_token_has_its_type_and_the_key_of_its_purpose(target: Target) -> None:
    """The control for what is signed by hand here, and a promise: an upgrade voids no token."""
    tokens, now = Tokens(target.settings), datetime.now(UTC)
    user_id, login_id, program = UUID(int=1), UUID(int=2), ClientId.PROGRAM
    issued = {
        "access": tokens.issue_access(user_id, login_id, program, now + timedelta(days=1))[0],
        "refresh": tokens.issue_refresh(login_id, program, 1, now + timedelta(days=1)),
        "device": tokens.issue_device(user_id, UUID(int=3), now),
    }
    for purpose, token in issued.items():
        assert jwt.get_unverified_header(token)["typ"] == f"{purpose[0]}t+jwt"
        key = derive_key(target.settings.secret_key.get_secret_value(), purpose)
        assert token == sign(token.rpartition(".")[0], key)


@pytest.mark.proves("JWT-19", "RT-09")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_refresh_token_of_another_shape_is_refused(target: Target, shape: str) -> None:
    """JWT-19, RT-09."""
    cookie = {"Cookie": f"{REFRESH_COOKIE}={shapes(target.refresh)[shape]}"}
    answer = target.client.post(REFRESH, headers=cookie)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


# Where a token is looked for


@pytest.mark.proves("JWT-23")
@pytest.mark.parametrize(
    ("template", "status"),
    [
        ("Bearer {}", 200),
        ("bearer {}", 200),
        ("BEARER {}", 200),
        ("Bearer  {}", 200),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer {} x", 401),
        ("Bearer x {}", 401),
        ('Bearer "{}"', 401),
        ("Bearer <{}>", 401),
        ("Bearer={}", 401),
        ("Bearer:{}", 401),
        ("Bearer\t{}", 401),
        ("{}", 401),
        ("Basic {}", 401),
        ("Token {}", 401),
        ("JWT {}", 401),
        ("DPoP {}", 401),
        ("Bearer Bearer {}", 401),
        ("Bearer {},Bearer {}", 401),
        ("", 401),
    ],
)
def test_the_authorization_header_has_one_form(target: Target, template: str, status: int) -> None:
    """JWT-23: `Bearer` in any case, spaces, the token, and nothing else (RFC 9110, 11.6.2)."""
    value = template.replace("{}", target.access)
    answer = target.client.get(ME, headers={"Authorization": value})
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.proves("JWT-23")
def test_two_authorization_headers_with_tokens_are_refused(target: Target) -> None:
    """JWT-23: a proxy and this service might each believe another one."""
    for second in (target.access, target.bobs_access, "x"):
        headers = [("Authorization", f"Bearer {token}") for token in (target.access, second)]
        assert target.client.get(ME, headers=headers).status_code == 401
        assert target.client.get(ME, headers=headers[::-1]).status_code == 401


@pytest.mark.proves("JWT-23")
def test_the_header_wins_over_the_cookie(target: Target) -> None:
    """JWT-23: mixed identities have one documented source."""
    headers = bearer(target.access) | {"Cookie": f"{ACCESS_COOKIE}={target.bobs_access}"}
    assert target.client.get(ME, headers=headers).json()["email"] == ADA["email"]


@pytest.mark.proves("JWT-23")
@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        "Bearer x",
        "bearer x.y.z",
        "BEARER  x",
        "Bearer\tx",
        "Bearer:x",
        "Bearer=x",
        "Bearer,x",
    ],
)
def test_an_invalid_bearer_header_never_falls_back_to_the_cookie(
    target: Target, value: str
) -> None:
    """JWT-23."""
    headers = {"Authorization": value, "Cookie": f"{ACCESS_COOKIE}={target.bobs_access}"}
    assert target.client.get(ME, headers=headers).status_code == 401


@pytest.mark.proves("JWT-23")
def test_two_bearer_headers_never_fall_back_to_the_cookie(target: Target) -> None:
    """JWT-23."""
    headers = [
        *bearer(target.access).items(),
        *bearer(target.bobs_access).items(),
        ("Cookie", f"{ACCESS_COOKIE}={target.bobs_access}"),
    ]
    assert target.client.get(ME, headers=headers).status_code == 401


@pytest.mark.proves("JWT-23")
def test_another_scheme_says_nothing_about_who_calls(target: Target) -> None:
    """JWT-23: a Basic header, of a proxy in front for example, leaves the cookie in force."""
    headers = {"Authorization": "Basic Og==", "Cookie": f"{ACCESS_COOKIE}={target.bobs_access}"}
    assert target.client.get(ME, headers=headers).json()["email"] == BOB["email"]


@pytest.mark.proves("JWT-24")
@pytest.mark.parametrize("name", ["access_token", "token", "jwt", "Authorization", "bearer"])
def test_a_token_in_the_query_is_not_looked_at(target: Target, name: str) -> None:
    """JWT-24: addresses end up in logs, histories and Referer headers."""
    assert target.client.get(ME, params={name: target.access}).status_code == 401
    assert target.client.get(ME, params={name: f"Bearer {target.access}"}).status_code == 401


@pytest.mark.proves("7.2.1", "JWT-24")
@pytest.mark.parametrize(
    "name", ["X-Access-Token", "X-Auth-Token", "Access-Token", "X-Api-Key", "Proxy-Authorization"]
)
def test_a_token_in_another_header_is_not_looked_at(target: Target, name: str) -> None:
    """JWT-24."""
    for value in (target.access, f"Bearer {target.access}"):
        assert target.client.get(ME, headers={name: value}).status_code == 401


@pytest.mark.proves("JWT-24")
def test_a_token_in_the_body_is_not_looked_at(target: Target) -> None:
    """JWT-24 (RFC 6750, 2.2 is optional, and its 2.3 is deprecated)."""
    for name in ("access_token", "token"):
        content = {"json": {name: target.access}}, {"data": {name: target.access}}
        for body in content:
            assert target.client.request("GET", ME, **body).status_code == 401


@pytest.mark.proves("JWT-24")
@pytest.mark.parametrize(
    "name", ["access", "auth-access", "__host-access", "__Host-Access", "__Secure-access", "token"]
)
def test_a_token_in_another_cookie_is_not_looked_at(target: Target, name: str) -> None:
    """JWT-24: without the prefix any sibling host can plant a cookie."""
    cookie = {"Cookie": f"{name}={target.access}"}
    assert target.client.get(ME, headers=cookie).status_code == 401


@pytest.mark.proves("JWT-24")
def test_a_refresh_token_in_the_header_of_a_refresh_is_not_looked_at(target: Target) -> None:
    """JWT-24."""
    attempts = (
        {"headers": bearer(target.refresh)},
        {"params": {"refresh_token": target.refresh}},
        {"json": {"refresh_token": target.refresh}},
        {"data": {"refresh_token": target.refresh}},
    )
    for attempt in attempts:
        assert target.client.post(REFRESH, **attempt).status_code == 401


# Rotation of SECRET_KEY


@pytest.mark.proves("11.2.2", "13.3.4", "CFG-02")
def test_tokens_outlive_a_rotation_of_the_secret_with_a_fallback(
    make_client: ClientFactory,
) -> None:
    """CFG-02: access and refresh, for cookies and for programs."""
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    before = make_client(secret_key=old)
    register(before)
    tokens = get_tokens(before)
    log_in(before)

    after = make_client(secret_key=new, secret_key_fallbacks=(old,))
    after.cookies = before.cookies
    assert after.get(ME).status_code == 200
    assert after.get(ME, headers=bearer(tokens["access_token"])).status_code == 200
    assert after.post(REFRESH).status_code == 200
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert after.post(TOKEN, data=form).status_code == 200


def test_an_upgrade_makes_the_same_keys_of_the_same_secret(sqlite_url: str) -> None:
    """Or it would log everybody out, and processes of two versions could not serve side by side."""
    secret = "f1c618f27efebf63adef1f08cf0b30e423d5e2c7a7c194073ffe1844a691b94c"
    key = "14cb9c8a4d51e28fdb190ae466f61229383954011f9b5660323999908dd0d967"
    ring = derived_keys(make_settings(sqlite_url, secret_key=secret), "access")
    assert (ring.kid, ring.signing_key) == ("36525187", bytes.fromhex(key))


@pytest.mark.proves("CFG-02")
def test_a_refresh_after_a_rotation_is_signed_with_the_new_secret(
    make_client: ClientFactory,
) -> None:
    """CFG-02: so that the old one can go."""
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    client = make_client(secret_key=old)
    register(client)
    log_in(client)

    overlapping = make_client(secret_key=new, secret_key_fallbacks=(old,))
    overlapping.cookies = client.cookies
    assert overlapping.post(REFRESH).status_code == 200

    rotated = make_client(secret_key=new)
    rotated.cookies = overlapping.cookies
    assert rotated.get(ME).status_code == 200
    assert rotated.post(REFRESH).status_code == 200


@pytest.mark.proves("7.4.5", "13.3.4", "CFG-02")
def test_a_secret_that_was_removed_signs_nothing_any_more(make_client: ClientFactory) -> None:
    """CFG-02: 401, not 500, for everybody who still has such a token."""
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    before = make_client(secret_key=old)
    register(before)
    tokens = get_tokens(before)
    log_in(before)

    after = make_client(secret_key=new)
    after.cookies = before.cookies
    assert after.get(ME).json()["code"] == "not_authenticated"
    assert after.post(REFRESH).json()["code"] == "not_authenticated"
    answer = after.get(ME, headers=bearer(tokens["access_token"]))
    assert answer.json()["code"] == "not_authenticated"
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert after.post(TOKEN, data=form).json()["error"] == "invalid_grant"


@pytest.mark.proves("CFG-02")
def test_a_rolling_restart_with_the_next_secret_as_a_fallback_logs_nobody_out(
    make_client: ClientFactory,
) -> None:
    """CFG-02: half of the processes sign with the new secret already, half with the old one."""
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    first = make_client(secret_key=old, secret_key_fallbacks=(new,))
    second = make_client(secret_key=new, secret_key_fallbacks=(old,))
    register(first)
    log_in(first)
    for process in (second, first, second):
        process.cookies = first.cookies
        assert process.get(ME).status_code == 200
        assert process.post(REFRESH).status_code == 200
        first.cookies = process.cookies


@pytest.mark.proves("JWT-07", "CFG-02")
def test_a_weak_fallback_stops_the_start(sqlite_url: str) -> None:
    """CFG-02, JWT-07: what verifies is as dangerous as what signs."""
    with pytest.raises(ValidationError) as refused:
        make_settings(sqlite_url, secret_key_fallbacks=("changethis" * 4,))
    (sentence,) = explain(refused.value)
    assert sentence.startswith("SECRET_KEY_FALLBACKS is wrong")


# Key pairs


def test_the_key_set_is_empty_under_hs256(target: Target) -> None:
    """A symmetric key is nobody else's."""
    assert target.client.get(JWKS).json() == {"keys": []}


@pytest.mark.proves("CFG-06")
def test_the_key_set_holds_public_keys_only(asymmetric: Target) -> None:
    """RFC 7517: no `d`, no `k`, and nothing else that is not needed to verify."""
    (key,) = asymmetric.client.get(JWKS).json()["keys"]
    members = {"kty", "crv", "x", "kid", "alg", "use"}
    if asymmetric.settings.algorithm == "ES256":
        members.add("y")
    assert set(key) == members
    assert (key["alg"], key["use"]) == (asymmetric.settings.algorithm, "sig")


def test_another_service_verifies_a_token_with_the_key_set_alone(asymmetric: Target) -> None:
    key_set = jwt.PyJWKSet.from_dict(asymmetric.client.get(JWKS).json())
    token = asymmetric.access
    key = key_set[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, issuer="fastapi-auth", audience="fastapi-auth")
    assert claims["sub"] == as_bearer(asymmetric, token).json()["id"]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token[:-9] + "A" * 9, key, issuer="fastapi-auth", audience="fastapi-auth")


def test_the_key_id_is_the_thumbprint_of_the_key(asymmetric: Target) -> None:
    """RFC 7638: two processes with the same file name it alike, without a list."""
    (key,) = asymmetric.client.get(JWKS).json()["keys"]
    needed = {name: key[name] for name in ("kty", "crv", "x", "y") if name in key}
    canonical = json.dumps(needed, sort_keys=True, separators=(",", ":"))
    assert sha256(canonical.encode()).digest() == decode(key["kid"])


def test_cookies_and_bearer_work_with_key_pairs(asymmetric: Target) -> None:
    assert as_bearer(asymmetric, asymmetric.access).json()["email"] == ADA["email"]
    assert as_cookie(asymmetric, asymmetric.access).json()["email"] == ADA["email"]


@pytest.mark.proves("11.1.1", "11.2.2", "CFG-02")
@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_key_files_rotate_in_three_steps_without_a_401(
    make_client: ClientFactory, tmp_path: Path, algorithm: str
) -> None:
    """CFG-02: as docs/keys.md says, with a client that refreshes once in each step."""
    old = key_file(tmp_path / "old.pem", generate_key(algorithm))
    new = key_file(tmp_path / "new.pem", generate_key(algorithm))
    before = make_client(algorithm=algorithm, signing_key_file=old)
    register(before)
    tokens = [get_tokens(before)]
    steps = [
        {"signing_key_file": old, "verification_key_files": (new,)},
        {"signing_key_file": new, "verification_key_files": (old,)},
        {"signing_key_file": new},
    ]
    published = [key_ids(before)]
    for step in steps:
        client = make_client(algorithm=algorithm, **step)
        published.append(key_ids(client))
        assert client.get(ME, headers=bearer(tokens[-1]["access_token"])).status_code == 200
        form = {"grant_type": "refresh_token", "refresh_token": tokens[-1]["refresh_token"]}
        tokens.append(client.post(TOKEN, data=form).json())

    first, second = published[0], published[3]
    assert published[1] == published[2] == first | second
    assert first.isdisjoint(second)
    # The last step has ended what the old key signed, and nothing else.
    assert client.get(ME, headers=bearer(tokens[0]["access_token"])).status_code == 401
    assert client.get(ME, headers=bearer(tokens[2]["access_token"])).status_code == 200


def key_ids(client: TestClient) -> set[str]:
    return {key["kid"] for key in client.get(JWKS).json()["keys"]}


@pytest.mark.proves("CFG-02")
@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_server_one_step_behind_accepts_what_the_next_one_signs(
    make_client: ClientFactory, tmp_path: Path, algorithm: str
) -> None:
    """CFG-02: a rolling restart."""
    old = key_file(tmp_path / "old.pem", generate_key(algorithm))
    new = key_file(tmp_path / "new.pem", generate_key(algorithm))
    behind = make_client(algorithm=algorithm, signing_key_file=old, verification_key_files=(new,))
    ahead = make_client(algorithm=algorithm, signing_key_file=new, verification_key_files=(old,))
    register(behind)
    for signer, verifier in ((ahead, behind), (behind, ahead)):
        token = get_tokens(signer)["access_token"]
        assert verifier.get(ME, headers=bearer(token)).status_code == 200


def test_only_the_public_half_of_a_former_key_is_needed(
    make_client: ClientFactory, tmp_path: Path
) -> None:
    private = serialization.load_pem_private_key(generate_key("EdDSA").encode(), None)
    old = key_file(tmp_path / "old.pem", pem_of_private(private))
    public = key_file(tmp_path / "old.pub", pem_of_public(private.public_key()))
    new = key_file(tmp_path / "new.pem", generate_key("EdDSA"))
    before = make_client(algorithm="EdDSA", signing_key_file=old)
    register(before)
    token = get_tokens(before)["access_token"]
    after = make_client(algorithm="EdDSA", signing_key_file=new, verification_key_files=(public,))
    assert after.get(ME, headers=bearer(token)).status_code == 200


@pytest.mark.proves("CFG-02")
def test_a_change_of_algorithm_is_a_401_and_the_refresh_token_heals_it(
    make_client: ClientFactory, tmp_path: Path
) -> None:
    """CFG-02: no mass 500, and nobody has to log in again."""
    before = make_client()
    register(before)
    log_in(before)
    key = key_file(tmp_path / "key.pem", generate_key("EdDSA"))
    after = make_client(algorithm="EdDSA", signing_key_file=key)
    after.cookies = before.cookies
    assert after.get(ME).json()["code"] == "not_authenticated"
    assert after.post(REFRESH).status_code == 200
    assert after.get(ME).status_code == 200


# Key files that cannot be used


def pem_of_private(key: Any, password: bytes | None = None) -> bytes:
    cipher = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher
    )
    return pem


def pem_of_public(key: Any) -> bytes:
    pem: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def unknown_kind(label: str) -> bytes:
    """A PEM file of a key type that no library knows: its object identifier is 1.2.3.4."""
    parts = {
        "PRIVATE": bytes.fromhex("300e020100300506032a030404020500"),
        "PUBLIC": bytes.fromhex("300b300506032a030403020000"),
    }
    body = urlsafe_b64encode(parts[label]).decode()
    return f"-----BEGIN {label} KEY-----\n{body}\n-----END {label} KEY-----\n".encode()


UNUSABLE = {
    "empty": b"",
    "text": b"hello",
    "not quite PEM": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "binary": bytes(range(256)),
    "RSA": pem_of_private(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "P-384": pem_of_private(ec.generate_private_key(ec.SECP384R1())),
    "secp256k1": pem_of_private(ec.generate_private_key(ec.SECP256K1())),
    "X25519": pem_of_private(x25519.X25519PrivateKey.generate()),
    "encrypted": pem_of_private(ed25519.Ed25519PrivateKey.generate(), b"a password"),
    "unknown kind": unknown_kind("PRIVATE"),
}


@pytest.mark.proves("11.2.3")
@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_signing_key_file_that_cannot_be_used_stops_the_start(
    sqlite_url: str, tmp_path: Path, kind: str, algorithm: str
) -> None:
    path = key_file(tmp_path / "key.pem", UNUSABLE[kind])
    settings = make_settings(sqlite_url, algorithm=algorithm, signing_key_file=path)
    with pytest.raises(SettingsError) as refused:
        create_app(settings)
    assert str(refused.value).startswith("SIGNING_KEY_FILE is wrong")
    assert "put there" in str(refused.value)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("kind", [*UNUSABLE, "unknown public kind"])
def test_a_verification_key_file_that_cannot_be_used_stops_the_start(
    sqlite_url: str, tmp_path: Path, kind: str, algorithm: Any
) -> None:
    good = key_file(tmp_path / "good.pem", generate_key(algorithm))
    files = UNUSABLE | {"unknown public kind": unknown_kind("PUBLIC")}
    bad = key_file(tmp_path / "bad.pem", files[kind])
    settings = make_settings(
        sqlite_url, algorithm=algorithm, signing_key_file=good, verification_key_files=(good, bad)
    )
    with pytest.raises(SettingsError) as refused:
        create_app(settings)
    assert str(refused.value).startswith("VERIFICATION_KEY_FILES is wrong")


@pytest.mark.proves("11.6.1")
@pytest.mark.parametrize(
    ("algorithm", "other", "kind"),
    [("EdDSA", "ES256", "an Ed25519 key"), ("ES256", "EdDSA", "a key on the curve P-256")],
)
def test_a_key_of_the_other_algorithm_stops_the_start(
    sqlite_url: str, tmp_path: Path, algorithm: str, other: str, kind: str
) -> None:
    path = key_file(tmp_path / "key.pem", generate_key(other))
    settings = make_settings(sqlite_url, algorithm=algorithm, signing_key_file=path)
    with pytest.raises(SettingsError, match=f"^SIGNING_KEY_FILE .* of {kind}, .* writes.$"):
        create_app(settings)


def test_a_public_key_cannot_sign(sqlite_url: str, tmp_path: Path) -> None:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    path = key_file(tmp_path / "key.pem", pem_of_public(public))
    settings = make_settings(sqlite_url, algorithm="EdDSA", signing_key_file=path)
    with pytest.raises(SettingsError, match=r"^SIGNING_KEY_FILE is wrong"):
        create_app(settings)


@pytest.mark.parametrize("setting", ["SIGNING_KEY_FILE", "VERIFICATION_KEY_FILES"])
@pytest.mark.parametrize("name", ["missing.pem", "."])
def test_a_key_file_that_cannot_be_read_stops_the_start(
    sqlite_url: str, tmp_path: Path, name: str, setting: str
) -> None:
    good, bad = key_file(tmp_path / "good.pem", generate_key("EdDSA")), tmp_path / name
    files: dict[str, Any] = {"signing_key_file": good, "verification_key_files": (bad,)}
    if setting == "SIGNING_KEY_FILE":
        files = {"signing_key_file": bad}
    settings = make_settings(sqlite_url, algorithm="EdDSA", **files)
    with pytest.raises(SettingsError, match=f"^{setting} is wrong .* this process may read.$"):
        create_app(settings)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"algorithm": "EdDSA"}, "SIGNING_KEY_FILE"),
        ({"algorithm": "ES256", "verification_key_files": ("key.pem",)}, "SIGNING_KEY_FILE"),
        ({"algorithm": "HS256", "signing_key_file": "key.pem"}, "ALGORITHM"),
        ({"algorithm": "HS256", "verification_key_files": ("key.pem",)}, "ALGORITHM"),
        ({"algorithm": "none"}, "ALGORITHM"),
        ({"algorithm": "RS256"}, "ALGORITHM"),
        ({"algorithm": "HS512"}, "ALGORITHM"),
        ({"algorithm": "hs256"}, "ALGORITHM"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_stop_the_start(
    sqlite_url: str, changes: dict[str, Any], setting: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        make_settings(sqlite_url, **changes)
    (sentence,) = explain(refused.value)
    assert sentence.startswith(setting)
    assert "put there" in sentence
