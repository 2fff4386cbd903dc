"""The queue of one model: by priority, then by arrival.

Level 1 is served first, 9 last, and who says nothing has level 5 (Triton's priority_levels have the same
sense). A lower level waits as long as higher ones keep the engine busy: that is what was asked for. When the
queue is full, the youngest of the lowest level makes room for a request of a higher one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from math import inf

from backends.tensors import Array, Tensors

LEVELS = 9
NORMAL = 5


class Item:
    """One request in the queue. kind: the shapes that must agree for two items to be joined.

    deadline: instant on the loop's clock; inf: none. length: of dimension 1 before padding; 0: none.
    """

    __slots__ = ("deadline", "future", "inputs", "kind", "length", "level", "rows")

    def __init__(
        self,
        inputs: Tensors,
        rows: int,
        future: asyncio.Future[Mapping[str, Array]],
        deadline: float = inf,
        level: int = NORMAL,
        length: int = 0,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.future = future
        self.deadline = deadline
        self.level = level
        self.length = length
        self.kind = tuple(tensor.shape[1:] for tensor in inputs.values())


class Waiting:
    """Items by level. len: how many; rows: of all of them."""

    __slots__ = ("_count", "_levels", "rows")

    def __init__(self) -> None:
        self._levels: tuple[deque[Item], ...] = tuple(deque() for _ in range(LEVELS))
        self._count = 0
        self.rows = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        for level in self._levels:
            yield from level

    def add(self, item: Item) -> None:
        """Queue behind its own level."""
        self._levels[item.level - 1].append(item)
        self._count += 1
        self.rows += item.rows

    def first(self) -> Item:
        """Return who is next. Ask only where len is not 0."""
        for level in self._levels:
            if level:
                return level[0]
        raise IndexError("nobody waits")

    def pop(self) -> Item:
        """Remove who is next. Ask only where len is not 0."""
        for level in self._levels:
            if level:
                return self._left(level.popleft())
        raise IndexError("nobody waits")

    def yield_to(self, level: int) -> Item | None:
        """Remove the youngest of the lowest level below `level`; None: nobody yields."""
        for lower in reversed(self._levels[level:]):
            if lower:
                return self._left(lower.pop())
        return None

    def _left(self, item: Item) -> Item:
        self._count -= 1
        self.rows -= item.rows
        return item
