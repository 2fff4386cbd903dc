"""Answers that are kept to be given again: one bounded store for all endpoints of a gateway.

Memory first (governance/bounded_map.py, so one endpoint's answers can't grow beyond what all may have); a
shared store (Redis) behind it, if there is one: what another gateway asked is then known here too. A shared
store that is slow or away is a miss, never an error.

Single flight lives here as well, because those who ask for the same key may do so through filters of
different snapshots. A flight's leader fetches; the joiners wait for what it brings:

    land      the answer can be shared: every joiner gets it
    leave     the leader left or failed: the joiner who waited longest goes on in its place
    dissolve  the answer is fine but can't be shared: every joiner fetches for itself

What a joiner does next runs inside such a call, and may end in the next one at once (a dead pool fails
immediately), so deliveries are queued and made one after the other, not one inside the other.

`purge_tag` forgets by endpoint, model, tag, URL or key, or everything. It remembers when: an answer that was
asked for before the purge is not kept afterwards, and one that the shared store still has counts as gone. It
is announced through the shared store to all who use it; what that store has is believed only once its purges
are known (`heard`), so that a gateway which has just started gives nothing that was purged before.

Over gateways, the leader of a flight asks the shared store for a `lease` on its key. How a request takes part
in a flight, step by step: claims.py.

Workers of one host without such a store have a memory each; what an unsafe request outdates is told to the
others by `tell`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.governance.bounded_map import BoundedMap
from gateway.governance.flights import Flights, Role
from gateway.governance.freshness import Freshness, State
from gateway.http.message import Headers
from gateway.pipeline import answer_blobs
from gateway.pipeline.ports import BlobStore, Lease, SharedBlobs
from gateway.pipeline.promise import Eventual, Promise

EVERYTHING: Final = "all"
MOST_PURGED: Final = 10_000  # tags whose purge is remembered
SKEW: Final = 1.0  # s by which the clocks of two gateways may differ


@dataclass(frozen=True, slots=True)
class Windows:
    """For how long an answer is of use, in seconds since it was stored; the stale ones follow the ttl."""

    ttl: float
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0

    @property
    def whole(self) -> float:
        """Seconds until it is of no use at all."""
        return self.ttl + max(self.stale_while_revalidate, self.stale_if_error)


class Kept:
    """One answer as it is kept, in the dialect and style and with the id that its request had."""

    __slots__ = ("body", "dialect", "freshness", "headers", "id", "status", "style", "tags", "windows")

    def __init__(
        self,
        stored: float,
        windows: Windows,
        headers: Headers,
        body: bytes,
        *,
        dialect: str,
        style: str,
        id: str | None,
        tags: Sequence[str] = (),
        status: int = 200,
    ) -> None:
        """stored: s, monotonic."""
        self.status = status
        self.freshness = Freshness(
            stored, windows.ttl, windows.stale_while_revalidate, windows.stale_if_error
        )
        self.windows = windows
        self.headers = headers
        self.body = body
        self.dialect = dialect
        self.style = style
        self.id = id
        self.tags = tuple(tags)

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    def __repr__(self) -> str:
        return f"<Kept {len(self.body)} B of {self.dialect} | {self.freshness!r}>"


Landed: TypeAlias = Kept | Role
"""What a joiner is told: the answer, or to fetch (as the new leader, or alone)."""


class Waiter:
    """One request in a flight."""

    __slots__ = ("landed",)

    def __init__(self) -> None:
        self.landed: Promise[Landed] = Promise()


class AnswerStore:
    """The kept answers of one gateway, and who waits for which.

    capacity: bytes of memory. blobs: the store behind it, None for memory only. shared: the same one, where
    other gateways use it, too.
    """

    __slots__ = (
        "_delivering",
        "_flights",
        "_leased",
        "_memory",
        "_purged",
        "_queue",
        "_steps",
        "blobs",
        "hits",
        "lookups",
        "shared",
        "stored",
        "tell",
        "trusted",
    )

    def __init__(
        self, capacity: int, blobs: BlobStore | None = None, shared: SharedBlobs | None = None
    ) -> None:
        self._memory: BoundedMap[Kept] = BoundedMap(capacity)
        self.blobs = blobs
        self.shared = shared
        self.tell: Callable[[str], None] | None = None  # the other workers of this host what is outdated
        self.trusted = shared is None  # what was purged in the shared store is known
        self._leased: set[bytes] = set()  # keys that we fetch, for other gateways as well
        self._flights: Flights[bytes, Waiter] = Flights()
        self._purged: dict[str, float] = {}  # tag -> s since the epoch
        self._queue: deque[tuple[Waiter, Landed]] = deque()
        self._steps: deque[Callable[[], None]] = deque()  # once the queue is empty
        self._delivering = False
        self.lookups = 0
        self.hits = 0  # of look-ups: something was there, fresh or stale
        self.stored = 0

    # Finding and keeping

    def fresh(self, key: bytes, now: float) -> Kept | None:
        """Return what is fresh and in memory: counted as a look-up where it is there; else `find` goes on."""
        kept = self._memory.get(key)
        if kept is None or now >= kept.freshness.fresh_until:
            return None
        self.lookups += 1
        self.hits += 1
        return kept

    def find(self, key: bytes, now: float, wall: float) -> Eventual[Kept | None]:
        """Return what is kept under a key, fresh or stale; None when nothing useful is."""
        self.lookups += 1
        kept = self._memory.get(key)
        if kept is not None:
            if kept.freshness.state(now) is not State.GONE:
                self.hits += 1
                return kept
            self._memory.delete(key)
        return self._behind(key, now, wall)

    def newest(self, key: bytes, now: float, wall: float) -> Eventual[Kept | None]:
        """Return what is fresh, in the shared store if not in memory: another gateway may have renewed it."""
        kept = self._memory.get(key)
        if kept is not None and now < kept.freshness.fresh_until:
            return kept
        behind = self._behind(key, now, wall)
        if isinstance(behind, Promise):
            return behind.chain(lambda late: _if_fresh(late, now))
        return _if_fresh(behind, now)

    def _behind(self, key: bytes, now: float, wall: float) -> Eventual[Kept | None]:
        """Look into the shared store, whatever is in memory."""
        if self.blobs is None or not self.trusted:
            return None
        blob = self.blobs.get(key)
        if not isinstance(blob, Promise):
            return self._from_blob(key, blob, now, wall)
        later: Promise[Kept | None] = Promise()
        blob.then(
            lambda late: later.resolve(self._from_blob(key, late, now, wall)),
            lambda _: later.resolve(None),
        )
        return later

    def knows(self, key: bytes, now: float) -> bool:
        """Tell whether a fresh answer is in memory, or somebody fetches one."""
        if self.is_flying(key):
            return True
        kept = self._memory.get(key)
        return kept is not None and kept.freshness.state(now) is State.FRESH

    def keep(self, key: bytes, kept: Kept, began: float, wall: float) -> bool:
        """Keep an answer.

        began: s since the epoch when it was asked for. False: it is too large, or a purge came between.
        """
        if self._was_purged(key, kept.tags, began):
            return False
        if not self._memory.put(key, kept, kept.size, kept.tags):
            return False
        self.stored += 1
        if self.blobs is not None:
            self.blobs.set(key, _to_blob(kept, wall), kept.windows.whole)
        return True

    def purge(self, wall: float, *, endpoint: str | None = None, model: str | None = None) -> int:
        """Forget the answers of an endpoint and of a model, or all when neither is named.

        Returns how many this memory had. wall: s since the epoch.
        """
        if endpoint is None and model is None:
            return self.purge_tag(None, wall)
        named = [("endpoint", endpoint), ("model", model)]
        return sum([self.outdate(tag(kind, name), wall) for kind, name in named if name is not None])

    def forget(self, key: bytes) -> bool:
        """Forget one answer, here and in the shared store; True if this memory had it."""
        if self.blobs is not None:
            self.blobs.delete([key])
        return self._memory.delete(key)

    def purge_tag(self, what: str | None, wall: float) -> int:
        """Forget what is under a tag (endpoint:, model:, tag:, url: and a name) or one key:, in hex.

        None: everything. Returns how many this memory had. Raises ValueError for a key that is none.
        """
        if what is not None and what.startswith("key:"):
            bytes.fromhex(what.removeprefix("key:"))
        return self._forget_all(EVERYTHING if what is None else what, wall)

    def outdate(self, tag: str, wall: float) -> int:
        """Forget all answers under a tag, keep none that was asked for before now, and tell others.

        Returns how many this memory had. wall: s since the epoch.
        """
        if self.tell is not None:
            self.tell(tag)
        return self._forget_all(tag, wall)

    def _forget_all(self, tag: str, wall: float) -> int:
        keys = self._outdated(tag, wall)
        if self.blobs is not None and keys:
            self.blobs.delete(keys)
        if self.shared is not None:
            self.shared.announce(tag)
        return sum([self._memory.delete(key) for key in keys])

    def heard(self, tag: str, wall: float) -> None:
        """Another gateway or worker announced a purge, at `wall` (s since the epoch): forget it here, too."""
        for key in self._outdated(tag, wall):
            self._memory.delete(key)

    def trust(self, known: bool) -> None:
        """Believe what the shared store has, or not: whether all its purges are known."""
        self.trusted = known

    def _outdated(self, tag: str, wall: float) -> list[bytes]:
        """Remember a purge, and return the keys that it is about."""
        known = self._purged.pop(tag, 0.0)
        self._purged[tag] = max(known, wall)
        while len(self._purged) > MOST_PURGED:
            del self._purged[next(iter(self._purged))]
        if tag == EVERYTHING:
            return self._memory.keys()
        if tag.startswith("key:"):
            return [bytes.fromhex(tag.removeprefix("key:"))]
        return self._memory.tagged(tag)

    def _was_purged(self, key: bytes, tags: Iterable[str], wall: float) -> bool:
        if not self._purged:
            return False
        names = (EVERYTHING, f"key:{key.hex()}", *tags)
        return any(self._purged.get(one, -1.0) >= wall for one in names)

    def _from_blob(self, key: bytes, blob: bytes | None, now: float, wall: float) -> Kept | None:
        if blob is None:
            return None
        read = _read_blob(blob, now, wall)
        if read is None:
            return None
        kept, stored = read
        if self._was_purged(key, kept.tags, stored - SKEW) or kept.freshness.state(now) is State.GONE:
            return None
        if not self._memory.put(key, kept, kept.size, kept.tags):
            return None  # larger than all that we may have: not one of ours either
        self.hits += 1
        return kept

    # Who waits for what

    def is_flying(self, key: bytes) -> bool:
        """Whether somebody fetches this key now."""
        return self._flights.leader(key) is not None

    def join(self, key: bytes, waiter: Waiter) -> Role:
        """Take part in the flight for a key; a JOINER hears by `waiter.landed`."""
        return self._flights.join(key, waiter)

    def land(self, key: bytes, waiter: Waiter, kept: Kept) -> None:
        """Share the leader's answer with all who wait for it. Who leads no flight only leaves it."""
        if self._flights.leader(key) is waiter:
            self._give_back(key, kept.windows.ttl > 0.0)
            self._deliver([(joiner, kept) for joiner in self._flights.land(key)])
        else:
            self._flights.leave(key, waiter)

    def dissolve(self, key: bytes, waiter: Waiter) -> None:
        """The leader has an answer that can't be shared: everybody fetches for himself."""
        if self._flights.leader(key) is waiter:
            self._give_back(key, False)
            self._deliver([(joiner, Role.ALONE) for joiner in self._flights.land(key)])
        else:
            self._flights.leave(key, waiter)

    def leave(self, key: bytes, waiter: Waiter) -> None:
        """Go without having brought anything; a leader hands over."""
        successor = self._flights.leave(key, waiter)
        if successor is not None:
            self._deliver([(successor, Role.LEADER)])
        elif not self.is_flying(key):
            self._give_back(key, True)

    def lease(self, key: bytes) -> Eventual[Lease]:
        """Ask once to be the gateway that fetches; given back when the flight for the key is over.

        Only where it `takes_turns`.
        """
        shared = self.shared
        assert shared is not None
        told = shared.lease(key)
        if isinstance(told, Promise):
            return told.chain(lambda lease: self._told(key, lease))
        return self._told(key, told)

    def _told(self, key: bytes, lease: Lease) -> Lease:
        if lease is Lease.OURS:
            self._leased.add(key)
            if not self.is_flying(key):  # who wanted it left meanwhile
                self._give_back(key, True)
        return lease

    def takes_turns(self, key: bytes) -> bool:
        """Whether another gateway may be fetching this key; those who lead its flight here ask (`lease`)."""
        return self.shared is not None and self.trusted and key not in self._leased

    def _give_back(self, key: bytes, shared: bool) -> None:
        if key in self._leased:
            self._leased.discard(key)
            assert self.shared is not None
            self.shared.release(key, shared)

    def together(self, step: Callable[[], None]) -> None:
        """End several flights in one step: nobody hears of one before all are over."""
        if self._delivering:
            step()
            return
        self._delivering = True
        try:
            step()
        finally:
            self._delivering = False
        self._deliver(())

    def afterwards(self, step: Callable[[], None]) -> None:
        """Do a step once all have heard what there is to hear now."""
        self._steps.append(step)
        self._deliver(())

    def _deliver(self, news: Iterable[tuple[Waiter, Landed]]) -> None:
        self._queue.extend(news)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._queue or self._steps:
                if self._queue:
                    waiter, landed = self._queue.popleft()
                    waiter.landed.resolve(landed)
                else:
                    self._steps.popleft()()
        finally:
            self._delivering = False

    # Being seen

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self._memory.size

    @property
    def evictions(self) -> int:
        """Answers so far that had to leave for others."""
        return self._memory.evictions

    @property
    def window(self) -> float:
        """The share of memory for newcomers now."""
        return self._memory.window

    @property
    def collapsed(self) -> int:
        """Requests so far that waited for another's answer."""
        return self._flights.joined

    def __len__(self) -> int:
        return len(self._memory)

    def __repr__(self) -> str:
        return f"<AnswerStore {self._memory!r}, {self._flights!r}>"


