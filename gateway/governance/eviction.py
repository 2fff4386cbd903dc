"""Which answers a cache keeps when it cannot keep them all: a window for newcomers, and a guarded main part.

    put ──▶ window ──▶ asked for more often than those who would have to go? ──yes──▶ main ──▶ out
             queue                                          └──no──▶ out                queue

Both parts are queues with a second chance: what was asked for since its last turn goes round again. So a
hit moves nothing: it sets two fields of its entry. Whoever leaves the window has to be asked for more often
than those it would push out of main together, and more than once: what is asked for once never gets there.
How often somebody was asked for is counted in its entry while it is here and in a sketch (frequency.py) while
it isn't; counts halve every five requests per entry, so that yesterday's favourites go.

The share of the window is what tells one traffic from another. Everything is window: the cache behaves like
LRU, right where popularity moves. A hundredth is: like TinyLFU, right where it stays, and under loops and
scans. Nobody can say beforehand, so it may be changed at any time (shadows.py tells to what); what is in the
wrong part then moves on in small steps, a few at each `put`.

Laws: the sizes of what is kept never add up to more than `capacity`, and each call takes constant time,
amortised. An entry larger than the capacity is not kept.

Sources: Einziger, Friedman and Manes, ACM ToS 2017 (W-TinyLFU); Einziger et al., ACM ToS 2022 (an entry
against the sum of its victims); Yang et al., HotOS'23 (FIFO with reinsertion is as good as LRU).
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from gateway.governance.frequency import MOST, STRIPES, Sketch

V = TypeVar("V")

OVERHEAD: Final = 500
"""Bytes that an entry costs beside its key and value: this is added to the size that callers state.

