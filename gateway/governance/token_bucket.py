"""Token buckets as GCRA with cost: a bucket is one float, the instant at which it will be full again.

A bucket refills at `rate` tokens/s up to `burst`. Instead of counting tokens it remembers `full_at`:
spending c tokens moves that instant c / rate further, and the spending is allowed while it stays within
burst / rate of now. Nothing has to be refilled, an untouched bucket needs no state at all, and several
buckets are decided together by computing every new instant first and storing them only when all pass.

    start = max(full_at, now);  after = start + cost / rate
    granted  iff  after - now <= burst / rate;  else wait = after - now - burst / rate

Law: in any window of t seconds at most rate * t + burst tokens are granted (plus what a microsecond
refills: times are floats, and an instant 1e-6 s early counts as due). The default burst is the caller's
business; with burst = one second's rate a one-second window can see twice the rate.

What an operation really cost is settled afterwards: `settle` may push a bucket beyond empty (debt, which
later requests wait out), and what is given back never makes it fuller than full.

Source: ATM Forum TM 4.1 (GCRA, virtual scheduling); reserve and settle as in LLM token quotas.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Final, NamedTuple, Protocol

SLACK: Final = 1e-6
"""Seconds by which an instant may be early: above the rounding of float sums on a clock of years of
uptime."""
ROUNDING: Final = 1e-6
"""Tokens by which a count may fall short of a whole one and still be called it."""


class Bucket:
    """One bucket. rate: tokens/s, > 0; burst: tokens it holds when full, > 0."""

    __slots__ = ("_full_at", "_interval", "_tolerance", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        if not (0 < rate < inf and 0 < burst < inf):
            raise ValueError(f"a bucket needs a positive, finite rate and burst, not {rate} and {burst}")
        self.rate = rate
        self.burst = burst
        self._interval = 1.0 / rate  # s per token
        self._tolerance = burst / rate  # s of refill that it holds
        self._full_at = -inf

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` tokens would be granted: 0.0 = now, inf = never (cost > burst)."""
        full_at = self._full_at
        excess = (full_at - now if full_at > now else 0.0) + cost * self._interval - self._tolerance
        if excess <= SLACK:
            return 0.0
        return inf if cost > self.burst else excess

    def take(self, cost: float, now: float) -> float:
        """Spend `cost` tokens.

        Returns 0.0 if granted, else seconds until it would be (inf: never); nothing is spent then.
        """
        full_at = self._full_at
        after = max(full_at, now) + cost * self._interval
        excess = after - now - self._tolerance
        if excess <= SLACK:
            self._full_at = after
            return 0.0
        return inf if cost > self.burst else excess

    def settle(self, delta: float, now: float) -> None:
        """Charge `delta` more tokens (> 0, into debt if need be), or give tokens back (< 0, up to
        full)."""
        full_at = self._full_at
        self._full_at = max(full_at, now) + delta * self._interval

    def remaining(self, now: float) -> int:
        """Whole tokens that could be spent now."""
        held = self._tolerance - max(0.0, self._full_at - now)
        return max(0, int((held + SLACK) * self.rate))

    def reset(self, now: float) -> float:
        """Seconds until it is full."""
        return max(0.0, self._full_at - now)

    def __repr__(self) -> str:
        return f"<Bucket {self.rate:g}/s burst {self.burst:g} | full at {self._full_at:.3f}>"


class Spending(Protocol):
    """A wish to spend `cost` tokens of the bucket `key`, which refills at `rate` tokens/s up to
    `burst`."""

    @property
    def key(self) -> bytes:
        """Which bucket."""
        ...

    @property
    def cost(self) -> float:
        """Tokens."""
        ...

    @property
    def rate(self) -> float:
        """Tokens per second, > 0."""
        ...

    @property
    def burst(self) -> float:
        """Tokens, > 0."""
        ...


