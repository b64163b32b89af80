"""The wire between the service and PostgreSQL, which can be cut in the middle of anything."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

LONG_ENOUGH = 0.05  # seconds, for a statement to be carried out whose answer is lost


@dataclass
class Wire:
    """port: where it begins. cuts: parts of the messages, 0 to 1: of a COMMIT, and of all else.

    A message is lost, or it arrives and its answer is lost.
    """

    target: int
    port: int = 0
    cuts: tuple[float, float] = (0, 0)
    randomness: random.Random = field(default_factory=random.Random)
    counts: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, questions = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ways = {
            asyncio.ensure_future(self._ask(reader, questions)),
            asyncio.ensure_future(self._answer(answers, writer)),
        }
        try:
            with suppress(asyncio.CancelledError):  # the loop ends
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, questions):
                end.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Returns where the wire is cut."""
        while message := await reader.read(65_536):
            what = "commit" if b"COMMIT" in message else "message"
            if self.randomness.random() < self.cuts[what == "message"]:
                arrives = self.randomness.random() < 0.5
                self.counts[f"{what} {'answer ' if arrives else ''}lost"] += 1
                if arrives:
                    writer.transport.pause_reading()  # the answer stays where it is
                    writer.write(message)
                    await asyncio.sleep(LONG_ENOUGH)
                return
            writer.write(message)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while message := await reader.read(65_536):
            writer.write(message)
            await writer.drain()
