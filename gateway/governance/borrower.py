"""The borrowing end of leases.py: spends from leases at once, and says what to ask the lender.

A bucket's demand is counted per window and smoothed; a lease covers `HORIZON` of it, is refilled when half
is gone, and goes back when nothing was spent for `IDLE`. Where demand is too small for a lease, or the bucket
is, each request is asked. What the lender denied is denied here until it can pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from gateway.governance.leases import TTL, Answer, Ask, Told
from gateway.governance.token_bucket import UNLIMITED, Spending, Verdict

HORIZON = 0.05  # s of demand that a lease covers
IDLE = 0.1  # s without a spending after which a lease is returned
WINDOW = 0.05  # s over which demand is counted
WORTH = 2.0  # tokens: a smaller lease saves no message
BREATH = 0.002  # s: a bucket that fills a token faster than this is not asked again before


class Lease:
    """What a borrower knows of one bucket."""

    __slots__ = (
        "asked",
        "counted",
        "demand",
        "denied",
        "denied_cost",
        "denied_until",
        "expires",
        "held",
        "next_ask",
        "spent_at",
        "tokens",
        "used",
        "window_ends",
    )

    def __init__(self, now: float) -> None:
        self.tokens = 0.0  # on lease, not spent
        self.used = 0.0  # spent, not told yet
        self.expires = -inf
        self.demand = 0.0  # tokens/s, smoothed
        self.counted = 0.0  # tokens asked for in the window
        self.window_ends = now + WINDOW
        self.spent_at = now
        self.asked = False  # a refill is on its way
        self.next_ask = -inf
        self.held = 0.0  # what the lender had left when it last spoke
        self.denied: Answer | None = None
        self.denied_cost = inf
        self.denied_until = -inf

    def __repr__(self) -> str:
        return f"<Lease {self.tokens:g} tokens, {self.used:g} used | demand {self.demand:.1f}/s>"


class Pending:
    """A request that waits for the lender's word: what it asks, and what leases gave meanwhile."""

    __slots__ = ("_asked", "_reserved", "asks")

    def __init__(self, asks: Sequence[Ask], asked: Sequence[int], reserved: Sequence[Spending]) -> None:
        self.asks = asks
        self._asked = asked  # where the asks stand among the request's claims
        self._reserved = reserved

    @property
    def reserved(self) -> Sequence[Spending]:
        """The claims that leases covered."""
        return self._reserved

    def place(self, binding: int) -> int:
        """Where the binding ask stands among the request's claims."""
        return self._asked[binding] if 0 <= binding < len(self._asked) else 0


