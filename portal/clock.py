"""The one source of the current time, so that a demo can move it and everything follows."""

from datetime import UTC, datetime, timedelta

_offset = timedelta(0)


def now() -> datetime:
    """The current moment, aware, in UTC."""
    return datetime.now(UTC) + _offset


def set_offset(offset: timedelta) -> None:
    """Move this process's clock; only the demo and the tests do."""
    global _offset
    _offset = offset


def offset() -> timedelta:
    return _offset
