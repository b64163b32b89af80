"""Refresh tokens count time in integer microseconds since 1970, exactly; floats would round."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def seconds_until(moment: datetime) -> int:
    """Rounded up: Max-Age and expires_in count whole seconds."""
    return -((datetime.now(UTC) - moment) // timedelta(seconds=1))


def from_microseconds(microseconds: int) -> datetime:
    return EPOCH + microseconds * MICROSECOND
