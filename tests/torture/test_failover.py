"""What the experiment counts as broken. The whole of it takes a cluster, and minutes."""

from torture.failover import LONGEST, Trial
from torture.jar import Answer
from torture.people import Entry

TOLD_TO_COME_BACK = Answer(503, {"retry-after": "5"})


def entry(answer: Answer, start: float = 0, end: float = 1) -> Entry:
    return Entry("refresh", start, end, answer, answer.status == 200)


def trial(*entries: Entry) -> Trial:
    return Trial(began=10, promoted=30, entries=[*entries])


def test_to_be_told_to_come_back_is_no_broken_promise() -> None:
    assert trial(entry(Answer(200)), entry(TOLD_TO_COME_BACK)).wrong == []


def test_to_be_logged_out_or_told_nothing_is_one() -> None:
    wrong = [entry(Answer(401)), entry(Answer(500)), entry(Answer(503)), entry(Answer(None))]
    assert trial(*wrong).wrong == wrong


def test_to_wait_longer_than_a_proxy_is_one() -> None:
    late = entry(TOLD_TO_COME_BACK, 12, 12 + LONGEST + 1)
    assert trial(late).wrong == [late]


def test_it_has_recovered_when_nobody_is_refused_who_asks_after_the_promotion() -> None:
    meanwhile, later = entry(TOLD_TO_COME_BACK, 29, 40), entry(TOLD_TO_COME_BACK, 32, 33)
    assert trial(meanwhile).recovery == 0
    assert trial(meanwhile, later).recovery == 2


def test_ready_is_judged_only_while_there_is_no_primary() -> None:
    judged = trial()
    judged.ready = [(9, 9, 200), (10.5, 11, 200), (20, 21, 503), (29, 31, 200), (31, 31, 200)]
    assert judged.ready_meanwhile == [503]
