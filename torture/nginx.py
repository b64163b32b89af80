"""nginx before several services, set up by the example that this project ships."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

from tests.processes import free_ports
from torture.laboratory import ROOT, Missing

EXAMPLE = ROOT / "deploy" / "nginx.conf"
# What Debian's /etc/nginx/nginx.conf has around a site, in a folder of our own.
AROUND = """\
daemon off;
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
{site}
}}
"""
START_SECONDS = 60


class Nginx:
    """servers: lines of its `upstream`, such as `127.0.0.1:8000 weight=4`."""

    def __init__(self, folder: Path, servers: Iterable[str]) -> None:
        self.port = free_ports(1)[0]
        self.errors = folder / "nginx-error.log"
        self._file = folder / "nginx.conf"
        self._file.write_text(AROUND.format(folder=folder, site=site(self.port, servers)))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [find_nginx(), "-c", str(self._file), "-e", str(self.errors)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours: it ends when we say so
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # its workers go with it
        self._process.wait()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urlopen(f"{self.address}/health/live", timeout=5):
                    return
            except (URLError, OSError):
                time.sleep(0.02)
        raise RuntimeError(f"nginx did not start:\n{self.errors.read_text()[-2000:]}")


def find_nginx() -> str:
    """Raises Missing."""
    found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise Missing("nginx is missing: apt install nginx-light (Debian, Ubuntu).")
    return found


def site(port: int, servers: Iterable[str]) -> str:
    """The example, but for its address, its certificate, and where the services are."""
    text = EXAMPLE.read_text()
    text = re.sub(r"listen 443 ssl;", f"listen 127.0.0.1:{port};", text)
    text = re.sub(r"\n *ssl_certificate.*;", "", text)
    line = re.compile(r"server 127\.0\.0\.1:8000( .*)?;")
    return line.sub(lambda found: "\n".join(f"server {s}{found[1] or ''};" for s in servers), text)
