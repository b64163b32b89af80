"""Processes that hash, next to the one that serves.

On threads of the server, a flood of log-ins would slow all else, however low their priority: a
thread that is last in the queue for a core may hold the interpreter's lock, for which all wait.
They speak over pairs of sockets, one for each hash that they compute at a time, and end when these
are closed, so they outlive nobody.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from app.core import hashing
from app.core.hashing import Verification
from app.core.logs import logger
from app.core.refusals import Reason, Refusal

ROOT = str(Path(__file__).parents[2])  # of the package app
LEISURE = hasattr(os, "SCHED_IDLE")  # Linux
PATIENCE_SECONDS = 1.0  # until a hash that gets no core is computed by the insistent process, too
HANG_SECONDS = 20.0  # longer than it takes there
END_SECONDS = 2  # in which the system ends a killed process, unless it is stuck
NICENESS = 15  # whoever serves goes first at a core
QUIET_SECONDS = 1.0  # until unused memory is given back
MEMORY = {"MALLOC_ARENA_MAX": "1"}  # of several, glibc gives back that of the first one only

WORK = {work.__name__: work for work in (hashing.hash_password, hashing.verify)}
Answer = tuple[Any, str | None]  # the result, or what went wrong


class Hasher:
    """What app/core/hashing.py does, done there. Called from as many threads as it is made for.

    The leisurely process takes what nobody else wants of the cores: Linux places and wakes others
    as if it were not there. Where they want all of them it gets nowhere. So there is an insistent
    one besides, with a small share of its own, which starts when it is first needed.

    Raises Refusal(BUSY) where they are killed again and again, RuntimeError for what is raised
    there.
    """

    def __init__(self, threads: int) -> None:
        self._leisurely = Neighbour(threads, "leisurely")
        self._insistent = Neighbour(threads, "insistent")
        (self._leisurely if LEISURE else self._insistent).start()

    def hash_password(self, password: str) -> str:
        return str(self._ask("hash_password", password))

    def verify(self, password: str, stored: str | None) -> Verification:
        return Verification(*self._ask("verify", password, stored))

    def close(self) -> None:
        """When nobody calls any more."""
        self._leisurely.end()
        self._insistent.end()

    def _ask(self, work: str, *arguments: str | None) -> Any:
        result, error = self._answer(json.dumps([work, *arguments]).encode())
        if error:
            raise RuntimeError(error)
        return result

    def _answer(self, question: bytes) -> Answer:
        if LEISURE:
            with suppress(TimeoutError, Refusal):
                return self._leisurely.ask(question, PATIENCE_SECONDS)
        try:
            return self._insistent.ask(question, HANG_SECONDS)
        except TimeoutError:  # whoever asks has waited for long enough
            raise Refusal(Reason.BUSY) from None


class Neighbour:
    """One of the processes."""

    def __init__(self, threads: int, manner: str) -> None:
        self._threads = threads
        self._manner = manner
        self._starting = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._seats: SimpleQueue[Seat] | None = None

    def start(self) -> None:
        pairs = [Pipe() for _ in range(self._threads)]
        theirs = [end.fileno() for _, end in pairs]
        try:
            self._process = subprocess.Popen(
                # -P: not what lies in the folder that the server was started in.
                [sys.executable, "-P", "-m", __name__, self._manner, *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                env=os.environ
                | MEMORY
                | {"PYTHONPATH": os.pathsep.join([ROOT, *filter(None, sys.path)])},
                pass_fds=theirs,
            )
        finally:
            for _, end in pairs:
                end.close()
        seats: SimpleQueue[Seat] = SimpleQueue()
        for ours, _ in pairs:
            seats.put(Seat(ours))
        self._seats = seats

    def ask(self, question: bytes, seconds: float) -> Answer:
        """Raises TimeoutError, and Refusal(BUSY) where it is killed again and again."""
        for _ in range(2):
            seats = self._seats or self._start_instead_of(None)
            seat = seats.get()
            try:
                return seat.ask(question, seconds)
            except TimeoutError:
                if self._manner == "insistent":  # it hangs: nobody is left without a core that long
                    self._start_instead_of(seats)
                raise
            except (EOFError, OSError):  # somebody has killed it
                self._start_instead_of(seats)
            finally:
                seats.put(seat)  # for whoever comes next, if it cannot be started now
        raise Refusal(Reason.BUSY)

    def end(self) -> None:
        """What it still computes is wanted by nobody."""
        if self._process:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)

    def __str__(self) -> str:
        return f"{self._manner} hashing"

    def _start_instead_of(self, seats: "SimpleQueue[Seat] | None") -> "SimpleQueue[Seat]":
        """Raises Refusal(BUSY) where the system has no room for a process."""
        with self._starting:
            if seats is self._seats:  # else somebody who waited, too, has started it
                if self._process:
                    logger.error("The %s process has ended or hangs, and is started again.", self)
                else:
                    logger.warning("No core was free for a hash: the %s process is started.", self)
                self.end()
                try:
                    self.start()
                except OSError as error:
                    logger.error("The %s process cannot be started: %s", self, error)
                    raise Refusal(Reason.BUSY) from error
            assert self._seats
            return self._seats


class Seat:
    """Where one question is asked at a time."""

    def __init__(self, channel: "Connection[Any, Any]") -> None:
        self._channel = channel
        self._is_open = False  # the last question

    def ask(self, question: bytes, seconds: float) -> Answer:
        """Raises TimeoutError, at once while the last question is open; EOFError, OSError."""
        if self._is_open:
            if not self._channel.poll():
                raise TimeoutError
            self._channel.recv_bytes()  # the answer that nobody waits for any more
        self._is_open = True
        self._channel.send_bytes(question)
        if not self._channel.poll(seconds):
            raise TimeoutError
        answer = self._channel.recv_bytes()
        self._is_open = False
        result, error = json.loads(answer)
        return result, error


def main() -> None:
    # Ctrl-C and an init system tell the whole group to end. The server answers what it is
    # asked first, and closes the sockets then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, manner, *ends = sys.argv
    hashing.nobodys_hash()  # now, so that the first stranger costs no more than the next
    os.nice(NICENESS)
    if manner == "leisurely":
        with suppress(OSError):  # where it is forbidden, a niceness has to do
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    threads = [Thread(target=serve, args=[Connection(int(end))]) for end in ends]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # a limit of threads: questions to the others would be open for ever
        traceback.print_exc()
        os._exit(1)


def serve(channel: "Connection[Any, Any]") -> None:
    try:
        while True:
            if not channel.poll(QUIET_SECONDS):
                give_memory_back()
            channel.send_bytes(json.dumps(outcome(channel.recv_bytes())).encode())
    except (EOFError, OSError):  # the server has ended
        return
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # with all its threads, so that the server starts another


def outcome(question: bytes) -> Answer:
    """Whatever goes wrong."""
    work, *arguments = json.loads(question)
    try:
        return WORK[work](*arguments), None
    except Exception as error:
        return None, type(error).__name__  # its text may quote the password


def give_memory_back() -> None:
    """19 MiB for each thread that has hashed. Other C libraries than glibc do it by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


if __name__ == "__main__":
    main()
