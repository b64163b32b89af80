"""What was measured at every size, as tables for the docs, and the targets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.compare import Spread, Target, constant, spread
from bench.report import NOTHING, Table, amount, of_targets, short

Results = Mapping[str, Any]  # as results/growth.json has them
INDEX = re.compile(
    r"using (\w+)|Bitmap Index Scan on (\w+)|Arbiter Indexes: (\w+)|USING (?:COVERING )?INDEX (\w+)"
)
# Of these, a scan would be found out by its time. The other tables are as good as empty here, and
# PostgreSQL rightly reads what fits on a page from one end to the other.
LARGE = re.compile(r"Seq Scan on (users|logins)|SCAN (users|logins)(?! USING)")


def as_markdown(results: Results) -> str:
    return "\n".join(map(markdown, tables(results)))


def markdown(table: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (table.heads, *table.rows)]
    lines.insert(1, "|" + "|".join(["---", *["---:"] * (len(table.heads) - 1)]) + "|")
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([f"## {table.title}\n", *lines, *notes, ""])


def tables(results: Results) -> Iterator[Table]:
    yield throughput(results)
    yield processor_time(results)
    yield purges(results)
    yield files(results)
    yield refreshes(results)
    yield months(results)
    yield plans(results)
    yield of_targets(targets(results))


def runs(published: Mapping[str, Any], compared: Mapping[str, Any]) -> Table:
    """What each was made on. compared: the run that the two tables of storage are from."""
    rows = [
        [name.replace("_", " "), *(str(each.get(name, NOTHING)) for each in (published, compared))]
        for name in compared
    ]
    return Table("The runs", ["", "sizes", "storage"], rows)


def throughput(results: Results) -> Table:
    sizes = all_sizes(results)
    rows = []
    for database, work, of_size in works(results):
        rates = [spread([each["rate"] for each in of_size.get(size, ())]) for size in sizes]
        cells = [short(found.median) if found else NOTHING for found in rates]
        rows.append([f"{database}: {work}", *cells, amount(ratio(of_size, "rate"))])
    heads = ["logins", *(f"{size:,}" for size in sizes), "largest / smallest"]
    notes = [
        "Medians. The ratio is that of two measurements of the same round (lowest to highest). "
        "8 connections, for log-ins 4, one worker; PostgreSQL with its defaults, 128 MB of memory "
        "among them."
    ]
    return Table("Requests a second, by size", heads, rows, notes)


def processor_time(results: Results) -> Table:
    sizes = all_sizes(results)
    rows = []
    for database, work, of_size in works(results):
        cells = []
        for size in sizes:
            rounds = of_size.get(size)
            parts = [median(each[who] for each in rounds) for who in WHO] if rounds else []
            cells.append(" + ".join(short(part) for part in parts if part) or NOTHING)
        cost = {size: [{"all": busy(each)} for each in rounds] for size, rounds in of_size.items()}
        cells.append(amount(ratio(cost, "all")))
        rows.append([f"{database}: {work}", *cells])
    heads = ["logins", *(f"{size:,}" for size in sizes), "largest / smallest"]
    title = "Milliseconds of processor time for a request, by size: the service + the database"
    return Table(title, heads, rows)


WHO = ("server", "database")


def busy(figures: Mapping[str, float]) -> float:
    return sum(figures[who] for who in WHO)


def purges(results: Results) -> Table:
    rows = [
        [place["database"], f"{place['logins']:,}", amount(spread(place["purges"]))]
        for place in results["places"]
    ]
    return Table("Milliseconds to purge 500 expired logins", ["", "logins", "median"], rows)


def files(results: Results) -> Table:
    rows = [
        [place["database"], f"{place['logins']:,}", short(place["bytes"])]
        for place in results["places"]
    ]
    notes = [
        "With indexes, just filled. Those of more than 100,000 were built last, and so denser."
    ]
    return Table("Bytes of a login, by size", ["", "logins", "bytes"], rows, notes)


SHOWN = (0, 1, 3, 10)  # tenths of all refreshes


def refreshes(results: Results) -> Table:
    heads = ["refreshes", "bytes of a login", "table", "its indexes", "pages", "HOT", "log bytes"]
    rows = [
        [
            f"{name}: {looked['rotations']:,}",
            *parts_of(looked),
            f"{looked['pages']['logins']:,}",
            share(looked["hot"]),
            NOTHING if looked["wal"] is None else f"{looked['wal']:.0f}",
        ]
        for name, variant in results["storage"]["variants"].items()
        for looked in (variant["refreshed"][number] for number in SHOWN)
    ]
    storage = results["storage"]
    notes = [
        f"{storage['logins']:,} logins that had never been refreshed. HOT: updates that changed no "
        "index. Log: what a refresh writes there, whole pages left out."
    ]
    return Table("Storage on PostgreSQL, refreshed by lot", heads, rows, notes)


def months(results: Results) -> Table:
    heads = ["", "bytes of a login", "table", "its indexes", "HOT"]
    rows = []
    for name, variant in results["storage"]["variants"].items():
        looks = variant["used"]
        second_half = looks[len(looks) // 2 :]
        for title, looked in (("most", max(second_half, key=total)), ("at last", looks[-1])):
            rows.append([f"{name}: {title}", *parts_of(looked), share(looked["hot"])])
    notes = [
        f"{results['storage']['logins_used']:,} logins for two months: every day a thirtieth of "
        "them, the oldest ones, goes, and as many begin. Each is refreshed 9 times."
    ]
    return Table("Storage on PostgreSQL, in use", heads, rows, notes)


def total(looked: Mapping[str, Any]) -> float:
    return float(sum(looked["parts"].values()))


def parts_of(looked: Mapping[str, Any]) -> list[str]:
    table, *indexes = looked["parts"].values()
    each = " + ".join(f"{index:.0f}" for index in indexes)
    return [f"{total(looked):.0f}", f"{table:.0f}", each]


def share(part: float | None) -> str:
    return NOTHING if part is None else f"{part:.1%}"


def plans(results: Results) -> Table:
    rows = [
        [f"`{plan['statement']}`", ", ".join(plan["scans"] or plan["indexes"])]
        for plan in results["plans"]
        if plan["database"] == "PostgreSQL" and (plan["scans"] or plan["indexes"])
    ]
    notes = [
        "Every statement about users or logins that log in, me, refresh, list, log out and purge "
        "send. SQLite's plans are looked at, too."
    ]
    title = f"PostgreSQL's plans at {max(all_sizes(results)):,} logins"
    return Table(title, ["statement", "found by"], rows, notes)


def read_plan(database: str, text: str, lines: Sequence[str]) -> dict[str, Any]:
    """scans: the tables that are read from one end to the other, and must not be."""
    plan = "\n".join(lines)
    indexes = [next(filter(None, found)) for found in INDEX.findall(plan)]
    scans = [next(filter(None, found)) for found in LARGE.findall(plan)]
    return {
        "database": database,
        "statement": in_short(text),
        "indexes": list(dict.fromkeys(indexes)),
        "scans": [f"all of {table}" for table in scans],
        "plan": plan,
    }


def in_short(text: str) -> str:
    """A prepared statement's name, or what distinguishes one from the others."""
    if found := re.match(r"PREPARE (\w+)", text):
        return found[1]
    text = re.sub(r"\s+", " ", re.sub(r"%\((\w+?)(_\d+)*\)s(::\w+)?", r":\1", text))
    text = re.sub(r"^SELECT .*? FROM", "SELECT … FROM", text)
    return text if len(text) < 100 else text[:99] + "…"


