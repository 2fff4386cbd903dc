"""When to start again what ended: at once, unless it keeps ending.

The first death is answered at once. Each further one within `calm` seconds of the last start doubles the
pause, up to `longest`; who has served for `calm` seconds starts from the beginning. As systemd's and
supervisord's start limits, but it never gives up: a cause may go away.
"""

from __future__ import annotations


class Backoff:
    """The pauses of one place. first, longest: s; calm: s of service after which all is forgotten."""

    __slots__ = ("_calm", "_deaths", "_first", "_longest")

    def __init__(self, first: float = 0.2, longest: float = 10.0, calm: float = 10.0) -> None:
        self._first = first
        self._longest = longest
        self._calm = calm
        self._deaths = 0

    def pause(self, served: float) -> float:
        """Seconds to wait before the next start. served: s that the last one lived."""
        if served >= self._calm:
            self._deaths = 0
        pause = (
            0.0 if self._deaths == 0 else min(self._longest, self._first * 2.0 ** min(self._deaths - 1, 30))
        )
        self._deaths += 1
        return pause

    def __repr__(self) -> str:
        return f"<Backoff after {self._deaths} deaths>"
