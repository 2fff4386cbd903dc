"""The stores in memory answer at once and keep their bounds."""

import pytest

from gateway.pipeline.ports import BlobStore, Claim, CounterStore, Grant
from gateway.stores.memory import MemoryBlobs, MemoryCounters


class ManualClock:
    def __init__(self):
        self.at = 100.0

    def now(self):
        return self.at

    def wall(self):
        return self.at


def test_counters_decide_all_levels_together_and_at_once():
    store: CounterStore = MemoryCounters()
    claims = [Claim(b"all", 1, 10, 10), Claim(b"alice", 1, 1, 1)]
    assert store.take(claims, 0) == Grant(True, 1, 0, 0.0, 1.0)
    assert store.take(claims, 0) == Grant(False, 1, 0, 1.0, 1.0)
    last = store.take(claims[:1], 0)
    assert isinstance(last, Grant)
    assert (last.allowed, last.binding, last.remaining, last.retry_after) == (True, 0, 8, 0.0)
    assert last.reset == pytest.approx(0.2)


def test_what_is_given_back_can_be_spent_again_and_debt_is_waited_out():
    store = MemoryCounters()
    claim = Claim(b"k", 3, 1, 3)
    assert store.take([claim], 0).allowed
    store.settle([Claim(b"k", -1, 1, 3)], 0)
    assert store.take([Claim(b"k", 1, 1, 3)], 0).allowed
    store.settle([Claim(b"k", 5, 1, 3)], 0)
    assert store.take([Claim(b"k", 1, 1, 3)], 0).retry_after == pytest.approx(6)


def test_a_blob_lives_for_its_time():
    clock = ManualClock()
    store: BlobStore = MemoryBlobs(10_000, clock)
    store.set(b"k", b"value", 10)
    clock.at += 9.9
    assert store.get(b"k") == b"value"
    clock.at += 0.1
    assert store.get(b"k") is None
    assert store.get(b"other") is None


def test_blobs_are_replaced_deleted_and_bounded():
    store = MemoryBlobs(10_000, ManualClock())
    store.set(b"k", b"one", 10)
    store.set(b"k", b"two", 10)
    assert store.get(b"k") == b"two"
    store.set(b"l", b"three", 10)
    store.set(b"l", b"never", 0)
    store.delete([b"k", b"missing"])
    assert (store.get(b"k"), store.get(b"l")) == (None, None)
    for i in range(100):
        store.set(b"%d" % i, bytes(1000), 10)
    assert 0 < sum(store.get(b"%d" % i) is not None for i in range(100)) < 10
