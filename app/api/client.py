"""Where a request comes from, as far as it can be believed."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]


def client_address(scope: Scope, headers: Headers, trusted: Networks) -> str:
    """The peer; or, as long as that is a trusted proxy, whom it says it speaks for.

    X-Forwarded-For is read from the right: each proxy appends its peer, and what stands
    further left is what the client itself has written.
    """
    peer = scope["client"][0] if scope.get("client") else ""
    address = read_address(peer)
    hops = [hop for header in headers.getlist("x-forwarded-for") for hop in header.split(",")]
    while hops and address and any(address in network for network in trusted):
        address = read_address(hops.pop())
    return str(address or peer)


def read_address(text: str) -> Address | None:
    """An IPv4 address that came in on an IPv6 socket is the IPv4 address."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id:  # any text, and of meaning on one machine only
            return None
        return address.ipv4_mapped or address
    return address
