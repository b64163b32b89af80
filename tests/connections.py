"""Clients that do with a connection what no honest one does, and a server of less patience."""

import socket
import threading
import time
from asyncio import Transport
from collections.abc import Callable
from contextlib import suppress

import pytest

from app import protocol
from app.protocol import Protocol

PATIENCE = 10  # seconds; nothing takes that long
SOON = 0.3  # seconds, instead of the limits of production

Address = tuple[str, int]


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For connections that are opened from now on."""
    for name in ("ARRIVAL_SECONDS", "READING_SECONDS", "LEAVING_SECONDS"):
        monkeypatch.setattr(protocol, name, SOON)


def keep_few_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has room for some kilobytes that a client does not take."""

    def narrow(_: Protocol, transport: Transport) -> None:
        opened = transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    before(monkeypatch, "connection_made", narrow)


def tell_of_pauses(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once an answer does not fit any more."""
    paused = threading.Event()
    before(monkeypatch, "pause_writing", lambda _: paused.set())
    return paused


def close_what_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    def be_restless(protocol: Protocol, _: Transport) -> None:
        protocol.timeout_keep_alive = SOON

    before(monkeypatch, "connection_made", be_restless)


def before(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[..., None]) -> None:
    """With the same arguments as that method of the protocol."""
    method = getattr(Protocol, name)

    def both(*arguments: object) -> None:
        act(*arguments)
        method(*arguments)

    monkeypatch.setattr(Protocol, name, both)


def connect(address: Address, *, room: int = 0) -> socket.socket:
    """room: bytes that the client's system keeps, or as many as usual."""
    connection = socket.socket()
    if room:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.settimeout(PATIENCE)
    connection.connect(address)
    return connection


def send_as_long_as_it_reads(connection: socket.socket, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def send_without_end(connection: socket.socket, piece: bytes, pause: float = 0) -> int:
    """How many bytes it took until nobody listened any more."""
    deadline = time.monotonic() + PATIENCE
    sent = 0
    try:
        while sent < 50_000_000 and time.monotonic() < deadline:
            connection.sendall(piece)
            sent += len(piece)
            time.sleep(pause)
    except (BrokenPipeError, ConnectionResetError):
        return sent
    pytest.fail("it would have gone on for ever")


def read_to_the_end(connection: socket.socket) -> bytes:
    """Raises TimeoutError where the connection stays."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            received += data
    return received


def is_cut_off(address: Address, request: bytes) -> bool:
    """Whoever asks one thing after the other, and takes no answer."""
    deadline = time.monotonic() + PATIENCE / 2
    with connect(address, room=4096) as connection:
        connection.setblocking(False)
        while time.monotonic() < deadline:
            try:
                connection.send(request)
                time.sleep(0.01)  # so that each arrives by itself
            except BlockingIOError:
                time.sleep(0.05)
            except (BrokenPipeError, ConnectionResetError):
                return True
    return False
