"""The queue in front of a full pool: who goes next, who waits no longer, who must make room. No clock.

The order of service:

1. Importance: critical before normal before sheddable, strictly.
2. Fairness: among the tenants that wait in one band, the one that was served least, by cost and weight.
   Each has a virtual time that its cost / weight advances at dispatch; the least goes next, and who comes
   back after a pause starts at the virtual time of the last one served, so nobody banks idle time. No tenant
   that waits gets more than one call's cost beyond its share (start-time fair queueing).
3. Age: the oldest of that tenant first, as long as it is fresh. When its oldest has used up more than `old`
   of the time that it can wait (deadline - tail) the newest goes first: under overload a queue served in
   order of arrival serves everybody at the edge of death, one served from the fresh end most of them well.

Who can't make it any more (now + tail > deadline) is dropped when met, or by `expire`. `tail` is how long
nearly all calls take (p95), not the mean: with the mean, half of those sent arrive late, sent for nothing.
A critical call must have only half of it left: they are few and go first, and one that may just be in time
is worth a try.

The queue is bounded. When it is full a newcomer takes the place of one that is less important, or of the
newest of the longest line in its own band; only if it would be that one itself is it refused.

A modest tenant, one that asks for at most a quarter of what the most demanding in its band does and gets
nearly all of it, has not made the crowd and shall not notice it: lines as short as these are as long as
anybody's by chance. It is served in order of arrival, needs only 80 % of the tail, makes room in the line of
one that is not modest, and finds room in a queue up to twice as long. Where all ask alike nobody is modest.

Source: Goyal, Vin and Cheng, Start-time Fair Queueing (1996); Sheng et al., Fairness in Serving Large
Language Models (OSDI'24); Facebook's adaptive LIFO (Maurer, Fail at Scale, 2015).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

BANDS = 3
HOPE = 0.5
"""Share of the tail that a critical call must have left."""
MODEST = 0.25
"""Share of what the most demanding tenant asks for, up to which one is modest,"""
SPARED = 0.1
"""if no more than this share of it was lost,"""
KNOWN = 4.0
"""and once it asked so often."""
MEMORY = 4096
"""Calls of a band after which what each of its tenants asked and lost counts half."""
MODEST_HOPE = 0.8
"""Share of the tail that a modest tenant's call must have left."""
REMEMBERED = 1024
"""Lines kept per band; beyond, those in which nobody waits are forgotten, with their debt of one call."""


class Dropped(Enum):
    """Why one leaves the queue unserved."""

    LATE = "late"  # it could not be served within its deadline any more
    CROWDED = "crowded"  # it made room for one that goes first


class Waiting(Generic[T]):
    """One that waits. Times in seconds; cost in any unit, the same for all of one queue."""

    __slots__ = ("arrived", "band", "cost", "deadline", "gone", "item", "line")

    def __init__(
        self, item: T, line: _Line[T], band: int, cost: float, arrived: float, deadline: float
    ) -> None:
        self.item = item
        self.line = line
        self.band = band
        self.cost = cost
        self.arrived = arrived
        self.deadline = deadline
        self.gone = False  # served, dropped or withdrawn


class _Line(Generic[T]):
    """One tenant's calls in one band. spent: virtual time; queued: whether the band's heap knows it.

    asked: calls that found the pool full, fading. lost: those of them that were not served.
    """

    __slots__ = ("asked", "calls", "lost", "queued", "size", "spent", "weight")

    def __init__(self, weight: float) -> None:
        self.calls: deque[Waiting[T]] = deque()
        self.size = 0  # without those that are gone
        self.spent = 0.0
        self.weight = weight
        self.queued = False
        self.asked = 0.0
        self.lost = 0.0


