"""Which calls go into a batch."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.batching import BatchFormer


def test_calls_go_in_the_order_in_which_they_came() -> None:
    former: BatchFormer[int] = BatchFormer(10)
    for item in range(4):
        former.add(item, 1, "a", 100.0)
    assert [place.item for place in former.take(0.0)] == [0, 1, 2, 3]
    assert former.waiting == 0


def test_callers_take_turns() -> None:
    former: BatchFormer[str] = BatchFormer(4)
    for _ in range(100):
        former.add("a", 1, "a", 100.0)
    for who in ("b", "c"):
        former.add(who, 1, who, 100.0)
    assert Counter(place.item for place in former.take(0.0)) == {"a": 2, "b": 1, "c": 1}


def test_who_does_not_fit_waits_and_is_first_next_time() -> None:
    former: BatchFormer[str] = BatchFormer(4)
    former.add("small", 1, "a", 100.0)
    former.add("large", 4, "b", 100.0)
    former.add("small too", 1, "a", 100.0)
    assert [place.item for place in former.take(0.0)] == ["small", "small too"]
    assert [place.item for place in former.take(0.0)] == ["large"]


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    former: BatchFormer[str] = BatchFormer(4)
    for _ in range(100):
        former.add("small", 1, "a", 100.0)
    former.add("large", 4, "b", 100.0)
    former.take(0.0)
    assert [place.item for place in former.take(0.0)] == ["large"]


def test_who_would_be_late_is_left_out() -> None:
    former: BatchFormer[str] = BatchFormer(4)
    former.add("first", 1, "a", 99.0)
    former.take(9.2)
    former.took(0.8)
    former.add("late", 1, "a", 10.9)
    former.add("in time", 1, "a", 11.1)
    assert [place.item for place in former.take(10.0)] == ["in time"]
    assert former.waiting == 0


def test_one_slow_batch_does_not_keep_everybody_out_for_ever() -> None:
    former: BatchFormer[int] = BatchFormer(4)
    former.add(-1, 1, "a", 99.0)
    former.take(10.0)
    former.took(0.9)
    went = []
    for second in range(20):  # each has a second, less than the slow one is believed to take
        now = 11.0 + second / 4
        former.add(second, 1, "a", now + 1.0)
        chosen = [place.item for place in former.take(now)]
        went += chosen
        if chosen:
            former.took(0.01)
    assert went[:1] == [4]
    assert len(went) > 10


@given(
    calls=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.booleans()), min_size=1, max_size=60
    )
)
def test_everybody_who_stays_goes_once_and_no_batch_is_too_large(calls: list[tuple[str, int, bool]]) -> None:
    former: BatchFormer[int] = BatchFormer(4)
    stays = []
    for number, (who, rows, leaves) in enumerate(calls):
        place = former.add(number, rows, who, 100.0)
        if leaves:
            former.leave(place)
            former.leave(place)
        else:
            stays.append(number)
    went: list[int] = []
    while batch := former.take(0.0):
        assert sum(place.rows for place in batch) <= 4
        went += [place.item for place in batch]
    assert sorted(went) == stays
    assert former.waiting == 0
