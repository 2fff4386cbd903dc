"""Deadlines expire once, never early, not later than the sweep after, and cancelled ones never."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.deadlines import Deadlines

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.floats(-1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("sweep"), st.floats(0, 3)),
    ),
    max_size=120,
)


@given(steps, st.sampled_from([4, 64, 1024]), st.sampled_from([0.0, 1e6]))
def test_every_sweep_reports_exactly_what_is_due_in_order(steps, slots, start):
    deadlines = Deadlines(tick=0.025, slots=slots)
    now = start
    pending: dict[int, float] = {}
    handles = []
    for what, amount in steps:
        if what == "add":
            handles.append(deadlines.add(now + amount, len(handles)))
            pending[len(handles) - 1] = now + amount
        elif what == "cancel":
            if amount < len(handles):
                handles[amount].cancel()
                pending.pop(amount, None)
        else:
            now += amount
            due = deadlines.expire(now)
            expected = [item for item, deadline in pending.items() if deadline <= now]
            assert sorted(due) == sorted(expected)
            assert [pending[item] for item in due] == sorted(pending[item] for item in due)
            for item in due:
                del pending[item]
        assert len(deadlines) == len(pending)


def test_cancelled_deadlines_leave_nothing_behind():
    deadlines: Deadlines[int] = Deadlines()
    for i in range(10_000):
        deadlines.add(60 + i * 0.001, i).cancel()
    assert len(deadlines) == 0
    assert deadlines.expire(1000) == []


def test_a_deadline_far_beyond_the_ring_waits_for_its_turn():
    deadlines: Deadlines[str] = Deadlines(tick=0.025, slots=8)
    handle = deadlines.add(10.0, "far")
    assert [deadlines.expire(i * 0.05) for i in range(200)] == [[]] * 200
    assert deadlines.expire(10.0) == ["far"]
    assert not handle.is_pending
    handle.cancel()


def test_no_deadline_is_never_due():
    deadlines: Deadlines[str] = Deadlines()
    handle = deadlines.add(float("inf"), "never")
    handle.cancel()
    assert len(deadlines) == 0


def test_a_clock_that_stands_or_goes_back_loses_nothing():
    deadlines: Deadlines[str] = Deadlines()
    deadlines.expire(100)
    deadlines.add(99, "overdue")
    assert deadlines.expire(100) == ["overdue"]
    deadlines.add(50, "past")
    assert deadlines.expire(60) == ["past"]
