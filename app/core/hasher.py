"""The process that hashes, next to the one that serves.

On threads of the server, a flood of log-ins would slow all else, however low their priority: a
thread that is last in the queue for a core may hold the interpreter's lock, for which all wait.
It speaks over pairs of sockets, one for each hash that it computes at a time, and ends when they
are closed, so it outlives nobody.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
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
END_SECONDS = 2  # longer than a hash takes
HANG_SECONDS = 20  # longer than one takes that gets hardly any of a core
NICENESS = 15  # whoever serves goes first at a core
PATIENCE_SECONDS = 1.0  # until a hash asks for a share of the cores
QUIET_SECONDS = 1.0  # until unused memory is given back
MEMORY = {"MALLOC_ARENA_MAX": "1"}  # of several, glibc gives back that of the first one only

WORK = {work.__name__: work for work in (hashing.hash_password, hashing.verify)}


class Hasher:
    """What app/core/hashing.py does, done there. Called from as many threads as it is made for.

    Raises Refusal(BUSY) where the process is killed again and again, RuntimeError for what is
    raised there.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._starting = Lock()
        self._channels: SimpleQueue[Connection[Any, Any]]
        self._start()

    def hash_password(self, password: str) -> str:
        return str(self._ask("hash_password", password))

    def verify(self, password: str, stored: str | None) -> Verification:
        return Verification(*self._ask("verify", password, stored))

    def close(self) -> None:
        """When nobody calls any more."""
        while not self._channels.empty():
            self._channels.get().close()
        self._end()

    def _ask(self, work: str, *arguments: str | None) -> Any:
        question = json.dumps([work, *arguments]).encode()
        for _ in range(2):
            channels = self._channels
            channel = channels.get()
            try:
                channel.send_bytes(question)
                if not channel.poll(HANG_SECONDS):
                    channel.close()  # or what comes late would be taken for another one's answer
                    raise TimeoutError
                result, error = json.loads(channel.recv_bytes())
            except (EOFError, OSError) as failure:  # somebody has killed or stopped it
                channels.put(channel)  # for whoever comes next, if it cannot be started now
                self._start_again(channels)
                if isinstance(failure, TimeoutError):
                    break  # whoever asks has waited for long enough
                continue
            channels.put(channel)
            if error:
                raise RuntimeError(error)
            return result
        raise Refusal(Reason.BUSY)

    def _start(self) -> None:
        pairs = [Pipe() for _ in range(self._threads)]
        theirs = [end.fileno() for _, end in pairs]
        try:
            self._process = subprocess.Popen(
                # -P: not what lies in the folder that the server was started in.
                [sys.executable, "-P", "-m", __name__, *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                env=os.environ
                | MEMORY
                | {"PYTHONPATH": os.pathsep.join([ROOT, *filter(None, sys.path)])},
                pass_fds=theirs,
            )
        finally:
            for _, end in pairs:
                end.close()
        self._channels = SimpleQueue()
        for ours, _ in pairs:
            self._channels.put(ours)

    def _start_again(self, channels: object) -> None:
        """Raises Refusal(BUSY) where the system has no room for a process."""
        with self._starting:
            if channels is not self._channels:  # somebody who waited, too, has started it
                return
            self._end()
            logger.error("The process that hashes has ended or hangs, and is started again.")
            try:
                self._start()
            except OSError as error:
                raise Refusal(Reason.BUSY) from error

    def _end(self) -> None:
        """It ends by itself when its sockets are closed, unless something is wrong with it."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    # Ctrl-C and an init system tell the whole group to end. The server answers what it is
    # asked first, and closes the sockets then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    hashing.nobodys_hash()  # now, so that the first stranger costs no more than the next
    threads = [Thread(target=serve, args=[Connection(int(end))]) for end in sys.argv[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # an executor takes nothing more once this one has ended


def serve(channel: "Connection[Any, Any]") -> None:
    answer = Leisure().outcome if hasattr(os, "SCHED_IDLE") else outcome
    try:
        while True:
            if not channel.poll(QUIET_SECONDS):
                give_memory_back()
            channel.send_bytes(json.dumps(answer(channel.recv_bytes())).encode())
    except (EOFError, OSError):  # the server has ended
        return
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # with all its threads, so that the server starts another


class Leisure:
    """Takes only what nobody else wants of the cores. Linux wakes others as if they were idle then.

    For PATIENCE_SECONDS, or where all cores are wanted all the time nobody would ever log in. After
    that, whoever waits computes it itself.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, initializer=take_what_is_left)
        self._under_way: Future[tuple[object, str | None]] = Future()
        self._under_way.cancel()

    def outcome(self, question: bytes) -> tuple[object, str | None]:
        if self._under_way.done():  # else the last one has not come to an end yet
            self._under_way = self._executor.submit(outcome, question)
            with suppress(TimeoutError):
                return self._under_way.result(PATIENCE_SECONDS)
        return outcome(question)


def take_what_is_left() -> None:
    with suppress(OSError):  # where it is forbidden, all is as usual
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def outcome(question: bytes) -> tuple[object, str | None]:
    """The result, or what went wrong."""
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
