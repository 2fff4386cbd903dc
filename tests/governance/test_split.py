"""Shares by weight, and stickiness that survives growing weights."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.split import Split, place


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5).filter(lambda w: sum(w) > 0.01))
def test_evenly_spread_points_share_by_weight(weights):
    split = Split({str(i): w for i, w in enumerate(weights)})
    share = Counter(split.choose((i + 0.5) / 1000) for i in range(1000))
    for i, weight in enumerate(weights):
        assert share[str(i)] / 1000 == pytest.approx(weight / sum(weights), abs=0.0021)


@given(st.floats(0, 1), st.floats(0, 1), st.binary(max_size=20), st.binary(max_size=80))
def test_who_is_in_the_growing_arm_stays_in_it(one, other, key, salt):
    low, high = sorted((one, other))
    before = Split({"canary": low, "stable": 1 - low}).choose_for(key, salt)
    after = Split({"canary": high, "stable": 1 - high}).choose_for(key, salt)
    assert not (before == "canary" and after == "stable")


def test_places_are_spread_evenly_and_never_reach_one():
    places = sorted(place(b"%d" % i) for i in range(10_000))
    assert places[0] >= 0.0
    assert max(places) < 1.0
    assert max(abs(p - i / 10_000) for i, p in enumerate(places)) < 0.02


def test_places_are_the_same_on_every_machine_for_ever():
    assert place(b"alice", b"release-v2") == 0.9640552996763815


def test_another_salt_scatters_the_same_users_anew():
    split = Split({"canary": 10, "stable": 90})
    users = [b"%d" % i for i in range(2000)]
    first = {u for u in users if split.choose_for(u, b"one") == "canary"}
    second = {u for u in users if split.choose_for(u, b"two") == "canary"}
    assert len(first & second) < 0.3 * len(first)


def test_an_arm_without_weight_is_never_chosen():
    split = Split({"off": 0, "on": 1, "out": 0})
    assert {split.choose(i / 100) for i in range(100)} == {"on"}


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": -1, "b": 3}, {"a": float("inf")}])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Split(weights)
