"""The one source of the current time, so that a demo can move it and everything follows."""

from datetime import UTC, datetime, timedelta

_offset = timedelta(0)
_ahead = timedelta(0)
NEAR = timedelta(milliseconds=50)  # what a measurement may be wrong by


def machine() -> datetime:
    """What the clock of this machine says."""
    return datetime.now(UTC)


def now() -> datetime:
    """The current moment, aware, in UTC."""
    return machine() + _ahead + _offset


def follow(ahead: timedelta) -> None:
    """The database's clock, which all processes share, is so much ahead of this machine's: from now on ours is too."""
    global _ahead
    if abs(ahead - _ahead) > NEAR:
        _ahead = ahead


def set_offset(offset: timedelta) -> None:
    """Move this process's clock; only the demo and the tests do."""
    global _offset
    _offset = offset


def offset() -> timedelta:
    return _offset