class _Band(Generic[T]):
    """The lines of one importance. floor: virtual time of the last one served.

    hope: share of the tail that a call must have left. most: what the most demanding tenant asked, by weight.
    asked: calls since all faded.
    """

    __slots__ = ("asked", "floor", "heap", "hope", "lines", "most", "order", "size")

    def __init__(self, hope: float) -> None:
        self.hope = hope
        self.asked = 0
        self.most = 0.0
        self.lines: dict[str, _Line[T]] = {}
        self.heap: list[tuple[float, int, _Line[T]]] = []
        self.floor = 0.0
        self.order = 0
        self.size = 0

    def line(self, tenant: str, weight: float) -> _Line[T]:
        line = self.lines.get(tenant)
        if line is None:
            if len(self.lines) >= REMEMBERED:
                self.lines = {name: one for name, one in self.lines.items() if one.size}
            line = self.lines[tenant] = _Line(weight)
        line.weight = weight
        return line

    def ask(self, line: _Line[T]) -> None:
        """Count one more call of this tenant; all fade together, so that they stay comparable."""
        line.asked += 1.0
        self.asked += 1
        if self.asked >= MEMORY:
            self.asked = 0
            self.most = 0.0
            for one in self.lines.values():
                one.asked /= 2.0
                one.lost /= 2.0
                self.most = max(self.most, one.asked / one.weight)
        self.most = max(self.most, line.asked / line.weight)

    def is_modest(self, line: _Line[T]) -> bool:
        """Tell whether its tenant asks for little beside another's flood, and gets nearly all of it."""
        return KNOWN <= line.asked <= MODEST * self.most * line.weight and line.lost <= SPARED * line.asked

    def needed(self, line: _Line[T]) -> float:
        """Share of the tail that a call of this line must have left."""
        return min(self.hope, MODEST_HOPE) if self.is_modest(line) else self.hope

    def victim(self) -> _Line[T]:
        """The line that makes room: the longest, by weight, of the immodest; else of all. One must wait.

        The heap has every line in which somebody does, and some in which nobody does any more.
        """
        waiting = (line for _, _, line in self.heap if line.size)
        return max(waiting, key=lambda line: (not self.is_modest(line), _length(line)))

    def yields(self, tenant: _Line[T] | None, weight: float) -> bool:
        """Tell whether one that waits is worth less than a newcomer of this tenant. None: it never waited."""
        victim = self.victim()
        if tenant is None:
            return _length(victim) > 1.0 / weight
        if tenant is not victim and self.is_modest(tenant) and not self.is_modest(victim):
            return True
        return _length(victim) > (tenant.size + 1) / weight

    def enlist(self, line: _Line[T]) -> None:
        """Put a line that has calls into the heap; a line that comes back starts at the floor."""
        if not line.queued:
            line.queued = True
            line.spent = max(line.spent, self.floor)
            self.order += 1
            heappush(self.heap, (line.spent, self.order, line))


