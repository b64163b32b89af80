"""What was measured, as tables: for a terminal, and for the docs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.compare import (
    OURS,
    Results,
    Spread,
    Target,
    figures,
    rates,
    ratio,
    spread,
    targets,
)
from bench.rounds import CHOSEN, WORK_TITLES

BUSY = 0.8  # cores of wrk's: above, it may be what was measured
NOTHING = "-"


class Table(NamedTuple):
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def as_text(results: Results) -> str:
    return "\n".join(
        f"\n{table.title}\n\n{aligned(table)}\n" + "".join(f"{note}\n" for note in table.notes)
        for table in tables(results)
    )


def as_markdown(results: Results) -> str:
    parts = []
    for table in tables(results):
        lines = ["| " + " | ".join(row) + " |" for row in (table.heads, *table.rows)]
        lines.insert(1, "|" + "|".join(["---", *["---:"] * (len(table.heads) - 1)]) + "|")
        notes = [f"\n{note}" for note in table.notes]
        parts.append("\n".join([f"## {table.title}\n", *lines, *notes]))
    return "\n\n".join(parts) + "\n"


def aligned(table: Table) -> str:
    lines = [table.heads, *table.rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(table.heads))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    )


def tables(results: Results) -> Iterator[Table]:
    yield overview(results)
    for work in CHOSEN:
        table = of_work(results, work)
        if table.rows:
            yield table
    yield of_limits(results)
    yield of_servers(results)
    if results["flood"]:
        yield of_flood(results)
    if results["rushes"]:
        yield of_rushes(results)
    if results["curves"]:
        yield of_curves(results)
    yield of_targets(targets(results))
    yield of_run(results)


def overview(results: Results) -> Table:
    columns = [work for work in CHOSEN if work != "refresh_young"]
    rows = []
    for name, contender in results["contenders"].items():
        cells = [amount(spread(rates(results, (name, work)))) for work in columns]
        if contender["kind"] != "limit" and any(cell != NOTHING for cell in cells):
            rows.append([contender["title"], *cells])
    return Table(
        "Requests a second, median (lowest to highest round)",
        ["", *(WORK_TITLES[work] for work in columns)],
        rows,
        [f"{c['title']}: {c['note']}" for c in results["contenders"].values() if c.get("note")],
    )


def of_work(results: Results, work: str) -> Table:
    ours = OURS.get(work, ("ours", work))
    heads = ["", "a second", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "database CPU ms"]
    heads += ["statements (trips)", "FastAPI Auth / this"]
    rows = []
    for name, contender in results["contenders"].items():
        # Peers have one kind of refresh, and what they are asked for is a young one.
        theirs = "refresh" if work == "refresh_young" and contender["kind"] == "peer" else work
        place = (name, theirs)
        if not figures(results, place):
            continue
        asked = contender.get("statements", {}).get(theirs)
        rows.append(
            [
                contender["title"],
                amount(spread(rates(results, place))),
                *(middle(results, place, each) for each in ("p50", "p95", "p99")),
                *(middle(results, place, each) for each in ("server", "database")),
                f"{asked['statements']} ({asked['trips']})" if asked else NOTHING,
                amount(ratio(results, ours, place)) if place != ours else NOTHING,
            ]
        )
    return Table(headline(work), heads, rows, NOTES.get(work, ()))


NOTES = {
    "login": [
        "4 connections; elsewhere 16. Nearly all of it is the hash, and each package has its own: "
        "argon2id with 19 MiB and two passes here, with 64 MiB or more in the other Python "
        "packages, scrypt in better-auth. So compare log-ins with `argon2 alone`, not with each "
        "other. What is under way at the end does not count: of the slowest a twentieth."
    ],
    "refresh": [
        "As in life, each of our refreshes presents a session's newest token, issued a minute ago "
        "or longer. Peers rotate what the last answer brought."
    ],
    "refresh_young": [
        "Each connection renews one session as fast as it can, of ours as of the peers'. Then the "
        "evidence is read and judged first."
    ],
}


def of_limits(results: Results) -> Table:
    """What the parts can do: the rows that are no work of a contender's."""
    rows = []
    for name, contender in results["contenders"].items():
        for work in contender["works"]:
            if work not in CHOSEN or name.startswith(("pyjwt", "pgbench")):
                cells = amount(spread(rates(results, (name, work))))
                ours = against(results, name, work)
                rows.append([f"{contender['title']}: {WORK_TITLES[work]}", cells, ours])
    return Table("Limits", ["", "a second", "FastAPI Auth / this"], rows)


def against(results: Results, name: str, work: str) -> str:
    alike = {"cookies": "refresh", "def": "me", "async": "me"}
    alike |= {"all_threads": "login", "one_thread": ""}
    ours = OURS.get(alike.get(work, work))
    return amount(ratio(results, ours, (name, work))) if ours else NOTHING


