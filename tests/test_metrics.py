"""/metrics: what is counted, that it adds up over processes, and that nobody is named in it."""

import http.client
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.core import metrics
from app.core.client import HERE
from app.core.refusals import Reason, Refusal
from app.db.session import Database
from app.doctor import check_metrics
from app.main import create_app
from app.models.audit import Event
from app.models.mail import Template
from app.services import audit, outbox
from tests.answers import refused_as
from tests.conftest import ClientFactory, make_settings
from tests.figures import figures, read, rise
from tests.links import MAIL
from tests.people import ADA, log_in, log_out, register, sign_up_and_in, who_am_i
from tests.servers import ROOT, served


@pytest.fixture
def counted(make_client: ClientFactory) -> TestClient:
    return make_client(enable_metrics=True)


@pytest.fixture
def database(counted: TestClient) -> Database:
    found: Database = counted.app.state.backend.database  # type: ignore[attr-defined]
    return found


# On and off


@pytest.mark.proves("13.4.5", "ER-03")
def test_it_is_not_there_unless_it_is_asked_for(client: TestClient) -> None:
    assert refused_as(client.get("/metrics")) == (404, "not_found")


def test_off_prometheus_is_not_even_imported(sqlite_url: str, tmp_path: Path) -> None:
    code = "import sys, app.main; print('prometheus_client' in sys.modules)"
    for setting, imported in (("", "False"), ("true", "True")):
        environment = {
            "SECRET_KEY": os.environ["SECRET_KEY"],
            "DATABASE_URL": sqlite_url,
            "PYTHONPATH": str(ROOT),
            "ENABLE_METRICS": setting,
        }
        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True
        )
        assert answer.stdout.decode().strip() == imported, answer.stderr


def test_on_it_is_prometheus_text_that_nobody_keeps(counted: TestClient) -> None:
    answer = counted.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "# TYPE http_requests_total counter" in answer.text
    assert "# TYPE http_request_duration_seconds histogram" in answer.text


def test_it_is_no_part_of_the_documented_api(counted: TestClient) -> None:
    app: Any = counted.app
    assert "/metrics" not in app.openapi()["paths"]


def test_prometheus_asks_by_address(make_client: ClientFactory) -> None:
    client = make_client(enable_metrics=True, allowed_hosts=("auth.example.com",))
    assert client.get("/metrics", headers={"Host": "10.1.2.3:8000"}).status_code == 200
    assert client.get("/metricsx", headers={"Host": "10.1.2.3:8000"}).status_code == 421


# Requests


def test_requests_are_counted_by_the_route_they_took(counted: TestClient) -> None:
    sign_up_and_in(counted)

    def gone() -> Response:
        return counted.delete(f"/api/v1/users/me/sessions/{uuid4()}")

    template = "/api/v1/users/me/sessions/{session_id}"
    labels = {"method": "DELETE", "route": template}
    total = "http_requests_total"
    assert rise(counted, gone, total, **labels, status="404") == 1
    count = "http_request_duration_seconds_count"
    assert rise(counted, gone, count, **labels) == 1
    assert rise(counted, gone, "http_request_duration_seconds_bucket", **labels, le="+Inf") == 1
    me = {"method": "GET", "route": "/api/v1/users/me", "status": "200"}
    assert rise(counted, lambda: who_am_i(counted), total, **me) == 1
    wrong = {"method": "PUT", "route": "/health/live", "status": "405"}
    assert rise(counted, lambda: counted.put("/health/live"), total, **wrong) == 1


def test_every_route_of_the_api_has_its_own_name(counted: TestClient) -> None:
    app: Any = counted.app
    for path in app.openapi()["paths"]:
        asked = re.sub(r"\{\w+\}", "00000000-0000-7000-8000-000000000000", path)
        counted.request("TRACE", asked)
        routes = {dict(labels).get("route") for _, labels in figures(counted)}
        assert path in routes


def test_made_up_paths_and_methods_make_no_labels(counted: TestClient) -> None:
    def probe() -> None:
        for number in range(5):
            counted.get(f"/made-up-{number}")
            counted.request(f"MADEUP{number}", "/also-made-up")
            counted.get("/health/live%0A")

    total = "http_requests_total"
    labels = {"route": "unmatched", "status": "404"}
    assert rise(counted, probe, total, **labels, method="GET") == 10
    assert rise(counted, probe, total, **labels, method="other") == 5
    text = counted.get("/metrics").text
    assert "made" not in text.lower().replace("prometheus", "")


@pytest.mark.proves("14.2.1", "16.2.5")
def test_nobody_is_named(counted: TestClient, database: Database) -> None:
    canary = "canary-5521-never-in-a-label"
    person = {"email": f"{canary}@example.com", "password": f"{canary} and more words"}
    sign_up_and_in(counted, person)
    counted.get(f"/api/v1/users/me?token={canary}")
    counted.get(f"/api/v1/users/me/sessions/{canary}")
    counted.get(f"/{canary}", headers={"User-Agent": canary, "X-Request-ID": canary})
    register(counted, {"email": f"{canary}@example.com", "password": canary})
    log_out(counted)
    text = counted.get("/metrics").text
    assert canary not in text
    assert "testclient" not in text
    labels = {name for _, labels in read(text) for name, _ in labels}
    assert labels <= {"method", "route", "status", "event", "result", "template", "le"}


