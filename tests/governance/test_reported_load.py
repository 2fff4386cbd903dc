"""Reports of an instance: others' calls count by how many are worked on at once, and only the unusual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.reported_load import HEEDED, LEAST, ReportedLoad


def test_a_call_of_others_weighs_more_where_fewer_are_worked_on_at_once():
    one_slot, many = ReportedLoad(), ReportedLoad()
    many.heard(32, 0, 32)
    assert one_slot.heard(1, 1, 1) == pytest.approx(32 * many.heard(1, 1, 1))


def test_what_is_usual_counts_no_more_and_its_absence_makes_cheaper():
    load = ReportedLoad()
    first = load.heard(4, 8, 2)
    for _ in range(200):
        last = load.heard(4, 8, 2)
    assert first > 0.7
    assert last == pytest.approx(0.0, abs=0.001)
    assert load.heard(2, 0, 2) < -0.4


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 1000)), max_size=50))
def test_no_report_makes_a_cost_negative_or_more_than_all_of_its_calls(reports):
    load = ReportedLoad()
    for running, waiting, ours in reports:
        assert LEAST <= load.heard(running, waiting, ours) <= HEEDED * (running + waiting)
