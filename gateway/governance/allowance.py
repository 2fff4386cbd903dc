"""Quotas counted once for everybody, without a call for each request: allowances drawn from a ledger.

The ledger knows, per key and slot (windows.py), what was drawn. A process draws an allowance, spends from it,
and gives back what lies idle or what is left when its slot ends. What is drawn counts as spent until it is
given back:

    spent <= drawn <= quota, whatever is delayed or dies         nothing is ever granted twice

How much is drawn at once: what was spent in the last second or so, at most PART of what is left. So a quota
of which much is left costs a call a second, and one that runs out is dealt out in ever smaller pieces, the
last ones by one: what others hold idle comes back within IDLE. A process that is killed takes its allowance
with it: at most PART of what was left.

What a request really cost is settled afterwards, into debt if need be: the one thing that may go beyond the
quota, by the surplus of the requests that are under way when it ends.

Source: Doorman's leases; quotas as reserve and settle. The ledgers: this one, stores/quota_file.py,
stores/redis_quotas.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import floor, inf
from typing import Final, NamedTuple

from gateway.governance.windows import Slot

PART: Final = 1.0 / 16.0  # of what is left that one draw may take beyond its need
IDLE: Final = 1.0  # s without a spending after which an allowance goes back
AHEAD: Final = 1.0  # s of demand that an allowance covers
RETRY: Final = 0.25  # s for which a denial is believed, lest a flood asks for each request


class Ask(NamedTuple):
    """One process's word on one key. need: it must get at least that. want: it would like that; both 0 where
    it only settles. settle: to be charged (> 0) or given back (< 0) to `slot`.
    """

    key: bytes
    slot: int
    since: int
    until: float  # s since the epoch: nobody needs to know of this slot any more
    limit: float
    need: float
    want: float
    settle: float = 0.0


class Told(NamedTuple):
    """What the ledger gave. left: of the quota, after that. oldest: the first slot that holds something."""

    granted: float
    left: float
    oldest: int


class Drawn(NamedTuple):
    """What was drawn of one key. slots: start -> drawn; some of them may count no more."""

    key: bytes
    slots: dict[int, float]


def decide(counts: dict[int, float], ask: Ask) -> Told:
    """Settle and draw in place. counts: slot -> drawn. The law that every ledger keeps."""
    for slot in [slot for slot in counts if slot < ask.since]:
        del counts[slot]
    if ask.settle:
        counts[ask.slot] = max(0.0, counts.get(ask.slot, 0.0) + ask.settle)
    left = ask.limit - sum(counts.values())
    granted = 0.0
    if ask.want > 0 and left + 1e-9 >= ask.need:
        granted = max(ask.need, float(floor(min(ask.want, left * PART))))
        counts[ask.slot] = counts.get(ask.slot, 0.0) + granted
        left -= granted
    held = [slot for slot, drawn in counts.items() if drawn > 0]
    return Told(granted, max(0.0, left), min(held, default=ask.slot))


class MemoryLedger:
    """Counts in memory. max_keys: those touched longest ago are forgotten first."""

    __slots__ = ("_counts", "_max_keys", "is_shared")

    def __init__(self, max_keys: int = 100_000) -> None:
        self.is_shared = False
        self._counts: dict[bytes, dict[int, float]] = {}
        self._max_keys = max_keys

    def draw(self, asks: Sequence[Ask]) -> list[Told]:
        """Answer each."""
        return [self._one(ask) for ask in asks]

    def drawn(self, most: int) -> list[Drawn]:
        """Return what was drawn, of so many keys at most."""
        return [Drawn(key, dict(counts)) for key, counts in islice(self._counts.items(), most)]

    def _one(self, ask: Ask) -> Told:
        counts = self._counts.pop(ask.key, None)
        if counts is None:
            counts = {}
            if len(self._counts) >= self._max_keys:
                del self._counts[next(iter(self._counts))]
        self._counts[ask.key] = counts
        return decide(counts, ask)

    def __repr__(self) -> str:
        return f"<MemoryLedger {len(self._counts)} keys>"


class Allowance:
    """What a process holds of one key in one slot.

    tokens: drawn and not spent; < 0: spent beyond it, to be told. spent: here, in this slot.
    """

    __slots__ = (
        "denied_cost",
        "denied_until",
        "drawn_at",
        "key",
        "left",
        "limit",
        "oldest",
        "since_draw",
        "slot",
        "spent",
        "spent_at",
        "tokens",
    )

    def __init__(self, key: bytes, limit: float, slot: Slot, wall: float) -> None:
        self.key = key
        self.limit = limit
        self.slot = slot
        self.tokens = 0.0
        self.spent = 0.0
        self.left = limit
        self.oldest = slot.start
        self.spent_at = wall
        self.drawn_at = wall
        self.since_draw = 0.0  # spent since the last draw
        self.denied_until = -inf
        self.denied_cost = inf

    def may(self, cost: float) -> bool:
        """Tell whether the allowance covers a cost."""
        return self.tokens + 1e-9 >= cost

    def is_denied(self, cost: float, wall: float) -> bool:
        """Tell whether the ledger has just said no to as much."""
        return wall < self.denied_until and cost >= self.denied_cost

    def spend(self, cost: float, wall: float) -> None:
        """Spend from what was drawn."""
        self.tokens -= cost
        self.spent += cost
        self.since_draw += cost
        self.spent_at = wall

    def settle(self, more: float) -> None:
        """Charge more after the fact, or give back (< 0) what was spent here in this slot."""
        if more < 0:
            more = -min(-more, self.spent)
            self.denied_until = -inf
        self.spent += more
        self.tokens -= more

    def ask(self, need: float, wall: float) -> Ask:
        """Ask for more; what was spent beyond the allowance is told with it."""
        elapsed = max(wall - self.drawn_at, 0.05)
        want = max(need, self.since_draw / elapsed * AHEAD if self.since_draw else 0.0)
        self.since_draw, self.drawn_at = 0.0, wall
        debt = -self.tokens if self.tokens < 0 else 0.0
        self.tokens += debt
        slot = self.slot
        return Ask(self.key, slot.start, slot.since, slot.start + slot.hold, self.limit, need, want, debt)

    def told(self, ask: Ask, told: Told, wall: float) -> bool:
        """Take in the ledger's word; returns whether it gave what was needed, which is reserved then."""
        if ask.slot == self.slot.start:
            self.left, self.oldest = told.left, told.oldest
        if told.granted < ask.need or not told.granted:
            self.denied_until, self.denied_cost = wall + RETRY, ask.need
            return False
        if ask.slot == self.slot.start:
            self.tokens += told.granted - ask.need
        return True

    def hand_back(self) -> Ask | None:
        """Give back what is not spent, or tell what was spent beyond it."""
        if not self.tokens:
            return None
        back, self.tokens = -self.tokens, 0.0
        slot = self.slot
        return Ask(self.key, slot.start, slot.since, slot.start + slot.hold, self.limit, 0.0, 0.0, back)

    def free_in(self, wall: float) -> float:
        """Seconds until something of the quota is free again."""
        return max(0.0, self.oldest + self.slot.hold - wall)

    def __repr__(self) -> str:
        return f"<Allowance {self.tokens:g} held, {self.left:g} of {self.limit:g} left>"
