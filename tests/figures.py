"""What /metrics tells."""

import re
from collections.abc import Callable

from httpx2 import Client

LINE = re.compile(r"(\w+)(?:\{(.*)\})? ([0-9.e+-]+|\+Inf)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Figures:
    """Every line of Prometheus's text format."""
    found: Figures = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        assert match, line
        found[match[1], frozenset(LABEL.findall(match[2] or ""))] = float(match[3])
    return found


def figures(client: Client) -> Figures:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return read(answer.text)


def rise(client: Client, act: Callable[[], object], name: str, **labels: str) -> float:
    """How much higher a figure is afterwards: one process of tests counts for all of them."""
    key = name, frozenset(labels.items())
    before = figures(client).get(key, 0)
    act()
    return figures(client).get(key, 0) - before