class Borrower:
    """Spends from leases and says what to ask the lender. One per process.

    `thirsty`: refills to ask for soon; whoever sends messages empties it with `refills`.
    """

    __slots__ = ("_active", "_leases", "_max_keys", "_ttl", "thirsty")

    def __init__(self, max_keys: int = 100_000, ttl: float = TTL) -> None:
        self._leases: dict[bytes, Lease] = {}
        self._active: dict[bytes, Lease] = {}  # those with tokens, or with spending not told
        self._max_keys = max_keys
        self._ttl = ttl
        self.thirsty: dict[bytes, Ask] = {}

    def take(self, claims: Sequence[Spending], now: float) -> Verdict | Pending:
        """Spend all or none from leases; a Pending where the lender must be asked, for what lacks."""
        asks: list[Ask] = []
        asked: list[int] = []
        reserved: list[Spending] = []
        scarce = UNLIMITED
        for index, claim in enumerate(claims):
            lease = self._count(claim, now)
            if lease.tokens >= claim.cost and now < lease.expires:
                lease.tokens -= claim.cost
                reserved.append(claim)
                left = lease.tokens + lease.held
                if scarce is UNLIMITED or left < scarce.remaining:
                    reset = max(0.0, claim.burst - left) / claim.rate
                    scarce = Verdict(True, index, int(left), 0.0, reset)
            elif lease.denied is not None and now < lease.denied_until and claim.cost >= lease.denied_cost:
                self._restore(reserved)
                wait = lease.denied_until - now
                return Verdict(False, index, lease.denied.remaining, wait, max(wait, lease.denied.reset))
            else:
                want = self._want(lease)
                asks.append(Ask(claim.key, claim.cost, claim.rate, claim.burst, want))
                asked.append(index)
        if asks:
            return Pending(asks, asked, reserved)
        for claim in reserved:
            self._spend(claim, now)
        return scarce

    def answered(self, pending: Pending, answer: Answer, sent: float, now: float) -> Verdict:
        """Take in the lender's word on a request. sent: s, before the question left this process."""
        binding = pending.place(answer.binding)
        if not answer.allowed:
            self._restore(pending.reserved)
            self._deny(pending.asks[max(0, answer.binding)], answer, sent)
            return Verdict(False, binding, answer.remaining, answer.retry_after, answer.reset)
        for claim in pending.reserved:
            self._spend(claim, now)
        self._lent(pending.asks, answer, sent)
        return Verdict(True, binding, answer.remaining, 0.0, answer.reset)

    def unanswered(self, pending: Pending) -> None:
        """The lender does not answer: give back what was reserved."""
        self._restore(pending.reserved)

    def refilled(self, ask: Ask, answer: Answer, sent: float) -> None:
        """Take in the lender's word on a refill."""
        lease = self._leases.get(ask.key)
        if lease is None:
            return
        lease.asked = False
        if not any(answer.lent):
            lease.next_ask = sent + HORIZON / 2
        self._lent((ask,), answer, sent)

    def abandoned(self, asks: Sequence[Ask]) -> None:
        """These refills will not be answered."""
        for ask in asks:
            lease = self._leases.get(ask.key)
            if lease is not None:
                lease.asked = False

    def give_back(self, key: bytes, cost: float) -> float:
        """Put `cost` tokens back on a lease where it covers them; returns what the lender must be told."""
        lease = self._leases.get(key)
        if lease is None:
            return cost
        lease.denied_until = -inf
        kept = min(cost, lease.used)
        lease.used -= kept
        lease.tokens += kept
        return cost - kept

    @property
    def is_active(self) -> bool:
        """Whether there is anything to report, now or soon."""
        return bool(self._active)

    def refills(self) -> list[Ask]:
        """The refills to ask for now."""
        asks = list(self.thirsty.values())
        self.thirsty.clear()
        return asks

    def spent(self, asks: Sequence[Ask]) -> list[Told]:
        """What was spent of these asks' buckets: told before them, so that the lender knows what lacks."""
        told = []
        for ask in asks:
            lease = self._leases.get(ask.key)
            if lease is not None and lease.used:
                told.append(Told(ask.key, lease.used, 0.0))
                lease.used = 0.0
        return told

    def reports(self, now: float) -> list[Told]:
        """What the lender has to hear: spending, and leases that lie idle. Called every few tens of ms."""
        told = []
        for key, lease in tuple(self._active.items()):
            self._roll(lease, now)
            returned = 0.0
            if now >= lease.expires:
                self._let_lapse(lease)
            elif now - lease.spent_at >= IDLE:
                returned, lease.tokens = lease.tokens, 0.0
            elif lease.tokens > (keep := 2 * max(WORTH, lease.demand * HORIZON)):
                returned, lease.tokens = lease.tokens - keep, keep
            if lease.used or returned:
                told.append(Told(key, lease.used, returned))
                lease.used = 0.0
            if not lease.tokens:
                del self._active[key]
        return told

    # One lease

    def _count(self, claim: Spending, now: float) -> Lease:
        lease = self._leases.get(claim.key)
        if lease is None:
            if len(self._leases) >= self._max_keys:
                self._forget_oldest()
            lease = self._leases[claim.key] = Lease(now)
        elif now >= lease.window_ends:
            self._roll(lease, now)
        lease.counted += claim.cost
        return lease

    def _roll(self, lease: Lease, now: float) -> None:
        """The window is over: what came in it becomes demand."""
        if now < lease.window_ends:
            return
        elapsed = now - lease.window_ends + WINDOW
        lease.demand = (
            0.5 * lease.demand * 0.5 ** min(60.0, elapsed / WINDOW - 1) + 0.5 * lease.counted / elapsed
        )
        lease.counted = 0.0
        lease.window_ends = now + WINDOW

    @staticmethod
    def _want(lease: Lease) -> float:
        want = lease.demand * HORIZON
        return want if want >= WORTH else 0.0

    def _spend(self, claim: Spending, now: float) -> None:
        """What was reserved is spent; ask for more before it runs dry."""
        lease = self._leases[claim.key]
        lease.used += claim.cost
        lease.spent_at = now
        self._active[claim.key] = lease
        want = self._want(lease)
        if not lease.asked and lease.tokens < want / 2 and now >= lease.next_ask:
            lease.asked = True
            self.thirsty[claim.key] = Ask(claim.key, 0.0, claim.rate, claim.burst, want)

    def _restore(self, claims: Sequence[Spending]) -> None:
        for claim in claims:
            lease = self._leases.get(claim.key)
            if lease is not None:
                lease.tokens += claim.cost

    def _deny(self, ask: Ask, answer: Answer, now: float) -> None:
        """Remember a denial. now: when it was asked; asking a moment too early costs a message, no token."""
        lease = self._leases.get(ask.key)
        if lease is None or answer.retry_after == inf:
            return
        if now < lease.denied_until and ask.cost >= lease.denied_cost:
            return  # a smaller cost was denied for longer
        pause = max(answer.retry_after, BREATH) if ask.rate * BREATH >= 1.0 else answer.retry_after
        lease.denied, lease.denied_cost, lease.denied_until = answer, ask.cost, now + pause

    def _lent(self, asks: Sequence[Ask], answer: Answer, sent: float) -> None:
        for ask, lent in zip(asks, answer.lent, strict=False):
            lease = self._leases.get(ask.key)
            if lease is not None and lent > 0:
                if sent >= lease.expires:
                    self._let_lapse(lease)
                lease.tokens += lent
                lease.expires = sent + self._ttl
                lease.held = float(answer.remaining)
                self._active[ask.key] = lease

    @staticmethod
    def _let_lapse(lease: Lease) -> None:
        """The lender may have taken it for spent: then so do we."""
        lease.used += lease.tokens
        lease.tokens = 0.0

    def _forget_oldest(self) -> None:
        """Make room; a lease with tokens is moved behind the others."""
        for _ in range(len(self._leases)):
            key = next(iter(self._leases))
            lease = self._leases.pop(key)
            if key not in self._active:
                return
            self._leases[key] = lease
        del self._leases[next(iter(self._leases))]

    def __repr__(self) -> str:
        tokens = sum(lease.tokens for lease in self._active.values())
        return (
            f"<Borrower {len(self._leases)} buckets known, {tokens:g} tokens of {len(self._active)} on lease>"
        )
