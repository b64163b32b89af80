"""Common passwords, refused when one is chosen (NIST SP 800-63B-4 3.1.1.2, ASVS 5.0 6.2.4).

They are what an attacker tries first, here and everywhere else. The password is compared
whole, never by its parts: a long passphrase may contain the word "password".
tools/common_passwords.py says where the list comes from and rebuilds it.
"""

from functools import cache
from pathlib import Path
from unicodedata import normalize

LIST = Path(__file__).with_name("common_passwords.txt")


def is_common(password: str) -> bool:
    """Whether `password` is in the list in any case, or is one character over and over."""
    password = fold(password)
    # A list would have to hold a repeated character once for every length up to 1024.
    return len(set(password)) == 1 or password in common_passwords()


def fold(password: str) -> str:
    """The form in which passwords are compared: what a keyboard composes, without case.

    For this comparison only, never for the hash, which has to keep the case.
    """
    # Case folding takes some characters apart, so they are composed once more.
    return normalize("NFC", normalize("NFC", password).casefold())


@cache
def common_passwords() -> frozenset[str]:
    """The list, one folded password per line, sorted; read at the first use, then kept."""
    return frozenset(LIST.read_text("utf-8").split("\n")[:-1])
