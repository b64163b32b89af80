"""What is going on: one line that changes in a terminal, plain lines elsewhere."""

import shutil
import sys
import time


class Progress:
    """total: seconds that everything takes, as far as known beforehand."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._start = time.monotonic()
        self._done = 0
        self._total = 0
        self._total_seconds = 0.0
        self._done_seconds = 0.0

    def expect(self, steps: int, seconds: float) -> None:
        """Before anything is measured: so many steps of so many seconds, or about."""
        self._total += steps
        self._total_seconds += steps * seconds

    def step(self, what: str, seconds: float) -> None:
        """The next one begins."""
        left = max(0.0, self._total_seconds - self._done_seconds) * self._pace()
        self._done += 1
        self._done_seconds += seconds
        self._show(f"[{self._done}/{self._total}] {what}, {in_words(left)} left")

    def say(self, sentence: str) -> None:
        """What stays to be read."""
        self._clear()
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()

    def doing(self, what: str) -> None:
        """Outside of the count."""
        self._show(what)

    def end(self) -> None:
        self._clear()

    def _pace(self) -> float:
        """How much longer than expected it takes."""
        if self._done_seconds < 10:
            return 1.2
        return (time.monotonic() - self._start) / self._done_seconds

    def begin(self) -> None:
        """The clock starts: what came before was not counted."""
        self._start = time.monotonic()

    def _show(self, line: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{line[:width]}")
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
