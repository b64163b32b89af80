"""In a flood of log-ins, most are refused at the door, for next to nothing."""

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.services.backend import Backend
from tests.answers import refused_as
from tests.conftest import ClientFactory
from tests.figures import rise
from tests.jars import other_browser
from tests.journal import Journal
from tests.people import ADA, log_in, refresh, register, sign_up_and_in, who_am_i

FRONT_END = "https://app.example.com"
LOG_IN = "/api/v1/auth/login"


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    return make_client(backend_cors_origins=[FRONT_END], enable_metrics=True)


@pytest.fixture
def full(backend: Backend) -> Backend:
    backend.passwords._room = 0
    return backend


@pytest.fixture
def journal(client: TestClient) -> Journal:
    """After the client, whose start sets the log up."""
    return Journal()


@pytest.mark.parametrize("act", [log_in, register])
def test_whoever_finds_the_queue_full_is_refused_as_everywhere(
    client: TestClient, full: Backend, act: Any
) -> None:
    answer = act(client)
    assert refused_as(answer) == (503, "busy")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_the_body_is_not_even_read(client: TestClient, full: Backend) -> None:
    assert refused_as(client.post(LOG_IN, content=b"{")) == (503, "busy")


def test_another_method_is_refused_as_ever(client: TestClient, full: Backend) -> None:
    assert refused_as(client.get(LOG_IN)) == (405, "method_not_allowed")


def test_behind_a_path_of_a_proxy_the_door_is_the_same(client: TestClient, full: Backend) -> None:
    below = TestClient(client.app, "https://testserver", root_path="/auth-service")
    assert refused_as(below.post(f"/auth-service{LOG_IN}", content=b"{")) == (503, "busy")


def test_a_page_of_the_front_end_can_read_the_refusal(client: TestClient, full: Backend) -> None:
    answer = client.post(LOG_IN, json=ADA, headers={"Origin": FRONT_END})
    assert answer.headers["access-control-allow-origin"] == FRONT_END
    assert "Retry-After" in answer.headers["access-control-expose-headers"]


def test_whoever_is_logged_in_notices_nothing(client: TestClient, backend: Backend) -> None:
    sign_up_and_in(client)
    backend.passwords._room = 0
    assert who_am_i(client).status_code == 200
    assert refresh(client).status_code == 200


@pytest.mark.proves("15.2.2")
def test_a_network_that_has_its_share_is_refused_and_others_are_not(
    client: TestClient, backend: Backend
) -> None:
    register(client)
    backend.passwords._under_way["192.0.2.1"] = backend.passwords._share
    assert refused_as(log_in(other_browser(client, "192.0.2.1"))) == (503, "busy")
    assert log_in(other_browser(client, "192.0.2.2")).status_code == 200


@pytest.mark.proves("16.2.1")
def test_a_flood_does_not_flood_the_log(
    client: TestClient, full: Backend, journal: Journal
) -> None:
    """A line for each would fill the disk; one a second says how many there were."""
    for _ in range(20):
        log_in(client)
    until = time.monotonic() + 10
    while not (told := journal.events("queue_full")):
        assert time.monotonic() < until
        time.sleep(0.05)
        client.get("/health/live")
    assert told[0]["refused"] == 20
    assert told[0]["level"] == "error"
    assert not [entry for entry in journal.entries if entry.get("path") == LOG_IN]


def test_metrics_count_the_refused_under_their_route(client: TestClient, full: Backend) -> None:
    labels = {"method": "POST", "route": LOG_IN, "status": "503"}
    assert rise(client, lambda: log_in(client), "http_requests_total", **labels) == 1