def targets(results: Results) -> list[Target]:
    refresh = next(
        (each for name, work, each in works(results) if (name, work) == ("PostgreSQL", "refresh")),
        {},
    )
    sizes = all_sizes(results)
    what = f"refresh at {max(sizes):,} logins / at {min(sizes):,}"
    shipped = next(iter(results["storage"]["variants"].values()))
    looks = [*shipped["refreshed"], *shipped["used"]]
    stored = constant(max(map(total, looks)))
    return [
        Target(what, 0.90, 0.97, ratio(refresh, "rate")),
        Target("storage of a login, at most", 400, 250, stored, at_least=False, unit="bytes"),
    ]


# What was measured


def all_sizes(results: Results) -> list[int]:
    return sorted({place["logins"] for place in results["places"]})


def works(results: Results) -> Iterator[tuple[str, str, dict[int, list[Any]]]]:
    """Database, work, and the rounds by size."""
    found: dict[tuple[str, str], dict[int, list[Any]]] = {}
    for place in results["places"]:
        for work, rounds in place["works"].items():
            found.setdefault((place["database"], work), {})[place["logins"]] = rounds
    for (database, work), of_size in found.items():
        yield database, work, of_size


def ratio(of_size: Mapping[int, Sequence[Mapping[str, float]]], name: str) -> Spread | None:
    """Of the largest to the smallest, round by round."""
    if len(of_size) < 2:
        return None
    pairs = zip(of_size[max(of_size)], of_size[min(of_size)], strict=False)
    return spread([large[name] / small[name] for large, small in pairs])
