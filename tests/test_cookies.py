"""The cookies of a login: names, attributes, lifetimes; when they are set, cleared, left alone.

The third, which marks a known browser, is looked at in test_devices.py.

Lifetimes come out of rows: they are looked at on both databases. The ids (CK-01 …) are those of
the list of attacks.
"""

import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from fastapi.testclient import TestClient
from httpx2 import Response

from app.core.tokens import ClientId
from app.db.session import Database
from app.services.backend import Backend
from tests.conftest import ClientFactory
from tests.jars import names_held
from tests.people import (
    ADA,
    BOB,
    bearer,
    get_tokens,
    log_in,
    log_out,
    refresh,
    register,
    sign_up_and_in,
    who_am_i,
)
from tests.rows import all_logins, change_login, change_user, the_login

ACCESS, REFRESH, DEVICE = "__Host-access", "__Host-refresh", "__Host-device"
SESSIONS = "/api/v1/users/me/sessions"
HARDENED = {"path": "/", "httponly": "", "secure": "", "samesite": "lax"}
DAY = 24 * 60 * 60  # seconds


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """One database does, except where a test asks for both."""
    url: str = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")
    return url


on_both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def cookies_set(answer: Response) -> dict[str, dict[str, str]]:
    """Each cookie of an answer by its name: the attributes in lower case, and its value."""
    found: dict[str, dict[str, str]] = {}
    for header in answer.headers.get_list("set-cookie"):
        pair, *attributes = header.split("; ")
        name, _, value = pair.partition("=")
        assert name not in found, f"{name} is set twice"
        found[name] = {"value": value.strip('"')}
        for attribute in attributes:
            key, _, setting = attribute.partition("=")
            found[name][key.lower()] = setting
    return found


def attributes(cookie: dict[str, str]) -> dict[str, str]:
    """What a browser matches and guards by; without value and lifetime."""
    changing = ("value", "max-age", "expires")
    return {key: value for key, value in cookie.items() if key not in changing}


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def send_cookies(client: TestClient, header: str | bytes, path: str = "/users/me") -> Response:
    """A Cookie header as it stands, and nothing out of the client's jar."""
    client.cookies.clear()
    header = header.encode("latin-1") if isinstance(header, str) else header
    return client.get(f"/api/v1{path}", headers=[(b"Cookie", header)])


# Names and attributes


@pytest.mark.proves("3.3.1", "3.3.2", "3.3.3", "3.3.4", "CK-01")
def test_a_log_in_sets_its_cookies_hardened(client: TestClient) -> None:
    """CK-01: HttpOnly, Secure, SameSite=Lax, Path=/, no Domain, and the prefix that needs them."""
    register(client)
    cookies = cookies_set(log_in(client))
    assert cookies.keys() == {ACCESS, REFRESH, DEVICE}
    assert all(attributes(cookie) == HARDENED for cookie in cookies.values())


@pytest.mark.proves("3.3.1", "CK-01")
def test_a_refresh_sets_both_cookies_likewise(client: TestClient) -> None:
    """CK-01."""
    sign_up_and_in(client)
    cookies = cookies_set(refresh(client))
    assert cookies.keys() == {ACCESS, REFRESH}
    assert all(attributes(cookie) == HARDENED for cookie in cookies.values())


