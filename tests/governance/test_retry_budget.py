"""The retry budget's law: attempts <= requests + successes * ratio + floor * t + cap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.retry_budget import RetryBudget


@given(
    st.floats(0, 1),
    st.floats(0, 20),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300),
)
def test_further_attempts_never_exceed_the_share_of_successes_plus_the_floor(ratio, floor, steps):
    budget = RetryBudget(ratio, floor)
    now, successes, retries = 50.0, 0, 0
    for gap, is_success in steps:
        now += gap
        if is_success:
            budget.earn()
            successes += 1
        else:
            retries += budget.spend(now)
        assert retries <= successes * ratio + floor * (now - 49.0) + 1e-6
        assert budget.balance(now) <= budget.cap


def outage(requests, per_second, healthy=0):
    """Attempts of an outage in which everything fails and is tried three times if it may."""
    budget = RetryBudget()
    for _ in range(healthy):
        budget.earn()
    attempts = 0
    for i in range(requests):
        attempts += 1
        for _ in range(2):
            attempts += budget.spend(i / per_second)
    return attempts


@pytest.mark.parametrize("healthy", [0, 10_000], ids=["from the start", "after long health"])
@pytest.mark.parametrize(("requests", "per_second"), [(400, 40), (640, 80), (5000, 500)])
def test_in_a_total_outage_attempts_stay_within_a_fifth_of_the_requests(requests, per_second, healthy):
    assert requests <= outage(requests, per_second, healthy) <= 1.2 * requests


def test_while_most_requests_succeed_a_fifth_of_them_may_be_retried():
    budget = RetryBudget(ratio=0.2, floor=0)
    retries = 0
    for i in range(1000):
        retries += budget.spend(i * 0.01)
        budget.earn()
    assert retries == pytest.approx(200, abs=1)


def test_the_first_request_of_a_quiet_pool_may_be_retried():
    budget = RetryBudget(ratio=0.2, floor=3)
    assert [budget.spend(0) for _ in range(4)] == [True, True, True, False]
    assert (budget.spent, budget.refused) == (3, 1)


def test_quiet_hours_are_no_licence_for_a_storm():
    budget = RetryBudget(ratio=0.2, floor=1)
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend(100_000) for _ in range(1000)) == 10


@pytest.mark.parametrize("values", [(-0.1, 1), (0.1, -1)])
def test_a_negative_budget_is_refused(values):
    with pytest.raises(ValueError, match="negative"):
        RetryBudget(*values)
