"""Circuit breaker: a table of transitions, no clock, no I/O.

    closed    -- failures or slow calls reach their share of >= min_calls,
                 or failures in a row reach `consecutive` ------------->  open
    open      -- the cool-down is over --------------------------------->  half_open
    half_open -- a probe fails or is slow ------------------------------>  open, cooling down twice as long
    half_open -- `probes` probes in a row succeed ---------------------->  closed

Closed means that traffic flows. The window is two half-windows (the one being filled and the one
before), so memory is O(1) and a decision rests on the last half to whole window.

A permit is an integer. All calls of one closed period carry that period's number, and each probe carries
a number of its own, which is a lease: it ends with the probe's outcome, or when `probe_timeout` has
passed. So a probe that is never reported cannot block the breaker, and the late outcome of a call from
an earlier period or of an expired lease changes nothing. The number of probes under way starts at one
and doubles with every success, up to `probes`.

Source: Nygard, Release It!, ch. 5; Sentinel's slow-call ratio; resilience4j #903, #935, #1568 (leaked
half-open permits).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NewType


class State(Enum):
    """What a breaker does with a call."""

    CLOSED = "closed"  # lets it through
    OPEN = "open"  # refuses it
    HALF_OPEN = "half_open"  # lets a few through, to find out


class Event(Enum):
    """What moves a breaker."""

    TRIPPED = "tripped"
    COOLED = "cooled"
    RELAPSED = "relapsed"
    PROVED = "proved"


TRANSITIONS = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.COOLED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.RELAPSED): State.OPEN,
    (State.HALF_OPEN, Event.PROVED): State.CLOSED,
}

Permit = NewType("Permit", int)


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens and how it closes again; durations in seconds, shares 0..1.

    errors: share of failures that opens it. slow_over: a call that takes longer is slow (None: none is).
    slow_ratio: share of slow calls that opens it. consecutive: failures in a row that open it, whatever
    the shares (0: none do). min_calls: fewer outcomes within the window decide
    nothing. cool_down: first time open; doubles with each relapse up to max_cool_down, plus up to
    `jitter` of itself. probes: successes that close it, and most probes at once. probe_timeout: a probe
    not heard of for so long gives its place to another.
    """

    errors: float = 0.5
    slow_over: float | None = None
    slow_ratio: float = 1.0
    consecutive: int = 0
    min_calls: int = 20
    window: float = 10.0
    cool_down: float = 5.0
    max_cool_down: float = 60.0
    jitter: float = 0.1
    probes: int = 1
    probe_timeout: float = 30.0


