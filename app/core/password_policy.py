"""Which passwords are taken: length and what others would guess, no rules of composition.

NIST SP 800-63B-4, 3.1.1.2; ASVS 5.0, 6.2.1 to 6.2.12.
"""

import asyncio
import re
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from app.core.blocklist import fold, is_common
from app.core.config import Settings, SettingsError
from app.core.hashing import normalise
from app.core.refusals import Reason, Refusal

OUR_WORDS = ("fastapi", "auth")
SHORTEST_WORD = 3  # letters: "li" in a name must not spoil every password with an "li" in it
LEAST_OF_ONE_S_OWN = 5  # letters that are left when the words are taken out

HASH_LINE = re.compile(rb"[0-9A-Fa-f]{40}(:\d+)?\s*")  # how often it was stolen says nothing here
LONGEST_LINE = 100  # bytes: a hash and a count
SAMPLES = 100  # lines that are looked at when the service starts


class PasswordPolicy:
    """Raises SettingsError for an unreadable BREACHED_PASSWORDS_FILE."""

    def __init__(self, settings: Settings) -> None:
        self._shortest = settings.password_min_length
        self.words = context_words(settings)
        self._breached = settings.breached_passwords_file
        if self._breached:
            check_breached_file(self._breached)

    async def check(self, password: str, *personal: str | None) -> None:
        """personal: the address and the name of whom it is for.

        Raises Refusal(PASSWORD_TOO_SHORT, PASSWORD_TOO_COMMON, PASSWORD_TOO_PERSONAL or
        PASSWORD_BREACHED).
        """
        if len(normalise(password)) < self._shortest:
            raise Refusal(Reason.PASSWORD_TOO_SHORT, min_length=self._shortest)
        if is_common(password):
            raise Refusal(Reason.PASSWORD_TOO_COMMON)
        if is_made_of(password, self.words | words_in(filter(None, personal))):
            raise Refusal(Reason.PASSWORD_TOO_PERSONAL)
        if self._breached:
            breached = await asyncio.to_thread(is_breached, password, self._breached)
            if breached:
                raise Refusal(Reason.PASSWORD_BREACHED)


def context_words(settings: Settings) -> frozenset[str]:
    """This service's and its operator's names: PASSWORD_CONTEXT_WORDS, and what settings tell."""
    addresses = (settings.issuer, settings.audience, settings.frontend_url, settings.public_url)
    hosts = [urlsplit(address).hostname or address for address in addresses if address]
    hosts += settings.allowed_hosts
    return words_in([*OUR_WORDS, *settings.password_context_words, *hosts])


def words_in(texts: Iterable[str]) -> frozenset[str]:
    parts = [part for text in texts for part in re.split(r"[\W\d_]+", fold(text))]
    return frozenset(part for part in parts if len(part) >= SHORTEST_WORD)


def is_made_of(password: str, words: frozenset[str]) -> bool:
    """ "ada.example.2026!" is, "ada likes gravel in teapots" is not."""
    letters = re.sub(r"[\W\d_]+", "", fold(password))
    rest = letters
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    return rest != letters and len(rest) < LEAST_OF_ONE_S_OWN


def check_breached_file(path: Path) -> None:
    """Raises SettingsError. A file in another order would be searched in vain, and nobody told."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            lines = [line_at(file, size * i // SAMPLES)[1] for i in range(SAMPLES)]
    except OSError as error:
        raise SettingsError(
            f"BREACHED_PASSWORDS_FILE is wrong ({path}: {error.strerror}): put there a file that "
            "this process may read."
        ) from None
    samples = [line for line in lines if line.strip()]  # there may be empty ones at the end
    if not samples or not all(HASH_LINE.fullmatch(line) for line in samples):
        raise SettingsError(
            f"BREACHED_PASSWORDS_FILE is wrong ({path} does not hold a SHA-1 hash in each line): "
            "put there a file of them in hexadecimal, one a line, sorted, as Pwned Passwords gives."
        )
    hashes = [line[:40].upper() for line in samples]
    if hashes != sorted(hashes):
        raise SettingsError(
            f"BREACHED_PASSWORDS_FILE is wrong ({path} is not in the order of its hashes): put "
            "there a sorted file, as `sort` writes it, or Pwned Passwords ordered by hash."
        )


def is_breached(password: str, path: Path) -> bool:
    """By halving the sorted file, so that it may be as large as it likes and nothing leaves here.

    SHA-1 is what such files hold; it protects nothing here. Raises Refusal(BUSY) where the file
    cannot be read any more: a password that was not looked up is not taken.
    """
    wanted = sha1(password.encode(), usedforsecurity=False).hexdigest().upper().encode()
    try:
        with path.open("rb") as file:
            low, high = 0, file.seek(0, 2)
            while low < high:
                line_starts_at, line = line_at(file, (low + high) // 2)
                found = line[:40].upper()
                if found == wanted:
                    return True
                if found.strip() and found < wanted:
                    low = line_starts_at + len(line)
                else:  # also before empty lines at the end
                    high = line_starts_at
    except OSError as error:
        raise Refusal(Reason.BUSY) from error
    return False


def line_at(file: BinaryIO, position: int) -> tuple[int, bytes]:
    """The line around this byte, and where it starts."""
    begin = max(0, position - LONGEST_LINE)
    file.seek(begin)
    before = file.read(position - begin)
    line_starts_at = begin + before.rfind(b"\n") + 1
    file.seek(line_starts_at)
    return line_starts_at, file.readline(LONGEST_LINE)
