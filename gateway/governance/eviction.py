"""S3-FIFO bounded in bytes: which answers a cache keeps when it cannot keep them all.

Three queues. Newcomers enter `small` (a tenth of the bytes); most things asked for once are never asked
for again, and leave from there quickly. What is asked for again while in `small` moves on to `main`, a
FIFO with a second chance: an entry that was asked for since its last turn goes round again. The keys
(not the values) of what left `small` are remembered in `ghost`, and come back straight into `main`. Hits
move nothing: they raise a counter of 0 to 3, so a hit costs one dict look-up. On Zipf traces, with and
without scans, it hits at least four points more often than LRU (tests).

Law: the sizes of what is kept never add up to more than `capacity`. An entry larger than `small` could
ever hold starts in `main`; one larger than the capacity is not kept.

Source: Yang et al., SOSP'23, "FIFO queues are all you need for cache eviction".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

V = TypeVar("V")

OVERHEAD = 200
"""Bytes that an entry costs beside its key and value: this is added to the size that callers state."""


class _Entry(Generic[V]):
    __slots__ = ("asked", "in_main", "key", "size", "tags", "value")

    def __init__(self, key: bytes, value: V, size: int, tags: tuple[str, ...], in_main: bool) -> None:
        self.key = key
        self.value = value
        self.size = size
        self.tags = tags
        self.asked = 0
        self.in_main = in_main


class S3Fifo(Generic[V]):
    """A bounded map. capacity: bytes, each entry's key and overhead included."""

    __slots__ = (
        "_entries",
        "_ghost",
        "_ghost_limit",
        "_main",
        "_small",
        "_small_limit",
        "_small_size",
        "_tags",
        "capacity",
        "evictions",
        "size",
    )

    def __init__(self, capacity: int, small: float = 0.1) -> None:
        """small: share of the capacity for newcomers."""
        if capacity < 1 or not 0 < small < 1:
            raise ValueError(
                f"a cache needs room ({capacity} bytes) and a small queue between 0 and 1 ({small})"
            )
        self.capacity = capacity
        self.size = 0  # bytes in use
        self.evictions = 0  # so far
        self._small_limit = max(1, int(capacity * small))
        self._small_size = 0
        self._entries: dict[bytes, _Entry[V]] = {}
        self._small: deque[_Entry[V]] = deque()
        self._main: deque[_Entry[V]] = deque()
        self._ghost: dict[bytes, None] = {}  # in order of leaving
        self._ghost_limit = 16
        self._tags: dict[str, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def get(self, key: bytes) -> V | None:
        """Return the value and note that it was asked for; None when it is not here."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.asked < 3:
            entry.asked += 1
        return entry.value

    def put(self, key: bytes, value: V, size: int, tags: Iterable[str] = ()) -> bool:
        """Keep `value` (of `size` bytes, key not included), in place of any earlier one; False: it is
        too large.

        tags: names under which `purge_tag` finds it.
        """
        asked = 0
        known = self._entries.get(key)
        if known is not None:
            asked = known.asked
            self.delete(key)
        size += len(key) + OVERHEAD
        if size > self.capacity:
            return False
        to_main = key in self._ghost or asked > 1 or size > self._small_limit
        self._ghost.pop(key, None)
        while self.size + size > self.capacity:
            self._evict()
        entry = _Entry(key, value, size, tuple(tags), to_main)
        self._entries[key] = entry
        self.size += size
        if to_main:
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_size += size
        for tag in entry.tags:
            self._tags.setdefault(tag, set()).add(key)
        return True

    def delete(self, key: bytes) -> bool:
        """Forget a key; True if it was here. Its place in a queue is cleared when its turn comes."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._drop(entry)
        if len(self._small) + len(self._main) > 2 * len(self._entries) + 64:
            self._compact()
        return True

    def purge(self, matches: Callable[[bytes, V], bool]) -> int:
        """Forget every entry for which `matches(key, value)`; returns how many. Looks at all of them."""
        return sum([self.delete(e.key) for e in list(self._entries.values()) if matches(e.key, e.value)])

    def tagged(self, tag: str) -> list[bytes]:
        """Return the keys put under this tag."""
        return list(self._tags.get(tag, ()))

    def purge_tag(self, tag: str) -> int:
        """Forget every entry put under this tag; returns how many."""
        return sum([self.delete(key) for key in self.tagged(tag)])

    def clear(self) -> int:
        """Forget everything; returns how many entries that was."""
        return self.purge(lambda _key, _value: True)

    # Making room

    def _evict(self) -> None:
        """Take one step towards room: evict an entry, or move one on."""
        if self._small and (self._small_size > self._small_limit or not self._main):
            self._turn_small()
        else:
            self._turn_main()

    def _turn_small(self) -> None:
        entry = self._small.popleft()
        if self._entries.get(entry.key) is not entry:
            return  # deleted or replaced meanwhile
        if entry.asked > 1:
            self._small_size -= entry.size
            entry.in_main = True
            entry.asked = 0
            self._main.append(entry)
            return
        self._drop(entry)
        self.evictions += 1
        self._remember(entry.key)

    def _turn_main(self) -> None:
        entry = self._main.popleft()
        if self._entries.get(entry.key) is not entry:
            return
        if entry.asked:
            entry.asked -= 1
            self._main.append(entry)
            return
        self._drop(entry)
        self.evictions += 1

    def _drop(self, entry: _Entry[V]) -> None:
        del self._entries[entry.key]
        self.size -= entry.size
        if not entry.in_main:
            self._small_size -= entry.size
        for tag in entry.tags:
            keys = self._tags[tag]
            keys.discard(entry.key)
            if not keys:
                del self._tags[tag]

    def _remember(self, key: bytes) -> None:
        ghost = self._ghost
        ghost[key] = None
        while len(ghost) > max(self._ghost_limit, len(self._entries)):
            del ghost[next(iter(ghost))]

    def _compact(self) -> None:
        """Clear out the places of deleted entries."""
        current = self._entries
        self._small = deque(entry for entry in self._small if current.get(entry.key) is entry)
        self._main = deque(entry for entry in self._main if current.get(entry.key) is entry)

    def __repr__(self) -> str:
        return f"<S3Fifo {len(self)} entries, {self.size} of {self.capacity} bytes, {self.evictions} evicted>"
