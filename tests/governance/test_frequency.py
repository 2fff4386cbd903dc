"""The sketch never forgets too early, halves what is old, and grows without changing its mind."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.frequency import SPREAD, STRIPES, Sketch

counts = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, 15), max_size=40)


@given(counts)
def test_no_key_is_thought_less_wanted_than_it_is(asked):
    sketch = Sketch()
    for hashed, count in asked.items():
        sketch.remember(hashed, count)
    assert all(sketch.estimate(hashed) >= count for hashed, count in asked.items())


@given(counts)
def test_growing_changes_no_estimate(asked):
    sketch = Sketch()
    for hashed, count in asked.items():
        sketch.remember(hashed, count)
    before = {hashed: sketch.estimate(hashed) for hashed in asked}
    sketch.fit(5 * 4096 // SPREAD)
    assert {hashed: sketch.estimate(hashed) for hashed in asked} == before


@given(counts)
def test_everything_is_halved_once_in_sixteen_steps_and_the_epochs_tell(asked):
    sketch = Sketch()
    for hashed, count in asked.items():
        sketch.remember(hashed, count)
    before = {hashed: sketch.estimate(hashed) for hashed in asked}
    for step in range(1, STRIPES + 1):
        sketch.age()
        assert sum(sketch.epochs) == step
        for hashed, count in before.items():
            assert sketch.estimate(hashed) == count >> sketch.epochs[hashed % STRIPES]


def test_a_key_shares_both_its_counters_with_few_others():
    sketch = Sketch()
    for hashed in range(0, 2**32, 2**32 // 64):
        sketch.remember(hashed * 2654435761 % 2**32, 9)
    strangers = [hashed * 2246822519 % 2**32 for hashed in range(1, 20_000)]
    assert sum(sketch.estimate(hashed) > 0 for hashed in strangers) < 200
