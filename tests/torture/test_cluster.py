"""torture/cluster.py in small: two processes behind nginx, set up by our own example."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.progress import Progress
from tests.conftest import migrate
from tests.postgres import fresh_database
from torture import cluster
from torture.cluster import Cluster
from torture.laboratory import Laboratory, Missing
from torture.nginx import site


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("cluster"), 0.01, Progress())


@pytest.fixture(scope="module")
def two(laboratory: Laboratory, postgresql_server: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database(postgresql_server))
        migrate(url)
        try:
            yield stack.enter_context(cluster.running(laboratory, url, workers=0, single=2))
        except Missing as missing:
            pytest.skip(str(missing))


def test_refreshes_at_once_succeed_at_whichever_process(two: Cluster) -> None:
    found = asyncio.run(cluster.refreshes(two, 1))
    assert (found.cases, found.broken) == (100, 0)


def test_a_one_time_token_works_once_at_all_processes_together(two: Cluster) -> None:
    found = asyncio.run(cluster.one_time_tokens_used(two, 1))
    assert (found.cases, found.broken) == (1, 0)


def test_a_session_that_has_ended_at_one_process_is_refused_at_the_others(two: Cluster) -> None:
    for found in asyncio.run(cluster.revocations(two, len(cluster.WAYS_TO_END))):
        assert (found.cases, found.broken) == (2 * len(two.addresses), 0)


def test_a_process_is_replaced_and_no_request_fails(laboratory: Laboratory, two: Cluster) -> None:
    restarts = cluster.restarts(
        laboratory, two, two.services[:1], cluster.exchange, how="a restart", people=4, rounds=1
    )
    found = asyncio.run(restarts)
    assert found.cases > 10
    assert found.broken == 0, found.remark


def test_nginx_is_set_up_by_the_example() -> None:
    made = site(8080, ["127.0.0.1:1 weight=4", "127.0.0.1:2"])
    assert "listen 127.0.0.1:8080;" in made
    assert "server 127.0.0.1:1 weight=4 fail_timeout=1s;" in made
    assert "server 127.0.0.1:2 fail_timeout=1s;" in made
    assert "ssl" not in made
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in made