def of_servers(results: Results) -> Table:
    rows = [
        [
            contender["title"],
            NOTHING if contender["memory"] is None else f"{contender['memory']:.0f}",
            amount(spread(contender["start"])),
        ]
        for contender in results["contenders"].values()
        if contender.get("start")
    ]
    notes = [
        "Memory at rest. While passwords are hashed, and for a second more, FastAPI Auth takes 19 "
        "MB more for each that is hashed at a time."
    ]
    return Table("Servers", ["", "MB after load", "seconds to the first answer"], rows, notes)


def of_flood(results: Results) -> Table:
    flood = results["flood"]
    rows = []
    for work in ("refresh", "me"):
        rounds = flood[work]
        rows.append(
            [
                WORK_TITLES[work],
                *(amount(spread([each[name] for each in rounds])) for name in ("idle", "flooded")),
                amount(spread([each["flooded"] / each["idle"] for each in rounds])),
                amount(spread([each["idle_p99"] for each in rounds])),
                amount(spread([each["flooded_p99"] for each in rounds])),
            ]
        )
    heads = ["", "idle", "flooded", "flooded / idle", "p99 ms idle", "p99 ms flooded"]
    last = flood["refresh"][-1]
    generators = [each["generators"] for work in ("refresh", "me") for each in flood[work]]
    statuses = ", ".join(f"{status}: {rate:.0f}" for status, rate in last["statuses"].items())
    notes = [
        f"Log-ins that it can do: {flood['capacity']:.0f} a second. Flooded with "
        f"{last['offered']:.0f} a second, half of them with a wrong password, each from a network "
        f"of its own. Answered a second, by status: {statuses}.",
        f"Load generators: {max(generators):.2f} of a core at most.",
        f"Memory: {flood['memory_before']:.0f} MB before, {flood['memory_after']:.0f} MB after.",
    ]
    return Table("Refresh and who am I during a flood of log-ins", heads, rows, notes)


def of_rushes(results: Results) -> Table:
    rows = []
    for name, rush in results["rushes"].items():
        idle, rushed = rush["idle"], rush["rushed"] or dict.fromkeys(rush["idle"], 0)
        rows.append(
            [
                results["contenders"][name]["title"],
                *(short(each["rate"]) for each in (idle, rushed)),
                short(rushed["rate"] / idle["rate"]),
                short(idle["p99"]),
                short(rushed["p99"]) if rush["rushed"] else "none came",
                short(rush["log_ins"]),
            ]
        )
    heads = ["", "idle", "meanwhile", "meanwhile / idle", "p99 ms idle", "p99 ms meanwhile"]
    notes = [
        "64 connections log in, each again as soon as it is answered. All have the right password "
        "and are let in; what still waits at the end does not count. Their hashes differ, as above."
    ]
    return Table("Refresh while 64 log in", [*heads, "log-ins a second"], rows, notes)


def of_curves(results: Results) -> Table:
    curves = results["curves"]
    numbers = list(next(iter(curves.values())))
    rows = [
        [
            results["contenders"][name]["title"],
            *(f"{short(curve[n]['rate'])} / {short(curve[n]['p99'])}" for n in numbers),
        ]
        for name, curve in curves.items()
    ]
    heads = ["connections", *numbers]
    return Table("Who am I under load: requests a second / p99 ms", heads, rows)


def of_targets(wanted: Sequence[Target]) -> Table:
    rows = [
        [
            target.what,
            f"{target.wanted:g} {target.unit}".strip(),
            NOTHING if target.moonshot is None else f"{target.moonshot:g}",
            amount(target.measured),
            target.verdict,
        ]
        for target in wanted
    ]
    return Table("Targets", ["", "target", "moonshot", "measured", ""], rows)


def of_run(results: Results) -> Table:
    made = results["made"]
    busiest = [
        (each["generator"], f"{contender['title']}, {WORK_TITLES[work]}")
        for contender in results["contenders"].values()
        for work, rounds in contender["works"].items()
        for each in rounds
    ]
    notes = []
    if busiest:
        most, where = max(busiest)
        notes.append(f"The load generator was busy for {most:.2f} of a core at most ({where}).")
    too_busy = sorted({where for most, where in busiest if most > BUSY})
    if too_busy:
        notes.append(f"It may have been what limited: {'; '.join(too_busy)}.")
    notes += [f"No figures for {name}: {why}" for name, why in results["failures"].items()]
    rows = [[name.replace("_", " "), str(value)] for name, value in made.items()]
    return Table("The run", ["", ""], rows, notes)


def middle(results: Results, place: tuple[str, str], name: str) -> str:
    found = spread([each[name] for each in figures(results, place)])
    return short(found.median) if found and found.median else NOTHING


def amount(found: Spread | None) -> str:
    if found is None:
        return NOTHING
    if found.low == found.high:
        return short(found.median)
    return f"{short(found.median)} ({short(found.low)} to {short(found.high)})"


def headline(work: str) -> str:
    title = WORK_TITLES[work]
    return title[0].upper() + title[1:]


def short(value: float) -> str:
    """Three digits, thousands with a comma."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
