"""What the window lets into main, and how a change of its share is carried out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.eviction import MOVES, Entry, Queues

SIZE = 100


def asked(queues, name, times=1, size=SIZE):
    """Ask for a key so many times; True if it was there the last time."""
    key = b"%d" % name
    return [queues.played(key, name * 2654435761 % 2**32, size, None) for _ in range(times)][-1]


def here(queues, names):
    return [name for name in names if b"%d" % name in queues]


def test_what_is_asked_for_once_never_pushes_out_what_is_asked_for_again():
    queues: Queues[None] = Queues(10 * SIZE, 0.1)
    for _ in range(3):
        for name in range(9):
            asked(queues, name)
    for name in range(100, 200):
        asked(queues, name)
    assert len(here(queues, range(9))) >= 8
    assert len(here(queues, range(100, 200))) <= 2


def test_who_comes_back_often_enough_gets_in():
    queues: Queues[None] = Queues(10 * SIZE, 0.1)
    for name in range(10):
        asked(queues, name)
    for _ in range(4):  # leaves the window each time, remembered by the sketch
        asked(queues, 100)
        asked(queues, 101)
    assert here(queues, [100]) == [100]


def test_a_large_entry_has_to_be_worth_all_whom_it_would_push_out():
    queues: Queues[None] = Queues(20 * SIZE, 0.5)
    for name in range(10):
        asked(queues, name, 2)
    for name in range(10, 20):
        asked(queues, name)  # pushes the first ten into main, which is full now
    asked(queues, 99, 3, size=8 * SIZE)
    for name in range(200, 230):
        asked(queues, name)
    assert here(queues, [99]) == []
    assert len(here(queues, range(10))) == 10


def test_all_window_is_last_in_last_out_with_a_second_chance():
    queues: Queues[None] = Queues(5 * SIZE, 1.0)
    for name in range(5):
        asked(queues, name)
    asked(queues, 0)
    asked(queues, 5)
    assert here(queues, range(6)) == [0, 2, 3, 4, 5]


def test_another_share_is_reached_in_small_steps():
    queues: Queues[None] = Queues(100 * SIZE, 1.0)
    for name in range(100):
        asked(queues, name)
    queues.share(0.01)
    before = len(queues._main)
    asked(queues, 100)
    assert len(queues._main) - before <= MOVES
    for name in range(101, 160):
        asked(queues, name)
    assert queues._window_size <= queues._window_limit


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "remove", "share", "resize"]), st.integers(0, 25), st.integers(1, 400)
        ),
        max_size=150,
    )
)
def test_sizes_add_up_and_stay_within_the_capacity(steps):
    queues: Queues[None] = Queues(1000, 0.1)
    for what, name, size in steps:
        entry: Entry[None] | None = queues._entries.get(b"%d" % name)
        if what == "ask":
            asked(queues, name, size=size)
        elif what == "share":
            queues.share(size / 400)
        elif entry is not None and what == "remove":
            queues.remove(entry)
            queues.tidy()
        elif entry is not None:
            queues.resize(entry, size)
        entries = list(queues._entries.values())
        assert queues.size == sum(entry.size for entry in entries) <= queues.capacity
        assert queues._window_size + queues._main_size == queues.size
        assert len(queues._window) + len(queues._main) <= 2 * len(entries) + 64 + len(steps)


def test_its_repr_shows_its_state():
    queues: Queues[None] = Queues(1000, 0.4)
    asked(queues, 1)
    assert repr(queues) == "<Queues 1 entries, 100 of 1000 bytes, window 40 %>"


@pytest.mark.parametrize("hits", [0, 1, 40])
def test_what_was_asked_for_is_halved_with_time(hits):
    queues: Queues[None] = Queues(10 * SIZE, 0.1)
    asked(queues, 1, 1 + hits)
    entry = queues._entries[b"1"]
    most = entry.asked
    assert most == min(15, 1 + hits)
    for _ in range(64 * 16):
        asked(queues, 2)
    assert queues._asked(entry) == most // 2
