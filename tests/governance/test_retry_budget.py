"""The retry budget's law: attempts <= requests * (1 + ratio) + floor * t."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.retry_budget import RetryBudget


@given(
    st.floats(0, 1),
    st.floats(0, 20),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300),
)
def test_attempts_never_exceed_the_share_plus_the_floor(ratio, floor, steps):
    budget = RetryBudget(ratio, floor)
    now, requests, retries = 50.0, 0, 0
    budget.request(now)
    requests += 1
    for gap, is_request in steps:
        now += gap
        if is_request:
            budget.request(now)
            requests += 1
        else:
            retries += budget.spend(now)
        assert retries <= requests * ratio + floor * (now - 49.0) + 1e-6
        assert budget.balance(now) <= budget.cap


def test_in_a_total_outage_attempts_stay_within_the_share():
    budget = RetryBudget(ratio=0.2, floor=0)
    attempts = 0
    for i in range(1000):
        budget.request(i * 0.01)
        attempts += 1
        for _ in range(3):
            attempts += budget.spend(i * 0.01)
    assert attempts == 1200


def test_the_first_request_of_a_quiet_pool_may_be_retried():
    budget = RetryBudget(ratio=0.2, floor=3)
    budget.request(0)
    assert [budget.spend(0) for _ in range(4)] == [True, True, True, False]
    assert (budget.spent, budget.refused) == (3, 1)


def test_quiet_hours_are_no_licence_for_a_storm():
    budget = RetryBudget(ratio=0.2, floor=1)
    for i in range(100_000):
        budget.request(i)
    assert sum(budget.spend(100_000) for _ in range(1000)) == 10


@pytest.mark.parametrize("values", [(-0.1, 1), (0.1, -1)])
def test_a_negative_budget_is_refused(values):
    with pytest.raises(ValueError, match="negative"):
        RetryBudget(*values)
