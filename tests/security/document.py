"""The tables of docs/security.md, so that tests can hold them against the code."""

import re
from functools import cache

from tests.proof import ROOT


@cache
def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(heading: str, number: int = 0) -> list[dict[str, str]]:
    """A row is {column: cell}, the code marks taken away. number: which table of the section."""
    blocks = re.findall(r"(?:^\|.*\n)+", sections()[heading], flags=re.MULTILINE)
    head, _, *rows = (cells(line) for line in blocks[number].splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
