"""What the benchmark's commands have in common."""

import argparse
import json
import os
import platform
import signal
import subprocess
from pathlib import Path
from typing import Any

PLOTS = Path(__file__).resolve().parents[1] / "docs" / "plots"


def surroundings() -> dict[str, str]:
    """What a program needs to run here. No setting of the caller's decides what is measured."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def interrupt(number: int, _: object) -> None:
    """Once: a second Ctrl-C must not interrupt the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def revision() -> str:
    """Of the code that was measured."""
    git = ["git", "-C", str(PLOTS), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        return ""


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return models[0] if models else platform.machine()


def store(results: dict[str, Any], file: Path) -> None:
    """Wholly or not at all. Raises OSError."""
    file.parent.mkdir(exist_ok=True)
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    aside.replace(file)


def rounded(value: Any) -> Any:
    """More digits than were measured would be noise in a diff."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
