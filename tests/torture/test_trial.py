"""Of the experiments with broken databases: would they notice, if a promise were broken?"""

import asyncio
import time
from collections.abc import Sequence

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import text

from app.main import create_app
from tests.conftest import make_settings, migrate
from tests.people import ADA, log_in, refresh, register
from tests.rows import change_login, execute, the_login
from torture.jar import Answer, new_session
from torture.people import Entry, Person
from torture.rotations import Ledger, Recorder
from torture.trial import LONGEST, TOLD_TO_COME_BACK, Trial
from torture.wire import Wire

YES = Answer(200)
COME_BACK = Answer(503, {"retry-after": "5"})
BEFORE, DURING, AFTER = 1.0, 15.0, 21.0


def trial(*entries: Entry, signs: Sequence[str] = ()) -> Trial:
    return Trial(
        signs,
        ready=False,
        began=10,
        complete=10,
        lifted=20,
        entries=[*entries],
        readiness=[*entries],
    )


def entry(start: float, answer: Answer, seconds: float = 0.1) -> Entry:
    return Entry("refresh", start, start + seconds, answer, answer.status == 200)


@pytest.mark.parametrize(
    "broken",
    [
        entry(BEFORE, COME_BACK),
        entry(DURING, Answer(503)),
        entry(DURING, Answer(401)),
        entry(DURING, Answer(500)),
        entry(DURING, Answer(None)),
        entry(DURING, YES, seconds=LONGEST + 1),
    ],
    ids=[
        "refused while nothing is wrong",
        "not told when to come back",
        "logged out",
        "a mistake of ours",
        "no answer",
        "too late",
    ],
)
def test_an_answer_that_breaks_the_promise_is_seen(broken: Entry) -> None:
    fine = [entry(BEFORE, YES), entry(DURING, COME_BACK), entry(AFTER, COME_BACK)]
    assert trial(*fine).wrong == []
    assert trial(*fine, broken).wrong == [broken]


def test_it_has_recovered_when_nobody_is_refused_any_more() -> None:
    assert trial(entry(DURING, COME_BACK), entry(AFTER, YES)).recovery == 0
    assert trial(entry(AFTER, COME_BACK), entry(AFTER + 2, COME_BACK)).recovery == 3


def test_who_asked_before_it_was_over_may_be_refused_later() -> None:
    assert trial(entry(DURING, COME_BACK, seconds=8)).recovery == 0


def test_a_health_check_that_says_yes_meanwhile_is_seen() -> None:
    assert trial(entry(DURING, COME_BACK), entry(AFTER, YES)).untrue == 0
    assert trial(entry(DURING, COME_BACK), entry(DURING, YES)).untrue == 1


def test_a_health_check_is_judged_only_while_it_lasts() -> None:
    on_the_edge = [entry(each, YES) for each in (BEFORE, 10.5, 19.8, AFTER)]
    assert trial(*on_the_edge).said == []


@pytest.mark.parametrize(
    ("signs", "felt"),
    [((), True), ((TOLD_TO_COME_BACK,), True), (("cut",), False), (("cut", "lost"), False)],
)
def test_a_fault_that_left_no_sign_is_seen(signs: Sequence[str], felt: bool) -> None:
    befallen = trial(entry(DURING, COME_BACK), signs=signs)
    befallen.notes["lost"] += 1
    assert befallen.was_felt is felt


def test_a_rotation_that_is_lost_is_seen_although_the_next_one_mends_it(empty_url: str) -> None:
    """As where it was acknowledged before it was committed, and the database failed in between."""
    migrate(empty_url)
    ledger = Ledger(empty_url)
    browser = Recorder(None, "", ADA["email"], given=[])  # type: ignore[arg-type]

    def keep(answer: Response) -> None:
        assert answer.status_code == 200
        browser._keep(answer.headers.get_list("set-cookie"))

    app = create_app(make_settings(empty_url))
    with TestClient(app, base_url="https://testserver") as client:
        database = app.state.backend.database
        register(client)
        keep(log_in(client))
        before = the_login(database).last
        keep(refresh(client))
        change_login(database, last=before)
        database.run_write(execute, text(f"DELETE FROM issued WHERE n > {before}"))
        keep(refresh(client))
    committed = ledger.take_out()
    assert [token in committed for token in browser.given] == [True, False, True]


@pytest.mark.parametrize(
    ("answer", "passwords"),
    [(YES, 1), (Answer(503, {}, {"code": "busy"}), 1), (Answer(None), 2), (COME_BACK, 2)],
    ids=["done", "nothing was changed", "no answer", "nobody knows"],
)
def test_a_change_of_which_nobody_knows_leaves_two_passwords(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, passwords: int
) -> None:
    async def told(*_: object, **__: object) -> Answer:
        return answer

    async def change() -> Person:
        async with new_session() as http:
            person = Person(http, ["http://127.0.0.1:1"], "somebody@example.com")
            person.logged_in = True
            await person._change_password()
            return person

    monkeypatch.setattr(Person, "ask", told)
    person = asyncio.run(change())
    assert len(person.passwords) == passwords
    assert person.logged_in == (passwords == 1)
    assert len(person.former) == (answer is YES)


def test_the_wire_loses_a_commit_or_its_answer() -> None:
    """What arrived was carried out; and whoever sent it learns of neither."""
    arrived: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while message := await reader.read(100):
            arrived.append(message)
            writer.write(b"done")
        writer.close()

    async def commit(wire: Wire) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"BEGIN")
        assert await reader.read(100) == b"done"
        writer.write(b"COMMIT")
        try:
            return await reader.read(100)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def everything() -> Wire:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Wire(port, cuts=(1, 0)).running() as wire:
            until = time.monotonic() + 10
            while len(wire.counts) < 2 and time.monotonic() < until:
                assert await commit(wire) == b""
        server.close()
        return wire

    wire = asyncio.run(everything())
    assert wire.counts["commit lost"]
    assert arrived.count(b"COMMIT") == wire.counts["commit answer lost"] > 0
