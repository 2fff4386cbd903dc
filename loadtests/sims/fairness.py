"""One tenant floods with ten times what the backend can do: do the others notice?

Nine tenants behave: together they ask for half of the capacity, each in its own rhythm. The tenth asks for
little, then for 10 x the capacity, then for little again. Clients give 500 ms. The backend (sixteen servers
with lognormal work; one that batches) is behind a fixed limit, the same for all, so that only the order
of service differs; the queue in front of it is bounded by 1,000, ours by half of that limit as in the
gateway. In time: answers within 500 ms to the calls that the nine make during the flood. Used: work done
during the flood over what the backend can do in it.

    fifo      one line, first come first served, nobody dropped
    lifo      one line, last come first served
    static    each tenant may have its tenth of the capacity (token bucket, 1 s of burst), then fifo
    turns     a line per tenant, round robin
    ours      FairQueue: start-time fair queueing by cost, deadline drop by the tail, newest when old
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gateway.governance.fair_queue import FairQueue
from gateway.governance.quantile import RecentQuantile
from gateway.pipeline.pool_queue import FEWEST, SHARE
from loadtests.sims.overload import Batching, Events, Servers
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROMISE = 0.5
BEFORE, FLOOD, AFTER = 5.0, 20.0, 5.0
POLITE = 9
WAITING = 1000


class Call(NamedTuple):
    """One request: its number, when it came, whose it is (9: who floods)."""

    number: int
    at: float
    tenant: int


class Line(Protocol):
    """Who waits, and who goes next."""

    def push(self, call: Call, now: float) -> None: ...

    def pop(self, now: float, tail: float) -> Call | None: ...


class Fifo:
    def __init__(self, backend: Servers) -> None:
        self._calls: deque[Call] = deque()

    def push(self, call: Call, now: float) -> None:
        if len(self._calls) < WAITING:
            self._calls.append(call)

    def pop(self, now: float, tail: float) -> Call | None:
        return self._calls.popleft() if self._calls else None


class Lifo(Fifo):
    def push(self, call: Call, now: float) -> None:
        if len(self._calls) >= WAITING:
            self._calls.popleft()
        self._calls.append(call)

    def pop(self, now: float, tail: float) -> Call | None:
        return self._calls.pop() if self._calls else None


class Static(Fifo):
    def __init__(self, backend: Servers) -> None:
        super().__init__(backend)
        self._rate = backend.capacity / (POLITE + 1)  # calls/s of each tenant
        self._left = [self._rate] * (POLITE + 1)
        self._seen = [0.0] * (POLITE + 1)

    def push(self, call: Call, now: float) -> None:
        tenant = call.tenant
        more = (now - self._seen[tenant]) * self._rate
        self._left[tenant] = min(self._rate, self._left[tenant] + more)
        self._seen[tenant] = now
        if self._left[tenant] >= 1.0:
            self._left[tenant] -= 1.0
            super().push(call, now)


class Turns:
    def __init__(self, backend: Servers) -> None:
        self._lines: list[deque[Call]] = [deque() for _ in range(POLITE + 1)]
        self._turn = 0

    def push(self, call: Call, now: float) -> None:
        if len(self._lines[call.tenant]) < WAITING // (POLITE + 1):
            self._lines[call.tenant].append(call)

    def pop(self, now: float, tail: float) -> Call | None:
        for _ in self._lines:
            self._turn = (self._turn + 1) % len(self._lines)
            if self._lines[self._turn]:
                return self._lines[self._turn].popleft()
        return None


class Ours:
    def __init__(self, backend: Servers) -> None:
        limit = max(FEWEST, int(backend.best * SHARE))
        self._queue: FairQueue[Call] = FairQueue(limit, lambda call, why: None)

    def push(self, call: Call, now: float) -> None:
        self._queue.push(call, now, call.at + PROMISE, tenant=str(call.tenant))

    def pop(self, now: float, tail: float) -> Call | None:
        return self._queue.pop(now, tail)


LINES: dict[str, Callable[[Servers], Line]] = {
    "fifo": Fifo,
    "lifo": Lifo,
    "static": Static,
    "turns": Turns,
    "ours": Ours,
}
BACKENDS: dict[str, Callable[[Random], Servers]] = {
    "servers": Servers,
    "batching": Batching,
    "held out: 48 servers, heavy tail": lambda rng: Servers(rng, 48, 0.04, 0.9),
    "held out: batches of 16": lambda rng: Batching(rng, 16, 0.02, 0.005),
}
HELD_OUT = tuple(name for name in BACKENDS if name.startswith("held out"))


class Outcome(NamedTuple):
    """Shares: of the nine's calls in time while the tenth floods, and the tenth's; work done of possible."""

    others: float
    flooder: float
    used: float
    p99: float


def simulate(make: Callable[[Random], Servers], line: Callable[[Servers], Line], seed: int) -> Outcome:
    """One run; p99 is of the nine's answered calls, ms."""
    rng = Random(seed)
    events = Events()
    backend = make(rng)
    waiting = line(backend)
    tail = RecentQuantile(0.95, warm_up=20, window=1.0)
    sent: dict[int, float] = {}
    calls: list[Call] = []
    finished: dict[int, float] = {}
    end = BEFORE + FLOOD + AFTER
    polite = 0.5 * backend.capacity
    now, upcoming = 0.0, 0.0
    pending = events.next()
    while upcoming < end or pending is not None:
        if pending is not None and pending[0] <= upcoming:
            now = pending[0]
            backend.done()
            for number in pending[1]:
                finished[number] = now
                tail.observe(now - sent.pop(number), now)
            backend.work(now, 1.0, events)
        elif upcoming < end:
            now = upcoming
            flood = 10.0 * backend.capacity if BEFORE <= now < BEFORE + FLOOD else 0.05 * backend.capacity
            theirs = rng.random() * (polite + flood) >= polite
            call = Call(len(calls), now, POLITE if theirs else rng.randrange(POLITE))
            calls.append(call)
            waiting.push(call, now)
            upcoming = now + rng.expovariate(polite + flood)
        else:
            break
        while len(sent) < backend.best:
            next_ = waiting.pop(now, tail.value() or 0.0)
            if next_ is None:
                break
            sent[next_.number] = now
            backend.take(next_.number, now, 1.0, events)
        if pending is not None and pending[0] > now:
            events.add(*pending)
        pending = events.next()
    flooded = [call for call in calls if BEFORE <= call.at < BEFORE + FLOOD]
    nine = [call for call in flooded if call.tenant < POLITE]
    tenth = [call for call in flooded if call.tenant == POLITE]
    done = sum(BEFORE <= at < BEFORE + FLOOD for at in finished.values())
    times = sorted(finished[call.number] - call.at for call in nine if call.number in finished)
    return Outcome(
        _in_time(nine, finished),
        _in_time(tenth, finished),
        done / (backend.capacity * FLOOD),
        times[int(0.99 * (len(times) - 1))] * 1000,
    )


