"""Signed tokens in the compact form (RFC 7515, 7.1), of one type; the signatures are PyJWT's.

What its encode() and decode() do besides, at every token, is to look through the key and to read
what a header says. Ours can have few headers, to the letter: one that is none of them, because of
its `alg`, `typ`, `kid`, `jku`, `jwk`, `x5c`, `crit` or one more space, is not looked at.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import jwt

from app.core.keys import KeyRing

LONGEST_TOKEN = 2048  # characters; ours have about 450
# Nothing else (RFC 8725bis, 3.14): Python would overlook "=" and line breaks.
COMPACT_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
encode_json = json.JSONEncoder(separators=(",", ":")).encode


class InvalidToken(Exception):
    """Not a token of ours, not of this type, changed, or expired: nobody is told which."""


class Signature:
    """Makes tokens of one type, and reads those of its keys."""

    def __init__(self, keys: KeyRing, typ: str) -> None:
        self._algorithm = jwt.get_algorithm_by_name(keys.algorithm)
        headers = {
            kid: encode({"alg": keys.algorithm, "kid": kid, "typ": typ})
            for kid in keys.verification_keys
        }
        self._header = headers[keys.kid]
        self._signing_key = self._algorithm.prepare_key(keys.signing_key)
        self._keys = {
            headers[kid]: self._algorithm.prepare_key(key)
            for kid, key in keys.verification_keys.items()
        }

    def sign(self, claims: dict[str, Any]) -> str:
        signed = f"{self._header}.{encode(claims)}"
        signature = self._algorithm.sign(signed.encode(), self._signing_key)
        return f"{signed}.{encode_bytes(signature)}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims. Raises InvalidToken. What they say is not looked at."""
        if len(token) > LONGEST_TOKEN or not COMPACT_FORM.fullmatch(token):
            raise InvalidToken
        signed, _, signature = token.rpartition(".")
        header, _, claims = signed.partition(".")
        key = self._keys.get(header)
        try:
            if key is None or not self._algorithm.verify(signed.encode(), key, decode(signature)):
                raise InvalidToken
            found = json.loads(decode(claims))
        except (ValueError, RecursionError):
            raise InvalidToken from None
        if not isinstance(found, dict):
            raise InvalidToken
        return found


def encode(value: dict[str, Any]) -> str:
    return encode_bytes(encode_json(value).encode())


def encode_bytes(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Raises ValueError, also for a second spelling: the last letter has bits that do not count."""
    value = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_bytes(value) != text:
        raise ValueError
    return value
