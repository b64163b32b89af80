"""Password hashing: argon2id, older schemes read and replaced, no more at a time than cores.

A hash takes 19 MiB and a core for some 20 ms. Uncapped, a flood of log-ins would take all
memory and stall every other request. Here it waits in a queue, and whoever finds the queue
full is refused at once.
"""

import asyncio
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import get_native_id
from typing import NamedTuple, TypeVar

from passlib.context import CryptContext

from app.core.refusals import Reason, Refusal

LONGEST_PASSWORD = 1024  # characters
SHORTEST_PASSWORD = 8  # characters: the floor of PASSWORD_MIN_LENGTH
BCRYPT_LIMIT = 72  # bytes
NICENESS = 5  # of a hashing thread: the event loop goes first where both want the same core

T = TypeVar("T")

# The first scheme hashes. The others are read, and replaced when their owner next logs in.
context = CryptContext(
    schemes=[
        "argon2",
        "bcrypt",
        "bcrypt_sha256",
        "pbkdf2_sha256",
        "pbkdf2_sha512",
        "django_pbkdf2_sha256",
    ],
    deprecated="auto",
    argon2__type="ID",
    argon2__memory_cost=19 * 1024,  # KiB
    argon2__time_cost=2,
    argon2__parallelism=1,
)


class Verification(NamedTuple):
    correct: bool
    replacement: str | None = None  # by today's parameters, where the stored hash is older


class Passwords:
    """Hashes on threads of its own: `threads` at a time, at most `queue` more waiting."""

    def __init__(self, threads: int | None, queue: int) -> None:
        threads = threads or share_of_cores()
        self._executor = ThreadPoolExecutor(threads, "hashing", give_way)
        self._room = threads + queue  # only ever touched on the event loop
        self._share = (threads + queue + 1) // 2  # of one network: others get in, too
        self._under_way: Counter[str] = Counter()
        nobodys_hash()  # now, so that the first unknown address costs no more than the next

    def refuse_if_full(self, network: str = "") -> None:
        """Raises Refusal(BUSY)."""
        if self._room <= 0 or self._under_way[network] >= self._share:
            raise Refusal(Reason.BUSY)

    @contextmanager
    def place(self, network: str = "") -> Iterator["Place"]:
        """In the queue, from before anything is spent on what would be refused anyway.

        network: whose share of the queue it takes. Raises Refusal(BUSY) when that is full.
        """
        self.refuse_if_full(network)
        self._enter(network)
        try:
            yield Place(self._executor)
        finally:
            self._leave(network)

    async def hash(self, password: str) -> str:
        """Raises Refusal(BUSY) when the queue is full."""
        with self.place() as place:
            return await place.hash(password)

    async def verify(self, password: str, stored: str | None) -> Verification:
        """Raises Refusal(BUSY) when the queue is full."""
        with self.place() as place:
            return await place.verify(password, stored)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _enter(self, network: str) -> None:
        self._room -= 1
        if network:
            self._under_way[network] += 1

    def _leave(self, network: str) -> None:
        self._room += 1
        if network:
            self._under_way[network] -= 1
            if not self._under_way[network]:
                del self._under_way[network]


class Place:
    """Of one request in the queue: one hash after the other."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def hash(self, password: str) -> str:
        return await self._run(lambda: context.hash(normalise(password)))

    async def verify(self, password: str, stored: str | None) -> Verification:
        """Takes as long without a stored hash, so that time does not tell who has an account."""
        return await self._run(lambda: verify(password, stored))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def give_way() -> None:
    """So that a flood of log-ins slows log-ins. Elsewhere the system has no such thing as a
    thread's own priority.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)


def verify(password: str, stored: str | None) -> Verification:
    try:
        if stored is not None and context.identify(stored):
            if not context.verify(as_hashed(password, stored), stored):
                return Verification(False)
            if context.needs_update(stored):
                return Verification(True, context.hash(normalise(password)))
            return Verification(True)
    except ValueError:  # a damaged hash, or a NUL that bcrypt does not take
        pass
    context.verify(normalise(password), nobodys_hash())
    return Verification(False)


# In the place of a hash where nobody has chosen a password yet: no password fits.
NO_PASSWORD = "!"


@cache
def nobodys_hash() -> str:
    """What a password is compared with where there is no account. No password fits."""
    return str(context.hash(os.urandom(32)))


def as_hashed(password: str, stored: str) -> str | bytes:
    """The password as the scheme of `stored` saw it when it was set.

    Older systems did not normalise, and their bcrypt looked at the first 72 bytes only. That
    ends here: a correct one is replaced by a hash of the whole.
    """
    if stored.startswith("$argon2"):
        return normalise(password)
    if stored.startswith("$2"):
        return password.encode()[:BCRYPT_LIMIT]
    return password


def normalise(password: str) -> str:
    """NFC (NIST SP 800-63B-4, 3.1.1.2): keyboards differ in how they write é. Never trimmed."""
    return unicodedata.normalize("NFC", password)


def share_of_cores() -> int:
    """WEB_CONCURRENCY says how many processes share them; uvicorn obeys it, too."""
    processes = os.environ.get("WEB_CONCURRENCY", "")
    return max(1, available_cores() // max(1, int(processes) if processes.isdecimal() else 1))


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine's in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
