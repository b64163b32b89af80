"""Rebuild app/core/common_passwords.txt: what people choose first when 8 or 15 characters are due.

    python -m tools.common_passwords DJANGO LANGUAGE_COMMON

Arguments are folders of unpacked packages; their notices are in app/core/common_passwords.LICENSE.

DJANGO           Django 5.2.19 from PyPI, BSD-3-Clause: 20,000 passwords found in breaches,
                 collected by Royce Williams, most common first.
LANGUAGE_COMMON  @zxcvbn-ts/language-common 4.1.3 from npm, MIT: 49,000, most common first.

Of these only some seventy have 15 characters or more, where ASVS 5.0 6.2.4 asks for 3000.
The others are derived from the most common ones, the way people lengthen a short password:
they say it again, add digits, walk on over the keyboard, or join it to a second one. Besides
a few famous phrases, a derived entry says one or two words: other passphrases stay allowed.

The same packages give the same file, byte for byte. When a year has passed, move YEARS.
"""

import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

from app.core.blocklist import LIST, fold

# The lowest PASSWORD_MIN_LENGTH that a deployment may set, and its default.
FLOOR, LONG = 8, 15
# Where the ways over the keyboard end, when they do not go on to the last key.
STOP = 20

COUNTS = tuple("1234567890"[:end] for end in range(1, 11))
YEARS = ("2024", "2025", "2026")
ENDINGS = tuple(map("".join, product(("", "@"), (*COUNTS, *YEARS), ("", "!"))))

# What new services are tried with, whatever its place in a list of breaches.
OFFERED = (
    *("password", "passw0rd", "p@ssw0rd", "pass", "login", "welcome", "letmein", "secret"),
    *("admin", "administrator", "root", "user", "guest", "test", "temp", "default", "changeme"),
    *("spring", "summer", "autumn", "winter", "january", "february", "march", "april", "june"),
    *("july", "august", "september", "october", "november", "december", "iloveyou", "qwerty"),
    *("passwort", "wachtwoord", "motdepasse", "contraseña", "senha", "пароль"),
)

# In every cracker's phrase book, with the spaces and without.
PHRASES = """
a very long password
beam me up scotty
change this password
change your password
correct horse battery staple
four score and seven years ago
happily ever after
i am your father
i hate passwords
i love my family
i love you forever
i love you so much
in god we trust
jesus christ is lord
let me in please
live long and prosper
lorem ipsum dolor sit amet
may the force be with you
my password is password
never gonna give you up
once upon a time
one two three four
one two three four five
please let me in
supercalifragilisticexpialidocious
teenage mutant ninja turtles
the quick brown fox
the quick brown fox jumps over the lazy dog
the truth is out there
this is a password
this is my password
this is not a password
to be or not to be
to be or not to be that is the question
winter is coming
you shall not pass
""".strip().split("\n")

# QWERTY, QWERTZ, AZERTY, Cyrillic.
KEYBOARDS = (
    ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"),
    ("1234567890", "qwertzuiop", "asdfghjkl", "yxcvbnm"),
    ("1234567890", "azertyuiop", "qsdfghjklm", "wxcvbn"),
    ("1234567890", "йцукенгшщз", "фывапролдж", "ячсмитьбю"),
)


def main(django: Path, language_common: Path) -> None:
    observed = ranked(read_django(django), read_language_common(language_common))
    entries = {entry for entry in (*observed, *derived(observed)) if len(entry) >= FLOOR}
    LIST.write_text("".join(f"{entry}\n" for entry in sorted(entries)), "utf-8", newline="\n")
    long = sum(len(entry) >= LONG for entry in entries)
    print(f"{LIST.name}: {len(entries)} passwords, {long} of {LONG} characters or more")


def read_django(folder: Path) -> list[str]:
    packed = (folder / "django/contrib/auth/common-passwords.txt.gz").read_bytes()
    return gzip.decompress(packed).decode("utf-8").split("\n")


