"""The breaker's transitions, each of them, and that half-open probes cannot leak."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.breaker import TRANSITIONS, Breaker, BreakerSettings, Event, State

SETTINGS = BreakerSettings(min_calls=10, window=10, cool_down=5, max_cool_down=20, probes=4, probe_timeout=3)


def breaker(**changes) -> Breaker:
    values = {name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__} | changes
    return Breaker(BreakerSettings(**values), lambda: 0.0)


def call(b: Breaker, now: float, ok: bool = True, latency: float = 0.01):
    permit = b.admit(now)
    assert permit is not None
    return b.record(ok, latency, now, permit)


def opened(now: float = 0.0, **changes) -> Breaker:
    b = breaker(**changes)
    for _ in range(SETTINGS.min_calls):
        call(b, now, ok=False)
    assert b.state is State.OPEN
    return b


def test_the_table_holds_every_transition_and_no_other():
    assert TRANSITIONS == {
        (State.CLOSED, Event.TRIPPED): State.OPEN,
        (State.OPEN, Event.COOLED): State.HALF_OPEN,
        (State.HALF_OPEN, Event.RELAPSED): State.OPEN,
        (State.HALF_OPEN, Event.PROVED): State.CLOSED,
    }


def test_too_few_calls_decide_nothing():
    b = breaker()
    for _ in range(9):
        assert call(b, 0, ok=False) is None
    assert b.state is State.CLOSED
    assert call(b, 0, ok=False) is State.OPEN


@pytest.mark.parametrize(
    ("failures", "state"), [(9, State.CLOSED), (10, State.OPEN)], ids=["below the share", "at the share"]
)
def test_it_opens_at_the_share_of_failures(failures, state):
    b = breaker()
    for i in range(20):
        call(b, 0.1 * i, ok=i < 20 - failures)
        if b.state is State.OPEN:
            break
    assert b.state is state


def test_slow_calls_open_it_although_they_succeed():
    b = breaker(slow_over=0.5, slow_ratio=0.5)
    for _ in range(5):
        call(b, 0, latency=0.4)
    for _ in range(4):
        call(b, 0, latency=0.6)
    assert b.state is State.CLOSED
    call(b, 0, latency=0.6)
    assert b.state is State.OPEN


def test_failures_older_than_the_window_are_forgotten():
    b = breaker()
    for _ in range(9):
        call(b, 0, ok=False)
    call(b, 10.0, ok=False)
    assert b.state is State.CLOSED


def test_the_half_window_before_still_counts():
    b = breaker()
    for _ in range(9):
        call(b, 0, ok=False)
    assert call(b, 5.5, ok=False) is State.OPEN


def test_open_refuses_until_the_cool_down_is_over_and_says_how_long():
    b = opened(now=100)
    assert b.admit(104.9) is None
    assert not b.admits(104.9)
    assert b.retry_after(104) == pytest.approx(1.0)
    assert (b.opened_at, b.open_until) == (100, 105)
    assert b.admits(105)
    assert b.admit(105) is not None
    assert b.state is State.HALF_OPEN


def test_the_cool_down_is_jittered_by_chance():
    b = Breaker(BreakerSettings(min_calls=1, cool_down=10, jitter=0.2), lambda: 0.5)
    call(b, 0, ok=False)
    assert b.open_until == pytest.approx(11.0)


def test_probes_double_with_every_success_and_close_it_in_the_end():
    b = opened()
    first = b.admit(5)
    assert b.admit(5) is None, "one probe at first"
    b.record(True, 0.01, 5, first)
    second, third = b.admit(5), b.admit(5)
    assert b.admit(5) is None, "then two"
    b.record(True, 0.01, 5, second)
    b.record(True, 0.01, 5, third)
    assert b.state is State.HALF_OPEN
    assert b.record(True, 0.01, 5, b.admit(5)) is State.CLOSED
    assert b.admit(5) is not None


def test_half_open_breaker_reopens_when_the_probe_fails_and_cools_down_twice_as_long():
    b = opened()
    waits = []
    for _ in range(4):
        now = b.open_until
        assert call(b, now, ok=False) is State.OPEN
        waits.append(b.open_until - now)
    assert waits == [10, 20, 20, 20]


def test_a_slow_probe_is_a_failed_probe():
    b = opened(slow_over=0.5)
    assert call(b, 5, latency=0.7) is State.OPEN


def test_a_later_opening_cools_down_as_briefly_as_the_first():
    b = opened(probes=1)
    call(b, 5, ok=False)
    assert call(b, 15) is State.CLOSED
    for _ in range(10):
        call(b, 15, ok=False)
    assert b.open_until == 20


def test_a_probe_that_is_never_reported_gives_its_place_to_another():
    b = opened()
    lost = b.admit(5)
    assert b.admit(7.9) is None
    assert b.retry_after(7.5) == pytest.approx(0.5)
    assert b.admit(8) is not None
    assert b.record(False, 0.01, 9, lost) is None, "a lease that ended says nothing"
    assert b.state is State.HALF_OPEN


def test_an_ignored_probe_gives_its_place_back_and_says_nothing():
    b = opened()
    b.record(True, 0.01, 5, b.admit(5), ignored=True)
    assert b.state is State.HALF_OPEN
    assert b.admit(5) is not None


def test_ignored_calls_are_not_counted():
    b = breaker()
    for _ in range(50):
        b.record(False, 0.01, 0, b.admit(0), ignored=True)
    assert b.state is State.CLOSED


def test_outcomes_of_calls_from_before_it_opened_change_nothing():
    b = breaker(probes=1)
    old = b.admit(0)
    for _ in range(10):
        call(b, 0, ok=False)
    b.record(True, 0.01, 6, old)
    assert b.state is State.OPEN
    probe = b.admit(6)
    b.record(False, 0.01, 6, old)
    assert b.state is State.HALF_OPEN
    b.record(True, 0.01, 6, probe)
    for _ in range(30):
        b.record(False, 0.01, 6, old)
    assert b.state is State.CLOSED


def test_a_call_without_a_permit_says_nothing():
    b = breaker(min_calls=1)
    assert b.record(False, 0.01, 0, None) is None
    assert b.state is State.CLOSED


def test_its_repr_shows_the_state():
    b = breaker()
    call(b, 0, ok=False)
    assert repr(b) == "<Breaker closed | 1 failed of 1, 0 slow>"
    b = opened()
    assert repr(b) == "<Breaker open | until 5.000, 0 relapses>"
    b.admit(5)
    assert repr(b) == "<Breaker half_open | 1 probes out, 0 of 4 passed>"


events = st.lists(
    st.tuples(st.floats(0, 4), st.sampled_from(["ok", "fail", "ignore", "lose", "late"])), max_size=200
)


@given(events)
def test_whatever_happens_traffic_can_come_back(events):
    b = breaker()
    now = 0.0
    kept = []
    for gap, what in events:
        now += gap
        promised = b.admits(now)
        permit = b.admit(now)
        assert (permit is not None) is promised
        assert len(b._leases) <= SETTINGS.probes
        if permit is None:
            assert b.retry_after(now) > 0
        elif what == "lose":
            kept.append(permit)
        elif what == "late" and kept:
            b.record(False, 0.01, now, kept.pop())
        else:
            b.record(what == "ok", 0.01, now, permit, what == "ignore")
    now += 100
    for _ in range(SETTINGS.probes):
        call(b, now)
    assert b.state is State.CLOSED
