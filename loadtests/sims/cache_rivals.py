"""Other ways to choose what a cache keeps, written anew from their papers. All are bounded in bytes.

Lru       least recently used goes
Lfu       least often used since it came goes (no memory of those that left)
Sieve     Zhang et al., NSDI'24: one queue and a hand that spares what was asked for
S3Fifo    Yang et al., SOSP'23: a small queue for newcomers, a main one, keys of those that left early
WTinyLfu  Einziger et al., ACM ToS 2017: window of 1 %, segmented LRU, admission by a count-min sketch
Arc       Megiddo and Modha, FAST'03: recency and frequency, the balance learnt from those that left
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heappop, heappush
from typing import Protocol

Queue = OrderedDict[int, int]
"""Keys and their sizes, in bytes, in order."""


class Policy(Protocol):
    def access(self, key: int, size: int) -> bool:
        """Ask for a key and keep it if it is not here: True if it was. size: bytes."""
        ...


class Lru:
    def __init__(self, capacity: int) -> None:
        self.room = capacity
        self.kept: Queue = OrderedDict()

    def access(self, key: int, size: int) -> bool:
        if key in self.kept:
            self.kept.move_to_end(key)
            return True
        self.kept[key] = size
        self.room -= size
        while self.room < 0:
            self.room += self.kept.popitem(last=False)[1]
        return False


class Lfu:
    def __init__(self, capacity: int) -> None:
        self.room = capacity
        self.sizes: dict[int, int] = {}
        self.asked: dict[int, int] = {}
        self.heap: list[tuple[int, int, int]] = []  # how often, when, who: some of it outdated
        self.turn = 0

    def access(self, key: int, size: int) -> bool:
        self.turn += 1
        hit = key in self.sizes
        while not hit and self.room < size:
            asked, _, other = heappop(self.heap)
            if self.asked.get(other) == asked:
                self.room += self.sizes.pop(other)
                del self.asked[other]
        if not hit:
            self.sizes[key] = size
            self.room -= size
        self.asked[key] = self.asked.get(key, 0) + 1
        heappush(self.heap, (self.asked[key], self.turn, key))
        return hit


class Sieve:
    def __init__(self, capacity: int) -> None:
        self.room = capacity
        self.sizes: dict[int, int] = {}
        self.spared: dict[int, bool] = {}
        self.older: dict[int, int | None] = {}
        self.newer: dict[int, int | None] = {}
        self.oldest: int | None = None
        self.newest: int | None = None
        self.hand: int | None = None

    def access(self, key: int, size: int) -> bool:
        if key in self.sizes:
            self.spared[key] = True
            return True
        while self.room < size:
            self._evict()
        self.sizes[key], self.spared[key] = size, False
        self.room -= size
        self.older[key], self.newer[key] = self.newest, None
        if self.newest is not None:
            self.newer[self.newest] = key
        else:
            self.oldest = key
        self.newest = key
        return False

    def _evict(self) -> None:
        at = self.oldest if self.hand is None else self.hand
        assert at is not None
        while self.spared[at]:
            self.spared[at] = False
            further = self.newer[at]
            at = self.oldest if further is None else further
            assert at is not None
        before, after = self.older.pop(at), self.newer.pop(at)
        self.hand = after
        if before is None:
            self.oldest = after
        else:
            self.newer[before] = after
        if after is None:
            self.newest = before
        else:
            self.older[after] = before
        del self.spared[at]
        self.room += self.sizes.pop(at)


class S3Fifo:
    def __init__(self, capacity: int) -> None:
        self.room = capacity
        self.small_room = capacity // 10
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghosts: Queue = OrderedDict()
        self.asked: dict[int, int] = {}
        self.sizes: dict[int, int] = {}

    def access(self, key: int, size: int) -> bool:
        if key in self.sizes:
            self.asked[key] = min(3, self.asked[key] + 1)
            return True
        while self.room < size:
            if self.small and (self.small_room <= 0 or not self.main):
                self._turn_small()
            else:
                self._turn_main()
        self.asked[key], self.sizes[key] = 0, size
        self.room -= size
        if self.ghosts.pop(key, None) is not None:
            self.main.append(key)
        else:
            self.small.append(key)
            self.small_room -= size
        return False

    def _turn_small(self) -> None:
        key = self.small.popleft()
        self.small_room += self.sizes[key]
        if self.asked[key] > 1:
            self.main.append(key)
            self.asked[key] = 0
            return
        self._drop(key)
        self.ghosts[key] = 1
        while len(self.ghosts) > max(16, len(self.sizes)):
            self.ghosts.popitem(last=False)

    def _turn_main(self) -> None:
        key = self.main.popleft()
        if self.asked[key]:
            self.asked[key] -= 1
            self.main.append(key)
        else:
            self._drop(key)

    def _drop(self, key: int) -> None:
        del self.asked[key]
        self.room += self.sizes.pop(key)


class WTinyLfu:
    """entries: how many it holds, about: what its sketch is made for."""

    def __init__(self, capacity: int, entries: int) -> None:
        self.window: Queue = OrderedDict()
        self.probation: Queue = OrderedDict()
        self.protected: Queue = OrderedDict()
        self.window_room = capacity // 100
        self.main_room = capacity - self.window_room
        self.protected_room = self.main_room * 4 // 5
        self.rows = [bytearray(1 << max(8, (4 * entries).bit_length())) for _ in range(4)]
        self.places: dict[int, tuple[int, ...]] = {}
        self.period = self.left = 10 * entries

    def access(self, key: int, size: int) -> bool:
        self._count(key)
        if key in self.window:
            self.window.move_to_end(key)
            return True
        if key in self.protected:
            self.protected.move_to_end(key)
            return True
        if key in self.probation:
            self._protect(key)
            return True
        self.window[key] = size
        self.window_room -= size
        while self.window_room < 0:
            leaver, its = self.window.popitem(last=False)
            self.window_room += its
            self._admit(leaver, its)
        return False

    def _protect(self, key: int) -> None:
        size = self.protected[key] = self.probation.pop(key)
        self.protected_room -= size
        while self.protected_room < 0:
            other, its = self.protected.popitem(last=False)
            self.protected_room += its
            self.probation[other] = its

    def _admit(self, key: int, size: int) -> None:
        asked = self._asked(key)
        while self.main_room < size:
            queue = self.probation or self.protected
            if not queue or self._asked(victim := next(iter(queue))) >= asked:
                return
            its = queue.pop(victim)
            self.main_room += its
            if queue is self.protected:
                self.protected_room += its
        self.probation[key] = size
        self.main_room -= size

    def _count(self, key: int) -> None:
        for row, place in zip(self.rows, self._places(key), strict=True):
            if row[place] < 15:
                row[place] += 1
        self.left -= 1
        if not self.left:
            self.left = self.period // 2
            self.rows = [row.translate(bytes(count >> 1 for count in range(256))) for row in self.rows]

    def _asked(self, key: int) -> int:
        return min([row[place] for row, place in zip(self.rows, self._places(key), strict=True)])

    def _places(self, key: int) -> tuple[int, ...]:
        places = self.places.get(key)
        if places is None:
            mixed, found = key, []
            for _ in self.rows:
                mixed = (mixed ^ mixed >> 31) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
                found.append((mixed >> 20) % len(self.rows[0]))
            places = self.places[key] = tuple(found)
        return places


class Arc:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.wanted = 0.0  # bytes for those asked for once
        self.once, self.often, self.once_gone, self.often_gone = (Sized() for _ in range(4))

    def access(self, key: int, size: int) -> bool:
        if key in self.once or key in self.often:
            self.often.add(key, (self.once if key in self.once else self.often).take(key))
            return True
        if key in self.once_gone:
            self.wanted += max(size, size * self.often_gone.size / self.once_gone.size)
            self.wanted = min(self.wanted, self.capacity)
            self.once_gone.take(key)
            self._make_room(size, False)
            self.often.add(key, size)
        elif key in self.often_gone:
            self.wanted -= max(size, size * self.once_gone.size / self.often_gone.size)
            self.wanted = max(self.wanted, 0.0)
            self.often_gone.take(key)
            self._make_room(size, True)
            self.often.add(key, size)
        else:
            self._make_room(size, False)
            self.once.add(key, size)
            self._forget()
        return False

    def _make_room(self, size: int, came_back: bool) -> None:
        once, often = self.once, self.often
        while once.size + often.size + size > self.capacity:
            more = once.size > self.wanted or (came_back and once.size == self.wanted)
            out, gone = (once, self.once_gone) if once and (more or not often) else (often, self.often_gone)
            gone.add(*out.oldest())

    def _forget(self) -> None:
        while self.once_gone and self.once.size + self.once_gone.size > self.capacity:
            self.once_gone.oldest()
        kept = self.once.size + self.often.size + self.once_gone.size
        while self.often_gone and kept + self.often_gone.size > 2 * self.capacity:
            self.often_gone.oldest()


class Sized:
    """Keys in order, and how many bytes they are together."""

    def __init__(self) -> None:
        self.keys: Queue = OrderedDict()
        self.size = 0

    def __contains__(self, key: int) -> bool:
        return key in self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: int, size: int) -> None:
        self.keys[key] = size
        self.size += size

    def take(self, key: int) -> int:
        size = self.keys.pop(key)
        self.size -= size
        return size

    def oldest(self) -> tuple[int, int]:
        key, size = self.keys.popitem(last=False)
        self.size -= size
        return key, size
