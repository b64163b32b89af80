"""Signing up: one account for one mailbox, and nothing but what the form offers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app.db.session import Database
from app.models.user import canonical_email
from tests.answers import refused_as
from tests.conftest import ClientFactory
from tests.jars import other_browser
from tests.people import ADA, BOB, get_tokens, log_in, register, who_am_i
from tests.rows import all_logins, all_users, statements

PASSWORD = ADA["password"]


def with_email(email: object) -> dict[str, Any]:
    return ADA | {"email": email}


# What comes back and what is stored


@pytest.mark.proves("15.3.1", "MA-03")
def test_a_new_user_is_told_what_was_stored_and_no_more(client: TestClient) -> None:
    answer = register(client, ADA, full_name="Ada Lovelace")
    assert answer.status_code == 201
    user = answer.json()
    assert UUID(user.pop("id")).version == 7
    for moment in ("created_at", "password_changed_at"):
        stored = datetime.fromisoformat(user.pop(moment))
        assert timedelta(0) <= datetime.now(UTC) - stored < timedelta(minutes=1)
    assert user == {
        "email": "ada@example.com",
        "email_verified": False,
        "full_name": "Ada Lovelace",
        "is_active": True,
        "is_admin": False,
        "must_change_password": False,
        "last_login_at": None,
    }


@pytest.mark.proves("6.3.4")
def test_signing_up_logs_nobody_in(client: TestClient, database: Database) -> None:
    assert "set-cookie" not in register(client).headers
    assert who_am_i(client).status_code == 401
    assert all_logins(database) == []


def test_signing_up_leaves_the_login_of_the_browser_alone(client: TestClient) -> None:
    register(client)
    log_in(client)
    register(client, BOB)
    assert who_am_i(client).json()["email"] == ADA["email"]


def test_a_name_is_optional(client: TestClient) -> None:
    assert register(client).json()["full_name"] is None
    assert register(client, BOB | {"full_name": None}).json()["full_name"] is None  # type: ignore[dict-item]


@pytest.mark.proves("1.3.7", "SQ-03")
@pytest.mark.parametrize(
    "name",
    [
        "Ada",
        "李小龙",
        "O'Brien-Ñandú",
        "<script>alert(1)</script>",
        "{{7*7}} %s ${x}",
        "👩\u200d🚀",
    ],
)
def test_a_name_is_kept_literally(client: TestClient, name: str) -> None:
    assert register(client, ADA, full_name=name).json()["full_name"] == name
    log_in(client)
    assert who_am_i(client).json()["full_name"] == name


def test_a_name_is_trimmed(client: TestClient) -> None:
    assert register(client, ADA, full_name="  Ada  ").json()["full_name"] == "Ada"


@pytest.mark.proves("1.3.11")
@pytest.mark.parametrize(
    "name", ["A\0da", "Ada\r\nBcc: all@example.com", "Ada\x1b[31m", "A" * 201, 5, ["Ada"], {}]
)
def test_a_name_that_could_do_harm_is_refused(
    client: TestClient, database: Database, name: object
) -> None:
    assert refused_as(register(client, ADA, full_name=name)) == (422, "validation_failed")
    assert all_users(database) == []


# One account for one mailbox

SAME_MAILBOX = {
    "as it is": "ada@example.com",
    "upper case": "ADA@EXAMPLE.COM",
    "mixed case": "aDa@eXample.Com",
    "spaces around it": "  ada@example.com  ",
    "tab and newline around it": "\tada@example.com\n",
    "fullwidth domain": "ada@\uff45xample.com",
    "ideographic full stop": "ada@example\u3002com",
}


@pytest.mark.proves("EM-01")
def test_every_spelling_of_an_address_is_one_account(
    client: TestClient, database: Database
) -> None:
    assert register(client).status_code == 201
    answers = {
        name: refused_as(register(client, with_email(email)))
        for name, email in SAME_MAILBOX.items()
    }
    assert answers == dict.fromkeys(SAME_MAILBOX, (409, "email_taken"))
    assert [user.email for user in all_users(database)] == ["ada@example.com"]


def test_every_spelling_of_an_address_logs_in(client: TestClient) -> None:
    register(client, with_email("ADA@Example.com"))
    for email in SAME_MAILBOX.values():
        answer = log_in(other_browser(client), with_email(email))
        assert (answer.status_code, answer.json()["user"]["email"]) == (200, "ada@example.com")
        assert get_tokens(client, with_email(email))["token_type"] == "Bearer"


@pytest.mark.proves("EM-01")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jos\u00e9@example.com", "jose\u0301@example.com"),
        ("\u00c5sa@example.com", "\u212bsa@example.com"),
        ("mike@example.com", "MI\u212aE@example.com"),
        ("ada@m\u00fcnchen.de", "ada@xn--mnchen-3ya.de"),
        ("ada@m\u00fcnchen.de", "ada@MU\u0308NCHEN.DE"),
    ],
    ids=["NFC and NFD", "angstrom sign", "Kelvin sign", "punycode", "decomposed domain"],
)
def test_two_ways_to_write_the_same_letters_are_one_account(
    client: TestClient, database: Database, one: str, other: str
) -> None:
    assert register(client, with_email(one)).status_code == 201
    assert refused_as(register(client, with_email(other))) == (409, "email_taken")
    assert log_in(client, with_email(other)).status_code == 200
    assert len(all_users(database)) == 1


@pytest.mark.proves("EM-03")
@pytest.mark.parametrize(
    "look_alike",
    ["m\u0131ke", "m\u0130ke", "\uff4dike", "mik\u0435"],
    ids=["dotless i", "dotted I", "fullwidth m", "Cyrillic e"],
)
def test_a_look_alike_is_never_somebody_elses_account(client: TestClient, look_alike: str) -> None:
    look_alike = f"{look_alike}@example.com"
    victim = register(client, with_email("mike@example.com")).json()
    other = register(client, with_email(look_alike) | {"password": "some other passphrase"})
    assert other.status_code == 201
    assert other.json()["id"] != victim["id"]
    assert log_in(client, with_email(look_alike)).status_code == 401
    assert log_in(client, with_email("mike@example.com")).json()["user"]["id"] == victim["id"]


def test_a_plus_or_a_dot_makes_another_mailbox(client: TestClient) -> None:
    """Whether it does is the mail server's own affair."""
    for email in ("ada@example.com", "ada+news@example.com", "a.da@example.com"):
        assert register(client, with_email(email)).status_code == 201