class Claim:
    """A Spending as the hot path has it: where this file is compiled, its numbers are machine words.

    Nothing changes it once it is made; one throttle's is used for all requests of a principal.
    """

    __slots__ = ("burst", "cost", "key", "rate")

    def __init__(self, key: bytes, cost: float, rate: float, burst: float) -> None:
        self.key = key
        self.cost = cost
        self.rate = rate
        self.burst = burst

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Claim):
            return NotImplemented
        mine = (self.key, self.cost, self.rate, self.burst)
        return mine == (other.key, other.cost, other.rate, other.burst)

    def __hash__(self) -> int:
        return hash((self.key, self.cost, self.rate, self.burst))

    def __repr__(self) -> str:
        return f"Claim({self.key!r}, {self.cost}, {self.rate}, {self.burst})"


class Verdict(NamedTuple):
    """What was decided on several buckets together.

    binding: index of the claim that has to wait longest, or, when all were granted, of the one with room
    for the fewest further claims like it; -1 when there were no claims. remaining: whole tokens left at
    that level. retry_after: seconds until all would be granted (0.0 = they were; inf = never). reset:
    seconds until the binding level is full.
    """

    allowed: bool
    binding: int
    remaining: int
    retry_after: float
    reset: float


UNLIMITED = Verdict(True, -1, 0, 0.0, 0.0)


