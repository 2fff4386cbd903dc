from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.heavy_hitters import HeavyHitters


@given(st.lists(st.integers(0, 30), max_size=400), st.integers(1, 10), st.integers(1, 20))
def test_who_comes_often_is_found_and_nobody_else(values: list[int], capacity: int, hot: int) -> None:
    hitters = HeavyHitters(capacity, hot)
    came: Counter[int] = Counter()
    for number, value in enumerate(values, 1):
        came[value] += 1
        found = hitters.is_hot(b"%d" % value, 0.5)
        assert len(hitters) <= capacity
        if found:
            assert came[value] > hot
        elif came[value] > hot + number / (capacity + 1) + 1:
            raise AssertionError(f"{value} came {came[value]} times of {number} and was not found")


def test_a_hot_value_stays_hot_for_a_window_and_is_forgotten_when_it_stops() -> None:
    hitters = HeavyHitters(10, 5)
    assert [hitters.is_hot(b"a", 0.1) for _ in range(7)] == [False] * 5 + [True] * 2
    assert hitters.is_hot(b"a", 1.2)
    assert not hitters.is_hot(b"b", 1.2)
    assert not hitters.is_hot(b"a", 5.0)
    assert "1 of 10 values" in repr(hitters)