@settings(max_examples=100, deadline=None)
@given(st.emails() | st.text(max_size=40).map(lambda text: f"{text}@example.com"))
def test_the_canonical_form_of_an_address_is_its_own(address: str) -> None:
    try:
        canonical = canonical_email(address)
    except ValueError:
        return
    assert canonical_email(canonical) == canonical
    assert canonical_email(f" {address} ") == canonical


NO_ADDRESSES = {
    "what a header would decode": "=?utf-8?q?a=0d=0asubject=3a_you_won=0d=0ax=3a_?=@example.com",
    "nothing": "",
    "a word": "ada",
    "no domain": "ada@",
    "no mailbox": "@example.com",
    "two signs": "ada@@example.com",
    "display name": "Ada <ada@example.com>",
    "angle brackets": "<ada@example.com>",
    "mailto": "mailto:ada@example.com",
    "dot at the end": "ada@example.com.",
    "dots": "ada..l@example.com",
    "dot first": ".ada@example.com",
    "quoted": '"ada"@example.com',
    "comment": "ada(x)@example.com",
    "address literal": "ada@[127.0.0.1]",
    "no top-level domain": "ada@example",
    "localhost": "ada@localhost",
    "two addresses": "ada@example.com,bob@example.com",
    "space inside": "a da@example.com",
    "NUL": "ada\0@example.com",
    "NUL at the end": "ada@example.com\0",
    "line break inside": "ada@exa\r\nmple.com",
    "header injection": "ada@example.com\r\nBcc: eve@example.com",
    "escape": "ada\x1b@example.com",
    "delete": "ada\x7f@example.com",
    "right-to-left override": "ada\u202e@example.com",
    "zero-width space": "ada\u200b@example.com",
    "too long": "a@" + "b" * 60 + ".c" * 100 + ".com",
    "very long": "a" * 50_000 + "@example.com",
    "a number": 5,
    "null": None,
    "a list": ["ada@example.com"],
    "an object": {"ada": "example.com"},
    "true": True,
}


@pytest.mark.proves("1.3.11", "2.2.1")
def test_what_is_no_address_is_refused(client: TestClient, database: Database) -> None:
    registering = {
        name: refused_as(register(client, with_email(email)))
        for name, email in NO_ADDRESSES.items()
    }
    logging_in = {
        name: refused_as(log_in(client, with_email(email))) for name, email in NO_ADDRESSES.items()
    }
    expected = dict.fromkeys(NO_ADDRESSES, (422, "validation_failed"))
    assert registering == expected
    assert logging_in == expected
    assert all_users(database) == []


