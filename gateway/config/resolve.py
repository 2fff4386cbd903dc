"""Which verbs hold for an endpoint, for whom, and which of two wins.

rank, the more specific first: override > principal > tenant > plan > endpoint page > policy that names the
endpoint > policy with a glob. A policy that is bound to plans, tenants or principals has the rank of the most
specific of these that it names. Verbs that accumulate (throttle) are all kept; of the others the first
candidate that fits the request wins, so a builder walks them in the order given here and stops.

A candidate with `enforce` False never stops that walk: it is recorded beside the one that acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from gateway.config.kind import Origin
from gateway.config.units import Instant


class Rank(IntEnum):
    """How specific the place is where a verb was written; the higher wins."""

    GLOB = 0
    NAMED = 1
    ENDPOINT = 2
    PLAN = 3
    TENANT = 4
    PRINCIPAL = 5
    OVERRIDE = 6


@dataclass(frozen=True, slots=True)
class Who:
    """For whom a candidate holds: one of each set that isn't empty."""

    principals: frozenset[str] = frozenset()
    plans: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()

    def includes(self, principal: str, plan: str, tenant: str) -> bool:
        """Whether a request of this principal is meant."""
        return (
            (not self.principals or principal in self.principals)
            and (not self.plans or plan in self.plans)
            and (not self.tenants or tenant in self.tenants)
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One verb that may hold for an endpoint's requests.

    value: the kind's struct. who: None for everybody, known or not. from_, until: seconds since the epoch,
    None for always. policy: the name that refusals and records show. Equality ignores the origin.
    """

    verb: str
    value: object
    rank: Rank
    policy: str
    who: Who | None = None
    enforce: bool = True
    from_: Instant | None = None
    until: Instant | None = None
    origin: Origin = field(default_factory=Origin, compare=False)

    def holds(self, wall: float) -> bool:
        """Whether its time is now; wall: seconds since the epoch."""
        return (self.from_ is None or wall >= self.from_) and (self.until is None or wall < self.until)
