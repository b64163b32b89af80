"""What the service logs."""

import io
import json
import logging
from typing import Any


class Journal:
    """What the service's own handler has written since the test began."""

    def __init__(self) -> None:
        (handler,) = logging.root.handlers
        assert isinstance(handler, logging.StreamHandler)
        self.stream = io.StringIO()
        handler.setStream(self.stream)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Every line is JSON, or this fails. But for what the test's own HTTP client logs in this
        same process.
        """
        entries = [json.loads(line) for line in self.text.split("\n")[:-1]]
        return [entry for entry in entries if entry.get("logger") != "httpx2"]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry.get("event") == "request"]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry.get("event") == name]
