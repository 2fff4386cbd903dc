"""So many requests per second, the important ones first. No clock, no I/O.

One bucket per importance, each of the whole rate, as in a hierarchy of shares:

    critical    asks its own bucket
    normal      asks the bucket that critical requests charge, too
    sheddable   asks the bucket that all requests charge

A granted request is charged to its own bucket and to those of everybody less important, into debt if need
be. So what the important take is missing to the others and never the other way round, nothing is held back
where nobody important comes, and no chance is needed. Law (tests): at most rate * t + 3 * burst requests in
any window of t seconds; a class is granted what the rate leaves of the demand above it.

Source: the strict-priority limit of trTCM (RFC 2698: two meters, the second charged by what the first let
through), with three classes.
"""

from __future__ import annotations

from gateway.governance.overload import Importance
from gateway.governance.token_bucket import Bucket


class Thinning:
    """rate: requests per second in all. burst: requests at once, for each importance."""

    __slots__ = ("_buckets",)

    def __init__(self, rate: float, burst: float) -> None:
        self._buckets = tuple(Bucket(rate, burst) for _ in Importance)

    def take(self, importance: int, now: float, *, spend: bool = True) -> bool:
        """Tell whether a request of this importance may go on, and charge it then (unless spend is False)."""
        own = self._buckets[importance]
        if not spend:
            return own.wait(1.0, now) == 0.0
        if own.take(1.0, now):
            return False
        for lesser in self._buckets[importance + 1 :]:
            lesser.settle(1.0, now)
        return True
