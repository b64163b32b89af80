"""PostgreSQL on two nodes as Patroni runs it: streaming replication, synchronous commit, failover.

Debian's packages, in a folder, on free ports of loopback. PostgreSQL refuses root, so where root
asks, all of it runs as `nobody`.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import psycopg2

from app.db.hosts import connect
from tests.postgres import unprivileged
from tests.processes import free_ports
from torture.laboratory import Missing

BINARIES = Path("/usr/lib/postgresql/15/bin")
DATABASE = "torture"
START_SECONDS = 300
STUCK_SECONDS = 60
ANSWER_SECONDS = 2  # until a node counts as frozen

# A primary that says nothing for `ttl` seconds has lost its place: 20 are the least that Patroni
# allows. It steps down where etcd keeps silent for `retry_timeout`: 9 are the most that fit in.
TIMES = {"ttl": 20, "loop_wait": 1, "retry_timeout": 9}
PARAMETERS = {
    "max_connections": 100,
    "shared_buffers": "32MB",
    "wal_keep_size": "64MB",
    "log_min_messages": "warning",
    "unix_socket_directories": "",  # a long path would not fit into a socket's name
    "jit": "off",
}


class ClusterError(Exception):
    """One sentence: what did not happen."""


class Node:
    """A machine: Patroni, and the PostgreSQL that it starts. They die and freeze together."""

    def __init__(self, name: str, folder: Path, port: int, api: int) -> None:
        self.name = name
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._api = f"http://127.0.0.1:{api}"
        self._data = folder / name
        self._configuration = folder / f"{name}.yml"
        self._log = folder / f"{name}.log"
        self._patroni: subprocess.Popen[bytes] | None = None

    def configure(self, etcd: int, password: str) -> None:
        """YAML takes JSON."""
        user = {"password": password}
        described = {
            "scope": "torture",
            "name": self.name,
            "etcd3": {"host": f"127.0.0.1:{etcd}"},
            "restapi": {
                "listen": self._api.removeprefix("http://"),
                "connect_address": self._api.removeprefix("http://"),
            },
            "bootstrap": {
                "dcs": {
                    **TIMES,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": PARAMETERS},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": self.address,
                "connect_address": self.address,
                "data_dir": str(self._data),
                "bin_dir": str(BINARIES),
                "pgpass": str(self._configuration.with_suffix(".pgpass")),
                "remove_data_directory_on_diverged_timelines": True,
                "remove_data_directory_on_rewind_failure": True,
                "authentication": {
                    "superuser": {"username": "postgres", **user},
                    "replication": {"username": "replicator", **user},
                    "rewind": {"username": "rewinder", **user},
                },
                "pg_hba": [
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                ],
            },
        }
        self._configuration.write_text(json.dumps(described))

    def start(self) -> None:
        self._patroni = begin(["patroni", str(self._configuration)], self._log)

    def kill(self) -> None:
        """By SIGKILL, as when a machine loses its power."""
        self._signal(signal.SIGKILL)
        if self._patroni:
            self._patroni.wait()

    def freeze(self) -> None:
        """By SIGSTOP: its sockets stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def thaw_postgresql(self) -> None:
        """Without Patroni, which would tell it that it is the primary no more. Or that it is again:
        Patroni 3.0 takes the lock in etcd back that another node holds by then.
        """
        if self._patroni:
            self._patroni.kill()
            self._patroni.wait()
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Patroni first, which would start PostgreSQL again."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        found = []
        if self._patroni and self._patroni.poll() is None:
            found.append(psutil.Process(self._patroni.pid))
        with suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            if str(self._data) in postmaster.cmdline():  # it may be another's by now
                found.append(postmaster)
        return [*found, *(child for each in found for child in children(each))]

    def status(self) -> Mapping[str, Any]:
        """What Patroni says of itself and of its PostgreSQL. Empty: nothing."""
        return self._ask("/patroni")

    def cluster(self) -> Mapping[str, Any]:
        return self._ask("/cluster")

    def switch_over(self, candidate: "Node") -> None:
        """Planned. Raises OSError where Patroni refuses."""
        body = json.dumps({"leader": self.name, "candidate": candidate.name}).encode()
        with urlopen(Request(f"{self._api}/switchover", body), timeout=60):
            pass

    def _ask(self, path: str) -> Mapping[str, Any]:
        try:
            with urlopen(f"{self._api}{path}", timeout=2) as answer:
                body = answer.read()
        except HTTPError as error:
            body = error.read()
        except OSError:
            return {}
        told: Mapping[str, Any] = json.loads(body)
        return told


def children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


