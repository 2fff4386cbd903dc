"""A map bounded in bytes, which keeps what will be asked for again, and finds entries by tag.

What is kept is eviction.py's business, and which of its ways suits the traffic shadows.py's, which come to
life when an eighth of the room is taken: a cache that stays emptier needs none. They cost, for the sampled
keys, four small maps of keys: an eighth of the entries (four times 512 at least).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar
from zlib import crc32

from gateway.governance.eviction import OVERHEAD, Entry, Queues
from gateway.governance.shadows import SHARES, Shadows, sample_of

V = TypeVar("V")

FIRST: Final = 1  # index of the share that a cache begins with


class BoundedMap(Queues[V]):
    """A bounded map. capacity: bytes, each entry's key and overhead included."""

    __slots__ = ("_shadows", "_tags", "_unsampled", "changes")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room ({capacity} bytes)")
        super().__init__(capacity, SHARES[FIRST])
        self.changes = 0  # of the window's share, so far
        self._shadows: Shadows | None = None
        self._unsampled = 0xFFFFFFFF  # bits of a hash that are 0 in a sampled one
        self._tags: dict[str, set[bytes]] = {}

    def get(self, key: bytes) -> V | None:
        """Return the value and note that it was asked for; None when it is not here."""
        entry = self.look(key)
        if entry is None:
            return None
        if not entry.hashed & self._unsampled:
            self._play(entry)
        return entry.value

    def put(self, key: bytes, value: V, size: int, tags: Iterable[str] = ()) -> bool:
        """Keep `value` (of `size` bytes, key not included), in place of any earlier one; False: it is
        too large.

        tags: names under which `purge_tag` finds it.
        """
        size += len(key) + OVERHEAD
        entry = self._entries.get(key)
        if size > self.capacity:
            if entry is not None:
                self._forget(entry)
            return False
        if entry is None:
            entry = Entry(key, crc32(key), value, size, tuple(tags))
            self._tag(entry)
            self.insert(entry)
            if not entry.hashed & self._unsampled:
                self._play(entry)
            elif self._shadows is None and self.size * 8 > self.capacity:
                self._shadow(FIRST)
        else:
            self._untag(entry)
            entry.value, entry.tags = value, tuple(tags)
            self._tag(entry)
            self.resize(entry, size)
        return True

    def delete(self, key: bytes) -> bool:
        """Forget a key; True if it was here."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._forget(entry)
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

    @property
    def window(self) -> float:
        """The share of the capacity that is for newcomers."""
        return SHARES[FIRST if self._shadows is None else self._shadows.chosen]

    def _forget(self, entry: Entry[V]) -> None:
        self.remove(entry)
        self._untag(entry)
        self.tidy()

    def _tag(self, entry: Entry[V]) -> None:
        for tag in entry.tags:
            self._tags.setdefault(tag, set()).add(entry.key)

    def _untag(self, entry: Entry[V]) -> None:
        for tag in entry.tags:
            keys = self._tags[tag]
            keys.discard(entry.key)
            if not keys:
                del self._tags[tag]

    def on_evicted(self, entry: Entry[V]) -> None:
        """An entry had to leave: its tags go, too."""
        self._untag(entry)

    # Learning

    def _play(self, entry: Entry[V]) -> None:
        shadows = self._shadows
        if shadows is None:
            return
        before = shadows.chosen
        if not shadows.play(entry.key, entry.hashed, entry.size):
            return
        if shadows.chosen != before:
            self.changes += 1
            self.share(SHARES[shadows.chosen])
        if abs(sample_of(self._full()) - shadows.power) > 1:
            self._shadow(shadows.chosen)  # entries are far more or far fewer than they were

    def _full(self) -> int:
        """Return how many entries it has when it is full."""
        return len(self._entries) * self.capacity // max(1, self.size)

    def _shadow(self, chosen: int) -> None:
        power = sample_of(self._full())
        self._shadows = Shadows(self.capacity, power, chosen)
        self._unsampled = ((1 << power) - 1) << 27

    def __repr__(self) -> str:
        return (
            f"<BoundedMap {len(self)} entries, {self.size} of {self.capacity} bytes, "
            f"window {self.window:.0%}, {self.evictions} evicted>"
        )
