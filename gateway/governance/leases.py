"""Token buckets shared by several processes: a lender that holds them, and borrowers that decide at once.

A borrower asks the lender to decide a request (exact, one round trip), or spends from a lease: tokens that
the lender took out of the bucket beforehand. Leases are sized by demand, refilled in the background before
they run dry, and returned when they lie idle, so that a busy bucket costs a message per some tens of
milliseconds and not one per request.

What keeps the law (in any window of t seconds at most rate * t + burst tokens are spent) is that tokens on
lease still fill the bucket: it refills only up to burst minus what is out.

    held + lent <= burst at every instant, tokens come into being at `rate`
    =>  spent in a window <= (held + lent) at its start + rate * t <= burst + rate * t

With token_bucket.py's one number per bucket that reads: the bucket lacks at least what is lent, that is
full_at >= now + lent / rate. The lender hears of spending late, so it believes more to be on lease than is
and errs towards refilling too little, never too much: whatever the delay, nothing is granted twice. A
borrower that died takes its lease with it; one that is not heard of for `ttl` seconds is taken for dead, and
spends nothing from a lease after `ttl` by its own clock, counted from before it asked.

At most half of a bucket is out, and never in pieces under `LEAST` tokens. So a small bucket (5/s with a
burst of 1) is never lent: every request is decided by the lender. What is denied is not asked again before
it can pass: a flood costs no more messages than a trickle.

Nothing here knows how messages travel. Source: Doorman's leases (wants / has / gets), here with the reserve
(the other half) asked per request; GCRA as in token_bucket.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.governance.token_bucket import UNLIMITED, Buckets

TTL = 0.5  # s: a lease that is not renewed is over
LEAST = 2.0  # tokens: a smaller lease saves no message
SHARE = 0.5  # of a bucket that may be on lease


class Ask(NamedTuple):
    """A wish at one bucket: spend `cost` now, and have `want` tokens on lease afterwards.

    rate: tokens/s, > 0. burst: tokens, > 0.
    """

    key: bytes
    cost: float
    rate: float
    burst: float
    want: float


class Told(NamedTuple):
    """What became of a lease since the last time: tokens spent, tokens given back."""

    key: bytes
    used: float
    returned: float


class Answer(NamedTuple):
    """The lender's word on the asks of one request, all or nothing.

    lent: tokens put on lease by each ask, in their order. The others: see token_bucket.Verdict.
    """

    allowed: bool
    binding: int
    remaining: int
    retry_after: float
    reset: float
    lent: tuple[float, ...] = ()


class _Loans:
    """What is out of one bucket: holder -> tokens and the instant at which they are taken for spent."""

    __slots__ = ("holders", "rate", "total")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.total = 0.0
        self.holders: dict[int, tuple[float, float]] = {}


class Lender:
    """Holds the buckets and knows what is on lease. max_keys: buckets that are not full, at most."""

    __slots__ = ("_buckets", "_loans", "_ttl")

    def __init__(self, max_keys: int = 100_000, ttl: float = TTL) -> None:
        self._buckets = Buckets(max_keys)
        self._loans: dict[bytes, _Loans] = {}
        self._ttl = ttl

    def decide(self, holder: int, asks: Sequence[Ask], now: float) -> Answer:
        """Spend all costs or none; where all were spent, lend what may be lent."""
        for ask in asks:
            self._lack(ask.key, ask.rate, now)
        costly = [ask for ask in asks if ask.cost > 0]
        verdict = self._buckets.take_all(costly, now) if costly else UNLIMITED
        if not verdict.allowed:
            return Answer(*verdict)
        lent = tuple(self._lend(holder, ask, now) for ask in asks)
        if not costly:
            room = min(self._buckets.held(ask.key, ask.rate, ask.burst, now) for ask in asks)
            return Answer(True, 0, int(room), 0.0, 0.0, lent)
        return Answer(*verdict, lent)

    def told(self, holder: int, reports: Sequence[Told], now: float) -> None:
        """Learn what a holder spent of its leases and what it gives back."""
        for key, used, returned in reports:
            loans = self._loans.get(key)
            if loans is None or holder not in loans.holders:
                continue  # it was taken for dead: all of it counts as spent
            tokens = loans.holders[holder][0]
            back = min(max(0.0, returned), tokens)
            left = max(0.0, tokens - back - max(0.0, used))
            self._set(key, loans, holder, left, now + self._ttl)
            if back:
                self._buckets.settle(key, -back, loans.rate, now)

    def settle(self, key: bytes, delta: float, rate: float, now: float) -> None:
        """Charge (> 0) or give back (< 0) after the fact."""
        self._lack(key, rate, now)
        self._buckets.settle(key, delta, rate, now)

    def forget(self, holder: int) -> None:
        """This holder is dead: what it had counts as spent."""
        for key, loans in tuple(self._loans.items()):
            if holder in loans.holders:
                self._set(key, loans, holder, 0.0, 0.0)

    def sweep(self, now: float) -> None:
        """Take for dead whoever was not heard of for `ttl`. Only memory depends on it."""
        for key in tuple(self._loans):
            self._expire(key, now)

    @property
    def lent(self) -> float:
        """Tokens on lease, over all buckets."""
        return sum(loans.total for loans in self._loans.values())

    def _lack(self, key: bytes, rate: float, now: float) -> None:
        """Let a bucket lack at least what is lent of it."""
        if key in self._loans:
            self._expire(key, now)
            loans = self._loans.get(key)
            if loans is not None:
                self._buckets.lack(key, loans.total, rate, now)

    def _lend(self, holder: int, ask: Ask, now: float) -> float:
        if ask.want <= 0:
            return 0.0
        loans = self._loans.get(ask.key)
        out = 0.0 if loans is None else loans.total
        mine = 0.0 if loans is None else loans.holders.get(holder, (0.0, 0.0))[0]
        held = self._buckets.held(ask.key, ask.rate, ask.burst, now)
        lent = min(ask.want - mine, (SHARE * ask.burst - out) / 2, held / 2)
        if lent < LEAST:
            return 0.0
        if loans is None:
            loans = self._loans[ask.key] = _Loans(ask.rate)
        self._buckets.settle(ask.key, lent, ask.rate, now)
        self._set(ask.key, loans, holder, mine + lent, now + self._ttl)
        return lent

    def _expire(self, key: bytes, now: float) -> None:
        loans = self._loans[key]
        over = [holder for holder, (_, until) in loans.holders.items() if until <= now]
        for holder in over:
            self._set(key, loans, holder, 0.0, 0.0)

    def _set(self, key: bytes, loans: _Loans, holder: int, tokens: float, until: float) -> None:
        if tokens > 1e-9:
            loans.holders[holder] = (tokens, until)
        else:
            loans.holders.pop(holder, None)
        loans.total = sum(amount for amount, _ in loans.holders.values())
        if not loans.holders:
            self._loans.pop(key, None)

    def __repr__(self) -> str:
        return f"<Lender {len(self._buckets)} buckets, {self.lent:g} tokens of {len(self._loans)} on lease>"
