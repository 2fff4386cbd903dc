"""The queue: importance, fairness, age, deadlines, bounds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.governance.fair_queue import HOPE, MEMORY, MODEST_HOPE, Dropped, FairQueue


def _queue(limit=100, old=0.25):
    dropped = []
    return FairQueue(limit, lambda item, why: dropped.append((item, why)), old), dropped


def _served(queue, now=0.0, tail=0.0):
    out = []
    while (item := queue.pop(now, tail)) is not None:
        out.append(item)
    return out


def test_the_important_go_first_whenever_they_came():
    queue, _ = _queue()
    for importance, item in ((2, "sheddable"), (1, "normal"), (0, "critical")):
        queue.push(item, 0.0, 10.0, importance=importance)
    assert _served(queue) == ["critical", "normal", "sheddable"]


def test_one_tenants_flood_waits_behind_itself():
    queue, _ = _queue()
    for index in range(50):
        queue.push(f"flood {index}", 0.0, 10.0, tenant="flood")
    queue.push("alice", 0.0, 10.0, tenant="alice")
    queue.push("bob", 0.0, 10.0, tenant="bob")
    assert set(_served(queue)[:3]) == {"flood 0", "alice", "bob"}


@pytest.mark.parametrize(("weight", "share"), [(1.0, 50), (3.0, 75)])
def test_tenants_are_served_by_weight(weight, share):
    queue, _ = _queue(1000)
    for index in range(400):
        queue.push(("a", index), 0.0, 10.0, tenant="a", weight=weight)
        queue.push(("b", index), 0.0, 10.0, tenant="b")
    first = Counter(tenant for tenant, _ in _served(queue)[:100])
    assert first["a"] == pytest.approx(share, abs=1)


def test_a_tenant_of_costly_calls_gets_as_much_cost_not_as_many_calls():
    queue, _ = _queue(1000)
    for index in range(400):
        queue.push(("dear", index), 0.0, 10.0, tenant="dear", cost=4.0)
        queue.push(("cheap", index), 0.0, 10.0, tenant="cheap", cost=1.0)
    first = Counter(tenant for tenant, _ in _served(queue)[:100])
    assert first["dear"] == pytest.approx(20, abs=1)


def test_idle_time_is_not_banked():
    queue, _ = _queue(1000)
    queue.push("early", 0.0, 10.0, tenant="sleeper")
    assert queue.pop(0.0, 0.0) == "early"
    for index in range(100):
        queue.push(index, 0.0, 10.0, tenant="busy")
    for _ in range(50):
        queue.pop(0.0, 0.0)
    for index in range(10):
        queue.push(f"sleeper {index}", 0.0, 10.0, tenant="sleeper")
    next_ten = [queue.pop(0.0, 0.0) for _ in range(10)]
    assert sum(isinstance(item, str) for item in next_ten) == pytest.approx(5, abs=1)


def test_the_oldest_go_first_while_fresh_and_the_newest_once_they_are_old():
    queue, _ = _queue()
    for index in range(4):
        queue.push(index, index * 0.1, index * 0.1 + 1.0)
    assert queue.pop(0.2, 0.0) == 0
    assert queue.pop(0.6, 0.0) == 3  # the oldest has waited 0.5 s of its one


def test_who_would_be_late_is_dropped_and_told_so():
    queue, dropped = _queue()
    queue.push("hopeless", 0.0, 1.0)
    queue.push("in time", 0.5, 3.0)
    assert queue.pop(0.9, 0.2) == "in time"
    assert dropped == [("hopeless", Dropped.LATE)]
    assert len(queue) == 0


def test_expire_drops_the_hopeless_without_serving_anybody():
    queue, dropped = _queue()
    for index in range(5):
        queue.push(index, 0.0, float(index))
    assert queue.expire(2.0, 0.5) == 3
    assert [item for item, _ in dropped] == [0, 1, 2]
    assert sorted(_served(queue, 2.0)) == [3, 4]


def test_a_full_queue_makes_room_for_the_more_important():
    queue, dropped = _queue(2)
    queue.push("s1", 0.0, 9.0, importance=2)
    queue.push("s2", 0.0, 9.0, importance=2)
    assert queue.push("critical", 0.0, 9.0, importance=0) is not None
    assert dropped == [("s2", Dropped.CROWDED)]
    assert queue.push("s3", 0.0, 9.0, importance=2) is None


def test_a_full_queue_takes_from_the_longest_line_of_the_band():
    queue, dropped = _queue(3)
    for index in range(3):
        queue.push(f"flood {index}", 0.0, 9.0, tenant="flood")
    assert queue.push("alice", 0.0, 9.0, tenant="alice") is not None
    assert dropped == [("flood 2", Dropped.CROWDED)]
    assert queue.push("flood 3", 0.0, 9.0, tenant="flood") is None


def _flooded(polite=8, flood=200, lost=0, limit=4):
    """A queue of which alice asked `polite` times, `lost` of them in vain, and flood far more often."""
    queue, dropped = _queue(limit)
    for tenant, calls in (("flood", flood), ("alice", polite - lost)):
        for _ in range(calls):
            queue.push("served", 0.0, 9.0, tenant=tenant)
            _served(queue)
    for _ in range(lost):
        queue.push("late", 0.0, 1.0, tenant="alice")
        queue.expire(2.0, 0.0)
    for _ in range(limit):
        queue.push("flood", 0.0, 9.0, tenant="flood")
    dropped.clear()
    return queue, dropped


def test_a_modest_tenant_finds_room_in_a_queue_that_a_flood_has_filled():
    queue, dropped = _flooded()
    for number in range(4):
        assert queue.has_room("alice")
        assert queue.push(number, 0.0, 9.0, tenant="alice") is not None
    assert (len(queue), dropped) == (8, [])  # twice the limit, and no further:
    assert queue.push(4, 0.0, 9.0, tenant="alice") is not None
    assert (len(queue), dropped) == (8, [("flood", Dropped.CROWDED)])  # its line is the longer one by then
    assert not queue.has_room("flood")
    assert queue.push("flood", 0.0, 9.0, tenant="flood") is None


@pytest.mark.parametrize(
    "history",
    [{"polite": 60}, {"polite": 1}, {"polite": 20, "lost": 3}],
    ids=["asks for a third", "hardly known", "loses too much"],
)
def test_who_is_not_modest_is_refused_where_its_line_is_as_long_as_the_floods(history):
    queue, dropped = _flooded(flood=180, **history)
    for _ in range(2):
        queue.push("alice", 0.0, 9.0, tenant="alice")
    assert len(dropped) == 2
    assert not queue.has_room("alice")
    assert queue.push("alice", 0.0, 9.0, tenant="alice") is None


def test_where_all_ask_alike_nobody_is_modest():
    queue, _ = _queue(4)
    for number in range(400):
        queue.push(number, 0.0, 9.0, tenant="ab"[number % 2])
    assert len(queue) == 4


def test_a_modest_tenant_is_served_in_order_however_old_and_with_a_fifth_less_time():
    queue, dropped = _flooded()
    for number in range(3):
        queue.push(number, 0.0, 10.0, tenant="alice")
    assert [item for item in _served(queue, 9.15, 1.0) if item != "flood"] == [0, 1, 2]
    assert all(item == "flood" for item, _ in dropped)


def test_a_flood_that_is_over_is_forgotten():
    queue, _ = _flooded()
    band = queue._bands[1]
    assert band.is_modest(band.lines["alice"])
    for number in range(8 * MEMORY):
        queue.push(number, 0.0, 9.0, tenant="ab"[number % 2])
        _served(queue)
    assert band.lines["flood"].asked < 1.0
    for number in range(8 * MEMORY):  # and so is what others asked since then
        queue.push(number, 0.0, 9.0, tenant=str(number % 40))
        _served(queue)
    assert band.most == max(line.asked for line in band.lines.values())


def test_refusals_count_as_lost():
    queue, _ = _flooded(polite=20)
    for number in range(5):
        queue.push(number, 0.0, 9.0, tenant="alice")
    while queue.has_room("alice"):
        assert queue.push("alice", 0.0, 9.0, tenant="alice") is not None
    for _ in range(20):
        queue.has_room("alice")
    _served(queue)
    for _ in range(4):
        queue.push("flood", 0.0, 9.0, tenant="flood")
    for _ in range(2):
        queue.push("alice", 0.0, 9.0, tenant="alice")
    assert len(queue) == 4  # it is modest no longer


def test_a_queue_without_room_takes_nobody():
    queue, _ = _queue(0)
    assert queue.push("x", 0.0, 9.0) is None


def test_who_was_withdrawn_is_neither_served_nor_told():
    queue, dropped = _queue()
    waiting = queue.push("gone", 0.0, 9.0)
    queue.push("stays", 0.0, 9.0)
    queue.withdraw(waiting)
    queue.withdraw(waiting)
    assert len(queue) == 1
    assert _served(queue) == ["stays"]
    assert dropped == []


def test_the_withdrawn_leave_no_memory_behind():
    queue, _ = _queue(10)
    for _ in range(1000):
        queue.withdraw(queue.push("x", 0.0, 9.0))
    line = queue._bands[1].lines[""]
    assert len(line.calls) <= 16


def test_tenants_that_left_are_forgotten():
    queue, _ = _queue(10)
    for index in range(5000):
        queue.push(index, 0.0, 9.0, tenant=str(index))
        queue.pop(0.0, 0.0)
    assert len(queue._bands[1].lines) <= 1025


def test_age_is_that_of_the_longest_waiting():
    queue, _ = _queue()
    assert queue.age(5.0) == 0.0
    first = queue.push("a", 1.0, 9.0, tenant="a")
    queue.push("b", 2.0, 9.0, tenant="b")
    assert queue.age(5.0) == 4.0
    queue.withdraw(first)
    assert queue.age(5.0) == 3.0


@pytest.mark.parametrize(("limit", "old"), [(-1, 0.25), (1, 0.0), (1, 1.5)])
def test_odd_bounds_are_refused(limit, old):
    with pytest.raises(ValueError, match="expected a limit"):
        FairQueue(limit, lambda item, why: None, old)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 5.0)), min_size=30, max_size=120))
def test_no_tenant_that_waits_gets_more_than_one_call_beyond_another(calls):
    queue, _ = _queue(1000)
    total = dict.fromkeys("abc", 0.0)
    for tenant, cost in calls:
        queue.push((tenant, cost), 0.0, 10.0, tenant=tenant, cost=cost)
        total[tenant] += cost
    served = dict.fromkeys("abc", 0.0)
    most = max(cost for _, cost in calls)
    while (item := queue.pop(0.0, 0.0)) is not None:
        served[item[0]] += item[1]
        waiting = [tenant for tenant in "abc" if served[tenant] < total[tenant] - 1e-9]
        for one in waiting:
            for other in waiting:
                assert served[one] - served[other] <= 2 * most + 1e-6


class Life(RuleBasedStateMachine):
    """Every call leaves exactly once: served, dropped, refused or withdrawn; the bound holds."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.left = Counter()
        self.queue = FairQueue(8, lambda item, why: self.left.update([item]))
        self.waiting = {}
        self.entered = 0

    @rule(
        tenant=st.sampled_from("abc"),
        importance=st.integers(0, 2),
        patience=st.floats(0.1, 5),
        cost=st.floats(0.1, 4),
    )
    def push(self, tenant, importance, patience, cost):
        item, self.entered = self.entered, self.entered + 1
        waiting = self.queue.push(
            item, self.now, self.now + patience, tenant=tenant, importance=importance, cost=cost
        )
        if waiting is None:
            self.left[item] += 1
        else:
            self.waiting[item] = waiting

    @rule(tail=st.floats(0, 2))
    def pop(self, tail):
        item = self.queue.pop(self.now, tail)
        if item is not None:
            self.left[item] += 1
            served = self.waiting[item]
            assert self.now + tail * (MODEST_HOPE if served.band else HOPE) <= served.deadline

    @rule(tail=st.floats(0, 2))
    def expire(self, tail):
        self.queue.expire(self.now, tail)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data):
        item = data.draw(st.sampled_from(sorted(self.waiting)))
        if not self.waiting[item].gone:
            self.left[item] += 1
        self.queue.withdraw(self.waiting.pop(item))

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def everybody_is_somewhere_once(self):
        assert all(count == 1 for count in self.left.values())
        assert len(self.left) + len(self.queue) == self.entered
        assert 0 <= len(self.queue) <= 16  # twice the limit, where somebody is modest


TestLife = Life.TestCase


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([1.0, 2.0]), st.booleans()),
        max_size=60,
    )
)
def test_who_has_room_is_let_in_and_nobody_else(calls):
    queue, _ = _queue(limit=4)
    weights = {}
    for number, (tenant, importance, weight, leaves) in enumerate(calls):
        weight = weights.setdefault(tenant, weight)
        room = queue.has_room(tenant, importance, weight)
        waiting = queue.push(number, 0.0, 9.0, tenant=tenant, importance=importance, weight=weight)
        assert (waiting is not None) is room
        if leaves and waiting is not None:
            queue.withdraw(waiting)