Measured: 490, with two tags, its part of the sketch and of the shadows."""

MOVES: Final = 4  # entries that leave the window at a put, at most
EPOCH: Final = 5  # requests per entry in which counts halve
_WINDOW: Final = 0
_MAIN: Final = 1
_GONE: Final = 2


class Entry(Generic[V]):
    """One of those that are here."""

    __slots__ = ("asked", "epoch", "hashed", "key", "place", "seen", "size", "tags", "value")

    def __init__(self, key: bytes, hashed: int, value: V, size: int, tags: tuple[str, ...]) -> None:
        self.key = key
        self.hashed = hashed
        self.value = value
        self.size = size  # bytes, key and overhead included
        self.tags = tags
        self.asked = 1  # times, halved with every epoch
        self.epoch = 0
        self.seen = False  # asked for since its last turn
        self.place = _WINDOW


class Queues(Generic[V]):
    """The entries and their order. capacity: bytes. share: of the window, above 0 up to 1."""

    __slots__ = (
        "_due",
        "_entries",
        "_main",
        "_main_size",
        "_requests",
        "_sketch",
        "_window",
        "_window_limit",
        "_window_size",
        "capacity",
        "evictions",
        "size",
    )

    def __init__(self, capacity: int, share: float) -> None:
        self.capacity = capacity
        self.size = 0  # bytes in use
        self.evictions = 0  # so far
        self._entries: dict[bytes, Entry[V]] = {}
        self._window: deque[Entry[V]] = deque()
        self._main: deque[Entry[V]] = deque()
        self._window_size = 0
        self._main_size = 0
        self._window_limit = max(1, int(capacity * share))
        self._sketch = Sketch()
        self._requests = 0
        self._due = 64

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def share(self, share: float) -> None:
        """Let the window have another share of the capacity."""
        self._window_limit = max(1, int(self.capacity * share))

    def look(self, key: bytes) -> Entry[V] | None:
        """Return the entry and note that it was asked for; None when it is not here."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.seen = True
        if entry.epoch != self._sketch.epochs[entry.hashed % STRIPES]:
            self._halve(entry)
        if entry.asked < MOST:
            entry.asked += 1
        self._requests += 1
        if self._requests >= self._due:
            self._age()
        return entry

    def insert(self, entry: Entry[V]) -> None:
        """Take in an entry whose key is not here, and which is no larger than the capacity."""
        self._requests += 1
        if self._requests >= self._due:
            self._age()
        entry.asked = min(MOST, self._sketch.estimate(entry.hashed) + 1)
        entry.epoch = self._sketch.epochs[entry.hashed % STRIPES]
        self._entries[entry.key] = entry
        self._window.append(entry)
        self._window_size += entry.size
        self.size += entry.size
        self._settle()

    def remove(self, entry: Entry[V]) -> None:
        """Take an entry out. Its place in a queue is cleared when its turn comes."""
        self._sketch.remember(entry.hashed, self._asked(entry))
        del self._entries[entry.key]
        self.size -= entry.size
        if entry.place == _WINDOW:
            self._window_size -= entry.size
        else:
            self._main_size -= entry.size
        entry.place = _GONE

    def resize(self, entry: Entry[V], size: int) -> None:
        """Let an entry be larger or smaller where it is. size: bytes, at most the capacity."""
        more = size - entry.size
        entry.size = size
        self.size += more
        if entry.place == _WINDOW:
            self._window_size += more
        else:
            self._main_size += more
        self._settle()

    def played(self, key: bytes, hashed: int, size: int, value: V) -> bool:
        """Ask for a key and put it there if it is not: True if it was. What a shadow does."""
        if self.look(key) is not None:
            return True
        if size <= self.capacity:
            self.insert(Entry(key, hashed, value, size, ()))
        return False

    def tidy(self) -> None:
        """Clear out the places of removed entries, where they are the most."""
        if len(self._window) + len(self._main) > 2 * len(self._entries) + 64:
            self._window = deque([entry for entry in self._window if entry.place == _WINDOW])
            self._main = deque([entry for entry in self._main if entry.place == _MAIN])

    def on_evicted(self, entry: Entry[V]) -> None:
        """An entry left to make room: it is no longer here."""

    # Making room

    def _settle(self) -> None:
        """Bring both parts back to their shares, at least so far that everything has room."""
        for _ in range(MOVES):
            if self._window_size <= self._window_limit:
                break
            self._leave_window()
        while self.size > self.capacity:
            main_limit = self.capacity - self._window_limit
            if self._main_size and (self._main_size > main_limit or self._window_size <= self._window_limit):
                self._evict(self._next(self._main, _MAIN))
            else:
                self._evict(self._next(self._window, _WINDOW))

    def _next(self, queue: deque[Entry[V]], place: int) -> Entry[V]:
        """Take from a queue that is not empty whose turn it is, those that were asked for go round again."""
        while True:
            entry = queue.popleft()
            if entry.place != place:
                continue  # removed meanwhile
            if not entry.seen:
                return entry
            entry.seen = False
            queue.append(entry)

    def _leave_window(self) -> None:
        entry = self._next(self._window, _WINDOW)
        room = self.capacity - self._window_limit
        if entry.size <= room and (self._main_size + entry.size <= room or self._beats(entry, room)):
            self._window_size -= entry.size
            self._main_size += entry.size
            entry.place = _MAIN
            self._main.append(entry)
        else:
            self._evict(entry)

    def _beats(self, entry: Entry[V], room: int) -> bool:
        """Make room in main if the entry is asked for more often than all who would have to go."""
        asked = self._asked(entry)
        if asked < 2:
            return False
        victims: list[Entry[V]] = []
        theirs = freed = 0
        while self._main_size - freed + entry.size > room:
            victim = self._next(self._main, _MAIN)
            victims.append(victim)
            freed += victim.size
            theirs += max(1, self._asked(victim))
            if asked <= theirs + (theirs > 1):  # by two: in a loop everybody's turn comes once more, in turn
                self._main.extendleft(reversed(victims))
                return False
        for victim in victims:
            self._evict(victim)
        return True

    def _evict(self, entry: Entry[V]) -> None:
        self.remove(entry)
        self.evictions += 1
        self.on_evicted(entry)

    # Counting

    def _asked(self, entry: Entry[V]) -> int:
        if entry.epoch != self._sketch.epochs[entry.hashed % STRIPES]:
            self._halve(entry)
        return entry.asked

    def _halve(self, entry: Entry[V]) -> None:
        """Count the epochs that went by since the entry was last looked at."""
        epoch = self._sketch.epochs[entry.hashed % STRIPES]
        entry.asked >>= min(8, epoch - entry.epoch)
        entry.epoch = epoch

    def _age(self) -> None:
        self._requests = 0
        self._sketch.fit(len(self._entries))
        self._sketch.age()
        self._due = max(64, EPOCH * len(self._entries) // STRIPES)

    def __repr__(self) -> str:
        share = 100 * self._window_limit // self.capacity
        return f"<Queues {len(self)} entries, {self.size} of {self.capacity} bytes, window {share} %>"
