"""What a request comes from changes something: the attributes of docs/security.md, at work."""

import pytest
from fastapi.testclient import TestClient

from tests.conftest import ClientFactory
from tests.jars import copied_jar, other_browser
from tests.links import MAIL, outbox
from tests.people import ADA, get_tokens, log_in, refresh, register, sign_up_and_in, who_am_i

NOTICE = ("new_device", ADA["email"])
WRONG = ADA | {"password": "not the password of ada"}


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    """Nothing is delivered: there is no courier in it."""
    return make_client(**MAIL)


@pytest.mark.proves("6.3.5", "8.1.4", "8.2.4")
def test_a_log_in_from_an_unknown_device_is_told_to_its_owner(client: TestClient) -> None:
    sign_up_and_in(client)
    assert NOTICE not in outbox(client)  # the first log-in is not news
    assert log_in(other_browser(client)).status_code == 200
    assert outbox(client).count(NOTICE) == 1


@pytest.mark.proves("6.3.5", "8.2.4")
def test_a_log_in_from_a_known_device_is_no_news(client: TestClient) -> None:
    sign_up_and_in(client)
    assert log_in(client).status_code == 200
    assert NOTICE not in outbox(client)


@pytest.mark.proves("8.1.4", "6.3.5")
def test_a_program_is_new_where_its_address_and_name_are(client: TestClient) -> None:
    register(client)
    get_tokens(client)
    get_tokens(client)
    assert NOTICE not in outbox(client)
    client.headers["User-Agent"] = "another program"
    get_tokens(client)
    assert outbox(client).count(NOTICE) == 1


@pytest.mark.proves("6.3.5", "8.2.4")
def test_a_stolen_refresh_token_is_told_to_its_owner(make_client: ClientFactory) -> None:
    client = make_client(**MAIL, refresh_grace_seconds=0)
    sign_up_and_in(client)
    thief = copied_jar(client)
    assert refresh(client).status_code == 200
    assert refresh(thief).json()["code"] == "token_reused"
    assert ("token_reused", ADA["email"]) in outbox(client)


@pytest.mark.proves("8.2.4", "8.1.4", "RL-03")
def test_a_known_device_gets_in_while_strangers_are_held_off(make_client: ClientFactory) -> None:
    client = make_client(login_attempts_per_account=2)
    sign_up_and_in(client)
    stranger = other_browser(client)
    statuses = [log_in(stranger, WRONG).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert log_in(other_browser(client)).status_code == 429
    assert log_in(client).status_code == 200


@pytest.mark.proves("8.2.4", "8.1.3")
def test_another_network_or_browser_ends_no_session(make_client: ClientFactory) -> None:
    """Phones change both all day, so this is documented as no attribute that decides."""
    client = make_client(trusted_proxies="0.0.0.0/0")
    moving = TestClient(client.app, base_url="https://testserver", client=("192.0.2.9", 1))
    sign_up_and_in(moving)
    moving.headers |= {"User-Agent": "another browser", "X-Forwarded-For": "198.51.100.7"}
    assert refresh(moving).status_code == 200
    assert who_am_i(moving).status_code == 200
