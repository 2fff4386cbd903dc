"""Quotas as the counters of throttles: the same port, another law (governance/allowance.py).

A claim's key begins with the window, `day Europe/Berlin\\0…`; its burst is the quota. Where the allowances
of this process cover all claims of a request, they are decided at once. Else the ledger is asked for what
lacks, in one call, and the request waits for its word; a ledger in memory answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from gateway.governance.allowance import Allowance, Ask, Drawn, Told
from gateway.governance.windows import window
from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise

MAX_KEYS = 100_000  # allowances that are remembered


class Ledger(Protocol):
    """Knows what was drawn, for everybody who shares it. is_shared: more than this process may do so."""

    is_shared: bool

    def draw(self, asks: Sequence[Ask]) -> Eventual[Sequence[Told]]:
        """Settle and draw, each ask for itself.

        The promise may be rejected with StoreUnavailable.
        """
        ...

    def drawn(self, most: int) -> Eventual[Sequence[Drawn]]:
        """Return what was drawn, of so many keys at most; StoreUnavailable as above."""
        ...


class Quotas:
    """Spends from allowances. Implements ports.CounterStore. wall: s since the epoch.

    calls: to the ledger, so far. decisions: requests decided, so far.
    """

    __slots__ = ("_allowances", "_ledger", "_wall", "calls", "decisions")

    def __init__(self, ledger: Ledger, wall: Callable[[], float]) -> None:
        self.calls = 0
        self.decisions = 0
        self._ledger = ledger
        self._wall = wall
        self._allowances: dict[bytes, Allowance] = {}

    def take(self, claims: Sequence[Claim], now: float) -> Eventual[Grant]:
        """Spend all or none."""
        self.decisions += 1
        wall = self._wall()
        allowances = [self._allowance(claim, wall) for claim in claims]
        lacking: list[int] = []
        for index, (claim, allowance) in enumerate(zip(claims, allowances, strict=True)):
            if allowance.may(claim.cost):
                continue
            if claim.cost > claim.burst:
                return Grant(False, index, int(allowance.left), inf, allowance.free_in(wall))
            if allowance.is_denied(claim.cost, wall):
                return _denied(index, claim, allowance, wall)
            lacking.append(index)
        for index, claim in enumerate(claims):
            if index not in lacking:
                allowances[index].spend(claim.cost, wall)
        if not lacking:
            return _granted(claims, allowances, wall)
        asks = [allowances[index].ask(claims[index].cost, wall) for index in lacking]
        drawn = self._draw(asks)
        if not isinstance(drawn, Promise):
            return self._drawn(claims, allowances, lacking, asks, drawn)
        later: Promise[Grant] = Promise()

        def failed(error: Exception) -> None:
            for ask, index in zip(asks, lacking, strict=True):
                allowances[index].tokens -= ask.settle  # not told, then
            self._restore(claims, allowances, set(range(len(claims))).difference(lacking))
            later.reject(error)

        drawn.then(lambda told: later.resolve(self._drawn(claims, allowances, lacking, asks, told)), failed)
        return later

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        """Charge, into debt if need be, or give back; the ledger hears of it within a second or so."""
        wall = self._wall()
        for claim in claims:
            self._allowance(claim, wall).settle(claim.cost)

    def report(self, idle: float) -> Eventual[None]:
        """Tell the ledger what was spent beyond allowances, and give back those that lie idle for so long.

        Called every second or so, and with 0 at the end.
        """
        wall = self._wall()
        asks = []
        for key, allowance in tuple(self._allowances.items()):
            is_over = wall >= allowance.slot.end
            if is_over or allowance.tokens < 0 or wall - allowance.spent_at >= idle:
                ask = allowance.hand_back()
                if ask is not None:
                    asks.append(ask)
            if is_over and wall >= allowance.slot.start + allowance.slot.hold:
                del self._allowances[key]
        if not asks:
            return None
        told = self._draw(asks)
        if not isinstance(told, Promise):
            return None
        later: Promise[None] = Promise()

        def failed(error: Exception) -> None:
            self._keep_debts(asks)
            if isinstance(error, StoreUnavailable):
                later.resolve(None)
            else:
                later.reject(error)

        told.then(lambda _: later.resolve(None), failed)
        return later

    def drawn(self, most: int) -> Eventual[Sequence[Drawn]]:
        """Return what the ledger says was drawn, of so many keys at most.

        What processes hold and have not spent yet counts as drawn; it is about a second's worth.
        """
        return self._ledger.drawn(most)

    @property
    def is_shared(self) -> bool:
        """Whether other processes count in the same ledger."""
        return self._ledger.is_shared

    def left(self) -> dict[bytes, tuple[float, float]]:
        """Return what is left and the whole, by key, as far as this process knows."""
        wall = self._wall()
        return {
            key: (max(0.0, one.left + one.tokens), one.limit)
            for key, one in self._allowances.items()
            if wall < one.slot.end
        }

    # One request

    def _drawn(
        self,
        claims: Sequence[Claim],
        allowances: Sequence[Allowance],
        lacking: Sequence[int],
        asks: Sequence[Ask],
        told: Sequence[Told],
    ) -> Grant:
        wall = self._wall()
        refused: list[int] = []
        for index, ask, word in zip(lacking, asks, told, strict=True):
            if allowances[index].told(ask, word, wall):
                allowances[index].tokens += ask.need  # told() reserved it: now it is spent
                allowances[index].spend(ask.need, wall)
            else:
                refused.append(index)
        if not refused:
            return _granted(claims, allowances, wall)
        self._restore(claims, allowances, set(range(len(claims))).difference(refused))
        binding = max(refused, key=lambda index: allowances[index].free_in(wall))
        return _denied(binding, claims[binding], allowances[binding], wall)

    @staticmethod
    def _restore(claims: Sequence[Claim], allowances: Sequence[Allowance], which: set[int]) -> None:
        for index in which:
            allowances[index].settle(-claims[index].cost)

    def _draw(self, asks: Sequence[Ask]) -> Eventual[Sequence[Told]]:
        self.calls += 1
        return self._ledger.draw(asks)

    def _allowance(self, claim: Claim, wall: float) -> Allowance:
        one = self._allowances.get(claim.key)
        if one is not None and wall < one.slot.end and one.limit == claim.burst:
            return one
        slot = window(claim.key.partition(b"\0")[0]).at(wall)
        if one is not None:
            back = one.hand_back()
            if back is not None:
                told = self._draw([back])
                if isinstance(told, Promise):
                    told.then(lambda _: None, lambda _: None)
            del self._allowances[claim.key]
        elif len(self._allowances) >= MAX_KEYS:
            self._forget_one()
        one = self._allowances[claim.key] = Allowance(claim.key, claim.burst, slot, wall)
        return one

    def _forget_one(self) -> None:
        """Make room: the one that came first goes, and its tokens with it, if all have some."""
        first = next(iter(self._allowances))
        back = self._allowances.pop(first).hand_back()
        if back is not None:
            told = self._draw([back])
            if isinstance(told, Promise):
                told.then(lambda _: None, lambda _: None)

    def _keep_debts(self, asks: Sequence[Ask]) -> None:
        """The ledger did not hear it: what was spent too much is told next time."""
        for ask in asks:
            one = self._allowances.get(ask.key)
            if one is not None and one.slot.start == ask.slot and ask.settle > 0:
                one.tokens -= ask.settle

    def __repr__(self) -> str:
        return f"<Quotas {len(self._allowances)} allowances | {self._ledger!r}>"


def _granted(claims: Sequence[Claim], allowances: Sequence[Allowance], wall: float) -> Grant:
    shares = [(one.left + one.tokens) / claim.burst for claim, one in zip(claims, allowances, strict=True)]
    binding = shares.index(min(shares))
    one = allowances[binding]
    return Grant(True, binding, max(0, int(one.left + one.tokens + 1e-6)), 0.0, one.free_in(wall))


def _denied(index: int, claim: Claim, one: Allowance, wall: float) -> Grant:
    wait = one.free_in(wall)
    return Grant(False, index, max(0, int(min(one.left, claim.burst))), wait, wait)