def read_language_common(folder: Path) -> list[str]:
    passwords: list[str] = json.loads((folder / "src/passwords.json").read_text("utf-8"))
    return passwords


def ranked(*lists: list[str]) -> list[str]:
    """Every password of the lists once, by its best place in any of them."""
    place: dict[str, int] = {}
    for passwords in lists:
        for index, password in enumerate(map(fold, passwords)):
            if is_typed(password):
                place[password] = min(index, place.get(password, index))
    return sorted(place, key=lambda password: (place[password], password))


def is_typed(password: str) -> bool:
    """Whether a person typed it: no text decoded twice, HTML entity or control character."""
    debris = ("\u043f\u0457\u0455", "&#")
    return password != "" and password.isprintable() and not any(d in password for d in debris)


def derived(observed: list[str]) -> Iterator[str]:
    words = [password for password in observed if password.isalpha() and len(set(password)) > 3]
    yield from repeated([*OFFERED, *observed[:1200]])
    yield from ended(repeated([*OFFERED, *observed[:60]]), (*COUNTS[:5], "!"))
    yield from ended(OFFERED, ENDINGS)
    yield from filter(is_long, ended(words[:1000], (*COUNTS, *YEARS)))
    yield from filter(is_long, ended(words[:50], words[:50]))
    for way in (*runs(), *walks()):
        yield way
        yield from (way[:end] for end in range(FLOOR, min(len(way), STOP)))
    for phrase in PHRASES:
        yield from (phrase, phrase.replace(" ", ""))


def repeated(passwords: Iterable[str]) -> Iterator[str]:
    """Said twice, three times …, until it is long: letmeinletmein, letmeinletmeinletmein."""
    for password in passwords:
        for times in range(2, -(-LONG // len(password)) + 1):
            yield password * times


def ended(passwords: Iterable[str], endings: Iterable[str]) -> Iterator[str]:
    """As rules about digits and signs have taught it: password123456, password@2025!"""
    return map("".join, product(passwords, endings))


def is_long(password: str) -> bool:
    return len(password) >= LONG


def runs() -> Iterator[str]:
    digits, letters = "1234567890", "abcdefghijklmnopqrstuvwxyz"
    for run in (digits, digits[::-1], "0123456789", "9876543210"):
        yield run * 3
    for end in range(4, 10):
        yield digits[:end] + digits[:end][::-1]
        yield digits[:end] + digits[: end - 1][::-1]
    for times in (2, 3, 4):
        yield "".join(digit * times for digit in digits)
    yield "".join(digit * int(digit) for digit in digits)
    yield "".join(map(str, range(1, 21)))
    yield from (letters, letters[::-1])
    yield "".join(map("".join, zip(letters, digits, strict=False)))
    yield "".join(map("".join, zip(digits, letters, strict=False)))


def walks() -> Iterator[str]:
    """Over the rows of a keyboard, `width` keys of one row and then of the next.

    Width 1 is 1qaz2wsx3edc, width 4 is 1234qwerasdfzxcv, width 10 is qwertyuiopasdfgh.
    Down or up; `turn` comes back the other way, as in 1qazxsw23edc; all of them backwards too.
    """
    for keyboard, widths in zip(KEYBOARDS, ((1, 3, 4, 5, 10), (10,), (10,), (10,)), strict=True):
        for first, last in combinations(range(len(keyboard) + 1), 2):
            rows = keyboard[first:last]
            for width, down, turn in product(widths, (rows, rows[::-1]), (False, True)):
                walk = "".join(walk_over(down, width, turn))
                yield from (walk, walk[::-1])


def walk_over(rows: Sequence[str], width: int, turn: bool) -> Iterator[str]:
    for start in range(0, 10, width):
        back = turn and start // width % 2
        yield from (row[start : start + width] for row in (rows[::-1] if back else rows))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
