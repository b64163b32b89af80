"""Far more log-ins than can be checked, and clients that are slow, endless, huge or many.

Meanwhile honest people use the service; afterwards it has to be as before.
"""

import asyncio
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

import psutil

from bench import flood
from bench.client import fill
from bench.load import BenchmarkError
from bench.ours import LOG_IN
from bench.stage import Stage
from bench.subjects import Served
from torture.jar import Jar, new_session
from torture.laboratory import Finding, Laboratory, Missing
from torture.nginx import Nginx
from torture.rude import CUT, OPEN, Rudeness, befall
from torture.service import Service

ROUNDS = 3
SECONDS = 6  # of a measurement
HALF = 0.5
P99 = 250  # milliseconds
MEMORY = 300  # megabytes that the service may take, whatever comes: bodies are not kept
USERS = 10_000  # so that none has more sessions than one may have
LEAST_LOGINS = 40_000  # so that none is refreshed twice
HONEST = 8  # people
PATIENCE = 5  # seconds that they wait for an answer
PATIENCE_OF_LOG_INS = 30  # seconds: as proxies have it
ANSWERS = ("200", "401", "503")  # of log-ins: right, wrong, and too many
RETURN = 30  # megabytes that Python may keep
NEARLY = 0.9  # of the connections that are to be open at a time: some come back just then
AFTERWARDS = 20  # seconds until everything is as before
DIRECTLY = "directly"
HOST = "Host: 127.0.0.1\r\n"
LOG_IN_HEAD = f"POST /api/v1/auth/login HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n"
ME = f"GET /api/v1/users/me HTTP/1.1\r\n{HOST}\r\n"


def run(laboratory: Laboratory) -> Iterator[Finding]:
    yield from flooded(laboratory)
    yield from beset(laboratory)


# A flood of log-ins


def flooded(laboratory: Laboratory) -> Iterator[Finding]:
    """As `make bench` measures it; and here it has to be good enough."""
    rounds, seconds = laboratory.scaled(ROUNDS), max(2, round(SECONDS * min(1, laboratory.scale)))
    logins = LEAST_LOGINS + laboratory.scaled(100_000)
    with ExitStack() as stack:
        try:
            stage = stack.enter_context(
                Stage(laboratory.progress, users=USERS, logins=logins, only=("ours",))
            )
            subject = stage.served("ours")
        except BenchmarkError as error:
            raise Missing(str(error)) from error
        if subject is None:
            raise Missing(f"The service did not start: {stage.failures}")
        flood.expect(laboratory.progress, rounds, seconds)
        try:
            with attempting(subject, USERS) as seen:
                measured = flood.measure(subject, laboratory.progress, rounds, seconds)
        except BenchmarkError as error:
            yield Finding("a flood of log-ins leaves answers, and right ones", 1, 1, str(error))
            return
    yield of_log_ins([*measured["refresh"], *measured["me"]], measured["capacity"])
    for work, title in (("refresh", "refresh"), ("me", "/users/me")):
        yield from of_flood(title, measured[work])
    yield Finding(
        "a log-in during the flood is checked, or is 503 with Retry-After",
        seen.asked,
        len(seen.wrong),
        f"{seen.refused} refused {'; '.join(seen.wrong[:3])}".strip(),
    )
    yield Finding("and some are 503 with Retry-After", seen.refused)
    yield of_memory("in a flood of log-ins", seen.memory)


def of_log_ins(measured: Sequence[dict[str, Any]], capacity: float) -> Finding:
    """Whether it was one, and how it was answered."""
    times = [each["offered"] / capacity for each in measured]
    statuses: Counter[str] = sum((Counter(each["statuses"]) for each in measured), Counter())
    others = {status: rate for status, rate in statuses.items() if status not in ANSWERS}
    told = ", ".join(
        f"{status}: {rate / len(measured):.0f} a second" for status, rate in statuses.items()
    )
    return Finding(
        f"{flood.TIMES} times as many log in as can, and are answered {', '.join(ANSWERS)}",
        len(times),
        sum(each < flood.TIMES for each in times) + len(others),
        f"{in_short(times, '.1f')} times {capacity:.0f} a second; {told}",
    )


