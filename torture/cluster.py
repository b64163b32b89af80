"""Four workers and three processes behind nginx, on one PostgreSQL: they are one service.

nginx is set up by deploy/nginx.conf. What is promised is put to the test through it and at each
address behind it. The restarts come last: each process in turn, while people use the service.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from statistics import quantiles
from uuid import uuid4

import aiohttp
import psutil
from sqlalchemy import Engine, create_engine
from sqlmodel import Session, col, select

from app.models import User
from app.models.mail import Purpose
from app.services import one_time_tokens
from torture.crowd import end
from torture.jar import PASSWORD, Answer, Jar, new_session
from torture.laboratory import Finding, Laboratory
from torture.nginx import Nginx, find_nginx
from torture.service import Service

WORKERS = 4
SINGLE = 3
AT_ONCE = 50
GRACE = 15  # seconds: so that tokens become old while somebody waits for it
ACCOUNT, NETWORK = 10, 100  # failed log-ins, as shipped
SETTINGS = {
    "REFRESH_GRACE_SECONDS": str(GRACE),
    "LOGIN_ATTEMPTS_PER_ACCOUNT": str(ACCOUNT),
    "LOGIN_ATTEMPTS_PER_NETWORK": str(NETWORK),
    "HASHING_QUEUE": "1000",  # what is counted here are attempts, not places
    "TRUSTED_PROXIES": "127.0.0.1",
}
WRONG = "not the password of anybody"
RENEWAL_SECONDS = 300


@dataclass(frozen=True)
class Cluster:
    """entrance: nginx. behind it: services, of one process or several."""

    entrance: str
    services: Sequence[Service]
    database: Engine

    @property
    def addresses(self) -> list[str]:
        return [self.entrance, *(service.address for service in self.services)]


def run(laboratory: Laboratory) -> Iterator[Finding]:
    scaled = laboratory.scaled
    with laboratory.database("postgresql") as url, running(laboratory, url) as cluster:
        laboratory.say("Races: the same thing many times at once ...")
        yield asyncio.run(refreshes(cluster, scaled(100)))
        yield asyncio.run(registrations(cluster, scaled(100)))
        yield asyncio.run(password_changes(cluster, scaled(100)))
        yield asyncio.run(one_time_tokens_used(cluster, scaled(100)))
        laboratory.say("Wrong passwords, at all processes at once ...")
        yield asyncio.run(guesses_at_an_account(cluster, scaled(20)))
        yield asyncio.run(guesses_from_a_network(cluster, scaled(3)))
        laboratory.say("Log-outs ...")
        yield from asyncio.run(revocations(cluster, scaled(500)))
        laboratory.say("Thieves ...")
        yield asyncio.run(thefts(cluster, scaled(100)))
        for services, replace, how in (
            (cluster.services, exchange, "replacing each process in turn (SIGTERM)"),
            (cluster.services[:1], renew_workers, "renewing the workers of a service (SIGHUP)"),
        ):
            yield asyncio.run(
                restarts(
                    laboratory,
                    cluster,
                    services,
                    replace,
                    how=how,
                    people=scaled(60, least=4),
                    rounds=scaled(5),
                )
            )


@contextmanager
def running(
    laboratory: Laboratory, url: str, *, workers: int = WORKERS, single: int = SINGLE
) -> Iterator[Cluster]:
    """Raises Missing without nginx."""
    find_nginx()
    laboratory.say("Starting the processes, and nginx before them ...")
    sizes = [workers] * bool(workers) + [1] * single
    services = [
        Service(url, laboratory.folder, workers=size, HASHING_THREADS="1", **SETTINGS)
        for size in sizes
    ]
    with ExitStack() as stack:
        for service in services:
            stack.callback(service.kill)  # also where it does not start
            service.start()
        servers = [f"127.0.0.1:{s.port} weight={n}" for s, n in zip(services, sizes, strict=True)]
        nginx = stack.enter_context(Nginx(laboratory.folder, servers))
        engine = create_engine(url)
        stack.callback(engine.dispose)
        yield Cluster(nginx.address, services, engine)


# Races


async def refreshes(cluster: Cluster, rounds: int) -> Finding:
    broken = 0
    async with a_session() as http:
        person = await somebody(cluster, http)
        for _ in range(rounds):
            jar = await logged_in(person)
            tabs = everywhere(cluster, jar, AT_ONCE)
            answers = await at_once([tab.refresh for tab in tabs])
            broken += sum(answer.status != 200 for answer in answers)
            again = await at_once([tab.refresh for tab in tabs])  # whichever answer is kept
            broken += sum(answer.status != 200 for answer in again)
    return Finding(
        f"{AT_ONCE} refreshes of one token at once all succeed, and whichever of them is kept "
        "goes on",
        rounds * AT_ONCE * 2,
        broken,
        f"{rounds} times",
    )


async def registrations(cluster: Cluster, rounds: int) -> Finding:
    broken = 0
    async with a_session() as http:
        for _ in range(rounds):
            person = Jar(http, cluster.entrance, new_address())
            answers = await at_once([jar.register for jar in everywhere(cluster, person, 10)])
            broken += statuses(answers) != {201: 1, 409: 9}
    return Finding(
        "of 10 registrations of one address at once, one makes an account", rounds, broken
    )


async def password_changes(cluster: Cluster, rounds: int) -> Finding:
    """Each by a log-in of its own, and to another password."""
    broken = 0
    lost: Counter[str | None] = Counter()
    async with a_session() as http:
        for _ in range(rounds):
            person = await somebody(cluster, http)
            jars = [await logged_in(jar) for jar in everywhere(cluster, person, 5)]
            chosen = [f"{PASSWORD} {number}" for number in range(len(jars))]
            answers = await asyncio.gather(*map(change_password, jars, chosen))
            won = [chosen[place] for place, a in enumerate(answers) if a.status == 200]
            lost.update(answer.code for answer in answers if answer.status != 200)
            broken += len(won) != 1 or not await knows(person, won[0])
    remark = ", ".join(f"{code}: {number}" for code, number in lost.most_common())
    return Finding("of 5 password changes at once exactly one wins", rounds, broken, remark)


async def one_time_tokens_used(cluster: Cluster, rounds: int) -> Finding:
    broken = 0
    async with a_session() as http:
        for _ in range(rounds):
            person = await somebody(cluster, http)
            token = mint(cluster.database, person.email)
            jars = everywhere(cluster, person, 10)
            answers = await asyncio.gather(*(reset_password(jar, token) for jar in jars))
            broken += statuses(answers) != {204: 1, 400: 9}
    return Finding("of 10 uses at once of a one-time token one succeeds", rounds, broken)


def change_password(jar: Jar, new: str) -> Awaitable[Answer]:
    return jar.ask("PUT", "/users/me/password", {"current_password": PASSWORD, "new_password": new})


def reset_password(jar: Jar, token: str) -> Awaitable[Answer]:
    body = {"token": token, "password": f"{PASSWORD}, again"}
    return jar.ask("POST", "/auth/reset-password", body)


async def knows(person: Jar, password: str) -> bool:
    body = {"email": person.email, "password": password}
    return (await person.ask("POST", "/auth/login", body)).status == 200


def mint(database: Engine, email: str) -> str:
    """As the courier does when it sends a link to somebody."""
    with Session(database) as session:
        user = session.exec(select(User).where(col(User.email) == email)).one()
        token = one_time_tokens.mint(session, user.id, Purpose.RESET_PASSWORD, email)
        session.commit()
        return token


# Limits


async def guesses_at_an_account(cluster: Cluster, accounts: int) -> Finding:
    """4 times as many as are allowed. A browser that has logged in before has its own limit."""
    broken = 0
    for number in range(accounts):
        async with a_session() as http, a_session(f"127.0.1.{number + 1}") as elsewhere:
            owner = await logged_in(await somebody(cluster, http))
            guesser = Jar(elsewhere, cluster.entrance, owner.email)
            guessing = map(guess, everywhere(cluster, guesser, 4 * ACCOUNT))
            answers = await asyncio.gather(*guessing)
            broken += statuses(answers) != {401: ACCOUNT, 429: 3 * ACCOUNT}
            strangers = everywhere(cluster, guesser, len(cluster.addresses))
            broken += statuses(await at_once([jar.log_in for jar in strangers])).keys() != {429}
            broken += (await owner.log_in()).status != 200
    return Finding(
        f"an account stands {ACCOUNT} wrong passwords, at all processes together, and its "
        "owner's browser still logs in",
        accounts * 3,
        broken,
        f"{4 * ACCOUNT} at once, {accounts} times: {ACCOUNT} were looked at",
    )


async def guesses_from_a_network(cluster: Cluster, networks: int) -> Finding:
    """Each at an account of its own; and each says that it comes from elsewhere."""
    broken = 0
    looked_at = []
    for number in range(networks):
        async with a_session(f"127.0.2.{number + 1}") as http:
            began = time.monotonic()
            jars = everywhere(cluster, Jar(http, cluster.entrance, ""), NETWORK * 3 // 2)
            for jar in jars:
                jar.email = new_address()
            found = statuses(await asyncio.gather(*(guess(jar, spoofed()) for jar in jars)))
            drained = int(time.monotonic() - began) // (3600 // NETWORK)
            broken += not NETWORK <= found[401] <= NETWORK + drained
            broken += found[401] + found[429] != len(jars)
            looked_at.append(str(found[401]))
    return Finding(
        f"a network gets {NETWORK} wrong passwords, at all processes together, whatever it writes "
        "into X-Forwarded-For",
        networks * 2,
        broken,
        f"{NETWORK * 3 // 2} at once; looked at: {', '.join(looked_at)}",
    )


def guess(jar: Jar, headers: dict[str, str] | None = None) -> Awaitable[Answer]:
    body = {"email": jar.email, "password": WRONG}
    return jar.ask("POST", "/auth/login", body, headers=headers or {})


def spoofed() -> dict[str, str]:
    return {"X-Forwarded-For": f"203.0.113.{random.randrange(256)}"}


# Revocation


async def revocations(cluster: Cluster, rounds: int) -> list[Finding]:
    """Ways to end a session, each at another process than where it began."""
    broken, cases = Counter[str](), Counter[str]()
    async with a_session() as http:
        people = [await somebody(cluster, http) for _ in range(min(rounds, 20))]
        for number in range(rounds):
            jar = await logged_in(at(random.choice(cluster.addresses), people[number % 20]))
            end, how = WAYS_TO_END[number % len(WAYS_TO_END)]
            ended = await end(at(random.choice(cluster.addresses), jar))
            holders = [at(address, jar) for address in cluster.addresses]
            asked = [ask for holder in holders for ask in (holder.who_am_i, holder.refresh)]
            answers = await at_once(asked)
            cases[how] += len(answers)
            broken[how] += (ended.status != 204) * len(answers)
            broken[how] += sum(answer.status != 401 for answer in answers)
    return [
        Finding(
            f"a session that has ended ({how}) at one process is refused at once at every other",
            cases[how],
            broken[how],
            "who am I and refresh, at each address",
        )
        for _, how in WAYS_TO_END
    ]


async def end_from_elsewhere(jar: Jar) -> Answer:
    mine = (await jar.ask("GET", "/users/me/sessions")).body
    (current,) = [session["id"] for session in mine if session["current"]]
    return await (await logged_in(jar)).ask("DELETE", f"/users/me/sessions/{current}")


WAYS_TO_END: Sequence[tuple[Callable[[Jar], Awaitable[Answer]], str]] = (
    (lambda jar: jar.log_out(), "log-out"),
    (end_from_elsewhere, "from another device"),
    (lambda jar: jar.ask("DELETE", "/users/me/sessions?include_current=true"), "everywhere"),
)


# Theft


async def thefts(cluster: Cluster, thieves: int) -> Finding:
    """Each step at another process: what one has seen is evidence for all."""
    async with a_session() as http:
        person = await somebody(cluster, http)
        outcomes = [steal(cluster, await logged_in(person)) for _ in range(thieves)]
        broken = sum(await asyncio.gather(*outcomes))
    return Finding(
        "a stolen cookie that is used at another process ends the session at all of them",
        thieves,
        broken,
        "as soon as owner and thief have each shown a token that is older than the grace period",
    )


async def steal(cluster: Cluster, owner: Jar) -> bool:
    """Whether the rule was broken."""
    first, second, third, fourth = random.sample(cluster.addresses, 4)
    thief = owner.copy()
    owner.address, thief.address = first, second
    await asyncio.sleep(GRACE + 1)
    began = [(await jar.refresh()).status for jar in (owner, thief)]
    await asyncio.sleep(GRACE + 1)
    owner.address, thief.address = third, fourth
    unnoticed, noticed = await thief.refresh(), await owner.refresh()
    after = [await at(address, thief).refresh() for address in cluster.addresses]
    after += [await at(address, owner).who_am_i() for address in cluster.addresses]
    seen = (*began, unnoticed.status, noticed.code, {answer.code for answer in after})
    return seen != (200, 200, 200, "token_reused", {"session_revoked"})


# Restarts


@dataclass
class People:
    """Who use the service meanwhile, each as one browser. seconds: until each answer."""

    jars: Sequence[Jar]
    seconds: list[float] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._use(jar)) for jar in self.jars]
        try:
            yield
        finally:
            await end(tasks)

    async def _use(self, jar: Jar) -> None:
        while True:
            for _ in range(10):
                await self._ask("refresh", jar.refresh)
                await self._ask("who am I", jar.who_am_i)
                await self._ask("who am I", jar.who_am_i)
            await self._ask("log in", jar.log_in)

    async def _ask(self, what: str, ask: Callable[[], Awaitable[Answer]]) -> None:
        await asyncio.sleep(random.uniform(0, 0.4))
        began = time.monotonic()
        answer = await ask()
        self.seconds.append(time.monotonic() - began)
        told = f"{answer.status} {answer.code or ''}".strip() if answer.status else "no answer"
        self.seen[what if answer.status == 200 else f"{what}: {told}"] += 1

    @property
    def refused(self) -> dict[str, int]:
        return {what: number for what, number in self.seen.items() if ":" in what}

    def in_words(self) -> str:
        *_, p99 = quantiles(self.seconds, n=100)
        told = f"p99 {p99 * 1000:.0f} ms, slowest {max(self.seconds):.1f} s"
        return "; ".join([told, *(f"{what}: {count}" for what, count in self.refused.items())])


async def restarts(
    laboratory: Laboratory,
    cluster: Cluster,
    services: Sequence[Service],
    replace: Callable[[Service], None],
    *,
    how: str,
    people: int,
    rounds: int,
) -> Finding:
    async with a_session() as http:
        jars = [await logged_in(await somebody(cluster, http)) for _ in range(people)]
        crowd = People(jars)
        async with crowd.busy():
            for turn in range(rounds):
                laboratory.say(f"Restarts, {how}: round {turn + 1} of {rounds} ...")
                for service in services:
                    await asyncio.to_thread(replace, service)
            await asyncio.sleep(1)
    return Finding(
        f"{how} while people use the service fails no request and logs nobody out",
        len(crowd.seconds),
        sum(crowd.refused.values()),
        f"{rounds * len(services)} times; {crowd.in_words()}",
    )


def exchange(service: Service) -> None:
    """As a deployment does it."""
    service.stop()
    service.start()


def renew_workers(service: Service) -> None:
    """uvicorn leaves it at that where a new worker is not ready within a minute."""
    old, deadline = workers_of(service), time.monotonic() + RENEWAL_SECONDS
    assert len(old) == WORKERS, old
    os.kill(service.pid, signal.SIGHUP)
    while old & (now := workers_of(service)) or len(now) < WORKERS:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Workers stayed:\n{service.log.read_text()[-2000:]}")
        time.sleep(0.1)


def workers_of(service: Service) -> set[int]:
    """Python's multiprocessing has another child, which stays."""
    children = psutil.Process(service.pid).children()
    found = set()
    for child in children:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


