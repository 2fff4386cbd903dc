"""The laws of token buckets: never more than rate * t + burst, all or nothing, bounded memory."""

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.token_bucket import SLACK, Bucket, Buckets


class Claim(NamedTuple):
    key: bytes
    cost: float
    rate: float
    burst: float


steps = st.lists(
    st.tuples(st.floats(0, 2, allow_nan=False), st.floats(0.01, 5, allow_nan=False)), min_size=1, max_size=120
)
rates = st.floats(0.1, 1000)
bursts = st.floats(0.5, 100)
starts = st.sampled_from([0.0, 12.5, 1e6, 1e8])


@given(steps, rates, bursts, starts)
def test_no_window_grants_more_than_rate_times_t_plus_burst(steps, rate, burst, start):
    bucket = Bucket(rate, burst)
    now = start
    granted: list[tuple[float, float]] = []
    for gap, cost in steps:
        now += gap
        if bucket.take(cost, now) == 0.0:
            granted.append((now, cost))
    for i, (begin, _) in enumerate(granted):
        spent = 0.0
        for end, cost in granted[i:]:
            spent += cost
            assert spent <= rate * (end - begin + 2 * SLACK) + burst + 1e-6 * burst


@given(steps, rates, bursts, starts)
def test_waiting_as_long_as_told_is_enough_and_nothing_shorter_is(steps, rate, burst, start):
    bucket = Bucket(rate, burst)
    now = start
    for gap, cost in steps:
        now += gap
        told = bucket.wait(cost, now)
        if told == math.inf:
            assert cost > burst
            continue
        if told > 100 * SLACK:
            assert bucket.wait(cost, now + told * 0.9) > 0.0
        assert bucket.wait(cost, now + told) == 0.0
        assert bucket.take(cost, now + told) == 0.0
        now += told


@given(rates, bursts, st.floats(0, 50), st.floats(0, 50))
def test_giving_back_what_was_taken_leaves_the_bucket_as_it_was(rate, burst, first, second):
    bucket = Bucket(rate, burst)
    bucket.settle(first, 0.0)
    before = bucket.reset(0.0)
    bucket.settle(second, 0.0)
    bucket.settle(-second, 0.0)
    assert bucket.reset(0.0) == pytest.approx(before, abs=1e-6)


def test_a_refund_never_banks_more_than_a_full_bucket():
    bucket = Bucket(rate=1, burst=3)
    bucket.settle(-100, now=10)
    assert bucket.remaining(10) == 3
    assert [bucket.take(1, 10) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_a_charge_after_the_fact_goes_into_debt_that_later_requests_wait_out():
    bucket = Bucket(rate=10, burst=10)
    bucket.settle(30, now=0)
    assert bucket.remaining(0) == 0
    assert bucket.wait(1, 0) == pytest.approx(2.1)
    assert bucket.take(1, 2.1) == 0.0


def test_a_cost_above_the_burst_is_never_granted_and_spends_nothing():
    bucket = Bucket(rate=1, burst=2)
    assert bucket.take(2.5, 0) == math.inf
    assert bucket.remaining(0) == 2


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1), (math.inf, 1), (math.nan, 1)])
def test_a_bucket_that_makes_no_sense_is_refused(rate, burst):
    with pytest.raises(ValueError, match="positive"):
        Bucket(rate, burst)


def test_remaining_and_reset_tell_what_may_still_be_spent():
    bucket = Bucket(rate=2, burst=4)
    bucket.take(3, 0)
    assert (bucket.remaining(0), bucket.reset(0)) == (1, 1.5)
    assert (bucket.remaining(0.5), bucket.reset(0.5)) == (2, 1.0)


# Many buckets, decided together


def test_nothing_is_spent_anywhere_when_one_level_refuses_and_that_level_is_named():
    buckets = Buckets()
    wide = Claim(b"all", 1, 100, 100)
    narrow = Claim(b"alice", 1, 1, 1)
    assert buckets.take_all([wide, narrow], 0) == (True, 1, 0, 0.0, 1.0)
    assert buckets.take_all([wide, narrow], 0) == (False, 1, 0, 1.0, 1.0)
    assert buckets.take_all([wide], 0).remaining == 98


def test_the_level_that_must_wait_longest_binds():
    buckets = Buckets()
    claims = [Claim(b"a", 1, 1, 1), Claim(b"b", 1, 0.1, 1), Claim(b"c", 1, 10, 1)]
    assert buckets.take_all(claims, 0).allowed
    assert buckets.take_all(claims, 0) == (False, 1, 0, 10.0, 10.0)


def test_of_granted_levels_the_one_with_room_for_the_fewest_more_binds():
    buckets = Buckets()
    verdict = buckets.take_all([Claim(b"requests", 1, 10, 5), Claim(b"rows", 100, 1000, 300)], 0)
    assert (verdict.binding, verdict.remaining) == (1, 200)


def test_the_same_bucket_claimed_twice_is_charged_twice():
    buckets = Buckets()
    claims = [Claim(b"x", 1, 1, 3), Claim(b"y", 1, 1, 9), Claim(b"x", 1, 1, 3)]
    assert buckets.take_all(claims, 0).allowed
    refused = buckets.take_all(claims, 0)
    assert (refused.allowed, refused.binding, refused.retry_after) == (False, 0, 1.0)


def test_no_claims_are_no_limit():
    assert Buckets().take_all([], 0).allowed


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=4)
        ),
        max_size=80,
    )
)
def test_a_table_decides_as_single_buckets_asked_one_by_one(requests):
    settings = [(1.0, 3.0), (5.0, 5.0), (0.5, 4.0), (20.0, 3.0)]
    table = Buckets()
    single = [Bucket(*s) for s in settings]
    now = 0.0
    for gap, levels in requests:
        now += gap
        levels = dict(levels)
        claims = [Claim(b"%d" % level, cost, *settings[level]) for level, cost in levels.items()]
        expected = all(single[level].wait(cost, now) == 0.0 for level, cost in levels.items())
        assert table.take_all(claims, now).allowed is expected
        if expected:
            for level, cost in levels.items():
                single[level].take(cost, now)


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 40), st.integers(-2, 3)), max_size=200),
    st.integers(1, 8),
)
def test_a_table_keeps_its_bound_and_forgets_full_buckets_before_others(steps, max_keys):
    table = Buckets(max_keys)
    now = 0.0
    for gap, name, cost in steps:
        now += gap
        before = dict(table._full_at)
        key = b"%d" % name
        if cost > 0:
            table.take(Claim(key, cost, 2, 3), now)
        else:
            table.settle(key, cost, 2, now)
        assert len(table) <= max_keys
        gone = [k for k in before if k not in table._full_at and k != key]
        if any(before[k] > now for k in gone):
            kept = [table._full_at[k] for k in before if k in table._full_at and k != key]
            assert all(instant > now for instant in kept), "forgot a bucket in use while a full one was kept"
            assert min(kept, default=math.inf) >= max(before[k] for k in gone if before[k] > now)


def test_buckets_that_are_full_again_are_swept():
    table = Buckets()
    for i in range(100):
        table.take(Claim(b"%d" % i, 1, 1, 1), 0)
    assert len(table) == 100
    assert table.sweep(0.5) == 0
    assert table.sweep(1.0) == 100
    assert (len(table), table.forgotten) == (0, 0)


def test_refunds_do_not_grow_the_table_without_bound():
    table = Buckets()
    for _ in range(10_000):
        table.take(Claim(b"k", 3, 1, 5), 0)
        table.settle(b"k", -2, 1, 0)
        table.settle(b"k", -1, 1, 0)
    assert len(table._by_fullness) < 200
