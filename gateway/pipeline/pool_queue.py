"""The queue in front of a full pool: who waits, who is woken, who is turned away.

    acquire finds the pool full ─► wait ─► FairQueue (importance, then fairness by tenant and cost, then age)
    released                    ─► next one's turn: it acquires what became free
    sweep, every 50 ms while anybody waits: who can't be served in time any more is turned away

A call waits at most as long as the queue's `wait`, and only while its request could still be answered in
time: now + p95 of the pool's recent calls <= deadline. The p95 is measured only while at least half of the
pool is taken; a pool that never was full has no queue and measures nothing. Who is turned away gets 503
`overloaded` with a Retry-After of the time in which the queue drains at its present rate, and up to two
seconds by chance on top, so that they don't all come back at once.

The queue is short, half of what may be under way: a longer one gains nothing under overload, and keeps those
waiting whom it will turn away in the end. So nearly all that are refused are refused at once.

Waking never recurses. A waiter that is woken may fail at once and release, or make another one leave: that
only adds to what the outermost `pump` still has to do, so a thousand released in one turn need one frame.
Hedges and copies don't wait: they are worth something only where there is room. A retry does: its budget
bounds how many there are. Each worker has its own queue and its own limit.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gateway.dialects.tensors import rows
from gateway.governance.fair_queue import HOPE, Dropped, FairQueue, Waiting
from gateway.governance.histogram import Histogram
from gateway.governance.quantile import RecentQuantile
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Overloaded
from gateway.pipeline.ports import Cancellable, Clock, Ids, Timers

SWEEP = 0.05  # s between two looks for those that are late
SHARE = 0.5  # of the pool's limit may wait: longer queues add waits, not good answers (loadtests/sims)
FEWEST = 8  # may wait in any case
LONGEST = 30.0  # s of any Retry-After
SCATTER = 2.0  # s, at most, added to it by chance
WAITS: tuple[float, ...] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, s, of the histogram of waits."""

LATE, CROWDED = Dropped.LATE, Dropped.CROWDED


class Waiter(Protocol):
    """One that waits. It hears one of the two, once, unless it is withdrawn. Neither may raise."""

    def on_turn(self) -> None:
        """A place became free: take it now."""
        ...

    def on_turned_away(self, error: Overloaded) -> None:
        """It waits no longer."""
        ...


class Bounded(Protocol):
    """What the queue asks of its pool."""

    in_flight: int

    @property
    def limit(self) -> float:
        """Calls that may be under way now."""
        ...

    @property
    def urgent_limit(self) -> float:
        """The same for critical ones."""
        ...


