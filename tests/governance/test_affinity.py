"""The guess at caches: what was sent where, forgotten as caches forget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.affinity import Affinity


def test_an_instance_is_warm_for_as_much_of_a_chain_as_it_was_sent():
    affinity = Affinity()
    affinity.placed((1, 2, 3, 4), 70, 0)
    affinity.placed((1, 2), 80, 0)
    assert affinity.warm((1, 2, 3, 9), 1) == pytest.approx({70: 0.75, 80: 0.5})
    assert affinity.warm((9, 2, 3), 1) == {}
    assert (affinity.hits, affinity.misses) == (1, 1)


def test_a_block_in_the_middle_without_those_before_it_is_worth_nothing():
    affinity = Affinity()
    affinity.placed((2, 3), 70, 0)
    affinity.placed((1,), 80, 0)
    assert affinity.warm((1, 2, 3), 0) == pytest.approx({80: 1 / 3})


def test_what_was_sent_long_ago_is_forgotten():
    affinity = Affinity(ttl=10)
    affinity.placed((1,), 70, 0)
    assert affinity.warm((1,), 10) == {70: 1.0}
    assert affinity.warm((1,), 10.1) == {}


def test_the_end_of_a_chain_is_forgotten_before_its_beginning():
    affinity = Affinity(capacity=3)
    affinity.placed((1, 2, 3, 4), 70, 0)
    assert affinity.warm((1, 2, 3, 4), 0) == {70: 0.75}


def test_instances_that_left_are_forgotten():
    affinity = Affinity()
    affinity.placed((1, 2), 70, 0)
    affinity.placed((1,), 80, 0)
    affinity.retain({80})
    assert affinity.warm((1, 2), 0) == {80: 0.5}
    assert repr(affinity) == "<Affinity 1 blocks at 1 instances | 1 hits, 0 misses>"


chains = st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True).map(tuple)


@given(st.lists(st.tuples(chains, st.integers(0, 3)), max_size=60), chains, st.integers(1, 12))
def test_nobody_keeps_more_than_its_capacity_and_shares_are_of_the_beginning(placed, asked, capacity):
    affinity = Affinity(capacity=capacity)
    for chain, key in placed:
        affinity.placed(chain, key, 0)
    kept = {key: set(blocks) for key, blocks in affinity._kept.items()}
    assert all(len(blocks) <= capacity for blocks in kept.values())
    expected = {}
    for key, blocks in kept.items():
        depth = next((i for i, block in enumerate(asked) if block not in blocks), len(asked))
        if depth:
            expected[key] = depth / len(asked)
    assert affinity.warm(asked, 0) == pytest.approx(expected)
