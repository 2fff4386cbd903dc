"""How many calls one pool may have under way: as many as bring throughput, within a target latency. No clock.

By Little's law calls under way = throughput x latency. So where dn more are under way and latency rises by dw
(both relative), throughput has risen by dn - dw:

    elasticity = 1 - dw / dn        1: all of it is more work done; 0: all of it is more waiting

It is measured from one window to the next while the limit is used up; as the limit is moved after each, there
is always something to learn. A scalar Kalman filter keeps the slope dw / dn, and how sure of it one may be: a
server that batches shows it in two windows, one whose calls vary tenfold takes many. After each window:

    p90 > target                     down, to just below it, by 30 % at most
    surely elastic                   up, by more the more it is
    surely not                       down by a step
    unsure, and far from the target  up by a step; so, too, who knows nothing yet
    unsure                           up and down by a step in turns: to learn

A target is a bound, not an aim: a server that has its knee at 60 ms isn't filled up to 300 ms. Without one
(`target: auto`) elasticity decides, within what clients give: nine of ten take less than 82 % of the time
that calls have left when they are sent. Laws that read "slower than before" as overload (Vegas, gradients)
park at .6-.8 of the capacity of a server that batches, since there latency rises with useful work
(loadtests/sims/overload.py).

What failed quickly is no sample: it was not slow, and no work was done. What failed late, as by a timeout,
was slow. While more fail than succeed the limit doesn't rise. Calls sent before it was moved say nothing of
where it is now, and are left out.

Source: Little, A Proof for the Queuing Formula L = lambda W (1961); Chiu and Jain (1989) for the bound;
hill climbing by throughput: .NET's thread pool (Hellerstein et al., 2009); Kalman (1960).
"""

from __future__ import annotations

from math import inf, log, sqrt

WINDOW = 0.25  # s that a window takes at least,
ANSWERS = 20  # good answers that it needs at least,
LARGEST = 1000  # and keeps at most: p90 of the first thousand is as good
SHORT, LONG = 1.0, 4.0  # times the mean latency that it takes besides: where little is unclear, and at most
CLEAR = 0.0015  # variance of the mean's logarithm below which little is
RELATED = 3.0  # calls of one window wait for the same others: their mean varies more than if they did not
FLOOR = 1e-4  # variance that no number of answers removes
DRIFT = 0.01  # variance that the slope gains with each window: servers change
BLIND = 0.15  # variance of the slope from which nothing is known
AT_FIRST = 0.25  # the same, before anything is
ODD = 1.5  # a slope beyond it, and beyond three deviations, is a server that has changed meanwhile
GROWS = 0.06  # elasticity that is worth the wait
SURE = 0.7  # deviations from GROWS that count as sure
STEP = 0.12
LEAP = 0.6  # share of the elasticity by which the limit rises
EASY = 0.5  # share of the target below which there is no hurry to know
GIVEN = 0.82  # share of the time that clients give when a call is sent, its wait already taken off


