"""How fresh a stored answer is: four windows that follow one another.

    stored ──ttl──▶ FRESH ──stale_while_revalidate──▶ STALE_SERVE ──stale_if_error──▶ STALE_ON_ERROR ──▶ GONE

Both stale windows start where freshness ends and run side by side, so the longer one decides when the
answer is gone. Source: RFC 9111 §4.2, RFC 5861 (stale-while-revalidate, stale-if-error).
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What may be done with a stored answer."""

    FRESH = "fresh"  # give it
    STALE_SERVE = "stale_serve"  # give it, and fetch a new one behind the client's back
    STALE_ON_ERROR = "stale_on_error"  # give it only when no new one can be had
    GONE = "gone"  # forget it


class Freshness:
    """The windows of one stored answer. All durations in seconds; instants on the clock of `now`."""

    __slots__ = ("fresh_until", "gone_at", "serve_until", "stored")

    def __init__(
        self,
        stored: float,
        ttl: float,
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
    ) -> None:
        self.stored = stored
        self.fresh_until = stored + ttl
        self.serve_until = self.fresh_until + stale_while_revalidate
        self.gone_at = max(self.serve_until, self.fresh_until + stale_if_error)

    def state(self, now: float) -> State:
        """Tell which window `now` falls into; a window ends just before its last instant."""
        if now < self.fresh_until:
            return State.FRESH
        if now < self.serve_until:
            return State.STALE_SERVE
        return State.STALE_ON_ERROR if now < self.gone_at else State.GONE

    def age(self, now: float) -> float:
        """Seconds since it was stored."""
        return max(0.0, now - self.stored)

    def __repr__(self) -> str:
        return f"<Freshness until {self.fresh_until:.3f}, served until {self.serve_until:.3f}>"
