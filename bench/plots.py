"""Charts for the docs, readable on light and on dark pages: no background, and middle greys."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.compare import LIMITS, Results, rates, spread
from bench.report import headline

mpl.use("svg")
from matplotlib import pyplot

INK = "#7a828c"  # contrast above 4 on white and on what browsers call dark
PALE = "#7a828c55"
OURS = "#d9730d"
PEER = "#5b8dbf"
LINES = {
    "ours": OURS,
    "better_auth": "#3f9c6d",
    "fastapi_users_jwt": "#5b8dbf",
    "simplejwt": "#a877c2",
}
PANELS = ("login", "refresh", "me", "check")
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "bench",  # the same figures give the same file
    "font.size": 9,
    "font.family": "DejaVu Sans",  # matplotlib brings it
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        keep(throughput(results), folder / "throughput.svg")
        if results["curves"]:
            keep(latency(results), folder / "latency.svg")


def keep(figure: Any, file: Path) -> None:
    figure.savefig(file, transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = file.read_text(encoding="utf-8")
    file.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def throughput(results: Results) -> Any:
    """A panel for each work. A dashed line: the limit that the parts set."""
    figure, places = pyplot.subplots(2, 2, figsize=(9.6, 6.4), layout="constrained")
    for work, axes in zip(PANELS, places.flat, strict=True):
        bars = [
            (found, name, contender["title"])
            for name, contender in results["contenders"].items()
            if contender["kind"] != "limit"
            if (found := spread(rates(results, (name, work))))
        ]
        bars.reverse()  # the first one is drawn on top
        values = [found.median for found, _, _ in bars]
        colours = [OURS if name.startswith("ours") else PEER for _, name, _ in bars]
        errors = [
            [found.median - found.low for found, _, _ in bars],
            [found.high - found.median for found, _, _ in bars],
        ]
        axes.barh([title for _, _, title in bars], values, color=colours, height=0.66)
        axes.errorbar(values, range(len(bars)), xerr=errors, fmt="none", ecolor=INK, capsize=2)
        for position, (found, _, _) in enumerate(bars):
            axes.annotate(
                f" {found.median:,.0f}", (found.high, position), va="center", fontsize=8, color=INK
            )
        limit = spread(rates(results, LIMITS[work]))
        if limit:
            axes.axvline(limit.median, color=INK, linestyle="--", linewidth=1)
        axes.set_title(headline(work), loc="left")
        axes.margins(x=0.14)
        axes.tick_params(left=False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.supxlabel(
        "requests a second; dashed: a trivial endpoint, or argon2, on the same parts", fontsize=9
    )
    return figure


def latency(results: Results) -> Any:
    figure, (rate, time) = pyplot.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    for name, curve in results["curves"].items():
        numbers = [int(number) for number in curve]
        title, colour = results["contenders"][name]["title"], LINES[name]
        each = list(curve.values())
        rate.plot(numbers, [p["rate"] for p in each], "o-", ms=3, color=colour, label=title)
        time.plot(numbers, [p["p99"] for p in each], "o-", ms=3, color=colour, label=title)
        time.plot(numbers, [p["p50"] for p in each], ":", color=colour)
    rate.set_title("Who am I, requests a second", loc="left")
    time.set_title("Milliseconds: p99, and p50 dotted", loc="left")
    time.set_yscale("log")
    time.yaxis.set_major_formatter("{x:g}")
    for axes in (rate, time):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel("connections")
        axes.grid(color=PALE, linewidth=0.5)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:,.0f}")
    figure.legend(*rate.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
