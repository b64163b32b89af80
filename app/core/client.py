from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

LONGEST_USER_AGENT = 200  # characters
LONGEST_ADDRESS = 64  # characters: more than any has, spaces around it included

Address = IPv4Address | IPv6Address


class Quota(NamedTuple):
    """What is left of a budget: for the RateLimit headers."""

    limit: str
    size: int  # attempts an hour
    remaining: int
    reset: int | None = None  # seconds until there is one more


@dataclass(slots=True)
class Client:
    """Where a request comes from, as far as it can be believed."""

    ip_address: str
    user_agent: str
    request_id: str = ""
    quota: Quota | None = None  # noted by services/throttle.py, told by api/envelope.py

    @property
    def network(self) -> str:
        return network_of(self.ip_address)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What one subscriber has: an IPv4 address, or an IPv6 /64 full of them."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket file has none
        return address
    return address if found.version == 4 else str(IPv6Network((int(found), 64), strict=False))


HERE = Client("", "python -m app")


def read_address(text: str) -> Address | None:
    """What is too long is remembered nowhere: in X-Forwarded-For, anybody writes anything."""
    return parse_address(text) if len(text) <= LONGEST_ADDRESS else None


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
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
