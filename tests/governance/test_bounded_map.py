"""S3-FIFO keeps its bound whatever comes, and keeps the right things: at least as well as LRU."""

import random
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.bounded_map import BoundedMap
from gateway.governance.eviction import OVERHEAD

steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "delete", "purge"]), st.integers(0, 30), st.integers(0, 1500)),
    max_size=200,
)


@given(steps, st.integers(1, 8000))
def test_the_bound_holds_and_what_is_returned_is_what_was_put_last(steps, capacity):
    cache: BoundedMap[int] = BoundedMap(capacity)
    last: dict[bytes, tuple[int, int]] = {}
    for serial, (what, name, size) in enumerate(steps):
        key = b"%d" % name
        if what == "put":
            kept = cache.put(key, serial, size, tags=(str(name % 3),))
            assert kept is (size + len(key) + OVERHEAD <= capacity)
            last[key] = (serial, size)
        elif what == "get":
            value = cache.get(key)
            assert value is None or value == last[key][0]
        elif what == "delete":
            was_here = key in cache
            assert cache.delete(key) is was_here
            last.pop(key, None)
        else:
            gone = cache.purge_tag(str(name % 3))
            assert gone >= 0
            assert not any(k in cache for k in last if int(k) % 3 == name % 3)
        held = [key for key in last if key in cache]
        assert len(cache) == len(held)
        assert cache.size == sum(last[key][1] + len(key) + OVERHEAD for key in held) <= capacity


def test_an_entry_larger_than_the_cache_is_not_kept_and_evicts_nobody():
    cache: BoundedMap[str] = BoundedMap(1000)
    cache.put(b"a", "x", 100)
    assert not cache.put(b"b", "y", 2000)
    assert cache.get(b"a") == "x"
    assert not cache.put(b"a", "z", 2000)
    assert cache.get(b"a") is None, "an old value must not outlive its replacement"


def test_entries_are_purged_by_tag_and_by_predicate():
    cache: BoundedMap[int] = BoundedMap(100_000)
    for i in range(10):
        cache.put(b"%d" % i, i, 10, tags=("even" if i % 2 == 0 else "odd", "all"))
    assert cache.purge_tag("even") == 5
    assert cache.purge_tag("even") == 0
    assert cache.purge(lambda _key, value: value > 6) == 2
    assert sorted(key for key in (b"1", b"3", b"5", b"7", b"9") if key in cache) == [b"1", b"3", b"5"]
    assert cache.clear() == 3
    assert (len(cache), cache.size) == (0, 0)


def test_deleted_entries_leave_no_growing_queue_behind():
    cache: BoundedMap[int] = BoundedMap(1 << 20)
    for i in range(20_000):
        cache.put(b"k", i, 10)
    assert len(cache._window) + len(cache._main) < 100


def test_a_scan_does_not_wash_out_what_is_asked_for_again_and_again():
    cache: BoundedMap[int] = BoundedMap(200 * (OVERHEAD + 110))
    for _ in range(4):
        for i in range(100):
            if cache.get(b"hot%d" % i) is None:
                cache.put(b"hot%d" % i, i, 100)
    for i in range(5000):
        cache.put(b"scan%d" % i, i, 100)
    assert sum(b"hot%d" % i in cache for i in range(100)) > 80


def hit_ratio(get, put, trace):
    hits = 0
    for key in trace:
        if get(key):
            hits += 1
        else:
            put(key)
    return hits / len(trace)


def zipf(chance, n, requests):
    weights = [1 / (i + 1) for i in range(n)]
    return chance.choices([b"%06d" % i for i in range(n)], weights, k=requests)


def with_scans(chance, n, requests):
    trace = zipf(chance, n, requests)
    for start in range(0, requests, 10_000):
        trace[start : start + 3000] = [b"s%05d" % (start + i) for i in range(3000)]
    return trace


@pytest.mark.parametrize(("make", "least_gain"), [(zipf, 0.04), (with_scans, 0.04)])
def test_it_hits_more_often_than_lru(make, least_gain):
    trace = make(random.Random(4), 20_000, 60_000)
    entries = 500
    lru: OrderedDict[bytes, bool] = OrderedDict()

    def lru_get(key):
        if key in lru:
            lru.move_to_end(key)
            return True
        return False

    def lru_put(key):
        lru[key] = True
        if len(lru) > entries:
            lru.popitem(last=False)

    cache: BoundedMap[bool] = BoundedMap(entries * (6 + 100 + OVERHEAD))
    ours = hit_ratio(cache.get, lambda key: cache.put(key, True, 100), trace)
    theirs = hit_ratio(lru_get, lru_put, trace)
    assert ours > theirs + least_gain


def test_a_cache_without_room_is_refused():
    with pytest.raises(ValueError, match="room"):
        BoundedMap(0)


def test_what_takes_the_place_of_another_counts_with_its_own_size_and_tags() -> None:
    held: BoundedMap[str] = BoundedMap(100_000)
    held.put(b"k", "small", 100, ("a", "b"))
    before = held.size
    held.put(b"k", "large", 900, ("b", "c"))
    assert held.size - before == 800
    assert [held.tagged(name) for name in "abc"] == [[], [b"k"], [b"k"]]
