"""What a larger database costs, as a chart for the docs."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import matplotlib as mpl

from bench.plots import INK, OURS, PALE, STYLE, keep
from bench.sizes.tables import Results, busy, works

mpl.use("svg")
from matplotlib import pyplot

COLOURS = {"refresh": OURS, "me": "#5b8dbf", "list": "#3f9c6d", "log in": "#a877c2"}
LINES = {"PostgreSQL": "o-", "SQLite": "s:"}
PARTS = {
    "logins": ("the table", OURS),
    "pk_logins": ("its primary key", "#5b8dbf"),
    "ix_logins_expires_at": ("index for the purge", "#3f9c6d"),
    "ix_logins_user_id": ("index by user", "#a877c2"),
}


def draw(results: Results, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        keep(chart(results), file)


def chart(results: Results) -> Any:
    figure, (rates, times, stored) = pyplot.subplots(
        1, 3, figsize=(11.4, 3.8), layout="constrained"
    )
    for number, (database, work, of_size) in enumerate(works(results)):
        sizes = sorted(of_size)
        first = of_size[sizes[0]]
        # Round by round, because the machine is not as fast in every round.
        relative = [
            [b["rate"] / a["rate"] for a, b in zip(first, of_size[size], strict=False)]
            for size in sizes
        ]
        style = {"fmt": LINES[database], "ms": 4, "color": COLOURS[work], "lw": 1.4}
        beside = [size * 1.07 ** (number - 3) for size in sizes]  # or the bars hide each other
        rates.errorbar(beside, *middle_half(relative), elinewidth=0.8, **style)
        cost = [median(map(busy, of_size[size])) for size in sizes]
        times.errorbar(sizes, cost, label=f"{work}, {database}", **style)
    rates.set_title("Requests a second / those at 1,000", loc="left")
    rates.set_xlabel("logins (bars: the middle half of the rounds)")
    rates.set_ylim(0, 1.6)
    rates.axhline(0.9, color=INK, linestyle="--", linewidth=1)
    times.set_title("Processor time of a request, ms", loc="left")
    times.set_xlabel("logins")
    times.set_yscale("log")
    times.set_ylim(0.5, 100)
    times.yaxis.set_major_formatter("{x:g}")
    times.yaxis.set_minor_formatter("")
    times.legend(fontsize=7, ncols=2, loc="center", bbox_to_anchor=(0.5, 0.62))
    for axes in (rates, times):
        axes.set_xscale("log")
        axes.grid(color=PALE, linewidth=0.5)
    draw_storage(results, stored)
    return figure


def middle_half(samples: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Medians, and how far the quartiles are below and above."""
    medians = [median(values) for values in samples]
    quartiles = [quantiles(values) if len(values) > 1 else values * 3 for values in samples]
    below = [middle - low for middle, (low, _, _) in zip(medians, quartiles, strict=True)]
    above = [high - middle for middle, (_, _, high) in zip(medians, quartiles, strict=True)]
    return medians, [below, above]


def draw_storage(results: Results, axes: Any) -> None:
    looks = next(iter(results["storage"]["variants"].values()))["refreshed"]
    each = [look["rotations"] / results["storage"]["logins"] for look in looks]
    axes.stackplot(
        each,
        *([look["parts"][name] for look in looks] for name in PARTS),
        labels=[title for title, _ in PARTS.values()],
        colors=[colour for _, colour in PARTS.values()],
        alpha=0.8,
    )
    axes.axhline(400, color=INK, linestyle="--", linewidth=1)
    axes.set_ylim(0, 560)
    axes.set_title("Bytes of a login, PostgreSQL", loc="left")
    axes.set_xlabel("times that it was refreshed")
    axes.legend(fontsize=7, ncols=2, loc="upper center")
