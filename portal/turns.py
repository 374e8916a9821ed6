"""So many at a time: places that a process gives away, for what is slow or takes much memory."""

import anyio
from anyio.lowlevel import RunVar


class Turns:
    """Each event loop has places of its own, made when somebody asks first."""

    def __init__(self, name: str, most: int) -> None:
        self._places: RunVar[anyio.CapacityLimiter] = RunVar(f"portal.{name}.turns")
        self._most = most

    def places(self) -> anyio.CapacityLimiter:
        try:
            return self._places.get()
        except LookupError:
            made = anyio.CapacityLimiter(self._most)
            self._places.set(made)
            return made
