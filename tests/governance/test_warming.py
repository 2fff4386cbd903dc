from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.token_bucket import Bucket
from gateway.governance.warming import COLD, Warmth


def passed(warmth: Warmth, bucket: Bucket, begin: float, seconds: float) -> int:
    """Requests that pass, 200/s offered."""
    return sum(
        bucket.take(warmth.price(begin + i / 200), begin + i / 200) == 0 for i in range(int(seconds * 200))
    )


def test_a_cold_limit_lets_a_third_pass_and_all_of_it_once_warm() -> None:
    warmth, bucket = Warmth(10.0), Bucket(100.0, 10.0)
    first = passed(warmth, bucket, 0.0, 1.0)
    passed(warmth, bucket, 1.0, 9.0)
    warm = passed(warmth, bucket, 10.0, 1.0)
    assert 30 <= first <= 42
    assert 95 <= warm <= 101
    assert "100%" in repr(warmth)


def test_a_pause_makes_it_cold_again() -> None:
    warmth = Warmth(10.0)
    for i in range(200):
        warmth.price(i / 10)
    assert warmth.price(20.0) == 1.0
    assert warmth.price(25.0) == 2.0
    assert warmth.price(60.0) == COLD


@given(st.lists(st.floats(0, 30), max_size=50))
def test_a_price_lies_between_one_and_cold(gaps: list[float]) -> None:
    warmth, now = Warmth(5.0), 0.0
    for gap in gaps:
        now += gap
        assert 1.0 <= warmth.price(now) <= COLD
