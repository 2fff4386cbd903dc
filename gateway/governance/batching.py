"""Which waiting calls go into the next batch: fair between those who ask, within their time, nobody starved.

Calls wait in one line per caller. A batch takes one call of each line in turn, the lines in the order in
which they were last served, until its rows are full; a caller with a thousand calls waiting gets no more of a
batch than one with ten, as long as both have some. Who can't be answered in time any more is left out: it is
answered by its own deadline. How long a batch takes is learnt (`took`): a quarter above the slowest of the
last eight is believed, because a batch that is late is late for everybody in it. What was learnt is
forgotten once nothing went for `DOUBT`: a belief that keeps everybody from going would never be corrected.

Pure: `now` is an argument, rows are counted, nothing is sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")

REMEMBERED = 8  # batches whose times are known
MARGIN = 1.25
DOUBT = 1.0  # s without a batch


class Place(Generic[T]):
    """One call that waits. deadline: s, monotonic. left: it does not want to go any more."""

    __slots__ = ("deadline", "item", "left", "rows", "who")

    def __init__(self, item: T, rows: int, who: str, deadline: float) -> None:
        self.item = item
        self.rows = rows
        self.who = who
        self.deadline = deadline
        self.left = False


class BatchFormer(Generic[T]):
    """The calls that wait for one batch. most: rows of a batch; `waiting`: rows that wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: OrderedDict[str, deque[Place[T]]] = OrderedDict()
        self._times: deque[float] = deque(maxlen=REMEMBERED)
        self._went_at = -inf
        self.waiting = 0

    def add(self, item: T, rows: int, who: str, deadline: float) -> Place[T]:
        """Let a call wait."""
        place = Place(item, rows, who, deadline)
        line = self._lines.get(who)
        if line is None:
            line = self._lines[who] = deque()
        line.append(place)
        self.waiting += rows
        return place

    def leave(self, place: Place[T]) -> None:
        """Let it wait no more; twice does nothing."""
        if not place.left:
            place.left = True
            self.waiting -= place.rows

    def took(self, seconds: float) -> None:
        """A batch was answered after so long."""
        self._times.append(seconds)

    def expected(self, now: float) -> float:
        """How long the next one is believed to take, s; 0.0 while nobody knows."""
        if self._times and now - self._went_at > DOUBT + self._times[-1]:
            self._times.clear()
        return max(self._times) * MARGIN if self._times else 0.0

    def take(self, now: float) -> list[Place[T]]:
        """Take the next batch: empty when nobody waits who could be answered in time."""
        chosen: list[Place[T]] = []
        room = self._most
        held: list[tuple[str, deque[Place[T]]]] = []  # whose next call doesn't fit: first in the next batch
        while self._lines and room:
            who, line = self._lines.popitem(last=False)
            place = self._next(line, now)
            if place is None:
                continue
            if place.rows > room:
                held.append((who, line))
                continue
            line.popleft()
            if line:
                self._lines[who] = line
            place.left = True
            self.waiting -= place.rows
            room -= place.rows
            chosen.append(place)
            self._went_at = now
        for who, line in reversed(held):
            self._lines[who] = line
            self._lines.move_to_end(who, last=False)
        return chosen

    def _next(self, line: deque[Place[T]], now: float) -> Place[T] | None:
        late = now + self.expected(now)
        while line:
            place = line[0]
            if not place.left and place.deadline > late:
                return place
            self.leave(place)
            line.popleft()
        return None

    def __repr__(self) -> str:
        return f"<BatchFormer {self.waiting} rows of {len(self._lines)} callers wait>"
