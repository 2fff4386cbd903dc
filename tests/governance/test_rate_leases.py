"""Rate leases: never more than the law over all holders, and shares that follow demand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.governance.rate_borrower import EXACT, RateBorrower, Wish
from gateway.governance.rate_leases import HEADROOM, LENT, SHARE, Draw, RateLender
from gateway.pipeline.ports import Claim


class Fleet:
    """Borrowers and one lender, without delay."""

    def __init__(self, holders: int) -> None:
        self.lender = RateLender()
        self.borrowers = [RateBorrower() for _ in range(holders)]
        self.calls = 0

    def take(self, holder: int, claim: Claim, now: float) -> bool:
        borrower = self.borrowers[holder]
        taken = borrower.take((claim,), now)
        if not isinstance(taken, Wish):
            return taken.allowed
        self.calls += 1
        return borrower.answered(taken, self.lender.decide(holder, taken.draws, now), now, now).allowed

    def tick(self, now: float) -> None:
        for holder, borrower in enumerate(self.borrowers):
            if draws := borrower.due(now):
                borrower.refreshed(draws, self.lender.decide(holder, draws, now), now, now)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60), st.floats(0.0, 0.3)), min_size=5, max_size=60),
    st.sampled_from([(200.0, 20.0), (100.0, 100.0), (5.0, 5.0)]),
)
def test_never_more_than_rate_times_time_plus_burst_in_any_window(
    bursts: list[tuple[int, int, float]], limit: tuple[float, float]
) -> None:
    rate, burst = limit
    claim, fleet, now, granted = Claim(b"k", 1.0, rate, burst), Fleet(3), 100.0, []
    for holder, count, pause in bursts:
        granted += [now for _ in range(count) if fleet.take(holder, claim, now)]
        end = now + pause
        while now + 0.025 < end:
            now += 0.025
            fleet.tick(now)
        now = end
    for first in range(0, len(granted), 7):
        for last in range(first, len(granted), 11):
            law = rate * (granted[last] - granted[first]) + burst
            assert last - first + 1 <= law + 1e-3


def test_shares_are_proportional_to_what_is_wanted() -> None:
    lender = RateLender()
    lender.decide(1, [Draw(b"k", 0.0, 1000.0, 100.0, 1500.0)], 0.0)
    lender.decide(2, [Draw(b"k", 0.0, 1000.0, 100.0, 500.0)], 0.1)
    (first,) = lender.decide(1, [Draw(b"k", 0.0, 1000.0, 100.0, 1500.0)], 0.2).shares
    (second,) = lender.decide(2, [Draw(b"k", 0.0, 1000.0, 100.0, 500.0)], 0.3).shares
    assert first.flow == pytest.approx(0.75 * LENT * 1000.0)
    assert second.flow == pytest.approx(0.25 * LENT * 1000.0)
    assert first.cap + second.cap <= 90.0 + 1e-9


def test_what_is_wanted_is_given_with_some_headroom_while_it_fits() -> None:
    (share,) = RateLender().decide(1, [Draw(b"k", 0.0, 1000.0, 100.0, 100.0)], 0.0).shares
    assert share.flow == pytest.approx(100.0 * HEADROOM)


def test_a_dead_holders_flow_comes_back() -> None:
    lender = RateLender()
    lender.decide(1, [Draw(b"k", 0.0, 1000.0, 100.0, 5000.0)], 0.0)
    (early,) = lender.decide(2, [Draw(b"k", 0.0, 1000.0, 100.0, 5000.0)], 0.5).shares
    (late,) = lender.decide(2, [Draw(b"k", 0.0, 1000.0, 100.0, 5000.0)], 1.6).shares
    assert early.flow < 50.0
    assert late.flow == pytest.approx(LENT * 1000.0)


@pytest.mark.parametrize(
    "claim",
    [Claim(b"slow", 1.0, 5.0, 50.0), Claim(b"small", 1.0, 500.0, 5.0), Claim(EXACT + b"k", 1.0, 500.0, 50.0)],
    ids=["slow", "small", "exact"],
)
def test_small_and_exact_buckets_are_never_lent(claim: Claim) -> None:
    fleet = Fleet(2)
    passed = sum(fleet.take(i % 2, claim, 100.0) for i in range(200))
    assert passed == claim.burst
    assert fleet.lender.lent(claim.key) == 0


def test_a_busy_bucket_costs_few_calls() -> None:
    fleet = Fleet(1)
    claim = Claim(b"k", 1.0, 1000.0, 100.0)
    for i in range(5000):
        now = 100.0 + i / 900
        if i % 25 == 0:
            fleet.tick(now)
        fleet.take(0, claim, now)
    assert fleet.calls < 150


def test_a_holder_that_leaves_hands_its_share_back() -> None:
    fleet = Fleet(1)
    claim = Claim(b"k", 1.0, 1000.0, 100.0)
    for i in range(100):
        fleet.take(0, claim, 100.0 + i / 900)
    assert fleet.lender.lent(b"k") > 0
    draws = fleet.borrowers[0].leave(100.2)
    fleet.lender.decide(0, draws, 100.2)
    assert fleet.lender.lent(b"k") == 0


def test_a_rich_holder_gives_back_when_it_renews_what_others_may_need() -> None:
    fleet, claim, now = Fleet(1), Claim(b"k", 1.0, 1000.0, 100.0), 100.0
    for _ in range(30):  # it learns what it wants
        now += 0.01
        for _ in range(5):
            fleet.take(0, claim, now)
    fleet.tick(now)
    for _ in range(7):  # and earns, while its lease is half over
        now += 0.1
        assert fleet.take(0, claim, now)
    draws = fleet.borrowers[0].due(now)
    (draw,) = draws
    assert draw.charge < 0
    (share,) = fleet.lender.decide(0, draws, now).shares
    assert draw.mine == pytest.approx(0.5 * SHARE * 100.0)
    assert share.tokens == 0.0, "what it gave back is not given to it again"


def test_a_limit_that_is_small_for_so_many_holders_is_decided_by_the_centre_and_used() -> None:
    rate, burst = 200.0, 20.0
    claim, fleet, now, granted = Claim(b"k", 1.0, rate, burst), Fleet(8), 100.0, 0
    dice = random.Random(1)
    for step in range(4800):  # 240/s for 20 s
        now += dice.expovariate(240.0)
        granted += fleet.take(dice.randrange(8), claim, now)
        if step % 6 == 0:
            fleet.tick(now)
    assert 0.97 * rate * (now - 100.0) <= granted <= rate * (now - 100.0) + burst
