"""How a password is hashed: by argon2id. Older schemes are read, and replaced when their owner
next logs in.
"""

import os
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from passlib.context import CryptContext

BCRYPT_LIMIT = 72  # bytes
NO_PASSWORD = "!"  # in the place of a hash where nobody has chosen a password yet: none fits


class Verification(NamedTuple):
    correct: bool
    replacement: str | None = None  # by today's parameters, where the stored hash is older


@cache
def context() -> "CryptContext":
    """The first scheme hashes, the others are read."""
    # Not above: it takes 14 MB, and the process that serves leaves hashing to another one.
    from passlib.context import CryptContext

    return CryptContext(
        schemes=[
            "argon2",
            "bcrypt",
            "bcrypt_sha256",
            "pbkdf2_sha256",
            "pbkdf2_sha512",
            "django_pbkdf2_sha256",
        ],
        deprecated="auto",
        argon2__type="ID",
        argon2__memory_cost=19 * 1024,  # KiB
        argon2__time_cost=2,
        argon2__parallelism=1,
    )


def hash_password(password: str) -> str:
    return str(context().hash(normalise(password)))


def verify(password: str, stored: str | None) -> Verification:
    """Takes as long without a stored hash, so that time does not tell who has an account."""
    try:
        if stored is not None and context().identify(stored):
            if not context().verify(as_hashed(password, stored), stored):
                return Verification(False)
            if context().needs_update(stored):
                return Verification(True, hash_password(password))
            return Verification(True)
    except ValueError:  # a damaged hash, or a NUL that bcrypt does not take
        pass
    context().verify(normalise(password), nobodys_hash())
    return Verification(False)


@cache
def nobodys_hash() -> str:
    """What a password is compared with where there is no account. No password fits."""
    return str(context().hash(os.urandom(32)))


def as_hashed(password: str, stored: str) -> str | bytes:
    """The password as the scheme of `stored` saw it when it was set.

    Older systems did not normalise, and their bcrypt looked at the first 72 bytes only. That
    ends here: a correct one is replaced by a hash of the whole.
    """
    if stored.startswith("$argon2"):
        return normalise(password)
    if stored.startswith("$2"):
        return password.encode()[:BCRYPT_LIMIT]
    return password


def normalise(password: str) -> str:
    """NFC (NIST SP 800-63B-4, 3.1.1.2): keyboards differ in how they write é. Never trimmed."""
    return unicodedata.normalize("NFC", password)
