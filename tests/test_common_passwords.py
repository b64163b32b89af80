"""The list of common passwords (NIST SP 800-63B-4 3.1.1.2, ASVS 5.0 6.2.4)."""

from unicodedata import normalize

import pytest

from app.core.blocklist import LIST, common_passwords, fold, is_common


@pytest.mark.proves("6.2.4")
def test_three_thousand_entries_fit_the_default_policy() -> None:
    """ASVS 6.2.4 counts only passwords that the policy would have let through."""
    assert sum(len(entry) >= 15 for entry in common_passwords()) >= 3000


def test_ten_thousand_more_wait_for_a_lower_minimum() -> None:
    assert sum(8 <= len(entry) < 15 for entry in common_passwords()) >= 10_000


@pytest.mark.proves("6.2.4")
@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "passwordpassword1",
        "password123456789",
        "letmeinletmeinletmein",
        "iloveyouiloveyou",
        "administrator2025",
        "manchesterunited",
        "dragonqwertyuiop",
        "123456789012345",
        "1234567890123456",
        "12345678987654321",
        "abcdefghijklmnopqrstuvwxyz",
        "qwertyuiopasdfgh",
        "qwertyuiop123456",
        "1q2w3e4r5t6y7u8i9o0p",
        "1qaz2wsx3edc4rfv",
        "correcthorsebatterystaple",
        "correct horse battery staple",
        "password",
        "12345678",
        "p@ssw0rd123",
        "summer2025!",
    ],
)
def test_a_common_password_is_refused(password: str) -> None:
    assert is_common(password)


@pytest.mark.parametrize("character", ["a", "0", " ", "é", "\N{KEY}"])
@pytest.mark.parametrize("length", [8, 15, 23, 1024])
def test_one_character_over_and_over_is_refused(character: str, length: int) -> None:
    assert is_common(character * length)


@pytest.mark.parametrize("password", ["PASSWORDPASSWORD", "PasswordPassword1", "qWERTYUIOP123456"])
def test_capitals_make_no_difference(password: str) -> None:
    assert is_common(password)


@pytest.mark.parametrize("password", ["contraseñacontraseña", "ЙЦУКЕНГШЩЗФЫВАП"])
def test_another_spelling_of_the_same_characters_makes_no_difference(password: str) -> None:
    decomposed = normalize("NFD", password)
    assert decomposed != password
    assert is_common(password)
    assert is_common(decomposed)


def test_a_capital_that_is_spelled_in_parts_folds_to_its_small_letter() -> None:
    small = "\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}"
    assert len(small.upper()) > 1
    assert fold(small.upper()) == fold(small) == small


@pytest.mark.parametrize(
    "password",
    [
        "this password was made on a rainy day",
        "passwordpassword but then some more",
        " passwordpassword",
        "passwordpassword ",
        "a correct horse battery staple",
        "123456789012345 potatoes",
    ],
)
def test_a_password_that_only_contains_a_common_one_is_accepted(password: str) -> None:
    assert not is_common(password)


@pytest.mark.proves("6.2.5")
@pytest.mark.parametrize(
    "password",
    [
        "tin kettle under the stairs",
        "My cat sleeps on the router.",
        "we moved here in 1998, in the snow",
        "marmalade-ladder-otter-frost",
        "GlassElbowCinnamonTram",
        "sunshine on the football monkey",
        "three tomatoes and a letter",
        "summer in winter harbour",
        "грибы после тёплого дождя",
        "der Igel trägt blaue Schuhe",
        "le vélo rouge de mamie",
        "月曜日の朝はいつも静かな雨が降る",
        "x7#Lq9!vR2@mT5$w",
        "0f8c2b71d94e4a6f",
    ],
)
def test_an_ordinary_passphrase_is_accepted(password: str) -> None:
    assert not is_common(password)


def test_no_entry_is_shorter_than_the_lowest_minimum() -> None:
    assert min(map(len, common_passwords())) >= 8


def test_every_entry_can_be_matched() -> None:
    """An entry in a form that `fold` never returns would refuse nobody."""
    assert [entry for entry in common_passwords() if entry != fold(entry)] == []


def test_the_file_is_sorted_without_doubles() -> None:
    """So that a change of the list reads well, and the reader needs no rules."""
    lines = LIST.read_text("utf-8").splitlines()
    assert lines == sorted(common_passwords())
