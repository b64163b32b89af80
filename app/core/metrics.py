"""What /metrics tells. Off, nothing is counted, and prometheus_client is not even imported.

Several processes behind one address each count for themselves. prometheus_client then keeps the
figures in files of the folder that PROMETHEUS_MULTIPROC_DIR names, and any of them tells the sum.
No label says who somebody is, and each has few values.
"""

import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from app.core.config import SettingsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
# Seconds. /users/me takes a millisecond or two; a log-in in a flood of them waits its turn.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class Figures(NamedTuple):
    registry: "CollectorRegistry"
    requests: "Counter"
    durations: "Histogram"
    events: "Counter"
    mails: "Counter"


_figures: Figures | None = None


def check_folder() -> None:
    """Raises SettingsError where the processes are told to add up in a folder that is none."""
    folder = os.environ.get(FOLDER)
    if folder is not None and not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise SettingsError(
            f"{FOLDER}: put there an empty folder that this process may write to, or nothing: "
            "`python -m app run` makes one."
        )


def switch_on() -> None:
    """For the whole process, once. Raises SettingsError as check_folder does."""
    global _figures
    if _figures:
        return
    check_folder()
    from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

    disable_created_metrics()
    registry = CollectorRegistry()
    count = partial(Counter, registry=registry)
    _figures = Figures(
        registry,
        count(
            "http_requests_total",
            "Requests. No route matched: unmatched. Gone without an answer: status none.",
            ("method", "route", "status"),
        ),
        Histogram(
            "http_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        ),
        count("auth_events_total", "Security events, as in the audit trail.", ("event", "result")),
        count("mails_total", "Attempts to send a mail.", ("template", "result")),
    )


def count_request(method: str, route: str, status: int | None, seconds: float) -> None:
    if _figures:
        if method not in METHODS:  # anybody can make one up
            method = "other"
        _figures.requests.labels(method, route, status or "none").inc()
        _figures.durations.labels(method, route).observe(seconds)


def count_event(event: str, result: str) -> None:
    if _figures:
        _figures.events.labels(event, result).inc()


def count_mail(template: str, result: str) -> None:
    """result: `sent`, `retried` for a failure that is tried again, or `abandoned`."""
    if _figures:
        _figures.mails.labels(template, result).inc()


def is_one_of_several() -> bool:
    """Whether /metrics would tell a part for the whole, as far as a process can know that.

    Started by `uvicorn --workers`, by gunicorn, or by something that read WEB_CONCURRENCY.
    """
    alone = multiprocessing.parent_process() is None
    alone &= os.environ.get("WEB_CONCURRENCY", "1") in ("", "1")
    alone &= not os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
    return not alone and FOLDER not in os.environ


class Backlog(NamedTuple):
    """Mails that wait. The database knows, so every process tells the same."""

    pending: int
    oldest: float  # seconds

    def collect(self) -> Iterator["Metric"]:
        from prometheus_client.core import GaugeMetricFamily

        yield GaugeMetricFamily("outbox_pending", "Mails that wait to be sent.", self.pending)
        name = "outbox_oldest_age_seconds"
        yield GaugeMetricFamily(name, "Since when the oldest of them waits.", self.oldest)


def exposition(backlog: Backlog | None) -> bytes:
    """In Prometheus's text format. backlog: None where the database does not answer.

    Where there are several processes it reads files, so not on the event loop.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    assert _figures
    registry = _figures.registry
    if FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry) + (generate_latest(backlog) if backlog else b"")
