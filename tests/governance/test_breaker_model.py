"""The breaker beside a reference model that keeps the whole history and decides everything anew from it."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.governance.breaker import Breaker, BreakerSettings, State

SETTINGS = st.builds(
    BreakerSettings,
    errors=st.sampled_from([0.2, 0.5, 1.0]),
    slow_over=st.sampled_from([None, 0.5]),
    slow_ratio=st.sampled_from([0.5, 1.0]),
    consecutive=st.sampled_from([0, 0, 3]),
    min_calls=st.sampled_from([1, 4, 10]),
    window=st.just(10.0),
    cool_down=st.just(5.0),
    max_cool_down=st.just(20.0),
    jitter=st.just(0.5),
    probes=st.integers(1, 5),
    probe_timeout=st.just(3.0),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0, 1.5, 3.0, 5.0, 12.0]),  # s since the step before
        st.sampled_from(
            [
                "admit",
                "admit",
                "ok",
                "fail",
                "slow",
                "ignored",
                "at once ok",
                "at once ok",
                "at once fail",
                "at once slow",
            ]
        ),
        st.integers(0, 20),  # which of the calls under way
    ),
    min_size=40,
    max_size=120,
)


@dataclass
class Call:
    """A call that was let through. period: the number of transitions then."""

    period: int
    lease_ends: float | None = None
    given_back: bool = False


@dataclass
class Model:
    """What docs and preamble say, without any thought of speed."""

    settings: BreakerSettings
    chance: float
    state: State = State.CLOSED
    period: int = 0
    open_until: float = 0.0
    relapses: int = 0
    passed: int = 0
    outcomes: list[tuple[float, bool, bool]] = field(
        default_factory=list
    )  # when, ok, slow: of this closed period
    leases: list[Call] = field(default_factory=list)

    def admit(self, now: float) -> Call | None:
        if self.state is State.CLOSED:
            return Call(self.period)
        if self.state is State.OPEN:
            if now < self.open_until:
                return None
            self.become(State.HALF_OPEN)
        out = [lease for lease in self.leases if not lease.given_back and (lease.lease_ends or 0.0) > now]
        if len(out) >= min(2**self.passed, self.settings.probes - self.passed):
            return None
        lease = Call(self.period, now + self.settings.probe_timeout)
        self.leases.append(lease)
        return lease

    def record(self, call: Call, ok: bool, slow: bool, ignored: bool, now: float) -> None:
        valid = call.period == self.period and not call.given_back
        if call.lease_ends is not None:
            valid = valid and call.lease_ends > now
            call.given_back = True
        if not valid or ignored:
            return
        if call.lease_ends is None:
            self.outcomes.append((now, ok, slow))
            if self.is_bad():
                self.relapses = 0
                self.open(now)
        elif not ok or slow:
            self.relapses += 1
            self.open(now)
        else:
            self.passed += 1
            if self.passed == self.settings.probes:
                self.become(State.CLOSED)

    def is_bad(self) -> bool:
        settings = self.settings
        _, ok, slow = self.outcomes[-1]
        if ok and not slow:
            return False
        row = 0
        for _, well, _ in reversed(self.outcomes):
            if well:
                break
            row += 1
        if settings.consecutive and row == settings.consecutive:
            return True
        recent = self.recent()
        failures = sum(not well for _, well, _ in recent)
        slows = sum(crawls for _, _, crawls in recent)
        return len(recent) >= settings.min_calls and (
            (failures > 0 and failures >= settings.errors * len(recent))
            or (slows > 0 and slows >= settings.slow_ratio * len(recent))
        )

    def recent(self) -> list[tuple[float, bool, bool]]:
        """The outcomes of the half-window being filled and of the one before it."""
        half = self.settings.window / 2
        halves: list[tuple[float, list[tuple[float, bool, bool]]]] = []  # its end, what is in it
        for outcome in self.outcomes:
            now = outcome[0]
            if not halves or now >= halves[-1][0] + half:
                halves = [(now + half, [])]
            elif now >= halves[-1][0]:
                halves.append((halves[-1][0] + half, []))
            halves[-1][1].append(outcome)
        return [outcome for _, inside in halves[-2:] for outcome in inside]

    def open(self, now: float) -> None:
        settings = self.settings
        cool_down = min(settings.cool_down * 2**self.relapses, settings.max_cool_down)
        self.open_until = now + cool_down * (1 + settings.jitter * self.chance)
        self.become(State.OPEN)

    def become(self, state: State) -> None:
        self.state = state
        self.period += 1
        self.passed = 0
        self.leases = []
        self.outcomes = []


@settings(max_examples=400)
@given(SETTINGS, STEPS, st.sampled_from([0.0, 0.25]))
def test_traces_equal_those_of_the_reference_model(chosen, steps, chance):
    breaker, model = Breaker(chosen, lambda: chance), Model(chosen, chance)
    under_way = []
    now = 0.0

    def admit():
        permit, call = breaker.admit(now), model.admit(now)
        assert (permit is None) is (call is None)
        if permit is not None:
            under_way.append((permit, call))
        return permit is not None

    def record(what, which):
        permit, call = under_way.pop(which)
        slow = what == "slow" and chosen.slow_over is not None
        breaker.record(what != "fail", 0.9 if what == "slow" else 0.1, now, permit, what == "ignored")
        model.record(call, what != "fail", slow, what == "ignored", now)

    for gap, what, which in steps:
        now += gap
        if what.startswith("at once"):
            if admit():
                record(what.removeprefix("at once "), -1)
        elif what == "admit" or not under_way:
            admit()
        else:
            record(what, which % len(under_way))
        assert breaker.state is model.state
        assert breaker.changes == model.period
        if model.state is State.OPEN:
            assert breaker.open_until == model.open_until
