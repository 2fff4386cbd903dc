"""Ejection finds the sick among the well, spares everybody in an incident, and never empties a pool."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.ejection import DOUBT_FOR, Ejector

POOL = ["a", "b", "c", "d"]


def healthy(ejector: Ejector, now: float, calls: int = 50, keys=POOL) -> None:
    for _ in range(calls):
        for key in keys:
            assert ejector.record(key, True, now, len(POOL)) is None


def fail(ejector: Ejector, key: str, now: float, times: int = 1, size: int = len(POOL)) -> float | None:
    until = None
    for _ in range(times):
        until = ejector.record(key, False, now, size)
    return until


def test_failures_in_a_row_eject_an_instance_while_the_others_are_well():
    ejector = Ejector(consecutive=5, base=5)
    healthy(ejector, 0)
    assert fail(ejector, "a", 1, times=2) is None
    until = next(filter(None, (fail(ejector, "a", 1) for _ in range(3))))
    assert until == 6
    assert ejector.ejected(5.9) == ["a"]
    assert ejector.ejected(6) == []


def test_one_failure_is_enough_where_nobody_listens():
    ejector = Ejector(consecutive=5, base=5)
    healthy(ejector, 0)
    assert ejector.record("a", False, 1, len(POOL), unreachable=True) == 6
    healthy(ejector, 1, keys=POOL[1:])
    assert ejector.record("a", False, 6, len(POOL), unreachable=True) == 16  # a relapse


def test_nobody_is_ejected_where_nobody_listens_anywhere():
    ejector = Ejector(consecutive=5, base=5)
    healthy(ejector, 0)
    for _ in range(20):
        for key in POOL:
            ejector.record(key, False, 1, len(POOL), unreachable=True)
    assert len(ejector.ejected(1)) <= len(POOL) // 2


def test_outcomes_of_an_ejected_instance_change_nothing():
    ejector = Ejector(consecutive=2)
    healthy(ejector, 0)
    fail(ejector, "a", 1, times=2)
    assert ejector.ejected(2) == ["a"]
    assert fail(ejector, "a", 2, times=50) is None
    assert ejector.ejections == 1


def test_an_incident_that_hits_everybody_ejects_nobody():
    ejector = Ejector()
    healthy(ejector, 0)
    for i in range(200):
        for key in POOL:
            assert ejector.record(key, False, 1 + i * 0.01, len(POOL)) is None


def test_a_failure_right_after_the_return_is_a_relapse_and_lasts_twice_as_long():
    ejector = Ejector(consecutive=2, base=5, longest=12)
    healthy(ejector, 0)
    until = fail(ejector, "a", 1, times=2)
    durations = []
    for _ in range(3):
        healthy(ejector, until, keys=POOL[1:])
        start = until
        until = fail(ejector, "a", start)
        assert until is not None
        durations.append(until - start)
    assert durations == [10, 12, 12]


def test_health_after_the_return_pays_the_debt_off():
    ejector = Ejector(consecutive=2, base=5)
    healthy(ejector, 0)
    until = fail(ejector, "a", 1, times=2)
    healthy(ejector, until)
    healthy(ejector, until + 5)
    assert fail(ejector, "a", until + 5) is None
    assert fail(ejector, "a", until + 5) == until + 10


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)])
def test_no_more_than_its_share_of_the_pool_is_ever_out(size, most):
    ejector = Ejector(consecutive=3, max_share=0.5)
    keys = [str(i) for i in range(size)]
    for victim in keys:
        for _ in range(100):
            for key in keys:
                ejector.record(key, True, 0, size)
        fail(ejector, victim, 0.1, times=3, size=size)
    assert len(ejector.ejected(0.2)) == most


@given(
    st.integers(1, 6),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 1)), max_size=400),
)
def test_the_last_instance_always_stays(size, max_share, calls):
    ejector = Ejector(consecutive=1, base=5, max_share=max_share)
    now = 0.0
    for index, ok, gap in calls:
        now += gap
        ejector.record(str(index % size), ok, now, size)
        out = len(ejector.ejected(now))
        assert out == 0 or out < size
        assert out <= max(1, int(max_share * size))


def run(share, seconds: float, seed: int, rate: float = 5, hosts: int = 20) -> dict[str, float]:
    """Simulate hosts of which `share(host, now)` of the calls fail; returns when each was ejected, for
    ever."""
    chance = random.Random(seed)
    ejector = Ejector(consecutive=5, base=1e9, longest=1e9)
    ejected: dict[str, float] = {}
    for i in range(int(seconds * rate * hosts)):
        now = i / (rate * hosts)
        host = chance.randrange(hosts)
        if str(host) not in ejected:
            ok = chance.random() >= share(host, now)
            if ejector.record(str(host), ok, now, hosts) is not None:
                ejected[str(host)] = now
    return ejected


def sick(bad_share):
    return lambda host, now: bad_share if host == 0 else 0.002


def test_a_host_that_fails_five_percent_at_five_calls_a_second_is_found_in_a_minute_and_nobody_else():
    ejected = [run(sick(0.05), 120, seed) for seed in range(6)]
    assert {host for found in ejected for host in found} == {"0"}
    assert sorted(found.get("0", 999) for found in ejected)[2] < 60


def test_a_host_that_fails_one_call_of_five_is_found_within_twenty_seconds():
    ejected = run(sick(0.2), 30, seed=1)
    assert list(ejected) == ["0"]
    assert ejected["0"] < 20


@pytest.mark.parametrize("share", [0.002, 0.02])
def test_healthy_hosts_are_not_ejected_for_chance(share):
    assert run(lambda host, now: share, 600, seed=7) == {}


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_sudden_incident_of_everybody_ejects_nobody(share):
    ejected = [run(lambda h, now: share if 20 < now < 50 else 0.002, 60, seed, rate=10) for seed in range(3)]
    assert sum(map(len, ejected)) == 0


@pytest.mark.parametrize("hosts", [2, 3, 20])
def test_a_dead_host_is_found_within_two_seconds(hosts):
    ejected = run(lambda h, now: 1.0 if h == 0 and now > 20 else 0.002, 30, seed=2, hosts=hosts)
    assert list(ejected) == ["0"]
    assert ejected["0"] < 22


def test_doubt_comes_before_ejection_and_ends_with_successes():
    ejector = Ejector(consecutive=50)
    healthy(ejector, 0)
    assert ejector.doubted_until("a") < 0
    assert fail(ejector, "a", 1, times=3) is None
    assert ejector.doubted_until("a") == 1 + DOUBT_FOR
    assert ejector.doubts == 1
    ejector.passed("a", 500, 2)
    assert ejector.doubted_until("a") == 2, "lifted"
    assert ejector.ejected(2) == []


def test_doubt_ends_by_itself_where_no_calls_come():
    ejector = Ejector(consecutive=50)
    healthy(ejector, 0)
    fail(ejector, "a", 1, times=2)
    fail(ejector, "a", 5)
    assert ejector.doubted_until("a") == 5 + DOUBT_FOR, "renewed, not raised again"
    assert ejector.doubts == 1


def test_no_more_are_doubted_than_may_be_out():
    ejector = Ejector(consecutive=50, max_share=0.5)
    healthy(ejector, 0)
    for key in POOL:
        fail(ejector, key, 1, times=3)
    assert sum(ejector.doubted_until(key) > 1 for key in POOL) <= 2


@given(st.integers(0, 5), st.integers(1, 60), st.integers(1, 5))
def test_successes_told_at_once_weigh_as_much_as_one_by_one(failures, calls, again):
    single, bulk = Ejector(consecutive=50), Ejector(consecutive=50)
    for ejector in (single, bulk):
        healthy(ejector, 0)
        fail(ejector, "a", 1, times=failures)
    for _ in range(calls):
        single.record("a", True, 1, len(POOL))
    bulk.passed("a", calls, 1)
    for ejector in (single, bulk):
        fail(ejector, "a", 1, times=again)
    assert single.doubted_until("a") == bulk.doubted_until("a")
    assert single.ejected(1) == bulk.ejected(1)


def test_a_host_that_fails_five_percent_is_doubted_within_twenty_seconds_in_the_median():
    times = []
    for seed in range(15):
        chance, ejector = random.Random(seed), Ejector()
        for i in range(12_000):
            host = chance.randrange(20)
            ejector.record(str(host), chance.random() >= (0.05 if host == 0 else 0.002), i / 100, 20)
            if ejector.doubted_until("0") > i / 100:
                times.append(i / 100)
                break
    assert sorted([*times, *[999.0] * (15 - len(times))])[7] <= 20


def test_n_times_as_many_calls_need_evidence_for_n_times_as_many_chances():
    """Two failures after fifty seconds of health: a doubt at 5 calls/s, chance at 500."""
    doubted = {}
    for rate in (5, 500):
        ejector = Ejector()
        for second in range(50):
            for key in POOL:
                ejector.passed(key, rate, float(second))
        fail(ejector, "a", 50, times=2)
        doubted[rate] = ejector.doubted_until("a") > 50
    assert doubted == {5: True, 500: False}


def test_one_other_that_fails_does_not_hide_that_an_instance_does():
    """One of twenty fails every twentieth call, beside another one that does or doesn't."""
    found = []
    for sick in ({"0"}, {"0", "1"}):
        ejector = Ejector()
        for key in map(str, range(20)):
            ejector.passed(key, 200, 0.0)
        for turn in range(400):
            for key in map(str, range(20)):
                ejector.record(key, key not in sick or turn % 20 != 19, turn / 5, 20)
            if ejector.doubted_until("0") > 0:
                break
        found.append(turn)
    assert found[1] <= found[0] + 20


def test_the_first_moment_of_an_incident_ejects_nobody():
    """One is asked four times before anybody else is heard of again."""
    ejector = Ejector(consecutive=20)
    for second in range(50):
        for key in POOL:
            ejector.passed(key, 20, float(second))
    assert fail(ejector, "a", 50, times=4) is None
    for key in POOL[1:]:
        assert fail(ejector, key, 50) is None
    assert fail(ejector, "a", 50) is None


def test_members_that_left_are_forgotten():
    ejector = Ejector(consecutive=1)
    healthy(ejector, 0)
    fail(ejector, "a", 1)
    ejector.retain({"b", "c"})
    assert ejector.ejected(1) == []
    assert repr(ejector) == "<Ejector 2 watched, 1 ejections>"