class Buckets:
    """Many buckets by key, as many as `max_keys`.

    A key stands in the table only while its bucket is not full. Each new key clears up to two full ones
    out of the way (a heap, corrected lazily, knows which are full first), so the table follows the
    traffic without a sweep; when `max_keys` buckets are all in use, the one nearest to full is
    forgotten, and counted in `forgotten`: its owner gets a full one.
    """

    __slots__ = ("_by_fullness", "_full_at", "forgotten", "max_keys")

    def __init__(self, max_keys: int = 100_000) -> None:
        if max_keys < 1:
            raise ValueError("max_keys must be at least 1")
        self.max_keys = max_keys
        self.forgotten = 0
        self._full_at: dict[bytes, float] = {}
        self._by_fullness: list[tuple[float, bytes]] = []  # each key, perhaps with an outdated instant

    def __len__(self) -> int:
        return len(self._full_at)

    def take_all(self, claims: Sequence[Spending], now: float) -> Verdict:
        """Spend every claim, or none of them: that is the law between limits of different width."""
        plain = [Claim(claim.key, claim.cost, claim.rate, claim.burst) for claim in claims]
        allowed, binding, remaining, retry_after, reset = self.decide(plain, now)
        return Verdict(allowed, binding, remaining, retry_after, reset)

    def decide(self, claims: Sequence[Claim], now: float) -> tuple[bool, int, int, float, float]:
        """Do as `take_all`; returns the verdict's parts, for whoever makes something else of them."""
        known = self._full_at
        planned: dict[bytes, float] = {}
        is_known = True
        wait = 0.0
        fewest = inf
        binding = index = 0
        left = reset = 0.0
        for claim in claims:
            key = claim.key
            cost = claim.cost
            rate = claim.rate
            found = known.get(key)
            if found is None:
                is_known = False
                before = now
            else:
                before = found
                if before < now:  # not max(): compiled, that would make objects of both
                    before = now
            lack = before - now  # s of refill that it lacks
            planned[key] = before + cost / rate
            room = claim.burst - lack * rate - cost  # tokens left after this
            if room < -SLACK * rate:
                excess = inf if cost > claim.burst else -room / rate
                if excess > wait:
                    wait, binding, left, reset = excess, index, room + cost, lack
            elif not wait and room < fewest * cost:  # room for fewer further claims of this cost
                fewest, binding, left, reset = room / cost, index, room, lack + cost / rate
            index += 1
        if len(planned) < index or not index:
            return self._take_merged(claims, now) if index else (True, -1, 0, 0.0, 0.0)
        if wait:
            return False, binding, int(left + ROUNDING) if left > 0 else 0, wait, reset
        if is_known:
            known.update(planned)
        else:
            self._store(planned, now)
        return True, binding, int(left + ROUNDING) if left > 0 else 0, 0.0, reset

    def take(self, claim: Spending, now: float) -> Verdict:
        """Spend one claim."""
        return self.take_all((claim,), now)

    def settle(self, key: bytes, delta: float, rate: float, now: float) -> None:
        """Charge `delta` tokens more (> 0, into debt if need be), or give tokens back (< 0, up to
        full)."""
        before = self._full_at.get(key, now)
        after = max(before, now) + delta / rate
        if after <= now:
            self._full_at.pop(key, None)  # full: what the heap says of it is dropped when it comes up
            return
        self._store({key: after}, now)
        if delta < 0:  # the heap holds a later instant for it; an instant that is too early is always safe
            self._note(after, key)

    def lack(self, key: bytes, tokens: float, rate: float, now: float) -> None:
        """Let the bucket lack at least `tokens`: they are out on lease, and fill it no less than before."""
        until = now + tokens / rate
        if until > self._full_at.get(key, now):
            self._store({key: until}, now)

    def held(self, key: bytes, rate: float, burst: float, now: float) -> float:
        """Return the tokens that could be spent now, 0.0 while in debt."""
        return max(0.0, burst - max(0.0, self._full_at.get(key, now) - now) * rate)

    def owed(self, key: bytes, rate: float, burst: float, now: float) -> float:
        """Return the seconds until the bucket is out of debt, 0.0 where it is in none."""
        return max(0.0, self._full_at.get(key, now) - now - burst / rate)

    def sweep(self, now: float, limit: int = 1000) -> int:
        """Drop up to `limit` buckets that are full again; returns how many. Only memory depends on
        it."""
        before = len(self._full_at)
        for _ in range(limit):
            if not self._drop_full(now):
                break
        return before - len(self._full_at)

    # Keeping the table small

    def _store(self, planned: dict[bytes, float], now: float) -> None:
        known = self._full_at
        for key, after in planned.items():
            if key not in known:
                self._make_room(now)
                self._note(after, key)
            known[key] = after

    def _make_room(self, now: float) -> None:
        if self._drop_full(now):
            self._drop_full(now)
        while len(self._full_at) >= self.max_keys:
            if not self._drop_full(now):
                self._forget_fullest()

    def _drop_full(self, now: float) -> bool:
        """Look at the bucket that may be full first; True if one was dropped or corrected."""
        heap = self._by_fullness
        if not heap or heap[0][0] > now:
            return False
        key = heap[0][1]
        full_at = self._full_at.get(key)
        if full_at is not None and full_at > now:
            heapreplace(heap, (full_at, key))
        else:
            heappop(heap)
            self._full_at.pop(key, None)
        return True

    def _forget_fullest(self) -> None:
        heap = self._by_fullness
        while True:
            noted, key = heap[0]
            full_at = self._full_at.get(key)
            if full_at is None:
                heappop(heap)
            elif full_at > noted:
                heapreplace(heap, (full_at, key))
            else:
                heappop(heap)
                del self._full_at[key]
                self.forgotten += 1
                return

    def _note(self, full_at: float, key: bytes) -> None:
        heap = self._by_fullness
        if len(heap) > 2 * len(self._full_at) + 64:  # settled and forgotten keys left entries behind
            heap[:] = [(instant, known) for known, instant in self._full_at.items()]
            heapify(heap)
        heappush(heap, (full_at, key))

    # The same bucket claimed twice by one request

    def _take_merged(self, claims: Sequence[Claim], now: float) -> tuple[bool, int, int, float, float]:
        first: dict[bytes, int] = {}
        costs: dict[bytes, float] = {}
        for index, claim in enumerate(claims):
            first.setdefault(claim.key, index)
            costs[claim.key] = costs.get(claim.key, 0.0) + claim.cost
        merged = [Claim(key, costs[key], claims[i].rate, claims[i].burst) for key, i in first.items()]
        allowed, binding, remaining, retry_after, reset = self.decide(merged, now)
        return allowed, list(first.values())[binding], remaining, retry_after, reset

    def __repr__(self) -> str:
        return f"<Buckets {len(self)} of {self.max_keys} in use, {self.forgotten} forgotten>"