# Events and mails


def test_security_events_are_counted_when_they_have_happened(
    counted: TestClient, database: Database
) -> None:
    register(counted)
    name, failed = "auth_events_total", {"event": "login_failed", "result": "failure"}
    wrong = ADA | {"password": "not the password of Ada"}
    assert rise(counted, lambda: log_in(counted, wrong), name, **failed) == 1
    started = {"event": "login_started", "result": "success"}
    assert rise(counted, lambda: log_in(counted), name, **started) == 1

    def roll_back() -> None:
        with pytest.raises(Refusal):
            database.run_write(record_and_fail)

    assert rise(counted, roll_back, name, **failed) == 0


def record_and_fail(session: Any) -> None:
    audit.record(session, Event.LOGIN_FAILED, HERE)
    session.flush()
    raise Refusal(Reason.BUSY)


def test_mails_are_counted_by_template_and_result(counted: TestClient) -> None:
    labels = {"template": "reset_password", "result": "sent"}
    count = lambda: metrics.count_mail(Template.RESET_PASSWORD, "sent")  # noqa: E731
    assert rise(counted, count, "mails_total", **labels) == 1


def test_waiting_mails_are_asked_of_the_database(counted: TestClient, database: Database) -> None:
    pending, age = (
        ("outbox_pending", frozenset[Any]()),
        ("outbox_oldest_age_seconds", frozenset[Any]()),
    )
    before = figures(counted)
    assert (before[pending], before[age]) == (0, 0)
    settings = make_settings("sqlite:///unused.db", **MAIL)
    for recipient in (ADA["email"], "bob@example.com"):
        database.run_write(outbox.enqueue, settings, Template.NEW_DEVICE, recipient, HERE)
    after = figures(counted)
    assert after[pending] == 2
    assert 0 < after[age] < 60


def test_what_was_counted_is_told_while_the_database_is_down() -> None:
    app = create_app(make_settings("postgresql://a:b@127.0.0.1:1/nothing", enable_metrics=True))
    with TestClient(app, base_url="https://testserver") as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "http_requests_total" in answer.text
    assert "outbox_pending" not in answer.text


# Several processes


def test_workers_add_up_whichever_is_asked(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, tmp_path, workers=2, ENABLE_METRICS="true") as server:
        (folder,) = server.temporary.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        asked = 0
        while len(processes_in(folder)) < 2 and asked < 1000:
            with ThreadPoolExecutor(20) as threads:
                list(threads.map(ask, [server.port] * 20, ["/.well-known/jwks.json"] * 20))
            asked += 20
        assert len(processes_in(folder)) == 2
        jwks = {"method": "GET", "route": "/.well-known/jwks.json"}
        for _ in range(10):
            found = read(ask(server.port, "/metrics"))
            assert (
                found["http_requests_total", frozenset({**jwks, "status": "200"}.items())] == asked
            )
            assert found["http_request_duration_seconds_count", frozenset(jwks.items())] == asked
            assert found["outbox_pending", frozenset()] == 0
        assert "/metrics tells" not in server.log.read_text()
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        assert list(server.temporary.iterdir()) == []


def processes_in(folder: Path) -> set[str]:
    return {path.stem.split("_")[-1] for path in folder.iterdir()}


def ask(port: int, path: str) -> str:
    """By a connection of its own, so that each worker has some."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


def test_workers_that_cannot_add_up_say_so(sqlite_url: str, tmp_path: Path) -> None:
    command = "uvicorn app.main:app"
    with served(sqlite_url, tmp_path, workers=2, command=command, ENABLE_METRICS="true") as server:
        assert "set PROMETHEUS_MULTIPROC_DIR" in server.log.read_text()


def test_a_folder_that_is_not_there_stops_the_start(sqlite_url: str, tmp_path: Path) -> None:
    environment = {
        "SECRET_KEY": os.environ["SECRET_KEY"],
        "DATABASE_URL": sqlite_url,
        "ENABLE_METRICS": "true",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "nowhere"),
    }
    answer = subprocess.run(
        [sys.executable, "-c", "import app.main"], cwd=ROOT, env=environment, capture_output=True
    )
    said = answer.stderr.decode()
    assert answer.returncode != 0
    assert "PROMETHEUS_MULTIPROC_DIR: put there" in said
    assert "Traceback" not in said


def test_doctor_says_that_it_is_on_and_which_folder_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = make_settings("sqlite:///unused.db", enable_metrics=True)
    (finding,) = check_metrics(settings)
    assert finding.verdict == "note"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "nowhere"))
    (finding,) = check_metrics(settings)
    assert finding.verdict == "wrong"
    assert "PROMETHEUS_MULTIPROC_DIR: put there" in finding.text
    assert list(check_metrics(make_settings("sqlite:///unused.db"))) == []