class Breaker:
    """One breaker. rng: uniform in [0, 1), for the jitter of the cool-down."""

    __slots__ = (
        "_calls",
        "_calls_before",
        "_closed_permit",
        "_failures",
        "_failures_before",
        "_half",
        "_half_ends",
        "_in_a_row",
        "_last_permit",
        "_leases",
        "_probes_passed",
        "_relapses",
        "_rng",
        "_slow",
        "_slow_before",
        "_slow_over",
        "changes",
        "open_until",
        "opened_at",
        "settings",
        "slow_calls",
        "state",
    )

    def __init__(self, settings: BreakerSettings, rng: Callable[[], float]) -> None:
        self.settings = settings
        self.state = State.CLOSED
        self.opened_at: float | None = None  # when it last opened
        self.open_until = 0.0
        self.changes = 0  # transitions so far
        self.slow_calls = 0  # so far, of those that were counted
        self._rng = rng
        self._slow_over = inf if settings.slow_over is None else settings.slow_over
        self._half = settings.window / 2
        self._half_ends = -inf
        self._calls = self._failures = self._slow = 0
        self._calls_before = self._failures_before = self._slow_before = 0
        self._in_a_row = 0
        self._relapses = 0
        self._probes_passed = 0
        self._last_permit = 1
        self._closed_permit = Permit(1)
        self._leases: dict[Permit, float] = {}  # probe -> instant at which its lease ends

    # Letting calls through

    def admits(self, now: float) -> bool:
        """Tell whether `admit` would give a permit now; takes none."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN:
            return now >= self.open_until
        return self._leased(now) < self._probes_allowed()

    def admit(self, now: float) -> Permit | None:
        """Take a permit, to be given back with `record`; None: don't call."""
        if self.state is State.CLOSED:
            return self._closed_permit
        if self.state is State.OPEN:
            if now < self.open_until:
                return None
            self._move(Event.COOLED)
        if self._leased(now) >= self._probes_allowed():
            return None
        permit = self._new_permit()
        self._leases[permit] = now + self.settings.probe_timeout
        return permit

    def retry_after(self, now: float) -> float:
        """Seconds until a call may be let through; 0.0 when one may be now."""
        if self.admits(now):
            return 0.0
        if self.state is State.OPEN:
            return self.open_until - now
        return max(0.0, min(self._leases.values()) - now)

    # Learning from outcomes

    def record(
        self, ok: bool, latency: float, now: float, permit: Permit | None, ignored: bool = False
    ) -> State | None:
        """Give a permit back with what became of the call; `latency` in seconds.

        ignored: the outcome says nothing (the client left). Returns the new state when this changed it.
        """
        if permit == self._closed_permit:
            if not ignored:
                return self._count(ok, latency, now)
        elif permit is not None and self._leases.pop(permit, -inf) > now and not ignored:
            return self._judge_probe(ok and latency <= self._slow_over, now)
        return None

    def prove(self, ok: bool, latency: float, now: float, permit: Permit | None) -> bool:
        """Judge a probe before its call is over (it became a stream, which may last for hours).

        Returns True where the permit was a probe's: it is used up. A permit of a closed period stays in use.
        """
        if permit is None or permit not in self._leases:
            return False
        self.record(ok, latency, now, permit)
        return True

    # Learning from another breaker of the same instance

    def open_too(self, until: float, now: float) -> None:
        """Another process's breaker opened, for as long: this one opens with it."""
        match self.state:
            case State.CLOSED:
                self._relapses = 0
                self._move(Event.TRIPPED)
            case State.HALF_OPEN:
                self._move(Event.RELAPSED)
            case State.OPEN:
                self.open_until = max(self.open_until, until)
                return
        self.opened_at = now
        self.open_until = until
        self._closed_permit = Permit(0)

    def close_too(self) -> None:
        """Another process's probes were answered well: no need for ours."""
        if self.state is State.OPEN:
            self._move(Event.COOLED)
        if self.state is State.HALF_OPEN:
            self._close()

    def learn(self, successes: int, failures: int, slow: int, now: float) -> State | None:
        """Count what other processes' calls came to, as far as this breaker is closed.

        Their order is not known: any success among them ends a row of failures. Returns as `record` does.
        """
        if self.state is not State.CLOSED or successes + failures <= 0:
            return None
        if now >= self._half_ends:
            self._turn(now)
        before = self._in_a_row
        self._calls += successes + failures
        self._failures += failures
        self._slow += slow
        self._in_a_row = 0 if successes else before + failures
        row = self.settings.consecutive
        if before < row <= self._in_a_row:
            return self._trip(now)
        return self._trip(now) if (failures or slow) and self._too_bad() else None

    def _count(self, ok: bool, latency: float, now: float) -> State | None:
        if now >= self._half_ends:
            self._turn(now)
        self._calls += 1
        slow = latency > self._slow_over
        if slow:
            self._slow += 1
            self.slow_calls += 1
        if ok:
            self._in_a_row = 0
            if not slow:
                return None
        else:
            self._in_a_row += 1
            self._failures += 1
            if self._in_a_row == self.settings.consecutive:  # 0: never
                return self._trip(now)
        return self._trip(now) if self._too_bad() else None

    def _too_bad(self) -> bool:
        calls = self._calls + self._calls_before
        if calls < self.settings.min_calls:
            return False
        failures = self._failures + self._failures_before
        slow = self._slow + self._slow_before
        return (failures > 0 and failures >= self.settings.errors * calls) or (
            slow > 0 and slow >= self.settings.slow_ratio * calls
        )

    def _turn(self, now: float) -> None:
        """The half-window is over: it becomes the one before, unless it is long gone."""
        recent = now < self._half_ends + self._half
        self._calls_before = self._calls if recent else 0
        self._failures_before = self._failures if recent else 0
        self._slow_before = self._slow if recent else 0
        self._calls = self._failures = self._slow = 0
        self._half_ends = self._half_ends + self._half if recent else now + self._half

    def _judge_probe(self, ok: bool, now: float) -> State | None:
        if not ok:
            self._relapses += 1
            self._open(Event.RELAPSED, now)
            return self.state
        self._probes_passed += 1
        if self._probes_passed < self.settings.probes:
            return None
        self._close()
        return self.state

    # Transitions

    def _trip(self, now: float) -> State:
        self._relapses = 0
        self._open(Event.TRIPPED, now)
        return self.state

    def _open(self, event: Event, now: float) -> None:
        settings = self.settings
        cool_down = min(settings.max_cool_down, settings.cool_down * 2.0 ** min(self._relapses, 60))
        self.opened_at = now
        self.open_until = now + max(settings.cool_down, cool_down) * (1 + settings.jitter * self._rng())
        self._closed_permit = Permit(0)  # outcomes of the closed period count no longer
        self._move(event)

    def _close(self) -> None:
        self._calls = self._failures = self._slow = 0
        self._half_ends = -inf
        self._in_a_row = 0
        self._closed_permit = self._new_permit()
        self._move(Event.PROVED)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]
        self.changes += 1
        self._leases.clear()
        self._probes_passed = 0

    # Permits

    def _new_permit(self) -> Permit:
        self._last_permit += 1
        return Permit(self._last_permit)

    def _leased(self, now: float) -> int:
        for permit in [permit for permit, ends in self._leases.items() if ends <= now]:
            del self._leases[permit]
        return len(self._leases)

    def _probes_allowed(self) -> int:
        return min(1 << min(self._probes_passed, 20), self.settings.probes - self._probes_passed)

    def __repr__(self) -> str:
        calls = self._calls + self._calls_before
        match self.state:
            case State.CLOSED:
                failures = self._failures + self._failures_before
                return (
                    f"<Breaker closed | {failures} failed of {calls}, {self._slow + self._slow_before} slow>"
                )
            case State.OPEN:
                return f"<Breaker open | until {self.open_until:.3f}, {self._relapses} relapses>"
            case State.HALF_OPEN:
                return (
                    f"<Breaker half_open | {len(self._leases)} probes out, "
                    f"{self._probes_passed} of {self.settings.probes} passed>"
                )