def of_flood(title: str, measured: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    ratios = [each["flooded"] / each["idle"] for each in measured]
    yield Finding(
        f"{title} keeps half of its idle throughput meanwhile",
        len(ratios),
        sum(ratio < HALF for ratio in ratios),
        f"{in_short(ratios, '.2f')} of {measured[0]['idle']:.0f} a second",
    )
    times = [each["flooded_p99"] for each in measured]
    yield Finding(
        f"{title} takes less than {P99} ms then, in 99 of 100 cases",
        len(times),
        sum(each >= P99 for each in times),
        f"{in_short(times, '.0f')} ms, idle {measured[0]['idle_p99']:.0f} ms",
    )


def in_short(figures: Sequence[float], form: str) -> str:
    median, lowest, highest = statistics.median(figures), min(figures), max(figures)
    return f"{median:{form}} ({lowest:{form}} to {highest:{form}})"


def of_memory(when: str, seen: Sequence[float]) -> Finding:
    return Finding(
        f"memory stays below {MEMORY} MB {when}",
        len(seen),
        sum(each > MEMORY for each in seen),
        f"{min(seen):.0f} MB before, {max(seen):.0f} MB at most",
    )


@dataclass
class Seen:
    """wrong: what log-ins were answered otherwise. memory: megabytes."""

    asked: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@contextmanager
def attempting(subject: Served, users: int) -> Iterator[Seen]:
    """Somebody logs in now and then, and memory is looked at."""
    seen, over = Seen(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        trying = thread.submit(attempt, subject, users, seen, over)
        try:
            yield seen
        finally:
            over.set()
    trying.result()


def attempt(subject: Served, users: int, seen: Seen, over: threading.Event) -> None:
    while not over.wait(0.2):
        seen.memory.append(subject.memory())
        seen.asked += 1
        status, retry_after = log_in(subject.server.port, f"user{seen.asked % users}@example.com")
        if status == 503 and int(retry_after or 0) > 0:
            seen.refused += 1
        elif status != 200:
            seen.wrong.append(f"{status}, Retry-After: {retry_after}")


def log_in(port: int, email: str) -> tuple[int | None, str | None]:
    """The status and Retry-After."""
    known = {"email": email, "address": "203.0.113.1"}
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_OF_LOG_INS)
    headers = {name: fill(value, known) for name, value in LOG_IN.headers.items()}
    try:
        connection.request(LOG_IN.method, LOG_IN.path, fill(LOG_IN.body, known), headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        return None, None
    finally:
        connection.close()
    return answer.status, answer.headers["Retry-After"]


# Clients that nobody wants


def beset(laboratory: Laboratory) -> Iterator[Finding]:
    """By one kind of them after the other, without a proxy and behind one."""
    with ExitStack() as stack:
        laboratory.say("Starting PostgreSQL and the service ...")
        url = stack.enter_context(laboratory.database("postgresql"))
        service = stack.enter_context(Service(url, laboratory.folder, TRUSTED_PROXIES="127.0.0.1"))
        nginx = stack.enter_context(Nginx(laboratory.folder, [f"127.0.0.1:{service.port}"]))
        sieges: list[Siege] = []
        for door, port, all_of_them in (
            (DIRECTLY, service.port, without_a_proxy(laboratory)),
            ("behind nginx", nginx.port, behind_nginx(laboratory)),
        ):
            for rudeness in all_of_them:
                laboratory.say(f"{rudeness.count} times: {rudeness.name}, {door} ...")
                siege = Siege(rudeness, door)
                sieges.append(siege)
                asyncio.run(siege.hold(service, port))
                yield siege.ended()
        yield from of_sieges(sieges)


def without_a_proxy(laboratory: Laboratory) -> Iterator[Rudeness]:
    """app/protocol.py is what protects then."""
    cut, refused = (CUT,), ("431", "400", CUT)
    yield from (
        slow_headers(laboratory, cut),
        slow_bodies(laboratory, cut),
        slow_readers(laboratory, cut),
        idle(laboratory, laboratory.scaled(10_000, least=100), (CUT, OPEN)),
        *bodies(("413",)),
        *headers(refused),
        pipelined(("400", "401", CUT)),
        *half(("401", CUT)),
    )


def behind_nginx(laboratory: Laboratory) -> Iterator[Rudeness]:
    """It buffers what is slow, so that the service does not notice. It has 8,192 connections."""
    refused = ("400", "414", "431", CUT)
    yield from (
        slow_headers(laboratory, ("408", CUT)),
        slow_bodies(laboratory, ("408", CUT, OPEN)),
        slow_readers(laboratory, (CUT, OPEN)),
        idle(laboratory, laboratory.scaled(4_000, least=100), (CUT, OPEN)),
        *bodies(("413",)),
        *headers(refused),
        pipelined(("401", CUT, OPEN)),
        *half(("401", CUT)),
    )


def slow_headers(laboratory: Laboratory, ends: Sequence[str]) -> Rudeness:
    first = f"GET /api/v1/users/me HTTP/1.1\r\n{HOST}X-Slow: "
    count = laboratory.scaled(1000, least=20)
    return Rudeness("a header, a byte a second", first, "a", count=count, ends=ends)


def slow_bodies(laboratory: Laboratory, ends: Sequence[str]) -> Rudeness:
    first = f"{LOG_IN_HEAD}Content-Length: 1000\r\n\r\n"
    count = laboratory.scaled(1000, least=20)
    return Rudeness("a body, a byte a second", first, " ", count=count, ends=ends)


def slow_readers(laboratory: Laboratory, ends: Sequence[str]) -> Rudeness:
    """What they ask for fills the buffers, and then is in the way."""
    return Rudeness(
        "requests whose answers nobody takes",
        ME,
        ME * 16,
        pause=0.001,
        count=laboratory.scaled(100, least=4),
        takes=False,
        seconds=45,
        ends=ends,
    )


def idle(laboratory: Laboratory, count: int, ends: Sequence[str]) -> Rudeness:
    name = "connections on which nothing comes, opened again when they are closed"
    return Rudeness(name, "", count=count, returns=True, seconds=25, ends=ends)


def bodies(ends: Sequence[str]) -> Iterator[Rudeness]:
    length = f"{LOG_IN_HEAD}Content-Length: 300000000\r\n\r\n"
    yield Rudeness("a body of 300 MB", length, "a" * 65_536, pause=0, ends=(*ends, CUT))
    chunked = f"{LOG_IN_HEAD}Transfer-Encoding: chunked\r\n\r\n"
    chunk = "2000\r\n" + "a" * 0x2000 + "\r\n"
    yield Rudeness("a body that never ends", chunked, chunk, pause=0, ends=(*ends, CUT))
    trailer = "2\r\n{}\r\n0\r\nX-Endless: "
    yield Rudeness(
        "a trailer that never ends",
        chunked + trailer,
        "a" * 65_536,
        pause=0,
        ends=(*ends, "400", "422", "431", CUT),
    )


def headers(ends: Sequence[str]) -> Iterator[Rudeness]:
    line = f"GET /api/v1/users/me HTTP/1.1\r\n{HOST}"
    piece = "a" * 65_536
    yield Rudeness("an address that never ends", "GET /", piece, pause=0, ends=ends)
    yield Rudeness("a header that never ends", f"{line}X-Endless: ", piece, pause=0, ends=ends)
    many = "X-Another: one\r\n" * 4096
    tiny = line + "a:\r\n" * 16_000
    yield Rudeness("64 KB of the shortest headers", tiny, count=1000, ends=ends)
    yield Rudeness("headers without end", line, many, pause=0, ends=ends)
    cookie = f"{line}Cookie: a={'a' * 1_000_000}\r\n\r\n"
    yield Rudeness("a cookie of 1 MB", cookie, ends=ends)


def pipelined(ends: Sequence[str]) -> Rudeness:
    name = "requests without end, and none waits for the answer before"
    return Rudeness(name, ME, ME * 1000, pause=0, count=10, ends=ends)


def half(ends: Sequence[str]) -> Iterator[Rudeness]:
    yield Rudeness("a request, and its sender closes his side", ME, count=500, half=True, ends=ends)
    yield Rudeness(
        "half a request, and its sender closes his side",
        f"{LOG_IN_HEAD}Content-Length: 1000\r\n\r\n{{",
        count=500,
        half=True,
        ends=(*ends, "400", "422", CUT),
    )


@dataclass
class Siege:
    """door: how they come. times: seconds that honest people waited. memory: megabytes."""

    rudeness: Rudeness
    door: str
    ends: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    open_at_a_time: int = 0
    left_open: int = 0
    left_memory: float = 0

    async def hold(self, service: Service, port: int) -> None:
        over = asyncio.Event()
        async with honest_people(f"http://127.0.0.1:{port}") as people:
            memory = service.memory()
            tasks = [asyncio.create_task(self._use(jar, over)) for jar in people]
            tasks.append(asyncio.create_task(self._watch(service, over)))
            try:
                self.ends = await befall(self.rudeness, port)
            finally:
                over.set()
                await asyncio.gather(*tasks)

        def as_before() -> bool:
            return not connections(service) and service.memory() <= memory + RETURN

        deadline = time.monotonic() + AFTERWARDS
        while not as_before() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        self.left_open = connections(service)
        self.left_memory = service.memory() - memory

    async def _use(self, jar: Jar, over: asyncio.Event) -> None:
        while not over.is_set():
            for what, ask_for in (("refresh", jar.refresh), ("who am I", jar.who_am_i)):
                start = time.monotonic()
                answer = await ask_for()
                self.times.append(time.monotonic() - start)
                if answer.status != 200 or self.times[-1] > PATIENCE:
                    self.failures[f"{what}: {answer.status} {answer.code or ''}".strip()] += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.1)

    async def _watch(self, service: Service, over: asyncio.Event) -> None:
        process = psutil.Process(service.pid)
        files = process.num_fds()
        while not over.is_set():
            self.memory.append(service.memory())
            self.open_at_a_time = max(self.open_at_a_time, process.num_fds() - files)
            await asyncio.sleep(0.2)

    @property
    def p99(self) -> float:
        """Milliseconds."""
        return 1000 * sorted(self.times)[int(len(self.times) * 0.99)]

    def ended(self) -> Finding:
        wrong = sum(n for end, n in self.ends.items() if end not in self.rudeness.ends)
        told = ", ".join(f"{end} {number}" for end, number in self.ends.most_common())
        return Finding(
            f"{self.rudeness.name}, {self.door}: refused, cut off, or harmless",
            self.ends.total(),
            wrong,
            f"{told}; honest p99 {self.p99:.0f} ms, {max(self.memory):.0f} MB at most",
        )


@asynccontextmanager
async def honest_people(address: str) -> AsyncIterator[list[Jar]]:
    """Who are logged in."""
    async with new_session() as http:
        people = [Jar(http, address, f"honest{each}@example.com") for each in range(HONEST)]
        for jar in people:
            await jar.register()
            assert (await jar.log_in()).status == 200
        yield people


def connections(service: Service) -> int:
    """That clients have to it."""
    found = psutil.Process(service.pid).net_connections("tcp")
    return sum(
        each.laddr.port == service.port and each.status != psutil.CONN_LISTEN for each in found
    )


def of_sieges(sieges: Sequence[Siege]) -> Iterator[Finding]:
    for door in dict.fromkeys(siege.door for siege in sieges):
        here = [siege for siege in sieges if siege.door == door]
        failures: Counter[str] = sum((siege.failures for siege in here), Counter())
        slowest = max(max(siege.times) for siege in here)
        yield Finding(
            f"honest people are answered within {PATIENCE} s meanwhile, {door}",
            sum(len(siege.times) for siege in here),
            failures.total(),
            f"{slowest:.1f} s at most {dict(failures) or ''}".strip(),
        )
    yield of_memory("whoever comes", [each for siege in sieges for each in siege.memory])
    crowds = [siege for siege in sieges if siege.rudeness.returns and siege.door == DIRECTLY]
    held, came = (
        sum(siege.open_at_a_time for siege in crowds),
        sum(siege.rudeness.count for siege in crowds),
    )
    yield Finding(
        "idle connections, however many, are open at the same time",
        came,
        max(0, round(NEARLY * came) - held),
        f"{held:,} at a time",
    )
    yield Finding(
        "afterwards no connection is left",
        len(sieges),
        sum(siege.left_open > 0 for siege in sieges),
    )
    yield Finding(
        f"afterwards memory is as before, but for {RETURN} MB",
        len(sieges),
        sum(siege.left_memory > RETURN for siege in sieges),
        f"{max(siege.left_memory for siege in sieges):+.0f} MB at most",
    )
