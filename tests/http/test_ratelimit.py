from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.ratelimit import limit_item, policy_item, quoted


@pytest.mark.parametrize(
    ("count", "period", "unit", "item"),
    [
        (5.0, 1.0, "requests", b'"p";q=5;w=1'),
        (100.0, 60.0, "requests", b'"p";q=100;w=60'),
        (0.5, 1.0, "requests", b'"p";q=1;w=2'),
        (3.0, 0.5, "requests", b'"p";q=6;w=1'),
        (20000.0, 60.0, "rows", b'"p";q=20000;w=60;qu="rows"'),
    ],
)
def test_quota_and_window_are_whole_numbers(count: float, period: float, unit: str, item: bytes) -> None:
    assert policy_item("p", count, period, unit) == item


@given(st.floats(0.1, 1e6), st.floats(0.01, 360.0))
def test_what_is_written_is_the_rate(count: float, period: float) -> None:
    found = re.fullmatch(rb'"p";q=(\d+);w=(\d+)', policy_item("p", count, period))
    assert found is not None
    assert int(found[1]) / int(found[2]) == pytest.approx(count / period, rel=0.05)


def test_seconds_are_rounded_up_and_left_out_where_there_are_none() -> None:
    assert limit_item(b'"p"', 4, 0.2) == b'"p";r=4;t=1'
    assert limit_item(b'"p"', 0, math.inf) == b'"p";r=0'


@given(st.text())
def test_a_name_is_always_a_structured_string(name: str) -> None:
    assert re.fullmatch(rb'"([ !#-\[\]-~]|\\["\\])*"', quoted(name))
