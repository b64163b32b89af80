"""What people do, in one call each."""

from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

ADA = {"email": "ada@example.com", "password": "nine tall herons at dawn"}
BOB = {"email": "bob@example.com", "password": "a teapot full of gravel"}


def register(client: TestClient, person: dict[str, str] = ADA, **more: Any) -> Response:
    return client.post("/api/v1/auth/register", json=person | more)


def log_in(client: TestClient, person: dict[str, str] = ADA) -> Response:
    return client.post("/api/v1/auth/login", json=person)


def sign_up_and_in(client: TestClient, person: dict[str, str] = ADA) -> dict[str, Any]:
    """Returns the answer to the log-in: {user, session}."""
    assert register(client, person).status_code == 201
    answer = log_in(client, person)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def refresh(client: TestClient) -> Response:
    return client.post("/api/v1/auth/refresh")


def log_out(client: TestClient) -> Response:
    return client.post("/api/v1/auth/logout")


def who_am_i(client: TestClient) -> Response:
    return client.get("/api/v1/users/me")


def get_tokens(client: TestClient, person: dict[str, str] = ADA) -> dict[str, Any]:
    """As a program does. Returns the answer of the token endpoint."""
    form = {
        "grant_type": "password",
        "username": person["email"],
        "password": person["password"],
    }
    answer = client.post("/api/v1/auth/token", data=form)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