class PoolQueue:
    """Those that wait for one pool.

    served, turned_away: counts; the latter by why: late, crowded (others go first), full. waits: histogram of
    s that those served have waited.
    """

    __slots__ = (
        "_clock",
        "_dropped",
        "_fair",
        "_ids",
        "_pool",
        "_pumping",
        "_quantile",
        "_rate",
        "_served_before",
        "_size",
        "_swept_at",
        "_texts",
        "_timer",
        "_timers",
        "_unknown",
        "_wait",
        "served",
        "turned_away",
        "waits",
    )

    def __init__(
        self,
        pool: Bounded,
        name: str,
        ids: Ids,
        clock: Clock,
        timers: Timers,
        *,
        size: int | None,
        old: float,
        wait: float,
        unknown: float,
    ) -> None:
        """size, old: of FairQueue; size None: half the pool's limit. wait: longest wait, s.

        unknown: tail while none is measured, s.
        """
        self._pool = pool
        self._ids = ids
        self._clock = clock
        self._timers = timers
        self._wait = wait
        self._unknown = unknown
        self._quantile = RecentQuantile(0.95, warm_up=20, window=1.0)
        self._dropped: deque[tuple[Waiter, Dropped]] = deque()
        self._size = size
        self._fair: FairQueue[Waiter] = FairQueue(size or FEWEST, self._leaves, old)
        self._pumping = False
        self._timer: Cancellable | None = None
        self._swept_at = 0.0
        self._served_before = 0
        self._rate = 0.0  # served per second, while somebody waits
        self._texts = {
            LATE: f"pool '{name}' is full, and the request could not have been answered in time",
            CROWDED: f"pool '{name}' is full, and others go first",
            None: f"pool '{name}' is full, and so is its queue",
        }
        self.served = 0
        self.turned_away = {"late": 0, "crowded": 0, "full": 0}
        self.waits = Histogram(WAITS)

    @property
    def size(self) -> int:
        """How many wait."""
        return self._fair.size

    @property
    def tail(self) -> float:
        """Seconds that nearly all calls of the pool take (p95)."""
        known = self._quantile.value()
        return self._unknown if known is None else known

    def age(self, now: float) -> float:
        """Seconds that the longest waiting one has waited."""
        return self._fair.age(now)

    def refuses(self, ctx: Context) -> Overloaded | None:
        """Refuse at once who would find the pool full and no place here; None: let it try.

        Asked before anything is made ready to be sent: what is refused in numbers must cost little.
        """
        pool, fair = self._pool, self._fair
        if fair.size < fair.limit or pool.in_flight < (pool.limit if ctx.importance else pool.urgent_limit):
            return None
        if fair.has_room(_tenant(ctx), ctx.importance):
            return None
        return self._overloaded(None)

    def wait(self, waiter: Waiter, ctx: Context) -> Waiting[Waiter] | Overloaded:
        """Let a request wait that found the pool full; an error where it need not begin to.

        Call `tell` next: others may have had to make room.
        """
        now = ctx.now
        tail = self.tail
        if now + (tail if ctx.importance else tail * HOPE) > ctx.deadline:
            return self._overloaded(LATE)
        if self._size is None:
            self._fair.limit = max(FEWEST, int(self._pool.limit * SHARE))
        until = now + self._wait + tail
        waiting = self._fair.push(
            waiter,
            now,
            min(until, ctx.deadline),
            tenant=_tenant(ctx),
            importance=ctx.importance,
            cost=1.0 if ctx.parsed is None else float(max(1, rows(ctx.parsed))),
        )
        if waiting is None:
            return self._overloaded(None)
        if self._timer is None:
            self._swept_at = now
            self._served_before = self.served
            self._timer = self._timers.at(now + SWEEP, self._sweep)
        return waiting

    def tell(self, now: float) -> None:
        """Tell those that made room for the last one."""
        if self._dropped:
            self.pump(now)

    def withdraw(self, waiting: Waiting[Waiter]) -> None:
        """Its client left, or the request failed otherwise."""
        self._fair.withdraw(waiting)
        if not self._fair.size:
            self._rest()

    def released(self, now: float) -> None:
        """A place became free, and nothing was learnt."""
        if self._fair.size:
            self.pump(now)

    def learn(self, latency: float, now: float) -> None:
        """One call took so long, s; learnt from only where the pool is well used."""
        if 2 * (self._pool.in_flight + 1) >= self._pool.limit:
            self._quantile.observe(latency, now)
        if self._fair.size:
            self.pump(now)

    def pump(self, now: float) -> None:
        """Wake as many as there is room for, and tell those that were dropped."""
        if self._pumping:
            return
        self._pumping = True
        pool, fair, dropped = self._pool, self._fair, self._dropped
        try:
            while True:
                if dropped:
                    waiter, why = dropped.popleft()
                    waiter.on_turned_away(self._overloaded(why))
                elif fair.size and pool.in_flight < (pool.urgent_limit if fair.critical else pool.limit):
                    next_ = fair.pop(now, self.tail)
                    if next_ is not None:
                        self.served += 1
                        next_.on_turn()
                else:
                    break
        finally:
            self._pumping = False
        if not fair.size:
            self._rest()

    def _sweep(self) -> None:
        """Turn away who is late; measure how fast the queue drains."""
        self._timer = None
        now = self._clock.now()
        elapsed = now - self._swept_at
        if elapsed > 0.0:
            rate = (self.served - self._served_before) / elapsed
            self._rate = rate if self._rate == 0.0 else self._rate + 0.2 * (rate - self._rate)
        self._swept_at = now
        self._served_before = self.served
        self._fair.expire(now, self.tail)
        self.pump(now)
        if self._fair.size and self._timer is None:
            self._timer = self._timers.at(now + SWEEP, self._sweep)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leaves(self, waiter: Waiter, why: Dropped) -> None:
        """FairQueue drops one: it is told once the queue is at rest, since it may come back to the queue."""
        self._dropped.append((waiter, why))

    def _overloaded(self, why: Dropped | None) -> Overloaded:
        self.turned_away["full" if why is None else why.value] += 1
        drains = self._fair.size / self._rate if self._rate > 0.0 else 0.0
        return Overloaded(self._texts[why], min(LONGEST, drains) + SCATTER * self._ids.chance())

    def __repr__(self) -> str:
        return f"<PoolQueue {self._fair!r} | {self.served} served, tail {self.tail * 1000:.1f} ms>"


def _tenant(ctx: Context) -> str:
    principal = ctx.principal
    return ctx.client if principal is None else principal.tenant or principal.name
