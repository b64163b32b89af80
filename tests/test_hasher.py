"""The process that hashes next to the one that serves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, current_thread, main_thread
from unittest.mock import Mock

import psutil
import pytest

from app.core import hashing
from app.core.hasher import NICENESS, WORK, Hasher, Leisure, main
from app.core.hashing import Verification
from app.core.refusals import Reason, Refusal

pytestmark = [
    pytest.mark.real_hashes,
    pytest.mark.skipif(os.name == "nt", reason="There, threads of the server hash."),
]

PASSWORD = "nine tall herons at dawn"
LONG = 10  # seconds


linux = pytest.mark.skipif(sys.platform != "linux", reason="Others have no SCHED_IDLE.")


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher(threads=2)
    yield hasher
    hasher.close()


def process_of(hasher: Hasher) -> psutil.Process:
    return psutil.Process(hasher._process.pid)


def test_it_hashes_and_verifies(hasher: Hasher) -> None:
    stored = hasher.hash_password(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert hasher.verify(PASSWORD, stored) == Verification(True)
    assert hasher.verify("another one", stored) == Verification(False)
    assert hasher.verify(PASSWORD, None) == Verification(False)


def test_what_it_raises_is_raised_here_and_it_goes_on(hasher: Hasher) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="TypeError"):
            hasher.hash_password(None)  # type: ignore[arg-type]
    assert hasher.hash_password(PASSWORD)


def test_before_it_answers_it_knows_what_to_compare_a_strangers_password_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first unknown address after a start would take two hashes."""
    for name in ("os.nice", "signal.signal"):
        monkeypatch.setattr(f"app.core.hasher.{name}", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["hasher"])
    hashing.nobodys_hash.cache_clear()
    main()
    assert hashing.nobodys_hash.cache_info().currsize == 1


def test_it_gives_way_to_whoever_serves(hasher: Hasher) -> None:
    hasher.hash_password(PASSWORD)  # by then it is up
    assert process_of(hasher).nice() == psutil.Process().nice() + NICENESS


@linux
def test_a_hash_takes_what_nobody_else_wants_of_the_cores(hasher: Hasher) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(hasher.hash_password, [PASSWORD] * 2))
    threads = process_of(hasher).threads()
    policies = Counter(os.sched_getscheduler(thread.id) for thread in threads)
    assert policies == {os.SCHED_IDLE: 2, os.SCHED_OTHER: 3}


class Busy:
    """Cores of which nothing is left for a hash that waits for it: `free` lets it end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = Event()
        self.begun: list[str] = []
        self.ended: list[str] = []
        monkeypatch.setitem(WORK, "hash_password", self.hash_password)

    def hash_password(self, password: str) -> str:
        at_leisure = current_thread() is not main_thread()
        self.begun.append(f"{password}{' at leisure' if at_leisure else ''}")
        if at_leisure:
            assert self.free.wait(LONG)
        self.ended.append(password)
        return f"hash of {password}"


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    monkeypatch.setattr("app.core.hasher.PATIENCE_SECONDS", 0.01)
    busy = Busy(monkeypatch)
    yield busy
    busy.free.set()


def ask(leisure: Leisure, password: str) -> object:
    return leisure.outcome(json.dumps(["hash_password", password]).encode())


def test_where_others_want_all_cores_a_log_in_is_answered_all_the_same(busy: Busy) -> None:
    assert ask(Leisure(), "a") == ("hash of a", None)
    assert busy.begun == ["a at leisure", "a"]


def test_and_the_next_one_does_not_wait_for_them_first(busy: Busy) -> None:
    leisure = Leisure()
    ask(leisure, "a")
    assert ask(leisure, "b") == ("hash of b", None)
    assert busy.begun == ["a at leisure", "a", "b"]


def test_what_was_computed_too_late_is_nobody_elses_answer(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    leisure = Leisure()
    ask(leisure, "a")
    monkeypatch.setattr("app.core.hasher.PATIENCE_SECONDS", LONG)
    busy.free.set()
    until = time.monotonic() + LONG
    while not leisure._under_way.done():
        assert time.monotonic() < until
        time.sleep(0.001)
    assert busy.ended == ["a", "a"]
    assert ask(leisure, "b") == ("hash of b", None)
    assert busy.begun == ["a at leisure", "a", "b at leisure"]


@linux
def test_where_leisure_is_forbidden_it_hashes_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = Mock(side_effect=PermissionError)
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    hashed, error = Leisure().outcome(json.dumps(["hash_password", PASSWORD]).encode())
    assert str(hashed).startswith("$argon2id$")
    assert error is None
    forbidden.assert_called_once()


def test_it_hashes_several_at_once(hasher: Hasher) -> None:
    stored = hasher.hash_password(PASSWORD)
    with ThreadPoolExecutor(2) as pool:
        verified = pool.map(lambda _: hasher.verify(PASSWORD, stored), range(10))
    assert set(verified) == {Verification(True)}


@pytest.mark.proves("16.5.3")
def test_stopped_it_is_started_again(hasher: Hasher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sockets stay open then, and nothing comes."""
    stored = hasher.hash_password(PASSWORD)
    stopped = process_of(hasher)
    stopped.suspend()
    with monkeypatch.context() as patch:
        patch.setattr("app.core.hasher.HANG_SECONDS", 0.5)
        with pytest.raises(Refusal) as refused:
            hasher.verify(PASSWORD, stored)
    assert refused.value.reason is Reason.BUSY
    assert not stopped.is_running()
    assert hasher.verify(PASSWORD, stored) == Verification(True)


