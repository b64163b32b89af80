"""`python -m app run`: uvicorn as this service needs it."""

import ipaddress
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn

from app.core.config import Settings, SettingsError, load_settings, refuse_to_start
from app.core.keys import access_keys
from app.core.logs import configure_logging

SHUTDOWN_SECONDS = 20  # for requests under way; longer than a statement may take


def serve(host: str, port: int, *, workers: int | None, reload: bool) -> None:
    settings = load_settings()
    try:
        access_keys(settings)  # here, because worker processes that refuse would be started again
    except SettingsError as error:
        refuse_to_start(str(error))
    if settings.debug and not is_loopback(host):
        sys.exit(
            f"DEBUG=true serves this machine only, and {host} can be reached from others: "
            "put DEBUG=false into .env, or use --host 127.0.0.1."
        )
    refuse_taken_port(host, port)
    print_address(settings, host, port)
    configure_logging()
    if workers:
        os.environ["WEB_CONCURRENCY"] = str(workers)  # they share the cores
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it lists its plug-ins
    uvicorn.run(
        "app.main:app",
        host=host,
        port=port,
        workers=workers,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent)] if reload else None,
        lifespan="on",
        ws="none",
        proxy_headers=False,  # TRUSTED_PROXIES decides, and uvicorn would trust 127.0.0.1
        server_header=False,
        log_config=None,
        access_log=False,  # the service writes its own, without query strings
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


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


def print_address(settings: Settings, host: str, port: int) -> None:
    name = f"[{host}]" if ":" in host else host
    path = "/docs" if settings.docs_enabled else "/health/ready"
    # On standard error, because standard output is for the log.
    print(f"Open http://{name}:{port}{path}  (Ctrl-C stops the server.)", file=sys.stderr)
