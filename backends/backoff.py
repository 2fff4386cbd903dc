"""Crash-loop back-off: the first crash is forgiven at once, each further one waits twice as long.

    crash 1 -> 0 s    crash 2 -> 0.1 s    3 -> 0.2 s    …    at most 30 s
    who lives for 60 s has no past

One request that kills its process costs one restart without delay; a model that kills every process that
loads it costs two starts a minute. Source: Kubernetes' CrashLoopBackOff, with a shorter first step.
"""

from __future__ import annotations

from math import inf

FIRST, MOST = 0.1, 30.0  # s
FORGIVEN = 60.0  # s of life


class Backoff:
    """When the next process may start. Time is an argument, in seconds of any monotonic clock."""

    __slots__ = ("_born", "crashes", "until")

    def __init__(self) -> None:
        self._born = inf  # nobody lives
        self.crashes = 0  # in a row
        self.until = 0.0  # no start before this instant

    def started(self, now: float) -> None:
        """Note that a process lives from now on."""
        self._born = now

    def crashed(self, now: float) -> None:
        """Note that it died."""
        if now - self._born >= FORGIVEN:
            self.crashes = 0
        self._born = inf
        self.crashes += 1
        wait = 0.0 if self.crashes == 1 else min(FIRST * 2.0 ** min(self.crashes - 2, 60), MOST)
        self.until = now + wait

    def __repr__(self) -> str:
        return f"<Backoff {self.crashes} crashes in a row, none before {self.until:.1f}>"
