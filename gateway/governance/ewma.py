"""Latency of one instance as an exponentially weighted geometric average.

    value *= (sample / value) ** max(0.08, 1 - exp(-dt / tau))        dt: seconds since the last sample

A busy instance's estimate forgets by the number of calls, so that it follows a slowdown within some twelve
of them; a quiet one's by time, so that one sample after a pause counts for much. The average is that of the
logarithms, because latencies have heavy tails: one call with much work says little of the instance, and an
arithmetic mean would shun it for it. Calls that hang are in flight meanwhile, which the picker counts.

Two things make it fit for choosing instances:

- A failure counts as at least `penalty` seconds. Without that, an instance that fails in 2 ms looks like
  the fastest and attracts the traffic: 59.6 % of it in simulation with 24 instances, 0.01 % with it.
- An instance that is not chosen brings no samples, so an old bad estimate would shut it out for ever.
  `relax` lets an unheard-of estimate drift towards what the others have.

Source: Finagle, peak EWMA (time constant); penalty and weights simulated in loadtests/sims/balancing.py.
"""

from __future__ import annotations

from math import exp, log
from typing import Final

LEAST: Final = 0.08
"""Weight of a sample, however soon after the last one."""


class Ewma:
    """Seconds of latency. tau: time constant of a quiet instance; penalty: what a failure counts as at least.

    Both in seconds. `value` is 0.0 while nothing is known; it was heard of last at `heard_at`.
    """

    __slots__ = ("_pause", "_relaxed_at", "heard_at", "penalty", "tau", "value")

    def __init__(self, tau: float = 3.0, penalty: float = 0.5) -> None:
        self.tau = tau
        self.penalty = penalty
        self.value = 0.0
        self.heard_at = 0.0
        self._pause = -tau * log(1.0 - LEAST)  # s after which a sample counts for more than the least
        self._relaxed_at = 0.0

    def record(self, latency: float, now: float) -> None:
        """Learn from one success that took `latency` seconds."""
        value = self.value
        if latency < 1e-6:
            latency = 1e-6
        if value == 0.0:
            self.value = latency
        else:
            weight = LEAST
            elapsed = now - self.heard_at
            if elapsed > self._pause:
                weight = 1.0 - exp(-elapsed / self.tau)
            self.value = value * (latency / value) ** weight
        self.heard_at = now

    def record_error(self, latency: float, now: float) -> None:
        """Learn from one failure: at least `penalty` seconds, and at once, not averaged away."""
        self.value = max(self.value, latency, self.penalty)
        self.heard_at = now

    def relax(self, towards: float, now: float, drift: float = 2.5) -> None:
        """Drift towards `towards` (the others' typical value) for the time nothing was heard.

        drift: s in which all but 1/e of the distance is gone.
        """
        since = max(self.heard_at, self._relaxed_at)
        self._relaxed_at = now
        if self.value and now > since:
            self.value *= (towards / self.value) ** (1.0 - exp(-(now - since) / drift))

    def forget(self) -> None:
        """Know nothing again: the instance was restarted, or found well after it had been out."""
        self.value = 0.0

    def __repr__(self) -> str:
        return f"<Ewma {self.value * 1000:.3f} ms>" if self.value else "<Ewma unknown>"
