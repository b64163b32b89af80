"""`python -m app run`: uvicorn as this service needs it."""

import asyncio
import ipaddress
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess, multiprocess

from app.core.config import Settings, SettingsError, load_settings, refuse_to_start
from app.core.keys import access_keys
from app.core.logs import configure_logging
from app.core.metrics import FOLDER, check_folder
from app.core.password_policy import PasswordPolicy
from app.protocol import CLOSE, Protocol

SHUTDOWN_SECONDS = 20  # for requests under way; longer than a statement may take
LAST_CALL = 5  # of these, for requests on their way; longer than a proxy keeps what rests
START_SECONDS = 60  # for a worker: to kill a slow one would only begin it anew


def serve(host: str, port: int, *, workers: int | None, reload: bool) -> None:
    settings = load_settings()
    try:
        # Here, because worker processes that refuse would be started again.
        access_keys(settings)
        PasswordPolicy(settings)
        if settings.enable_metrics:
            check_folder()
    except SettingsError as error:
        refuse_to_start(str(error))
    if settings.debug and not is_loopback(host):
        sys.exit(
            f"DEBUG=true serves this machine only, and {host} can be reached from others: "
            "put DEBUG=false into .env, or use --host 127.0.0.1."
        )
    refuse_taken_port(host, port)
    allow_many_connections()
    print_address(settings, host, port)
    if settings.debug and settings.public_url is None:
        os.environ["PUBLIC_URL"] = address_of(host, port)  # links in mails lead here
    configure_logging()
    if workers:
        os.environ["WEB_CONCURRENCY"] = str(workers)  # they share the cores
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it lists its plug-ins
    # uvicorn raises SIGTERM again once it has answered what was under way: to be told to end, and
    # to end, is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": Protocol,
        "lifespan": "on",
        "ws": "none",
        "proxy_headers": False,  # TRUSTED_PROXIES decides, and uvicorn would trust 127.0.0.1
        "server_header": False,
        "log_config": None,
        "access_log": False,  # the service writes its own, without query strings
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS - LAST_CALL,
        "timeout_worker_healthcheck": START_SECONDS,
    }
    config = uvicorn.Config("app.main:app", **options)
    with shared_figures(settings.enable_metrics and (reload or config.workers > 1)):
        if config.workers > 1 and not reload:
            Workers(config, [config.bind_socket()]).run()
        elif reload:
            folder = str(Path(__file__).parent)
            uvicorn.run("app.main:app", **options, reload=True, reload_dirs=[folder])
        elif settings.debug:  # on a laptop, Ctrl-C ends it at once
            uvicorn.run("app.main:app", **options)
        else:
            Server(config).run()


@contextmanager
def shared_figures(needed: bool) -> Iterator[None]:
    """Where the processes add up what /metrics tells: a folder that is gone afterwards."""
    if not needed or FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fastapi-auth-metrics-") as folder:
        os.environ[FOLDER] = folder
        yield


class Server(uvicorn.Server):
    """uvicorn's, but that it ends without losing a request that is on its way.

    It would hang up on connections that rest. A proxy that keeps them open may just have sent a
    request there, and must not send it again, for it may have been carried out.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        until = time.monotonic() + LAST_CALL
        # Each answer says that it is the connection's last.
        self.server_state.default_headers.append(CLOSE)
        listening = [sock for server in self.servers for sock in server.sockets]
        # Who has been let in by the system comes in. There is no event for that, nor for the rest.
        while any(select.select(listening, [], [], 0)) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for connection in self.server_state.connections:
            if isinstance(connection, Protocol):
                connection.answer_for_the_last_time()
        while self.server_state.connections and time.monotonic() < until:
            if self.force_exit:
                break
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


class Worker(multiprocess.Process):
    def target(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn makes it when it is first asked for: by two threads, so that a worker may run one
        # and for ever tell of the other that it has not started.
        self._server = Server(self.config)
        super().target(sockets)


class Workers(Multiprocess):
    """uvicorn's, but for one thing: who calls while they finish is refused, and may go elsewhere.

    It would keep the socket open until the last worker has ended: the system would take requests
    that nobody answers.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        multiprocess.Process = Worker  # type: ignore[misc]  # it asks nobody what to start
        super().__init__(config, sockets)

    def terminate_all(self) -> None:
        for sock in self.sockets:
            sock.close()
        super().terminate_all()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_taken_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            if sys.platform != "win32":  # as uvicorn does; there it would mean something else
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        sys.exit(
            f"Cannot listen on {host}, port {port} ({error.strerror}): end what uses it, or choose "
            f"another with `make run PORT={port % 65535 + 1}` or --port."
        )


def allow_many_connections() -> None:
    """As many as the system lets a process have open; the usual 1,024 are soon used up."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def print_address(settings: Settings, host: str, port: int) -> None:
    path = "/docs" if settings.docs_enabled else "/health/ready"
    # On standard error, because standard output is for the log.
    print(f"Open {address_of(host, port)}{path}  (Ctrl-C stops the server.)", file=sys.stderr)


def address_of(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"
