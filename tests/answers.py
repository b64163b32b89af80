"""Answers, compared."""

from httpx2 import Response


def refused_as(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def differences(one: Response, other: Response) -> set[str]:
    """What tells two answers apart, but for the id and the time that each request has."""
    parts = []
    for answer in (one, other):
        header = {f"header {name}": value for name, value in answer.headers.items()}
        body = {f"body {name}": str(value) for name, value in answer.json().items()}
        parts.append({*({"status": str(answer.status_code)} | header | body).items()})
    its_own = {"header x-request-id", "header date", "body request_id"}
    return {name for name, _ in parts[0] ^ parts[1]} - its_own