def _in_time(calls: list[Call], finished: dict[int, float]) -> float:
    return sum(finished.get(call.number, inf) - call.at <= PROMISE for call in calls) / len(calls)


def run() -> Report:
    """Each order of service on each backend; ours three times."""
    rows: list[list[Cell]] = []
    ours: dict[str, Outcome] = {}
    for name, backend in BACKENDS.items():
        for label, line in LINES.items():
            seeds = (1, 2, 3) if label == "ours" else (1,)
            several = [simulate(backend, line, seed) for seed in seeds]
            mean = Outcome(*(sum(values) / len(seeds) for values in zip(*several, strict=True)))
            if label == "ours":
                ours[name] = mean
            rows.append([name, label, *(round(value, 4) for value in mean[:3]), round(mean.p99, 1)])
    tuned = [name for name in BACKENDS if name not in HELD_OUT]
    return Report(
        "Fairness: one tenant floods with 10 x the capacity",
        "Nothing was tuned here; the queue is as long as the gateway's.",
        ("backend", "order", "others in time", "flooder in time", "used", "others' p99 ms"),
        rows,
        (
            Target("the others in time, least of two", min(ours[n].others for n in tuned), ">=", 0.999),
            Target("the backend used, least of two", min(ours[n].used for n in tuned), ">=", 0.99),
            Target("the others in time, held out", min(ours[n].others for n in HELD_OUT), ">=", 0.999),
            Target("the backend used, held out", min(ours[n].used for n in HELD_OUT), ">=", 0.99),
        ),
        lambda axes: _draw(axes, rows),
    )


def _draw(axes: Axes, rows: list[list[Cell]]) -> None:
    names = list(BACKENDS)
    for index, label in enumerate(LINES):
        values = [float(row[2] or 0.0) for row in rows if row[1] == label]
        axes.barh([i - 0.15 * index for i in range(len(names))], values, 0.14, label=label)
    axes.set_yticks([i - 0.3 for i in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("share of the others' calls in time")
    axes.legend(frameon=False, fontsize=7, ncol=5, loc="lower center", bbox_to_anchor=(0.4, 1.02))