@pytest.mark.proves("6.3.1")
def test_an_answer_that_comes_late_is_nobody_elses(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the machine is paused for longer than anybody waits, and goes on: the right password
    of one would let another in.
    """
    stored = hasher.hash_password(PASSWORD)
    process_of(hasher).suspend()

    def go_on(channels: object) -> None:
        """In the place of starting it again."""
        process_of(hasher).resume()
        time.sleep(0.5)  # by then it has answered

    monkeypatch.setattr(hasher, "_start_again", go_on)
    monkeypatch.setattr("app.core.hasher.HANG_SECONDS", 0.5)
    for _ in range(2):
        with pytest.raises(Refusal):
            hasher.verify(PASSWORD, stored)
        process_of(hasher).suspend()
    process_of(hasher).resume()
    with suppress(Refusal):
        assert hasher.verify("another one", stored) == Verification(False)


@pytest.mark.proves("16.5.3")
def test_killed_while_it_hashes_it_is_started_again_and_nobody_notices(hasher: Hasher) -> None:
    stored = hasher.hash_password(PASSWORD)
    killed = process_of(hasher)
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(hasher.verify, PASSWORD, stored) for _ in range(8)]
        killed.kill()
        assert {try_.result(LONG) for try_ in tries} == {Verification(True)}
    assert process_of(hasher) != killed


def test_where_it_cannot_run_log_ins_are_told_to_come_back(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    process_of(hasher).kill()
    with pytest.raises(Refusal, match="busy"):
        hasher.hash_password(PASSWORD)
    monkeypatch.undo()
    assert hasher.hash_password(PASSWORD)


def test_where_there_is_no_room_for_a_process_it_is_started_as_soon_as_there_is(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError

    process_of(hasher).kill()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        for _ in range(3):  # more often than it has channels
            with pytest.raises(Refusal, match="busy"):
                hasher.hash_password(PASSWORD)
    assert hasher.hash_password(PASSWORD)


def test_neither_the_folder_it_is_started_in_nor_its_packages_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "json.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    hasher = Hasher(threads=1)
    assert hasher.hash_password(PASSWORD)
    hasher.close()


def test_what_goes_wrong_is_told_without_the_password(hasher: Hasher) -> None:
    with pytest.raises(RuntimeError, match="UnicodeEncodeError") as raised:
        hasher.hash_password("a canary \ud800")
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_told_to_end_with_the_server_it_answers_what_the_server_asks(
    hasher: Hasher, number: signal.Signals
) -> None:
    hasher.hash_password(PASSWORD)
    before = process_of(hasher)
    before.send_signal(number)
    assert hasher.hash_password(PASSWORD)
    assert process_of(hasher) == before


def test_it_ends_when_the_server_is_killed() -> None:
    program = (
        "from app.core.hasher import Hasher; hasher = Hasher(1)\n"
        "hasher.hash_password('x'); print(hasher._process.pid, flush=True); input()"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        process = psutil.Process(int(server.stdout.readline()))
        server.kill()
    process.wait(LONG)


@pytest.mark.proves("15.2.2")
@pytest.mark.skipif(sys.platform != "linux", reason="It is glibc that keeps memory.")
def test_its_memory_is_given_back_when_it_is_quiet(hasher: Hasher) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: hasher.hash_password(PASSWORD), range(4)))
    until = time.monotonic() + LONG
    while process_of(hasher).memory_info().rss > 40 * 2**20:  # either thread has used 19 MiB
        assert time.monotonic() < until
        time.sleep(0.1)
