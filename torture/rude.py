"""Clients that nobody wants, in a process of their own, so that they slow nobody but the service.

`python -m torture.rude` reads from standard input what to do, and prints how it ended.
"""

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass

from torture.laboratory import ROOT

OPEN = "still open"
CUT = "cut off"
NOT_CONNECTED = "not connected"
MOST = 30_000_000  # bytes that one of them sends
AT_A_TIME = 200  # who connect


@dataclass(frozen=True)
class Rudeness:
    """Says `first`, and then `then`, again and again, with a pause of so many seconds.

    takes: whether it reads what it is told. half: it closes its own side at once. returns: who is
    cut off comes again. seconds: for so long. ends: how that may end, by statuses, CUT and OPEN.
    """

    name: str
    first: str
    then: str = ""
    pause: float = 1
    count: int = 10
    takes: bool = True
    half: bool = False
    returns: bool = False
    seconds: float = 20
    ends: Collection[str] = ()


async def befall(rudeness: Rudeness, port: int) -> Counter[str]:
    """How each of them ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "torture.rude",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        told, _ = await process.communicate(json.dumps([asdict(rudeness), port]).encode())
        return Counter(json.loads(told))
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    told, port = json.load(sys.stdin)
    rudeness = Rudeness(**told)
    until = time.monotonic() + rudeness.seconds
    room = asyncio.Semaphore(AT_A_TIME)
    everybody = [one(rudeness, port, number, until, room) for number in range(rudeness.count)]
    print(json.dumps(Counter(await asyncio.gather(*everybody))))


async def one(
    rudeness: Rudeness, port: int, number: int, until: float, room: asyncio.Semaphore
) -> str:
    end = await attempt(rudeness, port, number, until, room)
    while rudeness.returns and end in (CUT, NOT_CONNECTED) and time.monotonic() < until:
        end = await attempt(rudeness, port, number, until, room)
    return end


async def attempt(
    rudeness: Rudeness, port: int, number: int, until: float, room: asyncio.Semaphore
) -> str:
    address = f"127.0.{number // 200}.{number % 200 + 2}"  # each has few ports
    try:
        async with room:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
    except OSError:
        await asyncio.sleep(0.5)
        return NOT_CONNECTED
    talking = asyncio.ensure_future(talk(rudeness, writer))
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
            if not rudeness.takes:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await talking
                return OPEN
            answer = await reader.readline()
            status = answer.decode("latin-1").split()[1] if answer else CUT
            while answer and rudeness.then:
                answer = await reader.read(65_536)  # until the connection ends, too
            return status
    except TimeoutError:
        return OPEN
    except OSError:
        return CUT
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        writer.transport.abort()


async def talk(rudeness: Rudeness, writer: asyncio.StreamWriter) -> None:
    writer.write(rudeness.first.encode("latin-1"))
    if rudeness.half:
        writer.write_eof()
    then = rudeness.then.encode("latin-1")
    sent = 0
    while then and sent < MOST:
        await asyncio.sleep(rudeness.pause)
        writer.write(then)
        sent += len(then)
        await writer.drain()


if __name__ == "__main__":
    asyncio.run(main())