# People


def a_session(network: str | None = None) -> aiohttp.ClientSession:
    """network: an address of 127.0.0.0/8, all of which is this machine."""
    if network is None:
        return new_session()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, local_addr=(network, 0)),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def new_address() -> str:
    return f"{uuid4().hex}@example.com"


async def somebody(cluster: Cluster, http: aiohttp.ClientSession) -> Jar:
    jar = Jar(http, cluster.entrance, new_address())
    assert (await jar.register()).status == 201
    return jar


async def logged_in(person: Jar) -> Jar:
    """A browser of theirs more, with a session of its own."""
    jar = Jar(person.http, person.address, person.email)
    answer = await jar.log_in()
    assert answer.status == 200, answer
    return jar


def at(address: str, jar: Jar) -> Jar:
    copied = jar.copy()
    copied.address = address
    return copied


def everywhere(cluster: Cluster, jar: Jar, number: int) -> list[Jar]:
    """Copies of a jar, which ask at each address in turn."""
    addresses = cluster.addresses
    return [at(addresses[place % len(addresses)], jar) for place in range(number)]


async def at_once(asked: Sequence[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
    return await asyncio.gather(*(ask() for ask in asked))


def statuses(answers: Sequence[Answer]) -> Counter[int | None]:
    return Counter(answer.status for answer in answers)
