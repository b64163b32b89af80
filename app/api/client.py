"""Where a request comes from, as far as it can be believed."""

import re
from ipaddress import IPv4Network, IPv6Network

from starlette.datastructures import Headers
from starlette.types import Scope

from app.core.client import Address, read_address

Networks = tuple[IPv4Network | IPv6Network, ...]

# As Azure's gateways write a hop: 203.0.113.9:4711, or [2001:db8::9]:4711.
WITH_PORT = re.compile(r"(?:\[([^]]+)\]|([0-9.]+))(?::[0-9]+)?", re.ASCII)


def client_address(scope: Scope, headers: Headers, trusted: Networks) -> str:
    """The peer; or, as long as that is a trusted proxy, whom it says it speaks for.

    X-Forwarded-For is read from the right: each proxy appends its peer, and what stands
    further left is what the client itself has written.
    """
    peer = peer_address(scope)
    address = read_address(peer)
    hops = [hop for header in headers.getlist("x-forwarded-for") for hop in header.split(",")]
    while hops and address and is_in(address, trusted):
        address = read_hop(hops.pop())
    return str(address or peer)


def unnamed_proxy(scope: Scope, headers: Headers, trusted: Networks) -> str | None:
    """A peer that forwards for others and is not on the internet: a proxy that nobody has named.

    All its clients would share the limits of one network, and one of them could use them up.
    """
    peer = peer_address(scope)
    address = read_address(peer) if "x-forwarded-for" in headers else None
    if address is None or address.is_global or is_in(address, trusted):
        return None
    return peer


def peer_address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def is_in(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def read_hop(text: str) -> Address | None:
    text = text.strip()
    with_port = WITH_PORT.fullmatch(text)
    return read_address((with_port[1] or with_port[2]) if with_port else text)