@pytest.mark.proves("14.3.1", "LO-03")
def test_a_log_out_clears_with_the_attributes_that_set(client: TestClient) -> None:
    """LO-03: a browser takes a cookie with another path or domain for another cookie.

    What marks a known browser stays: it is for the next log-in.
    """
    register(client)
    set_by_log_in = cookies_set(log_in(client))
    cleared = cookies_set(log_out(client))
    assert cleared.keys() == set_by_log_in.keys() - {DEVICE}
    for name, cookie in cleared.items():
        assert attributes(cookie) == attributes(set_by_log_in[name])
        assert (cookie["value"], cookie["max-age"]) == ("", "0")
        assert cookie["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert names_held(client) == {DEVICE}


@pytest.mark.proves("CK-01")
def test_with_debug_the_cookies_travel_over_plain_http(make_client: ClientFactory) -> None:
    """CK-01: without Secure a browser refuses the prefix, so the names differ, too."""
    client = make_client(debug=True)
    register(client)
    cookies = cookies_set(log_in(client))
    of_login = {"auth-access", "auth-refresh"}
    assert cookies.keys() == of_login | {"auth-device"}
    for cookie in cookies.values():
        assert attributes(cookie) == {"path": "/", "httponly": "", "samesite": "lax"}
    assert cookies_set(refresh(client)).keys() == of_login
    cleared = cookies_set(log_out(client))
    assert cleared.keys() == of_login
    assert all(attributes(cleared[name]) == attributes(cookies[name]) for name in of_login)


@pytest.mark.proves("3.3.3", "CK-01")
@pytest.mark.parametrize("debug", [False, True])
def test_a_cookie_of_the_other_mode_is_not_looked_at(
    make_client: ClientFactory, debug: bool
) -> None:
    """CK-01: without the prefix a sibling host could plant one in production."""
    client = make_client(debug=debug)
    register(client)
    access, refresh_token, _ = (one["value"] for one in cookies_set(log_in(client)).values())
    names = (ACCESS, REFRESH) if debug else ("auth-access", "auth-refresh")
    header = f"{names[0]}={access}; {names[1]}={refresh_token}"
    assert send_cookies(client, header).status_code == 401
    answer = client.post("/api/v1/auth/refresh", headers={"Cookie": header})
    assert answer.json()["code"] == "not_authenticated"


# Lifetimes


@pytest.mark.proves("CK-01")
@pytest.mark.parametrize("minutes", [5, 15])
def test_the_access_cookie_lives_as_long_as_its_token(
    make_client: ClientFactory, minutes: int
) -> None:
    """CK-01: Max-Age is the server's lifetime, not longer."""
    client = make_client(access_token_expire_minutes=minutes)
    register(client)
    cookie = cookies_set(log_in(client))[ACCESS]
    token = claims(cookie["value"])
    assert int(cookie["max-age"]) == token["exp"] - token["iat"] == minutes * 60


@pytest.mark.proves("10.4.8", "CK-01")
@on_both_databases
def test_the_refresh_cookie_lives_to_the_absolute_end_of_the_login(client: TestClient) -> None:
    """CK-01: as its token does. The idle limit is the row's alone (docs/rotation.md)."""
    register(client)
    answer = log_in(client)
    cookie = cookies_set(answer)[REFRESH]
    end = datetime.fromisoformat(answer.json()["session"]["expires_at"])
    assert claims(cookie["value"])["exp"] == int(end.timestamp())
    assert 30 * DAY - 2 <= int(cookie["max-age"]) <= 30 * DAY


@pytest.mark.proves("7.3.2", "10.4.8")
@on_both_databases
def test_a_refresh_does_not_move_the_absolute_end(client: TestClient) -> None:
    """A login lasts SESSION_MAX_DAYS, however often it refreshes."""
    start = datetime.now(UTC)
    register(client)
    first = cookies_set(log_in(client))[REFRESH]
    for days in (5, 10, 15, 20, 25, 29):
        with time_machine.travel(start + timedelta(days=days), tick=False):
            cookie = cookies_set(refresh(client))[REFRESH]
            assert claims(cookie["value"])["exp"] == claims(first["value"])["exp"]
            remaining = int(first["max-age"]) - days * DAY
            assert remaining - 2 <= int(cookie["max-age"]) <= remaining + 2
    with time_machine.travel(start + timedelta(days=30, seconds=10), tick=False):
        assert refresh(client).json()["code"] in ("not_authenticated", "session_expired")


@pytest.mark.proves("CK-01")
@on_both_databases
def test_no_cookie_outlives_its_login(client: TestClient, database: Database) -> None:
    """CK-01: a refresh in the last minutes still ends when the login does."""
    sign_up_and_in(client)
    change_login(database, expires_at=datetime.now(UTC) + timedelta(minutes=5))
    answer = refresh(client)
    assert int(cookies_set(answer)[REFRESH]["max-age"]) <= 5 * 60
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=5, seconds=1), tick=False):
        assert who_am_i(client).json()["code"] == "not_authenticated"  # it was sent no more
        assert refresh(client).json()["code"] == "not_authenticated"


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose local time is not UTC. (The PostgreSQL of the tests keeps India's.)"""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.proves("16.2.2", "TM-02")
@pytest.mark.parametrize(
    "moment",
    [
        datetime(2027, 3, 28, 0, 30, tzinfo=UTC),  # half an hour before clocks go forward
        datetime(2027, 10, 31, 0, 30, tzinfo=UTC),  # and back
        datetime(2038, 1, 19, 3, 14, tzinfo=UTC),  # seconds before 32 bits are full
        datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
    ],
    ids=str,
)
@pytest.mark.usefixtures("berlin")
@on_both_databases
def test_lifetimes_are_exact_whatever_the_local_clock_does(
    client: TestClient, moment: datetime
) -> None:
    """TM-02."""
    end = int(moment.timestamp()) + 30 * DAY
    with time_machine.travel(moment, tick=False):
        register(client)
        answer = log_in(client)
        cookies = cookies_set(answer)
        assert cookies[ACCESS]["max-age"] == "900"
        assert cookies[REFRESH]["max-age"] == str(30 * DAY)
        assert claims(cookies[REFRESH]["value"])["exp"] == end
        session = answer.json()["session"]
        assert datetime.fromisoformat(session["expires_at"]) == moment + timedelta(days=30)
    with time_machine.travel(moment + timedelta(minutes=14, seconds=59), tick=False):
        assert who_am_i(client).status_code == 200
    with time_machine.travel(moment + timedelta(days=7, seconds=-1), tick=False):
        assert refresh(client).status_code == 200
    with time_machine.travel(moment + timedelta(days=14, seconds=-1), tick=False):
        assert refresh(client).json()["code"] == "session_expired"


# What an answer carries


@pytest.mark.proves("3.3.4", "10.1.1", "CK-02")
def test_no_answer_in_cookie_mode_has_a_token_elsewhere(client: TestClient) -> None:
    """CK-02: a script that reads bodies and headers must find nothing."""
    register(client)
    steps = (log_in, refresh, who_am_i, lambda same: same.get(SESSIONS), log_out)
    tokens: set[str] = set()
    for step in steps:
        answer = step(client)
        assert answer.status_code < 300
        tokens |= {cookie["value"] for cookie in cookies_set(answer).values()} - {""}
        headers = [text for name, text in answer.headers.multi_items() if name != "set-cookie"]
        shown = "\n".join([answer.text, *headers])
        assert not any(token in shown for token in tokens)
        assert "eyJ" not in shown  # how every JWT begins
    assert len(tokens) == 5  # of the login, of its refresh, and one for the known browser


@pytest.mark.proves("3.3.4", "10.1.1", "CK-02")
def test_no_answer_in_bearer_mode_sets_a_cookie(client: TestClient) -> None:
    """CK-02: a program's answers carry tokens in the body, or none."""
    register(client)
    tokens = get_tokens(client)
    headers = bearer(tokens["access_token"])
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    answers = [
        client.post("/api/v1/auth/token", data=form),
        client.post("/api/v1/auth/token", data=form | {"refresh_token": "x"}),
        client.post("/api/v1/auth/token", data={"grant_type": "password"}),
        client.get("/api/v1/users/me", headers=headers),
        client.get("/api/v1/users/me", headers=bearer("x")),
        client.get(SESSIONS, headers=headers),
        client.delete(SESSIONS, headers=headers),
        client.post("/api/v1/auth/revoke", data={"token": tokens["access_token"]}),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 400, 200, 401, 200, 204, 200]
    assert all("set-cookie" not in answer.headers for answer in answers)


@pytest.mark.proves("CK-02")
@pytest.mark.parametrize("path", ["/{id}", "?include_current=true"])
def test_a_program_that_ends_its_own_session_clears_no_cookie(
    client: TestClient, path: str
) -> None:
    """CK-02. In Swagger UI the browser's cookies may be another person's: they stay logged in."""
    register(client, BOB)
    headers = bearer(get_tokens(client, BOB)["access_token"])
    sign_up_and_in(client, ADA)
    (session,) = client.get(SESSIONS, headers=headers).json()
    answer = client.delete(SESSIONS + path.format(**session), headers=headers)
    assert answer.status_code == 204
    assert "set-cookie" not in answer.headers
    assert who_am_i(client).json()["email"] == ADA["email"]


def test_a_browser_that_ends_its_own_session_loses_its_cookies(client: TestClient) -> None:
    """Likewise for the session in which it asks, by name or with all."""
    register(client)
    for path in ("/{id}", "?include_current=true"):
        log_in(client)
        (session,) = client.get(SESSIONS).json()
        answer = client.delete(SESSIONS + path.format(**session))
        assert cookies_set(answer).keys() == {ACCESS, REFRESH}
        assert names_held(client) == {DEVICE}


def test_ending_another_session_leaves_the_cookies_alone(client: TestClient) -> None:
    register(client)
    get_tokens(client)
    log_in(client)
    (other,) = [one for one in client.get(SESSIONS).json() if not one["current"]]
    answers = [client.delete(f"{SESSIONS}/{other['id']}"), client.delete(SESSIONS)]
    assert [answer.status_code for answer in answers] == [204, 204]
    assert all("set-cookie" not in answer.headers for answer in answers)
    assert who_am_i(client).status_code == 200


@pytest.mark.proves("CK-04")
@pytest.mark.parametrize("action", [log_in, refresh, log_out])
def test_each_name_is_set_at_most_once_in_an_answer(client: TestClient, action: Any) -> None:
    """CK-04: also when somebody who is logged in logs in. `cookies_set` looks for doubles."""
    sign_up_and_in(client)
    assert cookies_set(action(client)).keys() - {DEVICE} == {ACCESS, REFRESH}


@pytest.mark.proves("CK-04")
@pytest.mark.parametrize("wrong", ["password", "email"])
def test_a_failed_log_in_sets_nothing_and_ends_nothing(client: TestClient, wrong: str) -> None:
    """CK-04."""
    sign_up_and_in(client)
    answer = log_in(client, ADA | {wrong: "nobody.knows.this@example.com"})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert who_am_i(client).status_code == 200


@pytest.mark.proves("6.3.4")
def test_signing_up_sets_no_cookie(client: TestClient) -> None:
    assert "set-cookie" not in register(client).headers


# A failed refresh: a late loser's answer must not wipe out what the winner has just set


def test_a_refresh_without_a_cookie_sets_and_clears_nothing(client: TestClient) -> None:
    assert_failed_and_silent(refresh(client), 401, "not_authenticated")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "x" * 5000])