def test_an_address_that_grows_in_lower_case_is_no_error_of_ours(client: TestClient) -> None:
    """Lower case, İ is two characters, which can make an address too long after all."""
    email = "\u0130" * 30 + "@" + ".".join(["b" * 40] * 4) + ".com"
    answer = register(client, with_email(email))
    assert answer.status_code in (201, 422)


def test_a_refused_address_is_not_echoed(client: TestClient) -> None:
    answer = register(client, with_email("somebody at nowhere"))
    assert answer.json()["errors"] == [
        {
            "loc": ["body", "email"],
            "msg": "must be an email address, such as ada@example.com",
            "type": "value_error",
        }
    ]


# Taken


def test_a_taken_address_is_refused_and_its_account_stays_as_it_is(
    client: TestClient, database: Database
) -> None:
    register(client, ADA, full_name="Ada")
    before = all_users(database)[0].model_dump()
    answer = register(client, ADA | {"password": "planted by somebody"}, full_name="Eve")
    assert refused_as(answer) == (409, "email_taken")
    assert all_users(database)[0].model_dump() == before
    assert log_in(client).status_code == 200


def test_the_answer_to_a_taken_address_says_nothing_about_its_owner(client: TestClient) -> None:
    owner = register(client, ADA, full_name="Ada Lovelace").json()
    answer = register(client)
    assert owner["id"] not in answer.text
    assert "Lovelace" not in answer.text
    assert ADA["email"] not in answer.text


# Nothing but what the form offers


FIELDS_TOO_MANY = {
    "is_admin": True,
    "isAdmin": True,
    "is_active": False,
    "isActive": True,
    "is_superuser": True,
    "is_verified": True,
    "role": "admin",
    "roles": ["admin"],
    "id": "01a20702-8cff-79b4-8a58-6b37b30e9129",
    "hashed_password": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
    "hashedPassword": "x",
    "created_at": "2000-01-01T00:00:00Z",
    "createdAt": "2000-01-01T00:00:00Z",
    "mfa_enabled": True,
    "token_version": 7,
    "__class__": "User",
    "metadata": {},
    "": "x",
}


@pytest.mark.proves("8.2.3", "15.3.3", "MA-01")
def test_a_registration_with_a_field_too_many_is_refused(
    client: TestClient, database: Database
) -> None:
    for field, value in FIELDS_TOO_MANY.items():
        answer = register(client, ADA, **{field: value})
        assert refused_as(answer) == (422, "validation_failed"), field
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
    assert all_users(database) == []


def test_a_log_in_with_a_field_too_many_is_refused(client: TestClient) -> None:
    register(client)
    answer = log_in(client, ADA | {"is_admin": "true"})
    assert refused_as(answer) == (422, "validation_failed")


@pytest.mark.proves("8.3.1")
def test_rights_in_the_query_are_no_rights(client: TestClient) -> None:
    answer = client.post("/api/v1/auth/register?is_admin=true&role=admin", json=ADA)
    assert (answer.status_code, answer.json()["is_admin"]) == (201, False)


@pytest.mark.parametrize("missing", ["email", "password"])
def test_a_field_that_is_missing_is_named(client: TestClient, missing: str) -> None:
    person = {name: value for name, value in ADA.items() if name != missing}
    answer = register(client, person)
    assert refused_as(answer) == (422, "validation_failed")
    assert answer.json()["errors"] == [
        {"loc": ["body", missing], "msg": "Field required", "type": "missing"}
    ]


# Closed


def test_where_registration_is_closed_nobody_signs_up(
    make_client: ClientFactory,
) -> None:
    client = make_client(registration_open=False)
    database = client.app.state.backend.database  # type: ignore[attr-defined]
    with statements(database) as sent:
        assert refused_as(register(client)) == (403, "registration_closed")
    assert sent == []


def test_where_registration_is_closed_taken_and_free_addresses_look_the_same(
    make_client: ClientFactory,
) -> None:
    register(make_client())
    closed = make_client(registration_open=False)
    assert refused_as(register(closed, ADA)) == refused_as(register(closed, BOB))


def test_where_registration_is_closed_people_still_log_in(make_client: ClientFactory) -> None:
    register(make_client())
    assert log_in(make_client(registration_open=False)).status_code == 200
