"""One request at a time, for what is not measured: log in, and see that answers are right."""

import http.client
import re
from collections.abc import Mapping

from bench.contender import Request
from bench.load import BenchmarkError

TIMEOUT = 30  # seconds


def ask(
    port: int, request: Request, state: Mapping[str, str], *, number: int = 0
) -> dict[str, str]:
    """What the connection has kept afterwards. number: of the user who logs in.

    Raises BenchmarkError where the answer is wrong.
    """
    known = {**state, "email": f"user{number}@example.com", "address": f"203.0.113.{number % 250}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(
            request.method,
            fill(request.path, known),
            fill(request.body, known).encode() if request.body else None,
            {name: fill(value, known) for name, value in request.headers.items()},
        )
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        cookies = answer.headers.get_all("Set-Cookie") or []
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{request.method} {request.path}: {error!r}") from error
    finally:
        connection.close()
    taken = {name: find(place, cookies, body) for name, place in request.take.items()}
    kept = {**state, **{name: value for name, value in taken.items() if value is not None}}
    renewed = not request.renews or kept[request.renews] != state.get(request.renews)
    sets = not request.sets or find(f"cookie:{request.sets}", cookies, body)
    right = answer.status == request.status and request.contains in body and renewed and sets
    if not right or None in taken.values():
        raise BenchmarkError(
            f"{request.method} {request.path} was answered {answer.status}: {body[:300]}"
        )
    return kept


def fill(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), text)


def find(place: str, cookies: list[str], body: str) -> str | None:
    kind, _, name = place.partition(":")
    if kind == "json":
        found = re.search(rf'"{name}"\s*:\s*"([^"]*)"', body)
        return found[1] if found else None
    values = [cookie.partition(";")[0].partition("=") for cookie in cookies]
    return next((value for key, _, value in values if key == name), None)
