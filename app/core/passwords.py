"""Checking passwords, no more at a time than there are cores.

A hash takes 19 MiB and a core for some 20 ms. Uncapped, a flood of log-ins would take all
memory and stall every other request. Here it waits in a queue, and whoever finds the queue
full is refused at once.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from app.core import hashing
from app.core.hasher import Hasher
from app.core.hashing import Verification
from app.core.refusals import Reason, Refusal

LONGEST_PASSWORD = 1024  # characters
SHORTEST_PASSWORD = 8  # characters: the floor of PASSWORD_MIN_LENGTH


class Hashing(Protocol):
    """app/core/hashing.py, or the processes that do the same."""

    def hash_password(self, password: str) -> str: ...

    def verify(self, password: str, stored: str | None) -> Verification: ...


class Passwords:
    """Hashes `threads` at a time, at most `queue` more waiting."""

    def __init__(self, threads: int | None, queue: int) -> None:
        threads = threads or share_of_cores()
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, "hashing")
        self._hashing: Hashing = hashing
        self._room = threads + queue  # only ever touched on the event loop
        self._share = (threads + queue + 1) // 2  # of one network: others get in, too
        self._under_way: Counter[str] = Counter()

    def start_hasher(self) -> None:
        """Until then, threads of this process hash. On Windows they always do."""
        if os.name == "nt":
            hashing.nobodys_hash()  # now, so that the first stranger costs no more than the next
        else:
            self._hashing = Hasher(self._threads)

    def is_full(self, network: str = "") -> bool:
        return self._room <= 0 or self._under_way[network] >= self._share

    @contextmanager
    def place(self, network: str = "") -> Iterator["Place"]:
        """In the queue, from before anything is spent on what would be refused anyway.

        network: whose share of the queue it takes. Raises Refusal(BUSY) when that is full.
        """
        if self.is_full(network):
            raise Refusal(Reason.BUSY)
        self._enter(network)
        try:
            yield Place(self._executor, self._hashing)
        finally:
            self._leave(network)

    async def hash(self, password: str, network: str) -> str:
        """Raises Refusal(BUSY) when the queue is full."""
        with self.place(network) as place:
            return await place.hash(password)

    async def verify(self, password: str, stored: str | None, network: str) -> Verification:
        """Raises Refusal(BUSY) when the queue is full."""
        with self.place(network) as place:
            return await place.verify(password, stored)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        if isinstance(self._hashing, Hasher):
            self._hashing.close()

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

    def __init__(self, executor: Executor, hashing: Hashing) -> None:
        self._executor = executor
        self._hashing = hashing

    async def hash(self, password: str) -> str:
        loop, work = asyncio.get_running_loop(), self._hashing.hash_password
        return await loop.run_in_executor(self._executor, work, password)

    async def verify(self, password: str, stored: str | None) -> Verification:
        loop, work = asyncio.get_running_loop(), self._hashing.verify
        return await loop.run_in_executor(self._executor, work, password, stored)


def share_of_cores() -> int:
    """WEB_CONCURRENCY says how many processes share them; uvicorn obeys it, too."""
    processes = os.environ.get("WEB_CONCURRENCY", "")
    return max(1, available_cores() // max(1, int(processes) if processes.isdecimal() else 1))


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine's in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
