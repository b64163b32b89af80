import secrets
import time
from datetime import datetime
from uuid import UUID

from app.core.moments import to_microseconds


def new_id() -> UUID:
    """A UUID version 7 (RFC 9562, 5.7): newer rows land at the right end of an index.

    It names a row and authorises nothing: its time part can be guessed.
    """
    return uuid7(time.time_ns() // 1_000_000, secrets.randbits(80))


def lowest_id(moment: datetime) -> UUID:
    """Rows from before this millisecond have lower ids, the others have not."""
    return uuid7(to_microseconds(moment) // 1000, 0)


def uuid7(milliseconds: int, rest: int) -> UUID:
    value = milliseconds << 80 | rest
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return UUID(int=value)