def test_a_refresh_with_garbage_sets_and_clears_nothing(client: TestClient, token: str) -> None:
    answer = client.post("/api/v1/auth/refresh", headers={"Cookie": f"{REFRESH}={token}"})
    assert_failed_and_silent(answer, 401, "not_authenticated")


def test_a_refresh_of_an_ended_login_sets_and_clears_nothing(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    database.run_write(lambda session: session.delete(the_login(database)))
    assert_failed_and_silent(refresh(client), 401, "session_revoked")
    assert client.cookies


def test_a_refresh_of_a_disabled_user_sets_and_clears_nothing(
    client: TestClient, database: Database
) -> None:
    sign_up_and_in(client)
    change_user(database, ADA["email"], is_active=False)
    assert_failed_and_silent(refresh(client), 401, "session_revoked")


@on_both_databases
def test_a_refresh_of_an_expired_login_sets_and_clears_nothing(client: TestClient) -> None:
    sign_up_and_in(client)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=7, seconds=1), tick=False):
        assert_failed_and_silent(refresh(client), 401, "session_expired")
        assert REFRESH in client.cookies


def test_a_refresh_that_proves_a_theft_sets_and_clears_nothing(make_client: ClientFactory) -> None:
    client = make_client(refresh_grace_seconds=0)
    register(client)
    stolen = cookies_set(log_in(client))[REFRESH]["value"]
    refresh(client)
    client.cookies.clear()
    answer = client.post("/api/v1/auth/refresh", headers={"Cookie": f"{REFRESH}={stolen}"})
    assert_failed_and_silent(answer, 401, "token_reused")


