"""One JSON object a line on standard output: requests, security events, everything else.

No password, token, cookie or address of a page with a query ever enters a log line.
"""

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

LONGEST_VALUE = 500  # characters: a log line is no place to store what a client sends
DETAIL = "DETAIL: "  # so PostgreSQL begins the explanation of an error: it quotes the row

logger = logging.getLogger("app")
current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")


def configure_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)
    # What no line tells, and what takes longer to find out than to write the line: see
    # "Optimization" in the documentation of logging.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    # uvicorn brings handlers of its own, and an access log that would show query strings.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"


def log_event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """A line with `event` and these fields; None is left out."""
    logger.log(level, name, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """The encoder escapes control characters and line breaks, so one event stays one line."""

    encode = json.JSONEncoder(default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        if request_id := current_request_id.get():
            line["request_id"] = request_id
        fields = getattr(record, "fields", None)
        if fields is None:
            line["logger"] = record.name
            line["message"] = shorten(record.getMessage())
        else:
            line["event"] = record.msg
            for name, value in fields.items():
                if value is not None:
                    line[name] = shorten(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = without_rows(self.formatException(record.exc_info))
        return self.encode(line)


def shorten(text: str) -> str:
    text = without_rows(text)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def without_rows(text: str) -> str:
    """Without addresses and hashes."""
    if DETAIL not in text:
        return text
    return re.sub(rf"^{DETAIL}.*$", f"{DETAIL}(left out)", text, flags=re.MULTILINE)
