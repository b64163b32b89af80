"""OpenTelemetry: a span says which route answered how, and holds nothing that is secret."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.conftest import ClientFactory
from tests.jars import access_token, refresh_token
from tests.people import bearer, get_tokens, log_in, log_out, refresh, register, who_am_i
from tests.servers import ROOT

CANARY = "canary-8842-never-in-a-span"
PERSON = {"email": f"{CANARY}@example.com", "password": f"{CANARY} and more words"}


class Exporter(InMemorySpanExporter):
    """Also what a span holds when it starts: some exporters send it then."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.get_finished_spans()

    @property
    def text(self) -> str:
        return "\n".join([*self.started, *(span.to_json() for span in self.spans)])

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


class Processor(SimpleSpanProcessor):
    def __init__(self, exporter: Exporter) -> None:
        super().__init__(exporter)
        self.exporter = exporter

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.exporter.started.append(span.to_json())


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    """What an operator's set-up does, until the end of the test: OpenTelemetry allows it once."""
    exporter = Exporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Processor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@pytest.mark.proves("14.2.1", "16.2.5")
def test_a_span_holds_no_secret(client: TestClient, exporter: Exporter) -> None:
    secrets = [CANARY]
    register(client, PERSON)
    log_in(client, PERSON)
    secrets += [access_token(client), refresh_token(client)]
    for _ in range(2):
        who_am_i(client)
        refresh(client)
        secrets += [access_token(client), refresh_token(client)]
    log_in(client, PERSON | {"password": f"{CANARY} but a wrong one"})
    tokens = get_tokens(client, PERSON)
    secrets += [tokens["access_token"], tokens["refresh_token"]]
    client.get("/api/v1/users/me", headers=bearer(tokens["access_token"]))
    client.get(f"/api/v1/users/me?access_token={CANARY}&q={CANARY}")
    client.get("/api/v1/users/me", headers={"Authorization": f"Basic {CANARY}"})
    client.post("/api/v1/auth/reset-password", json={"token": CANARY, "password": CANARY * 2})
    client.post("/api/v1/auth/login", json={"password": CANARY})  # invalid
    client.post("/api/v1/auth/login", content=f"{{{CANARY}")  # not even JSON
    log_out(client)
    assert len(exporter.spans) == 15
    assert "POST /api/v1/auth/login" in exporter.names
    for secret in secrets:
        assert secret not in exporter.text
    assert "testclient" not in exporter.text  # neither the browser, which is a header too


def test_spans_are_named_by_the_template_of_their_route(
    client: TestClient, exporter: Exporter
) -> None:
    client.delete("/api/v1/users/me/sessions/0197a8e0-0000-7000-8000-000000000000")
    (span,) = exporter.spans
    assert span.name == "DELETE /api/v1/users/me/sessions/{session_id}"
    assert span.attributes
    assert span.attributes["http.response.status_code"] == 401
    assert span.status.status_code is StatusCode.UNSET  # an expected no is no error


def test_the_query_is_hidden_from_spans_only(client: TestClient, exporter: Exporter) -> None:
    answer = client.get("/health/live?a=1&a=2")
    assert answer.status_code == 400  # a name twice: the query was read
    (span,) = exporter.spans
    assert "url.query" not in (span.attributes or {})


def test_an_error_of_ours_says_what_it_is_and_not_what_it_holds(
    make_client: ClientFactory, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()

    def fail(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("app.services.accounts.insert_user", fail)
    assert register(client).status_code == 500
    (span,) = exporter.spans
    assert span.status.status_code is StatusCode.ERROR
    assert CANARY not in exporter.text


def test_a_callers_trace_goes_on(client: TestClient, exporter: Exporter) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    client.get("/health/live", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    (span,) = exporter.spans
    assert span.context
    assert f"{span.context.trace_id:x}" == trace_id


def test_no_record_of_the_log_is_sent(client: TestClient) -> None:
    """The text of an exception may quote a row. Ours leaves rows out; FastAPI's would not."""
    app: Any = client.app
    assert app._telemetry["logs"] is False


def test_without_an_sdk_nothing_is_traced(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app
    assert not app._native_telemetry.enabled()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("telemetry is at work")

    monkeypatch.setattr(type(app._native_telemetry), "__call__", forbidden)
    assert client.get("/health/live").status_code == 200
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"


def test_where_the_exporter_is_missing_the_service_starts_and_says_so(
    sqlite_url: str, tmp_path: Path
) -> None:
    code = (
        "from fastapi.testclient import TestClient\n"
        "from app.main import app\n"
        "with TestClient(app, base_url='https://testserver') as client:\n"
        "    print(client.get('/health/live').status_code)\n"
    )
    environment = {
        "SECRET_KEY": os.environ["SECRET_KEY"],
        "DATABASE_URL": sqlite_url,
        "PYTHONPATH": str(ROOT),
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True
    )
    assert b"200" in answer.stdout, answer.stderr
    assert b"telemetry configuration failed" in answer.stdout + answer.stderr
