from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address
from typing import NamedTuple

LONGEST_USER_AGENT = 200  # characters


class Quota(NamedTuple):
    """What is left of a budget: for the RateLimit headers."""

    limit: str
    size: int  # attempts an hour
    remaining: int
    reset: int  # seconds until there is one more


@dataclass(slots=True)
class Client:
    """Where a request comes from, as far as it can be believed."""

    ip_address: str
    user_agent: str
    request_id: str = ""
    quota: Quota | None = None  # noted by services/throttle.py, told by api/envelope.py

    @property
    def network(self) -> str:
        """What one subscriber has: an IPv4 address, or an IPv6 /64 full of them."""
        try:
            address = ip_address(self.ip_address)
        except ValueError:  # a socket file has none
            return self.ip_address
        if address.version == 4:
            return str(address)
        return str(IPv6Network((int(address), 64), strict=False))


HERE = Client("", "python -m app")