def _if_fresh(kept: Kept | None, now: float) -> Kept | None:
    return kept if kept is not None and now < kept.freshness.fresh_until else None


def tag(kind: str, name: str) -> str:
    """Return the tag under which answers of an endpoint or a model are found."""
    return f"{kind}:{name}"


# In the shared store


def _to_blob(kept: Kept, wall: float) -> bytes:
    about = answer_blobs.About(
        format=answer_blobs.FORMAT,
        stored=wall,
        windows=(kept.windows.ttl, kept.windows.stale_while_revalidate, kept.windows.stale_if_error),
        headers=answer_blobs.text(kept.headers),
        dialect=kept.dialect,
        style=kept.style,
        status=kept.status,
        id=kept.id,
        tags=kept.tags,
    )
    return answer_blobs.write(about, kept.body)


def _read_blob(blob: bytes, now: float, wall: float) -> tuple[Kept, float] | None:
    """Return the answer and when it was stored (s since the epoch); None if it isn't one of ours."""
    read = answer_blobs.read(blob)
    if read is None:
        return None
    about, headers, body = read
    kept = Kept(
        now - max(0.0, wall - about.stored),
        Windows(*about.windows),
        headers,
        body,
        dialect=about.dialect,
        style=about.style,
        id=about.id,
        tags=about.tags,
        status=about.status,
    )
    return kept, about.stored
