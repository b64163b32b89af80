"""`make native-argon2`: where it cannot better what is there, that stays as it is.

The build itself takes a network and a compiler, so no test runs it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.proof import ROOT
from tools import native_argon2

NAME = "_argon2_cffi_bindings/_ffi.abi3.so"
HASHES = ["$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library of a virtual environment that is none, with a build for it in reach."""
    packages, built = tmp_path / "packages", tmp_path / "built"
    for folder, content in ((packages, "wheel"), (built, "native")):
        (folder / NAME).parent.mkdir(parents=True)
        (folder / NAME).write_text(content)
    package = SimpleNamespace(version="26.2.0", locate_file=lambda _: packages)
    monkeypatch.setattr(native_argon2, "distribution", lambda _: package)
    monkeypatch.setattr(native_argon2, "build", lambda _: built)
    monkeypatch.setattr(native_argon2, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(native_argon2, "refuse_where_nothing_can_be_built", lambda: None)
    return packages / NAME


def probes(monkeypatch: pytest.MonkeyPatch, *, new: dict[str, Any]) -> None:
    """What the two libraries answer; the old one takes 20 ms."""

    def probed(**settings: str) -> dict[str, Any]:
        return {"hashes": HASHES, "milliseconds": 20.0} | (new if settings else {})

    monkeypatch.setattr(native_argon2, "probed", probed)


def test_a_faster_one_takes_its_place_and_says_how_much_faster(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes(monkeypatch, new={"milliseconds": 12.5})
    native_argon2.replace_by_a_faster_one()
    assert installed.read_text() == "native"
    assert native_argon2.STAMP.read_text() == "26.2.0"
    assert "took 20.0 ms, and takes 12.5 ms now: 1.6 times" in capsys.readouterr().out


def test_whoever_has_the_old_file_open_or_shares_it_keeps_it(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running service, and uv's cache."""
    os.link(installed, tmp_path / "cached")
    probes(monkeypatch, new={"milliseconds": 12.5})
    native_argon2.replace_by_a_faster_one()
    assert (tmp_path / "cached").read_text() == "wheel"


def test_one_that_is_no_faster_is_not_taken(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes(monkeypatch, new={"milliseconds": 19.5})
    native_argon2.replace_by_a_faster_one()
    assert (installed.read_text(), native_argon2.STAMP.exists()) == ("wheel", False)
    assert "nothing was changed" in capsys.readouterr().out


def test_one_that_hashes_otherwise_is_not_taken(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes(monkeypatch, new={"milliseconds": 1.0, "hashes": ["$argon2id$other"]})
    with pytest.raises(SystemExit, match="hashes wrongly: nothing was changed"):
        native_argon2.replace_by_a_faster_one()
    assert installed.read_text() == "wheel"


def test_one_that_this_processor_cannot_run_is_not_taken(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.CompletedProcess([], -4, "", "Illegal instruction")
    monkeypatch.setattr(native_argon2, "run", lambda *_, **__: killed)
    with pytest.raises(SystemExit, match=r"fails here \(-4, see above\): nothing was changed"):
        native_argon2.replace_by_a_faster_one()
    assert installed.read_text() == "wheel"


def test_what_cannot_be_built_is_told_with_the_last_lines_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "error: no such header")
    monkeypatch.setattr(native_argon2, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match=r"see above\): nothing was changed"):
        native_argon2.install("anything")
    assert "no such header" in capsys.readouterr().err


def test_without_a_compiler_it_says_so_and_hashing_goes_on() -> None:
    command = [sys.executable, "-m", "tools.native_argon2"]
    environment = os.environ | {"CC": "/nowhere/cc"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("A C compiler is missing")
    assert len(done.stderr.splitlines()) == 1
    assert all(one.startswith("$argon2") for one in native_argon2.probed()["hashes"])


def test_without_pythons_headers_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(SystemExit, match="Python's headers are missing"):
        native_argon2.refuse_where_nothing_can_be_built()


def test_what_is_built_is_the_locked_version_by_its_hashes(tmp_path: Path) -> None:
    lines = native_argon2.pin(tmp_path).read_text().splitlines()
    assert lines[0].startswith("argon2-cffi-bindings==")
    assert len(lines) > 10
    assert all(line.strip().startswith("--hash=sha256:") for line in lines[1:])
    assert not lines[-1].endswith("\\")


def test_what_it_is_built_with_is_pinned_by_hashes() -> None:
    """It runs while the library that sees every password is made."""
    text = (ROOT / "requirements-native.txt").read_text()
    pins = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert any(pin.startswith("scikit-build-core==") for pin in pins)
    assert all("--hash=sha256:" in pin for pin in pins)
