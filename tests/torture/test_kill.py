"""kill -9 under load, once; `python -m torture kill` does it a hundred times."""

from pathlib import Path

from bench.progress import Progress
from tests.conftest import migrate
from torture.kill import torment
from torture.laboratory import Laboratory


def test_a_service_that_is_killed_keeps_its_promises(empty_url: str, tmp_path: Path) -> None:
    migrate(empty_url)
    laboratory = Laboratory(tmp_path, 0.01, Progress())
    findings = list(torment(laboratory, empty_url))
    assert [finding for finding in findings if finding.broken] == []
    put_to_the_test = " ".join(finding.promise for finding in findings if finding.cases)
    for promise in (
        "every client goes on",
        "no acknowledged log-in or rotation",
        "no mail is lost",
        "the process that hashes",
    ):
        assert promise in put_to_the_test
