"""What an instance's own report of its load adds to what we know: calls that others sent there.

    beyond    = (running + waiting - ours) / the most that ever ran at once        turns of work
    elsewhere = HEEDED * (beyond - what is usual of it), at least LEAST            calls dearer

Only the unusual counts: the usual is in the latency already, and what others sent there is half over when we
hear of it. It is measured in turns of work, because a call more at an instance of one slot makes the next
one wait for all of it, at one of thirty-two for nothing much.

Simulated in loadtests/sims/balancing.py.
"""

from __future__ import annotations

from typing import Final

UNUSUAL: Final = 0.05
"""Weight of one report in an instance's average of them."""
HEEDED: Final = 0.3
"""How many calls of ours a turn of others' work counts for."""
LEAST: Final = -0.5


class ReportedLoad:
    """What one instance reported so far."""

    __slots__ = ("_most_running", "_usually")

    def __init__(self) -> None:
        self._most_running = 1
        self._usually = 0.0

    def heard(self, running: int, waiting: int, ours: int) -> float:
        """Learn from one report, everybody's calls; return how many calls of ours the instance is dearer."""
        self._most_running = max(self._most_running, running)
        beyond = max(0, running + waiting - ours) / self._most_running
        self._usually += UNUSUAL * (beyond - self._usually)
        return max(LEAST, HEEDED * (beyond - self._usually))

    def __repr__(self) -> str:
        return f"<ReportedLoad | usually {self._usually:.2f} turns beyond ours, {self._most_running} at once>"
