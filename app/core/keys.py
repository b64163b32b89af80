"""The keys that sign and verify tokens. Each purpose has its own, so no token passes for another.

Access tokens are signed by HMAC (HS256) or by a private key whose public half other services
may hold (EdDSA, ES256). Everything else is always HMAC: holders of a public key never meet it.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.core.config import Algorithm, Settings, SettingsError

LARGEST_KEY = 16 * 1024  # bytes

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class KeyRing:
    """One key signs; the others still verify, so that keys rotate without logging anyone out.

    Keys are found by `kid`, which an attacker may choose: it only ever selects among these.
    """

    algorithm: Algorithm
    kid: str
    signing_key: bytes | PrivateKey
    verification_keys: dict[str, bytes | PublicKey]

    @property
    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """RFC 7517. Empty under HS256: a symmetric key is nobody else's."""
        keys = [
            {**public_jwk(key), "kid": kid, "alg": self.algorithm, "use": "sig"}
            for kid, key in self.verification_keys.items()
            if not isinstance(key, bytes)
        ]
        return {"keys": keys}


def access_keys(settings: Settings) -> KeyRing:
    """Raises SettingsError where a key file cannot be used."""
    if settings.algorithm == "HS256":
        return derived_keys(settings, "access")
    assert settings.signing_key_file  # Settings has checked it
    signing_key = read_private_key(settings.signing_key_file, settings.algorithm)
    public_keys = [
        signing_key.public_key(),
        *(read_public_key(path, settings.algorithm) for path in settings.verification_key_files),
    ]
    ring: dict[str, bytes | PublicKey] = {thumbprint(key): key for key in public_keys}
    return KeyRing(settings.algorithm, next(iter(ring)), signing_key, ring)


def derived_keys(settings: Settings, purpose: str) -> KeyRing:
    """HMAC keys for one purpose, from SECRET_KEY and its fallbacks."""
    secrets = [settings.secret_key, *settings.secret_key_fallbacks]
    keys = [derive_key(secret.get_secret_value(), purpose) for secret in secrets]
    ring: dict[str, bytes | PublicKey] = {hashlib.sha256(key).hexdigest()[:8]: key for key in keys}
    return KeyRing("HS256", next(iter(ring)), keys[0], ring)


def derive_key(secret: str, purpose: str) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869); `purpose` keeps the keys apart."""
    info = f"fastapi-auth/{purpose}".encode()
    return HKDF(hashes.SHA256(), length=32, salt=None, info=info).derive(secret.encode())


def read_private_key(path: Path, algorithm: Algorithm) -> PrivateKey:
    text = read_file(path, "SIGNING_KEY_FILE")
    try:
        key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise unusable("SIGNING_KEY_FILE", path, algorithm) from None
    if isinstance(key, PrivateKey) and fits(key.public_key(), algorithm):
        return key
    raise unusable("SIGNING_KEY_FILE", path, algorithm)


def read_public_key(path: Path, algorithm: Algorithm) -> PublicKey:
    """From a public key's file or a private one's: a former SIGNING_KEY_FILE serves as it is."""
    text = read_file(path, "VERIFICATION_KEY_FILES")
    try:
        if b"PRIVATE KEY" in text:
            key = serialization.load_pem_private_key(text, None).public_key()
        else:
            key = serialization.load_pem_public_key(text)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise unusable("VERIFICATION_KEY_FILES", path, algorithm) from None
    if isinstance(key, PublicKey) and fits(key, algorithm):
        return key
    raise unusable("VERIFICATION_KEY_FILES", path, algorithm)


def read_file(path: Path, setting: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_KEY)
    except OSError as error:
        raise SettingsError(
            f"{setting} is wrong ({path}: {error.strerror}): put there a file that this process "
            "may read."
        ) from None


def fits(key: PublicKey, algorithm: Algorithm) -> bool:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return algorithm == "EdDSA"
    return algorithm == "ES256" and isinstance(key.curve, ec.SECP256R1)


def unusable(setting: str, path: Path, algorithm: Algorithm) -> SettingsError:
    kind = "an Ed25519 key" if algorithm == "EdDSA" else "a key on the curve P-256"
    return SettingsError(
        f"{setting} is wrong ({path} does not fit ALGORITHM={algorithm}): put there an "
        f"unencrypted PEM file of {kind}, such as `python -m app keygen key.pem` writes."
    )


def generate_key(algorithm: Algorithm) -> str:
    """A new private key for EdDSA or ES256, as unencrypted PEM."""
    key: PrivateKey
    if algorithm == "EdDSA":
        key = ed25519.Ed25519PrivateKey.generate()
    elif algorithm == "ES256":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        raise ValueError("HS256 has no key file: it uses SECRET_KEY")
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_jwk(key: PublicKey) -> dict[str, Any]:
    """The members that RFC 7638 hashes, and no others."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(key, as_dict=True)
        members: Iterable[str] = ("crv", "kty", "x")
    else:
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
        members = ("crv", "kty", "x", "y")
    return {name: jwk[name] for name in members}


def thumbprint(key: PublicKey) -> str:
    """RFC 7638: the same key has the same `kid` everywhere, without anyone keeping a list."""
    canonical = json.dumps(public_jwk(key), separators=(",", ":"), sort_keys=True)
    return urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).decode().rstrip("=")
