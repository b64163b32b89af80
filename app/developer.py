"""The developer's commands. They need requirements-dev.txt, and nothing of the service."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The benchmark's are installed beside ours, never with them.
LOCKED = ("requirements", "requirements-native", "requirements-dev", "bench/requirements")
CACHES = (".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".schemathesis")


def check() -> int:
    """What CI runs. The tests come last, so that their closing line is the last one."""
    for step in (lint, check_format, types, check_migrations, run_tests):
        print(f"== {step.__name__.replace('_', ' ')}", flush=True)
        if failed := step():
            return failed
    return 0


def lint() -> int:
    return python("-m", "ruff", "check", ".")


def check_format() -> int:
    return python("-m", "ruff", "format", "--check", ".")


def format_code() -> int:
    return python("-m", "ruff", "check", "--fix", "--exit-zero", "--quiet", ".") or python(
        "-m", "ruff", "format", "."
    )


def types() -> int:
    return python("-m", "mypy")


def check_migrations() -> int:
    """The migrations build what the models say: autogenerate finds nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "DATABASE_URL": f"sqlite:///{Path(folder, 'check.db').as_posix()}",
            "SECRET_KEY": secrets.token_hex(32),
        }
        for command in (("upgrade", "head"), ("check",)):
            if failed := python("-m", "alembic", *command, **settings):
                return failed
    return 0


def run_tests(arguments: Sequence[str] = ()) -> int:
    """All tests run on all cores; a chosen few in this process, where --pdb and -s work."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each server that they start compiles us
    return python("-m", "pytest", *(arguments or ["--numprocesses=auto"]))


def lock(upgrade: bool) -> int:
    """Versions that are pinned already stay, unless `upgrade`."""
    for name in LOCKED:
        options = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-header"]
        options += ["--quiet", f"--output-file={name}.txt", *(["--upgrade"] if upgrade else [])]
        if failed := python("-m", "uv", "pip", "compile", f"{name}.in", *options):
            return failed
        explain_lock(ROOT / f"{name}.in", ROOT / f"{name}.txt")
    return 0


def explain_lock(source: Path, locked: Path) -> None:
    """A reader of the pinned file sees there, too, why each direct dependency is in it."""
    lines = source.read_text(encoding="utf-8").splitlines()
    reasons = [f"#   {line}" for line in lines if line and not line.startswith(("#", "-"))]
    name = source.relative_to(ROOT).as_posix()
    header = f"# Written by `make lock` from {name}. Direct dependencies, and why:"
    pins = locked.read_text(encoding="utf-8")
    text = "\n".join([header, "#", *reasons, "#", "# Exact versions and hashes of everything:", ""])
    locked.write_text(text + pins, encoding="utf-8", newline="\n")


def clean() -> int:
    for name in CACHES:
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for folder in ("app", "alembic", "bench", "tests", "tools", "torture"):
        for cache in list((ROOT / folder).rglob("__pycache__")):
            shutil.rmtree(cache, ignore_errors=True)
    return 0


def python(*arguments: str, **settings: str) -> int:
    """Run this interpreter in the project's folder; `settings` go into its environment."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | settings).returncode
