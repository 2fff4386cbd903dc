"""The borrowing end of rate_leases.py: spends from shares of a rate at once, and says what to ask the lender.

What a holder wants is its demand, counted per window and smoothed, taken as it is when it moves by more than
noise can. A share is renewed at half its life, at once when demand moved, and handed back when nobody asks
for it any more. A holder that ran dry asks for more at once, and then with growing pauses while all of the
rate is out: what it is denied costs nobody a message. Where demand is about the limit it asks more often, for
then chance has left what it lacks with another, who gives back what is above FILL as soon as it is full.
When all begin at once, the first to speak gets more than is fair, so a new share is renewed soon.
A bucket that is too small to be lent, to so many holders or at all, or an `exact` one, is asked for each
request; what was denied is not asked again before it can pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

from gateway.governance.rate_leases import FILL, HEADROOM, TTL, Draw, Word
from gateway.governance.token_bucket import UNLIMITED, Spending, Verdict

WINDOW = 0.05  # s over which demand is counted
SMOOTH = 0.1  # weight of the newest window
FIRST_PAUSE = 0.03  # s between two asks of a holder whose demand moves
DRY_PAUSE = 0.06  # s between two asks of one that ran dry by chance
LONGEST_PAUSE = 0.2  # s, where demand is far above the limit
NEAR = 0.9  # of a want that is met: demand is about the limit
IDLE = 0.03  # s without a spending after which a share goes back
IDLE_SPENDINGS = 9.0  # nor before so many might have come
WORTH = 20.0  # tokens/s: a smaller demand is asked request by request
EXACT = b"exact "  # a key that begins so is never lent
SMALL_RATE = 50.0  # tokens/s: a slower bucket is never lent, each of its requests is decided exactly
SMALL_BURST = 16.0  # tokens: nor is a smaller one
RICH = 0.7  # of its cap: a holder with more gives back what is above FILL when it renews
YOUNG, YOUNG_PAUSE = 0.3, 0.1  # s: a new share is renewed so often, for the others begin, too
FULL = 0.97  # of its cap: … and now, for what comes in would be lost
FULL_PAUSE = 0.12  # s between two such returns
TINY = 1e-9


class _Share:
    """What a borrower knows of one bucket."""

    __slots__ = (
        "asked_at",
        "at",
        "burst",
        "cap",
        "counted",
        "demand",
        "denied_cost",
        "denied_until",
        "expires",
        "flow",
        "is_small",
        "key",
        "lent_at",
        "pause",
        "rate",
        "remaining",
        "spent_at",
        "tokens",
        "told",
        "window_from",
    )

    def __init__(self, claim: Spending, now: float) -> None:
        self.key = claim.key
        self.rate = claim.rate
        self.burst = claim.burst
        self.is_small = claim.rate < SMALL_RATE or claim.burst < SMALL_BURST or claim.key.startswith(EXACT)
        self.tokens = 0.0
        self.at = now  # up to here the flow is in the tokens
        self.flow = 0.0
        self.cap = 0.0
        self.expires = -inf
        self.lent_at = -inf  # when the flow began
        self.demand = 0.0  # tokens/s
        self.counted = 0.0  # asked for in the window
        self.window_from = now
        self.spent_at = now
        self.asked_at = -inf
        self.told = 0.0  # what the lender believes to be wanted
        self.pause = FIRST_PAUSE
        self.denied_until = -inf
        self.denied_cost = inf
        self.remaining = 0

    def accrue(self, now: float) -> None:
        if now >= self.expires:
            self.tokens = min(self.tokens, 0.0)
            self.flow = 0.0
        elif now > self.at:
            self.tokens = min(self.cap, self.tokens + self.flow * (now - self.at))
        self.at = now

    def roll(self, now: float) -> None:
        """The window is over: what came in it becomes demand."""
        elapsed = now - self.window_from
        if elapsed < WINDOW:
            return
        seen = self.counted / elapsed
        noise = 2.5 * sqrt(self.demand * elapsed) + 1.5
        if abs(self.counted - self.demand * elapsed) > noise or elapsed > 4 * WINDOW:
            self.demand = seen
        else:
            self.demand += SMOOTH * (seen - self.demand)
        self.counted = 0.0
        self.window_from = now

    def wants(self, now: float) -> float:
        """Tokens/s: the smoothed demand, or what this window has seen where that is far more."""
        elapsed = max(now - self.window_from, 0.02)
        demand = self.demand
        if self.counted > demand * elapsed + 3.0 * sqrt(demand * elapsed) + 4.0:
            demand = self.counted / elapsed
        return demand if demand >= WORTH else 0.0

    def __repr__(self) -> str:
        return f"<share {self.tokens:.1f} of {self.cap:.1f} tokens, {self.flow:.1f}/s>"


class Wish:
    """A request that waits for the lender's word: what it asks, and what shares gave meanwhile."""

    __slots__ = ("asked", "draws", "reserved")

    def __init__(self, draws: Sequence[Draw], asked: Sequence[int], reserved: Sequence[Spending]) -> None:
        self.draws = draws
        self.asked = asked  # where the draws stand among the request's claims
        self.reserved = reserved


