"""How much nonsense one HTTP/2 connection may ask for: a token bucket, no clock. Sans-io.

HTTP/2 has frames that cost their sender a few bytes and the receiver real work, and none is wrong by
itself: PING and SETTINGS want an answer each (CVE-2019-9512, -9515), PRIORITY and empty frames only want to
be read (CVE-2019-9513, -9518), a stream that is opened and reset at once has begun a request that nobody
waits for (rapid reset, CVE-2023-44487), and so has one that the *server* is made to reset by a malformed
frame (MadeYouReset, CVE-2025-8671). So such frames are paid for from an allowance, useful work earns some
of it back, and so does time. A connection that overdraws is told ENHANCE_YOUR_CALM and closed (RFC 9113
§10.5).
"""

from __future__ import annotations


class Patience:
    """One allowance. burst: what may be spent at once; rate: what comes back per second."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at = now

    def spend(self, cost: float, now: float) -> bool:
        """Take `cost`. False: the allowance is used up."""
        self._left -= cost
        if self._left < 0.0:  # the clock matters only now
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        return self._left >= 0.0

    def earn(self, gain: float) -> None:
        """Give some back, for useful work; never more than the burst."""
        self._left = min(self._left + gain, self._burst)

    def __repr__(self) -> str:
        return f"<Patience {self._left:g} of {self._burst:g}>"