class Cluster(NamedTuple):
    """url: names both nodes, as libpq takes them. etcd: the port that Patroni asks.

    say, helped: what an operator had to do.
    """

    nodes: tuple[Node, Node]
    url: str
    password: str
    etcd: int
    say: Callable[[str], None]
    helped: Counter[str]

    def primary(self) -> Node | None:
        """Who takes writes, by asking PostgreSQL itself."""
        return next((node for node in self.nodes if self.takes_writes(node)), None)

    def takes_writes(self, node: Node) -> bool:
        try:
            return self.ask(node, "SELECT NOT pg_is_in_recovery()") == [(True,)]
        except psycopg2.Error:
            return False

    def ask(self, node: Node, statement: str) -> list[tuple[Any, ...]]:
        """As the superuser, and in a transaction of its own. Raises psycopg2.Error."""
        connection = open_connection(node, self.password, DATABASE)
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def other(self, node: Node) -> Node:
        return self.nodes[1 - self.nodes.index(node)]

    def settled(self) -> Node:
        """Waits until there is a primary, and a standby that confirms each commit."""
        return self._wait_for(self._settled, self.replicate_again, self.restart_standby)

    def new_primary(self, former: Node) -> Node:
        """Waits until the other one takes writes, and commits wait for nobody who is not there."""
        other = self.other(former)
        until(lambda: self.takes_writes(other), "Nobody became the primary")
        return self._wait_for(lambda: other if self.commits(other) else None, self.replicate_again)

    def commits(self, node: Node) -> bool:
        question = (
            "SELECT current_setting('synchronous_standby_names') = '' OR EXISTS"
            " (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))"
        )
        return self.ask(node, question) == [(True,)]

    def _wait_for(self, happens: Callable[[], Node | None], *helps: Callable[[], None]) -> Node:
        """And does what an operator would have to, one after the other, where it takes too long."""
        for help_it in helps:
            with suppress(ClusterError):
                return until(happens, "It takes its time", STUCK_SECONDS)
            name = help_it.__name__.replace("_", " ")
            self.say(f"Patroni is stuck ({self.roles}): {name}")
            self.helped[f"Patroni was stuck, {name}"] += 1
            with suppress(OSError):
                help_it()
        return until(happens, f"The cluster did not become whole ({self.roles})")

    def replicate_again(self) -> None:
        """Patroni 3.0 may keep a former primary's name after a switchover, and the new one then
        waits for ever for somebody to take it away.
        """
        key = base64.b64encode(b"/service/torture/sync").decode()
        body = json.dumps({"key": key}).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.etcd}/v3/kv/deleterange", body), timeout=5):
            pass

    def restart_standby(self) -> None:
        """As an operator would who sees that it follows nobody."""
        if primary := self.primary():
            standby = self.other(primary)
            standby.kill()
            standby.start()

    @property
    def roles(self) -> str:
        """As each node sees them."""
        return "; ".join(
            ", ".join(f"{each['role']} {each.get('state')}" for each in members)
            for node in self.nodes
            if (members := node.cluster().get("members", ()))
        )

    def _settled(self) -> Node | None:
        for node in self.nodes:
            roles = {each["role"] for each in node.cluster().get("members", ())}
            if roles == {"leader", "sync_standby"}:
                return self.primary()
        return None


@contextmanager
def cluster(folder: Path, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Two nodes that are in step, and an empty database. Raises Missing, or ClusterError."""
    look_for_packages()
    place = folder / "cluster"
    place.mkdir()
    give_away(place)
    etcd, peer, *ports = free_ports(6)
    password = secrets.token_hex(16)
    nodes = (Node("one", place, *ports[:2]), Node("two", place, *ports[2:]))
    with ExitStack() as stack:
        coordinator = begin(etcd_command(place, etcd, peer), place / "etcd.log")
        stack.callback(coordinator.wait)
        stack.callback(coordinator.kill)
        for node in nodes:
            node.configure(etcd, password)
            stack.callback(node.kill)
            node.start()
        hosts = "&".join(f"host={node.address}" for node in nodes)
        url = f"postgresql://postgres:{password}@/{DATABASE}?{hosts}"
        made = Cluster(nodes, url, password, etcd, say, Counter())
        until(lambda: leader(nodes), "No node became the primary")
        create_database(made, leader(nodes))
        made.settled()
        yield made


def look_for_packages() -> None:
    found = all(map(shutil.which, ("patroni", "etcd"))) and (BINARIES / "postgres").exists()
    if not found:
        raise Missing("run apt install --no-install-recommends patroni etcd-server postgresql-15")


def give_away(folder: Path) -> None:
    """To whom PostgreSQL runs as, who also has to pass through the folder above."""
    if user := unprivileged():
        folder.parent.chmod(0o711)
        os.chown(folder, user["user"], user["group"])


def etcd_command(folder: Path, port: int, peer: int) -> list[str]:
    client, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
    ]


def begin(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Out of Ctrl-C's reach: whoever began it ends it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **unprivileged(),
        )


def leader(nodes: tuple[Node, Node]) -> Node | None:
    for node in nodes:
        told = node.status()
        if told.get("role") in ("master", "primary") and told.get("state") == "running":
            return node
    return None


def create_database(cluster: Cluster, node: Node) -> None:
    connection = open_connection(node, cluster.password, "postgres")
    connection.cursor().execute(f"CREATE DATABASE {DATABASE}")
    connection.close()


def open_connection(node: Node, password: str, database: str) -> Any:
    host, port = node.address.split(":")
    connection = connect(
        ANSWER_SECONDS, host=host, port=port, user="postgres", password=password, dbname=database
    )
    connection.autocommit = True
    return connection


def until(happens: Callable[[], Any], complaint: str, seconds: float = START_SECONDS) -> Any:
    """What it returns, once that is something. Raises ClusterError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if outcome := happens():
            return outcome
        time.sleep(0.05)
    raise ClusterError(f"{complaint} within {seconds:.0f} seconds.")