class RateBorrower:
    """Spends from shares and says what to ask the lender. One per process."""

    __slots__ = ("_active", "_max_keys", "_shares")

    def __init__(self, max_keys: int = 100_000) -> None:
        self._shares: dict[bytes, _Share] = {}
        self._active: dict[bytes, _Share] = {}  # those with a flow
        self._max_keys = max_keys

    def take(self, claims: Sequence[Spending], now: float) -> Verdict | Wish:
        """Spend all or none from shares; a Wish where the lender must be asked, for what lacks."""
        draws: list[Draw] = []
        asked: list[int] = []
        reserved: list[Spending] = []
        scarce = UNLIMITED
        for index, claim in enumerate(claims):
            share = self._counted(claim, now)
            if share.tokens + TINY >= claim.cost:
                share.tokens -= claim.cost
                share.spent_at = now
                reserved.append(claim)
                left = int(share.tokens) + share.remaining
                if scarce is UNLIMITED or left < scarce.remaining:
                    scarce = Verdict(True, index, left, 0.0, max(0.0, claim.burst - left) / claim.rate)
                continue
            wants = 0.0 if share.is_small else share.wants(now)
            if self._is_denied(share, claim.cost, wants, now):
                self._restore(reserved)
                wait = share.denied_until - now
                if share.flow > 0:
                    wait = max(wait if wants == 0 else 0.0, (claim.cost - share.tokens) / share.flow)
                reset = max(wait, (claim.burst - max(0.0, share.tokens)) / claim.rate)
                return Verdict(False, index, max(0, int(share.tokens)), wait, reset)
            draws.append(self._draw(share, claim.cost, wants, now))
            asked.append(index)
        if draws:
            return Wish(draws, asked, reserved)
        return scarce

    def answered(self, wish: Wish, word: Word, sent: float, now: float) -> Verdict:
        """Take in the lender's word on a request. sent: s, before the question left this process."""
        self.refreshed(wish.draws, word, sent, now)
        binding = wish.asked[word.binding]
        if word.allowed:
            return Verdict(True, binding, word.remaining, 0.0, word.reset)
        self._restore(wish.reserved)
        draw = wish.draws[word.binding]
        share = self._shares.get(draw.key)
        if share is not None and not share.cap and word.retry_after < inf:
            share.denied_until, share.denied_cost = sent + word.retry_after, draw.cost
        return Verdict(False, binding, word.remaining, word.retry_after, word.reset)

    def refreshed(self, draws: Sequence[Draw], word: Word, sent: float, now: float) -> None:
        """Take in the shares of a word."""
        for draw, given in zip(draws, word.shares, strict=True):
            share = self._shares.get(draw.key)
            if share is None or draw.wants == 0:
                continue
            share.accrue(now)
            share.remaining = word.remaining if draw is draws[word.binding] else share.remaining
            if given.flow and not share.flow:
                share.lent_at = now
            share.flow, share.cap = given.flow, given.cap
            share.tokens = min(share.cap, share.tokens + given.tokens)
            share.expires = sent + TTL if given.flow else -inf
            if given.flow:
                self._active[draw.key] = share
            if not given.fair:  # the centre decides each request
                share.denied_until = -inf
                continue
            is_settled = 0.9 * given.fair <= given.flow < 0.98 * HEADROOM * draw.wants
            longest = DRY_PAUSE if given.fair >= NEAR * draw.wants else LONGEST_PAUSE
            share.pause = min(longest, 2 * share.pause) if is_settled else DRY_PAUSE
            share.denied_until = sent + share.pause
            share.denied_cost = 0.0

    def unanswered(self, wish: Wish) -> None:
        """The lender does not answer: give back what was reserved."""
        self._restore(wish.reserved)

    def settle(self, claim: Spending, now: float) -> float:
        """Charge claim.cost (< 0: give back) to a share; returns what the lender must be told."""
        share = self._shares.get(claim.key)
        if share is None:
            return claim.cost
        if claim.cost < 0:
            share.denied_until = -inf
        share.accrue(now)
        if share.flow <= 0:
            return claim.cost
        share.tokens = min(share.cap, share.tokens - claim.cost)
        return 0.0

    def due(self, now: float) -> list[Draw]:
        """What the lender has to hear unasked: renewals, changes, returns. Called every few tens of ms."""
        draws = []
        for share in tuple(self._active.values()):
            share.accrue(now)
            share.roll(now)
            if share.flow <= 0:
                del self._active[share.key]
                continue
            idle = now - share.spent_at
            if idle >= max(IDLE, IDLE_SPENDINGS / share.demand if share.demand > 1.0 else IDLE):
                draws.append(self._hand_back(share))
            elif self._has_changed(share, now) and now - share.asked_at >= FIRST_PAUSE:
                wants = max(share.wants(now), WORTH)
                surplus = self._surplus(share)
                share.tokens -= surplus
                draws.append(self._draw(share, 0.0, wants, now)._replace(charge=-surplus))
        return draws

    def leave(self, now: float) -> list[Draw]:
        """Hand all shares back: this process stops."""
        for share in self._active.values():
            share.accrue(now)
        return [self._hand_back(share) for share in tuple(self._active.values())]

    @property
    def is_active(self) -> bool:
        """Whether there is anything to tell, now or soon."""
        return bool(self._active)

    # One share

    def _counted(self, claim: Spending, now: float) -> _Share:
        share = self._shares.get(claim.key)
        if share is None:
            if len(self._shares) >= self._max_keys:
                self._forget_one()
            share = self._shares[claim.key] = _Share(claim, now)
        elif now - share.window_from >= WINDOW:
            share.roll(now)
        share.counted += claim.cost
        if share.flow:
            share.accrue(now)
        return share

    def _hand_back(self, share: _Share) -> Draw:
        del self._active[share.key]
        draw = Draw(share.key, 0.0, share.rate, share.burst, 0.0, share.tokens)
        share.tokens = share.flow = share.demand = share.told = 0.0
        share.expires = -inf
        return draw

    @staticmethod
    def _is_denied(share: _Share, cost: float, wants: float, now: float) -> bool:
        if now >= share.denied_until or cost < share.denied_cost:
            return False
        return not (wants > 2.0 * share.told and now - share.asked_at >= FIRST_PAUSE / 2)

    @staticmethod
    def _has_changed(share: _Share, now: float) -> bool:
        if share.expires - now < TTL / 2 or share.wants(now) < 0.6 * share.told:
            return True
        if now - share.lent_at < YOUNG and now - share.asked_at >= YOUNG_PAUSE:
            return True
        return share.tokens > FULL * share.cap and now - share.asked_at >= FULL_PAUSE

    @staticmethod
    def _surplus(share: _Share) -> float:
        """What a rich holder can do without; lost where the lender does not hear it."""
        return share.tokens - FILL * share.cap if share.tokens > RICH * share.cap else 0.0

    @staticmethod
    def _draw(share: _Share, cost: float, wants: float, now: float) -> Draw:
        if wants > 2.0 * share.told:
            share.pause = FIRST_PAUSE / 2
        if wants:
            share.asked_at = now
            share.told = wants
        return Draw(share.key, cost, share.rate, share.burst, wants, share.tokens)

    def _restore(self, claims: Sequence[Spending]) -> None:
        for claim in claims:
            self._shares[claim.key].tokens += claim.cost

    def _forget_one(self) -> None:
        for key in self._shares:
            if key not in self._active:
                del self._shares[key]
                return
        del self._shares[next(iter(self._shares))]

    def __repr__(self) -> str:
        flow = sum(share.flow for share in self._active.values())
        return (
            f"<RateBorrower {len(self._shares)} buckets known, {flow:.1f}/s of {len(self._active)} on lease>"
        )
