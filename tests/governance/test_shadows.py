"""The shadows choose what suits the traffic, and the cache follows them."""

import random

import pytest

from gateway.governance.bounded_map import FIRST, BoundedMap
from gateway.governance.eviction import OVERHEAD
from gateway.governance.shadows import FEW, SHARES, Shadows, sample_of

ENTRIES = 400


@pytest.mark.parametrize(
    ("entries", "power"), [(0, 0), (FEW, 0), (2 * FEW, 1), (4 * FEW, 2), (32 * FEW, 5), (10**6, 5)]
)
def test_a_sample_is_as_small_as_a_shadow_of_enough_entries_allows(entries, power):
    assert sample_of(entries) == power


def serve(cache, keys):
    hits = 0
    for number in keys:
        key = random.Random(number).randbytes(16)
        if cache.get(key) is not None:
            hits += 1
        else:
            cache.put(key, number, 100)
    return hits


def moving(requests):
    """Each thing is asked for some times, soon after it came, and never again."""
    rng = random.Random(5)
    return [at // 4 - rng.randrange(ENTRIES * 3 // 4) for at in range(4 * ENTRIES, 4 * ENTRIES + requests)]


def looping(requests):
    return [at % (ENTRIES * 3 // 2) + 10**6 for at in range(requests)]


def a_cache():
    return BoundedMap(ENTRIES * (100 + 16 + OVERHEAD))


def test_where_popularity_moves_the_window_becomes_large():
    cache = a_cache()
    serve(cache, moving(15_000))
    assert cache.window >= 0.4


def test_where_a_loop_is_played_the_window_becomes_small():
    cache = a_cache()
    serve(cache, looping(15_000))
    assert cache.window == min(SHARES)


def test_it_follows_a_traffic_that_changes():
    cache = a_cache()
    serve(cache, looping(12_000))
    assert cache.window == min(SHARES)
    serve(cache, moving(15_000))
    assert cache.window >= 0.4
    assert 2 <= cache.changes < 20


def test_a_cache_with_room_to_spare_needs_no_shadows():
    cache = a_cache()
    serve(cache, range(ENTRIES // 10))
    assert cache._shadows is None
    assert cache.window == SHARES[FIRST]


def test_shadows_hold_a_samples_share_of_the_room():
    shadows = Shadows(64_000, 3, FIRST)
    for number in range(5000):
        shadows.play(b"%d" % number, number * 2654435761 % 2**32, 100)
    assert all(queues.size <= 8000 for queues in shadows._queues)
    assert "1 in 8" in repr(shadows)