@pytest.mark.proves("CK-02")
def test_a_refresh_with_a_programs_token_sets_and_clears_nothing(client: TestClient) -> None:
    """CK-02: a login keeps to its way of travelling, so the token endpoint makes no cookies."""
    register(client)
    token = get_tokens(client)["refresh_token"]
    answer = client.post("/api/v1/auth/refresh", headers={"Cookie": f"{REFRESH}={token}"})
    assert_failed_and_silent(answer, 401, "not_authenticated")


def test_a_refresh_from_elsewhere_sets_and_clears_nothing(client: TestClient) -> None:
    sign_up_and_in(client)
    answer = client.post("/api/v1/auth/refresh", headers={"Origin": "https://evil.example"})
    assert_failed_and_silent(answer, 403, "cross_origin")
    assert refresh(client).status_code == 200


@pytest.mark.usefixtures("crowded")
def test_a_refresh_that_fails_by_an_error_sets_and_clears_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    sign_up_and_in(client)
    with monkeypatch.context() as patch:
        patch.setattr("app.services.logins.rotate", fail)
        assert_failed_and_silent(refresh(client), 500, "internal_error")
    assert refresh(client).status_code == 200


def assert_failed_and_silent(answer: Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "set-cookie" not in answer.headers
    assert "clear-site-data" not in answer.headers


# What is inside


@pytest.mark.proves("3.3.5", "4.2.5", "CK-03")
def test_the_cookies_of_the_longest_settings_fit(make_client: ClientFactory) -> None:
    """CK-03 (RFC 6265bis, 5.7): a browser drops what exceeds 4096 bytes, without a word."""
    client = make_client(
        issuer="https://auth.example.com/".ljust(200, "i"),
        audience="https://api.example.com/".ljust(200, "a"),
        session_max_days=365,
    )
    local_part = "a" * 60
    person = ADA | {"email": f"{local_part}@{'b' * 60}.{'c' * 60}.example.com"}
    assert register(client, person, full_name="Å" * 200).status_code == 201
    headers = log_in(client, person).headers.get_list("set-cookie")
    assert all(len(header) <= 4096 for header in headers)
    assert sum(map(len, headers)) < 8192
    assert who_am_i(client).status_code == 200
    assert refresh(client).status_code == 200


@pytest.mark.proves("4.2.5", "CK-03")
def test_the_longest_names_still_work(make_client: ClientFactory) -> None:
    """CK-03."""
    client = make_client(issuer="i" * 200, audience="a" * 200)
    register(client)
    assert all(len(one) <= 4096 for one in log_in(client).headers.get_list("set-cookie"))
    assert who_am_i(client).status_code == 200


@pytest.mark.proves("14.1.1", "14.3.3", "CK-08")
def test_the_cookies_hold_nothing_personal(client: TestClient) -> None:
    """CK-08: who reads a cookie learns which login it is, and no more."""
    register(client, ADA, full_name="Ada Lovelace")
    cookies = cookies_set(log_in(client))
    access, refresh_token = (claims(cookies[name]["value"]) for name in (ACCESS, REFRESH))
    assert access.keys() == {"iss", "aud", "sub", "client_id", "sid", "iat", "exp", "jti"}
    assert refresh_token.keys() == {"iss", "aud", "client_id", "sid", "n", "exp"}
    for text in (json.dumps(access), json.dumps(refresh_token)):
        assert not re.search("ada|lovelace|example.com|admin|argon", text, re.IGNORECASE)


@pytest.mark.proves("7.2.2")
def test_no_two_answers_set_the_same_token(client: TestClient) -> None:
    """Also within one second, in which `iat` and `exp` are equal."""
    register(client)
    with time_machine.travel(datetime.now(UTC), tick=False):
        answers = [log_in(client), log_in(client), refresh(client), refresh(client)]
    for name in (ACCESS, REFRESH):
        assert len({cookies_set(answer)[name]["value"] for answer in answers}) == 4


# Cookies as nobody's browser sends them


@pytest.mark.proves("7.2.1", "CK-07")
@pytest.mark.parametrize(
    "header",
    [
        b"",
        b";",
        b"=",
        b";;;===;;;",
        b"a",
        b"a=b=c",
        b"a=b, c=d",
        b'a="b',
        b'a="b;c"; d="\\"',
        b"a=\x80\xff; \xff=b",
        b"a=\xf0\x9f\x8d\xaa",
        b'$Version="1"; __Host-access="x"; $Path="/"',
        b"__Host-access",
        b"__Host-access=",
        b"__Host-access= ",
        b'__Host-access=""',
        b"__Host-access=a.b.c",
        b"__Host-access=\x80.\x80.\x80",
        b"__Host-access=%00",
        b"__Host-access=a; __Host-access=b",
        b"__Host-access[]=a",
        b" __Host-access =x",
    ],
    ids=repr,
)
def test_a_malformed_cookie_header_is_no_login(client: TestClient, header: bytes) -> None:
    """CK-07: never a 500, and the service stays usable."""
    assert send_cookies(client, header).json()["code"] == "not_authenticated"
    for path in ("/auth/refresh", "/auth/logout"):
        answer = client.post(f"/api/v1{path}", headers=[(b"Cookie", header)])
        assert answer.status_code in (401, 204)


BOMBS = {
    "180 cookies": b"; ".join(b"c%d=%s" % (number, b"v" * 50) for number in range(180)),
    "5000 cookies": b"; ".join(b"c%d=v" % number for number in range(5000)),
    "60 kB in one": b"c=" + b"v" * 60_000,
    "60 kB in ours": b"__Host-access=" + b"v" * 60_000,
    "60 kB of separators": b";" * 60_000,
    "60 kB of quotes": b'c="' + b'"' * 60_000,
    "a quoted text of backslashes": b'c="' + b"\\" * 30_000 + b'"',
    "a quoted text of escaped quotes": b'c="' + b'\\"' * 20_000 + b'"',
    "a quoted text of octal escapes": b'c="' + b"\\101" * 10_000 + b'"',
}


@pytest.mark.proves("CK-07")
@pytest.mark.parametrize("path", ["/users/me", "/auth/refresh", "/auth/logout", "/auth/login"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_cookie_bomb_is_not_even_unquoted(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, bomb: str, path: str
) -> None:
    """CK-07. Python's way of unquoting takes quadratic time (CVE-2024-7592) on the event loop:
    one such request would stop all others for as long.
    """
    unquoted: list[str] = []
    monkeypatch.setattr("http.cookies._unquote", unquoted.append)
    method = "GET" if path == "/users/me" else "POST"
    body = ADA if path == "/auth/login" else None
    answer = client.request(method, f"/api/v1{path}", headers=[(b"Cookie", BOMBS[bomb])], json=body)
    assert answer.status_code in (204, 400, 401, 431)
    assert unquoted == []


@pytest.mark.proves("CK-07")
def test_other_cookies_around_ours_do_not_matter(client: TestClient) -> None:
    """CK-07: analytics and a neighbour's application on the same host."""
    register(client)
    token = cookies_set(log_in(client))[ACCESS]["value"]
    for header in (
        f"_ga=GA1.2.3; {ACCESS}={token}",
        f'a="b; c; {ACCESS}={token}; d=e=f;',
        f"{ACCESS}={token};",
        f"; ;{ACCESS}={token}; {ACCESS}x=y",
    ):
        assert send_cookies(client, header).status_code == 200


# Log-out and the fixation of sessions


@pytest.mark.proves("7.4.1", "LO-01", "LO-02")
@on_both_databases
def test_after_a_log_out_neither_token_is_worth_anything(client: TestClient) -> None:
    """LO-01, LO-02: at once, also for the copy that somebody kept."""
    register(client)
    cookies = cookies_set(log_in(client))
    log_out(client)
    access = f"{ACCESS}={cookies[ACCESS]['value']}"
    assert send_cookies(client, access).json()["code"] == "session_revoked"
    kept = {"Cookie": f"{REFRESH}={cookies[REFRESH]['value']}"}
    assert client.post("/api/v1/auth/refresh", headers=kept).json()["code"] == "session_revoked"


@pytest.mark.proves("LO-03")
def test_the_answer_to_a_log_out_is_empty(client: TestClient) -> None:
    """LO-03."""
    sign_up_and_in(client)
    answer = log_out(client)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.proves("LO-04")
@pytest.mark.parametrize(
    "header", ["", f"{ACCESS}=x; {REFRESH}=y", f"{REFRESH}=a.b.c", "auth-refresh=x"]
)
def test_a_log_out_succeeds_whatever_the_cookies_are(client: TestClient, header: str) -> None:
    """LO-04: and clears them, so that a browser with broken cookies gets out of it."""
    for _ in range(2):
        answer = client.post("/api/v1/auth/logout", headers={"Cookie": header})
        assert answer.status_code == 204
        assert cookies_set(answer).keys() == {ACCESS, REFRESH}


@pytest.mark.proves("LO-05")
@pytest.mark.parametrize("kept", [ACCESS, REFRESH])
def test_one_cookie_of_the_two_is_enough_to_log_out(
    client: TestClient, database: Database, kept: str
) -> None:
    """LO-05."""
    register(client)
    token = cookies_set(log_in(client))[kept]["value"]
    client.cookies.clear()
    client.post("/api/v1/auth/logout", headers={"Cookie": f"{kept}={token}"})
    assert all_logins(database) == []


@pytest.mark.proves("LO-05")
@pytest.mark.parametrize("days", [1, 8, 29])
@on_both_databases
def test_a_log_out_with_expired_tokens_really_ends_the_login(
    client: TestClient, database: Database, days: int
) -> None:
    """LO-05: whoever comes back after a while and logs out is out, idle limit or not."""
    sign_up_and_in(client)
    with time_machine.travel(datetime.now(UTC) + timedelta(days=days), tick=False):
        assert log_out(client).status_code == 204
    assert all_logins(database) == []


@pytest.mark.proves("LO-01")
def test_a_log_out_ends_this_login_only(client: TestClient) -> None:
    """LO-01."""
    register(client)
    tokens = get_tokens(client)
    log_in(client)
    log_out(client)
    answer = client.get("/api/v1/users/me", headers=bearer(tokens["access_token"]))
    assert answer.status_code == 200


@pytest.mark.proves("7.2.4", "SF-02")
@on_both_databases
def test_logging_in_again_ends_the_login_that_the_browser_had(
    client: TestClient, database: Database
) -> None:
    """SF-02: one browser, one login; the tokens of before are void."""
    register(client)
    before = cookies_set(log_in(client))[ACCESS]["value"]
    after = cookies_set(log_in(client))[ACCESS]["value"]
    assert len(all_logins(database)) == 1
    assert send_cookies(client, f"{ACCESS}={before}").json()["code"] == "session_revoked"
    assert send_cookies(client, f"{ACCESS}={after}").status_code == 200


@pytest.mark.proves("7.2.4", "SF-02")
def test_logging_in_as_somebody_else_mixes_nobody_up(
    client: TestClient, database: Database
) -> None:
    """SF-02: Bob on Ada's browser is Bob, with a login of his own."""
    register(client, BOB)
    sign_up_and_in(client, ADA)
    adas = the_login(database)
    answer = log_in(client, BOB)
    assert answer.json()["user"]["email"] == BOB["email"]
    assert who_am_i(client).json()["email"] == BOB["email"]
    (bobs,) = all_logins(database)
    assert bobs.id != adas.id
    assert bobs.user_id != adas.user_id


@pytest.mark.proves("7.2.4", "SF-02")
def test_a_log_in_never_continues_the_login_that_was_planted(
    client: TestClient, database: Database
) -> None:
    """SF-02, session fixation: Bob plants his cookies in Ada's browser before she logs in."""
    register(client, ADA)
    sign_up_and_in(client, BOB)
    planted = the_login(database).id
    session = log_in(client, ADA).json()["session"]
    assert session["id"] != str(planted)
    assert [str(login.id) for login in all_logins(database)] == [session["id"]]


@pytest.mark.proves("SF-02")
def test_the_login_that_a_program_has_survives_a_log_in_beside_it(
    client: TestClient, database: Database
) -> None:
    """SF-02: a Bearer header is nothing that a browser brought along."""
    register(client)
    tokens = get_tokens(client)
    headers = bearer(tokens["access_token"])
    client.post("/api/v1/auth/login", json=ADA, headers=headers)
    assert len(all_logins(database)) == 2
    assert {login.client_id for login in all_logins(database)} == set(ClientId)


@pytest.mark.proves("3.3.3")
@pytest.mark.parametrize("disguise", ["\xa0{}", "{}\xa0", "\x85{}", "\x1f{}", "\x0b{}", "X{}"])
def test_no_sibling_host_plants_a_cookie(client: TestClient, disguise: str) -> None:
    """Browsers let any host of the site set these names: to Python alone they have the prefix."""
    sign_up_and_in(client)
    mine = {name: client.cookies[name] for name in (ACCESS, REFRESH)}
    client.cookies.clear()
    sign_up_and_in(client, BOB)
    planted = [f"{disguise.format(name)}={client.cookies[name]}" for name in (ACCESS, REFRESH)]
    client.cookies.clear()
    header = "; ".join([f"{name}={value}" for name, value in mine.items()] + planted)
    answer = client.get("/api/v1/users/me", headers={"Cookie": header.encode("latin-1")})
    assert answer.json()["email"] == ADA["email"]


@pytest.mark.proves("15.3.7")
def test_two_cookies_of_one_name_are_nobodys(client: TestClient) -> None:
    sign_up_and_in(client)
    mine = client.cookies[ACCESS]
    client.cookies.clear()
    for header in (f"{ACCESS}={mine}; {ACCESS}=x", f"{ACCESS}=x; {ACCESS}={mine}"):
        answer = client.get("/api/v1/users/me", headers={"Cookie": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


@pytest.mark.proves("SF-02")
def test_nothing_but_signed_cookies_ends_a_login(client: TestClient, database: Database) -> None:
    """SF-02: who knows the id of a login cannot end it with a cookie of their own making."""
    sign_up_and_in(client)
    backend: Backend = client.app.state.backend  # type: ignore[attr-defined]
    login = the_login(database)
    token, _ = backend.tokens.issue_access(
        login.user_id, login.id, ClientId.BROWSER, login.expires_at
    )
    forged = token[:-4] + "AAAA"
    client.cookies.clear()
    client.post("/api/v1/auth/logout", headers={"Cookie": f"{ACCESS}={forged}"})
    client.post("/api/v1/auth/logout", headers={"Cookie": f"{ACCESS}={login.id}"})
    assert len(all_logins(database)) == 1
