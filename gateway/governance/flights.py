"""Single flight: of many who want the same thing at once, one fetches it and the others wait.
Bookkeeping only.

A flight is the leader and those who joined, by key. What the leader brings lands with everybody. The
flight does not belong to its leader: a leader who leaves (its client went away) hands over to the one
who waited longest, who has to fetch anew; only when nobody is left is the flight over. Joiners keep
their own deadlines and may leave at any time; their number is bounded, and who finds the flight full
goes alone.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")


class Role(Enum):
    """What a newcomer has to do."""

    LEADER = "leader"  # fetch, then `land` or `leave`
    JOINER = "joiner"  # wait
    ALONE = "alone"  # the flight is full: fetch, and tell nobody


class Flights(Generic[K, W]):
    """All flights of one cache. A waiter may be in any number of flights; waiters are told apart by
    identity."""

    __slots__ = ("_flights", "joined", "max_joiners")

    def __init__(self, max_joiners: int = 1000) -> None:
        self.max_joiners = max_joiners
        self.joined = 0  # so far
        self._flights: dict[K, dict[int, W]] = {}  # the first is the leader, the others in order of arrival

    def __len__(self) -> int:
        return len(self._flights)

    def leader(self, key: K) -> W | None:
        """Return who fetches this now; None: nobody does."""
        flight = self._flights.get(key)
        return None if flight is None else next(iter(flight.values()))

    def join(self, key: K, waiter: W) -> Role:
        """Take part in the flight for `key`, as its leader when there is none yet."""
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = {id(waiter): waiter}
            return Role.LEADER
        if len(flight) > self.max_joiners:
            return Role.ALONE
        flight[id(waiter)] = waiter
        self.joined += 1
        return Role.JOINER

    def land(self, key: K) -> list[W]:
        """End the flight; returns those who joined, in order of arrival, to be served with what was
        fetched."""
        flight = self._flights.pop(key, None)
        return [] if flight is None else list(flight.values())[1:]

    def leave(self, key: K, waiter: W) -> W | None:
        """Go away without a result. Returns the new leader, who has to fetch now, when the leader left
        others."""
        flight = self._flights.get(key)
        if flight is None or id(waiter) not in flight:
            return None
        was_leader = next(iter(flight)) == id(waiter)
        del flight[id(waiter)]
        if not flight:
            del self._flights[key]
            return None
        return next(iter(flight.values())) if was_leader else None

    def __repr__(self) -> str:
        waiting = sum(len(flight) - 1 for flight in self._flights.values())
        return f"<Flights {len(self._flights)} under way, {waiting} waiting>"
