"""Logging in with cookies."""

from fastapi.testclient import TestClient

from tests.people import ADA, log_in, log_out, refresh, register, who_am_i


def test_a_person_signs_up_logs_in_stays_and_leaves(client: TestClient) -> None:
    register(client)
    assert log_in(client).json()["user"]["email"] == ADA["email"]
    assert who_am_i(client).json()["email"] == ADA["email"]
    assert refresh(client).status_code == 200
    assert who_am_i(client).status_code == 200
    assert log_out(client).status_code == 204
    assert who_am_i(client).json()["code"] == "not_authenticated"
