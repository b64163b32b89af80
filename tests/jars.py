"""Cookie jars: what a browser holds, who else holds a copy, and one token presented alone."""

from copy import copy
from typing import Any

import jwt
from fastapi.testclient import TestClient
from httpx2 import Response

from tests.client import LocalClient

ACCESS_COOKIE = "__Host-access"
REFRESH_COOKIE = "__Host-refresh"
DEVICE_COOKIE = "__Host-device"


def access_token(client: TestClient) -> str:
    return held(client, ACCESS_COOKIE)


def refresh_token(client: TestClient) -> str:
    return held(client, REFRESH_COOKIE)


def names_held(client: TestClient) -> set[str]:
    return {cookie.name for cookie in client.cookies.jar}


def held(client: TestClient, name: str) -> str:
    (value,) = [cookie.value for cookie in client.cookies.jar if cookie.name == name]
    assert value
    return value


def other_browser(client: TestClient, address: str = "testclient") -> TestClient:
    """An empty jar before the same application, and perhaps on another network."""
    return LocalClient(client.app, client=(address, 50000))


def copied_jar(client: TestClient) -> TestClient:
    """What a thief has, or a second computer with the same profile."""
    copied = other_browser(client)
    for cookie in client.cookies.jar:
        copied.cookies.jar.set_cookie(copy(cookie))
    return copied


def present(client: TestClient, token: str) -> Response:
    """This refresh token alone, from nobody's jar."""
    cookie = {"Cookie": f"{REFRESH_COOKIE}={token}"}
    return other_browser(client).post("/api/v1/auth/refresh", headers=cookie)


def claims(token: str) -> dict[str, Any]:
    """Unverified: what is written in it."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found
