"""Questions to a process of the service's own environment: one a line and its answer, in JSON.

Both ends of it: `conversation()` is ours, `answer()` is the other's.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.command import surroundings
from bench.load import BenchmarkError


class Conversation:
    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, name: str, **values: Any) -> Any:
        """Raises BenchmarkError, with the end of its log, where it fails."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps([name, values]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchmarkError(f"{name} failed: {end_of(self._log)}")
        return json.loads(answer)


@contextmanager
def conversation(
    python: str, module: str, *, folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[Conversation]:
    """With `module`, which calls answer(). folder: one without .env, here and below."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [python, "-m", module],
            cwd=folder,
            env=surroundings() | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
    with process:  # closes its input, and so ends it
        yield Conversation(process, log)


def end_of(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1000:]


def answer(find: Callable[[str], Callable[..., Any]]) -> None:
    """find: what answers a question, by its name."""
    for line in sys.stdin:
        name, values = json.loads(line)
        sys.stdout.write(json.dumps(find(name)(**values)) + "\n")
        sys.stdout.flush()