class FairQueue(Generic[T]):
    """Calls that wait for a pool. limit: how many at most. old: share of the time that one can wait.

    on_drop(item, why): told of each one that leaves unserved, but for those withdrawn.
    """

    __slots__ = ("_bands", "_on_drop", "limit", "old", "size")

    def __init__(self, limit: int, on_drop: Callable[[T, Dropped], None], old: float = 0.25) -> None:
        if limit < 0 or not 0.0 < old <= 1.0:
            raise ValueError(f"expected a limit from 0 and an age in (0, 1], found {limit} and {old}")
        self.limit = limit
        self.old = old
        self.size = 0
        self._on_drop = on_drop
        self._bands: tuple[_Band[T], ...] = (_Band(HOPE), _Band(1.0), _Band(1.0))

    def push(
        self,
        item: T,
        now: float,
        deadline: float,
        *,
        tenant: str = "",
        importance: int = 1,
        cost: float = 1.0,
        weight: float = 1.0,
    ) -> Waiting[T] | None:
        """Let one wait; None when there is no room for it.

        importance: 0 critical, 1 normal, 2 sheddable. weight: the tenant's share relative to others, > 0.
        """
        band = self._bands[importance]
        line = band.line(tenant, weight)
        full = self.size >= self.limit and not self._has_place(band, line)
        refused = full and not self._make_room(importance, line)
        band.ask(line)
        if refused:
            line.lost += 1.0
            return None
        waiting = Waiting(item, line, importance, cost, now, deadline)
        line.calls.append(waiting)
        line.size += 1
        band.size += 1
        self.size += 1
        band.enlist(line)
        return waiting

    @property
    def critical(self) -> int:
        """How many critical ones wait."""
        return self._bands[0].size

    def has_room(self, tenant: str = "", importance: int = 1, weight: float = 1.0) -> bool:
        """Tell whether one may wait: there is room, or others would make some. A refusal is remembered."""
        if self.size < self.limit:
            return True
        for worth in range(BANDS - 1, importance, -1):
            if self._bands[worth].size:
                return True
        band = self._bands[importance]
        line = band.lines.get(tenant)
        if line is not None and self._has_place(band, line):
            return True
        if band.size and band.yields(line, weight):
            return True
        if line is not None:
            band.ask(line)
            line.lost += 1.0
        return False

    def _has_place(self, band: _Band[T], line: _Line[T]) -> bool:
        """Tell whether there is a place beyond the limit for this tenant: that is kept for the modest."""
        return self.size < 2 * self.limit and band.is_modest(line)

    def pop(self, now: float, tail: float) -> T | None:
        """Take out who goes next; None: nobody can be served. tail: seconds that nearly all calls take."""
        for band in self._bands:
            while band.heap:
                _, _, line = heappop(band.heap)
                line.queued = False
                chosen = self._next_of(line, now, tail * band.needed(line), band.is_modest(line))
                if chosen is None:
                    continue  # nobody left in it
                band.floor = line.spent
                line.spent += chosen.cost / line.weight
                self._leave(chosen)
                if line.size:
                    band.enlist(line)
                return chosen.item
        return None

    def expire(self, now: float, tail: float) -> int:
        """Drop all that can't be served in time any more; returns how many."""
        before = self.size
        for band in self._bands:
            if band.size:
                for line in list(band.lines.values()):
                    needs = tail * band.needed(line)
                    for waiting in list(line.calls):
                        if not waiting.gone and now + needs > waiting.deadline:
                            self._drop(waiting, Dropped.LATE)
        return before - self.size

    def withdraw(self, waiting: Waiting[T]) -> None:
        """Forget one whose client left; nothing when it is gone already."""
        if not waiting.gone:
            self._leave(waiting)
            line = waiting.line
            if len(line.calls) > 2 * line.size + 16:
                line.calls = deque(one for one in line.calls if not one.gone)

    def age(self, now: float) -> float:
        """Seconds that the longest waiting one has waited; 0.0 when nobody waits."""
        oldest = now
        for band in self._bands:
            if band.size:
                for line in band.lines.values():
                    while line.calls and line.calls[0].gone:
                        line.calls.popleft()
                    if line.calls:
                        oldest = min(oldest, line.calls[0].arrived)
        return now - oldest

    def _next_of(self, line: _Line[T], now: float, tail: float, in_order: bool) -> Waiting[T] | None:
        calls = line.calls
        while calls:
            first = calls[0]
            if first.gone:
                calls.popleft()
            elif now + tail > first.deadline:
                self._drop(first, Dropped.LATE)
            elif in_order or now - first.arrived <= self.old * (first.deadline - tail - first.arrived):
                return calls.popleft()
            else:
                newest = calls.pop()
                if newest.gone:
                    continue
                if now + tail <= newest.deadline:
                    return newest
                self._drop(newest, Dropped.LATE)
        return None

    def _make_room(self, importance: int, newcomer: _Line[T]) -> bool:
        """Drop one that is worth less than a newcomer of this line; False when there is none."""
        for worth in range(BANDS - 1, importance - 1, -1):
            band = self._bands[worth]
            if not band.size:
                continue
            if worth == importance and not band.yields(newcomer, newcomer.weight):
                return False
            calls = band.victim().calls
            while calls:
                last = calls.pop()
                if not last.gone:
                    self._drop(last, Dropped.CROWDED)
                    return True
        return False

    def _drop(self, waiting: Waiting[T], why: Dropped) -> None:
        waiting.line.lost += 1.0
        self._leave(waiting)
        self._on_drop(waiting.item, why)

    def _leave(self, waiting: Waiting[T]) -> None:
        waiting.gone = True
        waiting.line.size -= 1
        self._bands[waiting.band].size -= 1
        self.size -= 1

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        bands = ", ".join(str(band.size) for band in self._bands)
        return f"<FairQueue {self.size} of {self.limit} | by importance {bands}>"


def _length(line: _Line[T]) -> float:
    return line.size / line.weight
