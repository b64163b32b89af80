"""The process that hashes next to the one that serves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import psutil
import pytest

from app.core import hashing
from app.core.hasher import LEISURE, NICENESS, Hasher, Neighbour, Seat, main
from app.core.hashing import Verification
from app.core.refusals import Reason, Refusal

pytestmark = [
    pytest.mark.real_hashes,
    pytest.mark.skipif(os.name == "nt", reason="There, threads of the server hash."),
]

PASSWORD = "nine tall herons at dawn"
LONG = 10  # seconds


linux = pytest.mark.skipif(not LEISURE, reason="Other systems than Linux have no SCHED_IDLE.")


@pytest.fixture
def hasher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hasher]:
    monkeypatch.setattr("app.core.hasher.PATIENCE_SECONDS", LONG)  # the machine may be busy
    hasher = Hasher(threads=2)
    yield hasher
    hasher.close()


def process_of(hasher: Hasher) -> psutil.Process:
    """The one that is asked first."""
    return process(hasher._leisurely if LEISURE else hasher._insistent)


def process(neighbour: Neighbour) -> psutil.Process:
    assert neighbour._process
    return psutil.Process(neighbour._process.pid)


@pytest.fixture
def starved(hasher: Hasher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hasher]:
    """Others want all cores all the time, and nothing is left for whoever takes what is left."""
    hasher.hash_password(PASSWORD)  # by then it is up
    monkeypatch.setattr("app.core.hasher.PATIENCE_SECONDS", 0.2)
    process_of(hasher).suspend()
    yield hasher
    process_of(hasher).resume()


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
    run_main(monkeypatch, "insistent")
    assert hashing.nobodys_hash.cache_info().currsize == 1


@linux
def test_where_leisure_is_forbidden_a_niceness_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = Mock(side_effect=PermissionError)
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    run_main(monkeypatch, "leisurely")
    forbidden.assert_called_once()


def test_a_process_that_has_no_room_for_its_threads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or some questions to it would never be answered."""
    end = Mock()
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(Thread, "start", Mock(side_effect=RuntimeError))
    _, theirs = Pipe()
    run_main(monkeypatch, "insistent", os.dup(theirs.fileno()))
    end.assert_called_once_with(1)


def run_main(monkeypatch: pytest.MonkeyPatch, manner: str, *ends: int) -> None:
    """Here, and without what would change this process."""
    for name in ("os.nice", "signal.signal"):
        monkeypatch.setattr(f"app.core.hasher.{name}", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["hasher", manner, *map(str, ends)])
    hashing.nobodys_hash.cache_clear()
    main()


def test_it_gives_way_to_whoever_serves(hasher: Hasher) -> None:
    hasher.hash_password(PASSWORD)  # by then it is up
    assert process_of(hasher).nice() == min(19, psutil.Process().nice() + NICENESS)


@linux
def test_it_takes_what_nobody_else_wants_of_the_cores(hasher: Hasher) -> None:
    hasher.hash_password(PASSWORD)  # by then it is up
    threads = process_of(hasher).threads()
    assert {os.sched_getscheduler(thread.id) for thread in threads} == {os.SCHED_IDLE}


@linux
def test_where_nothing_is_left_of_them_another_one_hashes_that_has_a_share(starved: Hasher) -> None:
    leisurely = process_of(starved)
    stored = starved.hash_password(PASSWORD)
    assert starved.verify(PASSWORD, stored) == Verification(True)
    insistent = process(starved._insistent)
    assert insistent.nice() == min(19, psutil.Process().nice() + NICENESS)
    policies = {os.sched_getscheduler(thread.id) for thread in insistent.threads()}
    assert policies == {os.sched_getscheduler(0)}
    assert process_of(starved) == leisurely


@linux
def test_and_nobody_waits_in_vain_as_long_as_it_lasts(
    starved: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # which are still open
        starved.hash_password(PASSWORD)
    monkeypatch.setattr("app.core.hasher.PATIENCE_SECONDS", 3600)  # longer than a test may take
    assert starved.hash_password(PASSWORD)


@linux
@pytest.mark.proves("6.3.1")
def test_an_answer_that_comes_late_is_nobody_elses(starved: Hasher) -> None:
    """The right password of one would let another in."""
    stored = starved.hash_password(PASSWORD)
    for _ in range(2):
        assert starved.verify(PASSWORD, stored) == Verification(True)
    process_of(starved).resume()
    for _ in range(4):
        assert starved.verify("another one", stored) == Verification(False)


def test_a_question_that_is_open_is_waited_for_by_nobody() -> None:
    ours, theirs = Pipe()
    seat = Seat(ours)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            seat.ask(b"slow", 0)
    assert theirs.recv_bytes() == b"slow"
    assert not theirs.poll()
    theirs.send_bytes(b'["too late", null]')
    theirs.send_bytes(b'["in time", null]')
    assert seat.ask(b"quick", 0) == ("in time", None)
    assert theirs.recv_bytes() == b"quick"


def test_it_hashes_several_at_once(hasher: Hasher) -> None:
    stored = hasher.hash_password(PASSWORD)
    with ThreadPoolExecutor(2) as pool:
        verified = pool.map(lambda _: hasher.verify(PASSWORD, stored), range(10))
    assert set(verified) == {Verification(True)}
    assert process_of(hasher).num_threads() == 3


@linux
def test_where_the_leisurely_one_cannot_run_the_insistent_one_does(
    starved: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = starved.hash_password(PASSWORD)  # by then both are up
    monkeypatch.setattr(sys, "executable", "/bin/false")
    process_of(starved).kill()
    assert starved.verify(PASSWORD, stored) == Verification(True)
    monkeypatch.undo()


@linux
@pytest.mark.proves("16.5.3")
def test_what_hangs_is_replaced(starved: Hasher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sockets stay open then, and nothing comes."""
    stored = starved.hash_password(PASSWORD)
    hung = process(starved._insistent)
    hung.suspend()
    with monkeypatch.context() as patch:
        patch.setattr("app.core.hasher.HANG_SECONDS", 0.5)
        with pytest.raises(Refusal) as refused:
            starved.verify(PASSWORD, stored)
    assert refused.value.reason is Reason.BUSY
    assert not hung.is_running()
    assert starved.verify(PASSWORD, stored) == Verification(True)


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
        "hasher.hash_password('x')\n"
        "process = hasher._leisurely._process or hasher._insistent._process\n"
        "print(process.pid, flush=True); input()"
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