class AdaptiveLimit:
    """Calls that one pool may have under way.

    target: seconds under which nine calls of ten stay; None: by what `give` tells. minimum, maximum: bounds
    of the limit. initial: where it starts. Low, because it doubles within a second or two, and a start above
    the knee fills the backend's own queue before anything is known.
    """

    __slots__ = (
        "_before",
        "_began",
        "_changed_at",
        "_doubt",
        "_failed",
        "_full",
        "_given",
        "_load",
        "_over",
        "_rose",
        "_samples",
        "_seen",
        "_slope",
        "_squares",
        "_total",
        "learns_time",
        "limit",
        "maximum",
        "minimum",
        "target",
    )

    BEYOND = 1.25  # critical calls may go so far beyond the limit: they don't wait for a batch to end

    def __init__(
        self,
        target: float | None,
        *,
        minimum: float = 1.0,
        maximum: float = 1000.0,
        initial: float = 16.0,
    ) -> None:
        if target is not None and target <= 0:
            raise ValueError(f"the target latency must be positive, not {target}")
        self.learns_time = target is None
        self.target: float = inf if target is None else target
        self.minimum = minimum
        self.maximum: float = max(minimum, maximum)
        self.limit: float = min(self.maximum, max(minimum, initial))
        self._given = 0.0
        self._slope = 0.5
        self._doubt = AT_FIRST  # variance of the slope
        self._rose = False  # the last step was one up
        self._changed_at = -inf
        self._before: tuple[float, float, float] | None = None  # ln load, ln latency, its variance
        self._samples: list[float] = []
        self._began = inf
        self._seen = 0
        self._full = 0  # of those seen, how many found the limit used up
        self._failed = 0
        self._over = 0  # took longer than the target
        self._load = 0  # sum of calls under way
        self._total = 0.0
        self._squares = 0.0

    @property
    def urgent(self) -> float:
        """The limit for critical calls."""
        return min(self.maximum, self.limit * self.BEYOND)

    @property
    def elasticity(self) -> float:
        """How much of what is let in more becomes throughput, as far as is known: 0.0 .. 1.0."""
        return max(0.0, 1.0 - self._slope)

    def give(self, seconds: float) -> None:
        """Learn how much time a call has left as it is sent, where no target is written."""
        self._given = seconds if self._given == 0.0 else self._given + 0.05 * (seconds - self._given)
        self.target = GIVEN * self._given

    def record(self, latency: float, ok: bool, in_flight: int, now: float) -> None:
        """Learn from one answer. in_flight: calls under way as it came, itself included."""
        if now - latency < self._changed_at:
            return
        if now < self._began:
            self._began = now
        self._seen += 1
        self._load += in_flight
        if in_flight >= self.limit - 1.0:
            self._full += 1
        if latency > self.target:
            self._over += 1
        elif not ok:
            self._failed += 1
            return
        if len(self._samples) < LARGEST:
            self._samples.append(latency)
        self._total += latency
        self._squares += latency * latency
        if now - self._began >= WINDOW and self._seen - self._failed >= ANSWERS:
            self._look(now)

    def _look(self, now: float) -> None:
        """Move the limit if the window tells enough."""
        count = self._seen - self._failed
        mean = max(1e-6, self._total / count)
        spread = max(0.0, self._squares / count / (mean * mean) - 1.0)
        noise = RELATED * spread / count + FLOOR
        missed = 10 * self._over > count
        full = 2 * self._full >= self._seen
        if full and not missed and count < LARGEST:
            patience = LONG if noise > CLEAR else SHORT
            if now - self._began < WINDOW + patience * mean:
                return
        self._doubt = min(AT_FIRST, self._doubt + DRIFT)
        known = (log(max(1.0, self._load / self._seen)), log(mean), noise)
        if full and self._before is not None:
            self._learn(self._before, known)
        self._before = known if full else None
        self._move(missed, full, now)
        self._samples = []
        self._began = inf
        self._seen = self._full = self._failed = self._over = self._load = 0
        self._total = self._squares = 0.0

    def _learn(self, before: tuple[float, float, float], known: tuple[float, float, float]) -> None:
        """Correct the slope by two windows."""
        more = known[0] - before[0]
        slower = known[1] - before[1]
        noise = known[2] + before[2]
        if abs(more) < 0.02 or abs(slower) > ODD * abs(more) + 3.0 * sqrt(noise):
            return
        gain = self._doubt / (self._doubt + noise / (more * more))
        self._slope = min(1.2, max(0.0, self._slope + gain * (slower / more - self._slope)))
        self._doubt *= 1.0 - gain

    def _move(self, missed: bool, full: bool, now: float) -> None:
        p90 = max(1e-6, sorted(self._samples)[int(0.9 * (len(self._samples) - 1))])
        limit = self.limit
        if missed:
            limit *= min(0.99, max(0.7, 0.97 * self.target / p90))
        elif self._full:
            step = self._step(p90, full)
            if step < 0.0:
                limit *= 1.0 + step
            elif step > 0.0 and 2 * self._failed < self._seen:
                limit = max(limit * min(1.0 + step, max(1.03, self.target / p90)), limit + 1.0)
        limit = min(self.maximum, max(self.minimum, limit))
        if limit != self.limit:
            self._changed_at = now
        self.limit = limit

    def _step(self, p90: float, full: bool) -> float:
        """Return by how much to move, as a share of the limit."""
        easy = p90 < EASY * self.target < inf
        if not full:  # it was used up now and then
            return STEP if easy else 0.0
        above = 1.0 - self._slope - GROWS
        unsure = SURE * sqrt(self._doubt)
        step = STEP
        if above > unsure:
            step = max(STEP, LEAP * (above + GROWS))
        elif above < -unsure or (self._rose and not easy and self._doubt < BLIND):
            step = -STEP
        self._rose = step > 0.0
        return step

    def __repr__(self) -> str:
        return (
            f"<AdaptiveLimit {self.limit:.1f} for {self.target * 1000:g} ms | elasticity "
            f"{1.0 - self._slope:.2f} +- {sqrt(self._doubt):.2f}>"
        )
