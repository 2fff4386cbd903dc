"""Counters shared by the workers of one host: leases where demand is high, the lender's word where it is not.

What is asked in one turn of the event loop travels as one message. The lender (governance/leases.py) sits at
the other end of whatever `post` writes to; here that is the supervisor. One that doesn't answer within
`timeout` costs the requests under way that long and the next ones nothing: they fail at once with
StoreUnavailable, which is their policies' business (`on_store_failure`), until something is heard again.
Spending from a lease goes on until the lease is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.governance.borrower import Borrower, Pending
from gateway.governance.leases import Answer, Ask, Lender, Told
from gateway.governance.token_bucket import Verdict
from gateway.pipeline.ports import Claim, Grant, StoreUnavailable
from gateway.pipeline.promise import Promise

LATE = 256  # messages given up whose answers are still heeded
TICK = 0.02  # s between two reports, and the resolution of the timeout


class Settled(NamedTuple):
    """Tokens charged (> 0) or given back (< 0) after the fact."""

    key: bytes
    delta: float
    rate: float


class Draw(NamedTuple):
    """One message to the lender: what was spent of leases, what was settled, what is asked, in this order.

    asks: one sequence per request or refill, each all or nothing.
    """

    number: int
    told: Sequence[Told]
    settled: Sequence[Settled]
    asks: Sequence[Sequence[Ask]]


class _Sent(NamedTuple):
    """A message that the lender has not answered. waiting: one per sequence of asks; None: a refill."""

    number: int
    sent: float
    asks: Sequence[Sequence[Ask]]
    waiting: Sequence[tuple[Pending, Promise[Grant]] | None]


def answer(lender: Lender, holder: int, draw: Draw, now: float) -> list[Answer]:
    """Answer one message of a holder: the lender's end."""
    lender.told(holder, draw.told, now)
    for key, delta, rate in draw.settled:
        lender.settle(key, delta, rate, now)
    return [lender.decide(holder, asks, now) for asks in draw.asks]


class LeasedCounters:
    """Token buckets that a lender holds. Implements ports.CounterStore.

    post: sends a message. now: s, monotonic.
    """

    def __init__(
        self,
        post: Callable[[Draw], None],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        timeout: float = 0.1,
    ) -> None:
        self.borrower = Borrower()
        self.is_silent = False  # the lender does not answer
        self._post = post
        self._loop = loop
        self._now = now
        self._timeout = timeout
        self._number = 0
        self._asks: list[Sequence[Ask]] = []
        self._waiting: list[tuple[Pending, Promise[Grant]] | None] = []
        self._settled: list[Settled] = []
        self._flushing = False
        self._sent: deque[_Sent] = deque()
        self._late: dict[int, _Sent] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, claims: Sequence[Claim], now: float) -> Grant | Promise[Grant]:
        """Spend all or none, from leases at once or by the lender's word."""
        taken = self.borrower.take(claims, now)
        if isinstance(taken, Verdict):
            if self.borrower.thirsty:
                self._flush_soon()
            return Grant(*taken)
        promise: Promise[Grant] = Promise()
        if self.is_silent:
            self.borrower.unanswered(taken)
            promise.reject(StoreUnavailable("the supervisor does not answer"))
            return promise
        self._asks.append(taken.asks)
        self._waiting.append((taken, promise))
        self._flush_soon()
        return promise

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        """Charge or give back."""
        for claim in claims:
            delta = claim.cost
            if delta < 0:
                delta = -self.borrower.give_back(claim.key, -delta)
            if delta:
                self._settled.append(Settled(claim.key, delta, claim.rate))
                self._flush_soon()

    def answered(self, number: int, answers: Sequence[Answer]) -> None:
        """Take in the lender's answers to a message."""
        self.is_silent = False
        late = self._late.pop(number, None)
        if late is not None:
            self._undo(late, answers)
        if not self._sent or self._sent[0].number != number:
            return
        sent = self._sent.popleft()
        now = self._now()
        for asks, waiting, answer in zip(sent.asks, sent.waiting, answers, strict=True):
            if waiting is None:
                self.borrower.refilled(asks[0], answer, sent.sent)
            else:
                pending, promise = waiting
                promise.resolve(Grant(*self.borrower.answered(pending, answer, sent.sent, now)))

    def _undo(self, late: _Sent, answers: Sequence[Answer]) -> None:
        """Nobody waits any more: what was granted and lent goes back."""
        told = []
        for asks, answer in zip(late.asks, answers, strict=True):
            if answer.allowed:
                for ask, lent in zip(asks, answer.lent, strict=True):
                    if lent:
                        told.append(Told(ask.key, 0.0, lent))
                    if ask.cost:
                        self._settled.append(Settled(ask.key, -ask.cost, ask.rate))
        self._send(told)

    def close(self) -> None:
        """Stop; who waits is told that there is no store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_silent = True
        self._give_up(self._now() + self._timeout)

    # Sending

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for refill in self.borrower.refills():
            self._asks.append((refill,))
            self._waiting.append(None)
        told = self.borrower.spent([ask for asks in self._asks for ask in asks])
        self._send(told)
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def _send(self, told: Sequence[Told]) -> None:
        if not (told or self._asks or self._settled):
            return
        self._number += 1
        asks, self._asks = self._asks, []
        waiting, self._waiting = self._waiting, []
        settled, self._settled = self._settled, []
        if asks:
            self._sent.append(_Sent(self._number, self._now(), asks, waiting))
        self._post(Draw(self._number, told, settled, asks))

    def _tick(self) -> None:
        """Report what was spent, return what lies idle, and look whether the lender still answers."""
        now = self._now()
        self._timer = None
        self._give_up(now)
        self._send(self.borrower.reports(now))
        if self._sent or self.borrower.is_active:
            self._timer = self._loop.call_later(TICK, self._tick)

    def _give_up(self, now: float) -> None:
        while self._sent and now - self._sent[0].sent >= self._timeout - TICK:
            self.is_silent = True
            sent = self._sent.popleft()
            if len(self._late) < LATE:
                self._late[sent.number] = sent
            for asks, waiting in zip(sent.asks, sent.waiting, strict=True):
                if waiting is None:
                    self.borrower.abandoned(asks)
                else:
                    pending, promise = waiting
                    self.borrower.unanswered(pending)
                    promise.reject(StoreUnavailable("the supervisor did not answer in time"))

    def __repr__(self) -> str:
        state = "silent" if self.is_silent else f"{len(self._sent)} messages under way"
        return f"<LeasedCounters {state} | {self.borrower!r}>"
