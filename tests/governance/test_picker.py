"""Pickers keep their laws: shares by weight, the cheapest first, stable hashing, never an unusable
one."""

import random
from collections import Counter
from hashlib import blake2b
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.ewma import Ewma
from gateway.governance.picker import ConsistentHash, LeastCost, RoundRobin, TwoChoices


class Member:
    """A candidate whose every property a test sets."""

    def __init__(self, name, *, latency=0.0, in_flight=0, weight=100, up=True, since=-1e9, zone=""):
        self.name = name
        self.zone = zone
        self.elsewhere = 0
        self.doubted_until = 0.0
        self.in_flight = in_flight
        self.weight = weight
        self.up = up
        self.since = since
        self.key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
        self.latency = Ewma()
        if latency:
            self.latency.record(latency, 0.0)

    def usable(self, now):
        return self.up and self.weight > 0

    def __repr__(self):
        return self.name


def two_choices(pool, panic=0.5):
    return TwoChoices(pool, panic=panic, rng=random.Random(7).random)


KINDS = [LeastCost, RoundRobin, ConsistentHash, two_choices]
members = st.lists(
    st.builds(
        lambda latency, in_flight, weight, up: (latency, in_flight, weight, up),
        st.floats(0.0, 2.0),
        st.integers(0, 30),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=8,
)


def build(table):
    return [
        Member(str(i), latency=latency, in_flight=in_flight, weight=weight, up=up)
        for i, (latency, in_flight, weight, up) in enumerate(table)
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(table=members, key=st.integers(-(2**63), 2**64), data=st.data())
def test_only_a_usable_candidate_that_was_not_tried_is_picked_and_one_is_if_there_is_any(
    kind, table, key, data
):
    pool = build(table)
    tried = tuple(data.draw(st.lists(st.sampled_from(pool), unique_by=id))) if pool else ()
    possible = [m for m in pool if m.usable(0) and m not in tried]
    picked = kind(pool, panic=0).pick(key, 0.0, tried)
    assert (picked in possible) if possible else picked is None


@pytest.mark.parametrize("kind", KINDS)
def test_in_panic_usability_is_disregarded(kind):
    pool = [Member("a", up=False), Member("b", up=False), Member("c")]
    picker = kind(pool, panic=0.5)
    assert {picker.pick(k, 0.0, (pool[2],)).name for k in (0, 2**62, 2**63)} <= {"a", "b"}
    assert kind(pool, panic=0.3).pick(0, 0.0, (pool[2],)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_pool_has_nobody(kind):
    assert kind([]).pick(1, 0.0, ()) is None


# Least cost


@given(members)
def test_the_least_cost_wins(table):
    pool = build(table)
    picker = LeastCost(pool, panic=0)
    picked = picker.pick(0, 0.0, ())
    if picked is not None:
        assert picker.cost(picked, 0.0) == min(picker.cost(m, 0.0) for m in pool if m.usable(0))


def test_a_faster_instance_takes_more_calls_at_once_before_a_slower_one_gets_its_first():
    fast, slow = Member("fast", latency=0.01), Member("slow", latency=0.05)
    picker = LeastCost([fast, slow])
    picks = []
    for _ in range(6):
        picked = picker.pick(0, 0.0, ())
        picked.in_flight += 1
        picks.append(picked.name)
    assert picks[:4] == ["fast"] * 4
    assert "slow" in picks


def test_an_instance_that_fails_fast_gets_almost_nothing():
    sick, well = Member("sick"), Member("well")
    picker = LeastCost([sick, well], rng=random.Random(1).random)
    share = Counter()
    for i in range(4000):
        now = i / 80
        picked = picker.pick(0, now, ())
        share[picked.name] += 1
        if picked is sick:
            sick.latency.record_error(0.002, now)
        else:
            well.latency.record(0.005, now)
    assert share["sick"] / 4000 < 0.008


def test_a_slow_instance_that_recovers_gets_its_share_back_within_ten_seconds():
    a, b = Member("a"), Member("b", latency=2.0)
    chance = random.Random(1)
    picker = LeastCost([a, b], rng=chance.random)
    share = Counter()
    for i in range(1600):
        now = i / 80
        picked = picker.pick(0, now, ())
        picked.latency.record(chance.uniform(0.004, 0.006), now)
        share[picked.name, now >= 10] += 1
    assert share["b", True] > 100


def test_unknown_instances_count_as_the_median_and_ties_are_broken_by_chance():
    known = [Member("k", latency=0.01), Member("l", latency=0.1), Member("m", latency=1.0)]
    new = Member("new")
    assert LeastCost([*known, new]).pick(0, 0.0, ()).name == "k"
    assert LeastCost([known[2], new, known[1]]).cost(new, 0.0) == pytest.approx(0.1 / 100)
    strangers = [Member(str(i)) for i in range(4)]
    picker = LeastCost(strangers, rng=random.Random(3).random)
    share = Counter(picker.pick(0, 0.0, ()).name for _ in range(400))
    assert min(share[m.name] for m in strangers) > 60


@pytest.mark.parametrize(("pause", "drift"), [(0.1, 2.5), (1.0, 5.0), (60.0, 10.0)])
def test_a_slow_instance_is_tried_again_the_later_the_rarer_calls_are(pause, drift):
    """pause: s since the others were heard of. drift: s after which 1/e of the distance is left."""
    slow, *others = members = [Member(str(i), latency=0.01) for i in range(4)]
    slow.latency.value, slow.latency.heard_at = 1.0, 100.0
    picker = LeastCost(members)
    for quarter in range(21):
        now = 100.0 + quarter / 4
        for other in others:
            other.latency.heard_at = now - pause
        assert picker.pick(0, now, ()) is not slow
    better = 0.8 * others[0].latency.value
    assert slow.latency.value == pytest.approx(better * (1.0 / better) ** exp(-5.0 / drift), rel=0.2)


@pytest.mark.parametrize("tried", [0, 1])
def test_in_panic_the_least_cost_of_all_decides_on_the_first_try_too(tried):
    pool = [Member("well", in_flight=9), *(Member(name, up=False) for name in "abc")]
    for picker, crushed in ((LeastCost(pool, panic=0.5), False), (LeastCost(pool, panic=0.2), True)):
        picked = picker.pick(0, 0.0, pool[1 : 1 + tried])
        assert (picked is pool[0]) is crushed


@given(members, st.data())
def test_a_warm_pick_is_the_cheapest_as_if_cold_ones_had_more_calls(table, data):
    pool = build(table)
    warm = {m.key: data.draw(st.sampled_from([0.0, 0.5, 1.0])) for m in pool if data.draw(st.booleans())}
    tried = tuple(data.draw(st.lists(st.sampled_from(pool), unique_by=id))) if pool else ()
    picked = LeastCost(pool, panic=0).pick_warm(warm, 4.0, 0.0, tried)
    possible = [m for m in pool if m.usable(0) and m not in tried]
    assert (picked in possible) if possible else picked is None
    known = sorted(m.latency.value for m in pool if m.latency.value)
    median = known[(len(known) - 1) // 2] if known else 1.0

    def cost(member):
        seconds = member.latency.value if member.latency.value >= 4.0 * median else median
        return seconds * (member.in_flight + 1 + 4.0 * (1.0 - warm.get(member.key, 0.0))) / member.weight

    if picked is not None:
        assert cost(picked) == pytest.approx(min(map(cost, possible)))


@pytest.mark.parametrize("kind", [LeastCost, two_choices])
def test_the_share_falls_with_latency_and_doubt_and_never_exceeds_one(kind):
    pool = [Member("1"), Member("2"), Member("3")]
    for member, latency in zip(pool, (0.005, 0.01, 0.08), strict=True):
        member.latency.record(latency, 0.0)
    pool[0].doubted_until = 10.0
    picker = kind(pool)
    assert [picker.share(member, 1e-9) for member in pool] == pytest.approx([0.1, 1.0, 0.125])


def test_what_the_policy_wants_is_no_lesser_share():
    pool = [Member("1", weight=1), Member("2", weight=100)]
    for member in pool:
        member.latency.record(0.01, 0.0)
        member.since = 0.0
    picker = LeastCost(pool, slow_start=60.0, home="b", far=9.0)
    assert [picker.share(member, 0.1) for member in pool] == pytest.approx([1.0, 1.0])
    assert [picker.share(member, 0.1) for member in [Member("3")]] == [1.0], "nothing is known of it"


def test_turns_and_hashes_heed_doubt_alone():
    pool = [Member("1"), Member("2")]
    pool[0].latency.record(9.0, 0.0)
    pool[1].doubted_until = 10.0
    for picker in (RoundRobin(pool), ConsistentHash(pool)):
        assert [picker.share(member, 1.0) for member in pool] == [1.0, 0.1]


def test_a_new_instance_warms_up():
    old, new = Member("old", latency=0.01), Member("new", latency=0.01, since=0.0)
    picker = LeastCost([old, new], slow_start=10)
    assert picker.cost(new, 0.0) == pytest.approx(10 * picker.cost(old, 0.0))
    assert picker.cost(new, 5.0) == pytest.approx(2 * picker.cost(old, 5.0))
    assert picker.cost(new, 11.0) == pytest.approx(picker.cost(old, 11.0))


def test_weight_divides_the_cost():
    small, big = Member("small", latency=0.01, weight=1), Member("big", latency=0.01, weight=4)
    picker = LeastCost([small, big])
    for _ in range(50):
        picker.pick(0, 0.0, ()).in_flight += 1
    assert (small.in_flight, big.in_flight) == (10, 40)


# Round robin


def test_turns_are_interleaved_smoothly():
    picker = RoundRobin([Member("a", weight=3), Member("b", weight=1)])
    assert "".join(picker.pick(0, 0.0, ()).name for _ in range(8)) == "aabaaaba"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_every_full_cycle_of_turns_shares_exactly_by_weight(weights):
    pool = [Member(str(i), weight=w) for i, w in enumerate(weights)]
    picker = RoundRobin(pool)
    share = Counter(picker.pick(0, 0.0, ()).name for _ in range(sum(weights)))
    assert [share[m.name] for m in pool] == weights


def test_of_equals_one_that_is_out_leaves_its_turns_to_all_others():
    pool = [Member(name) for name in "abcd"]
    picker = RoundRobin(pool)
    pool[1].up = False
    share = Counter(picker.pick(0, 0.0, ()).name for _ in range(400))
    assert set(share) == {"a", "c", "d"}
    assert min(share.values()) > 100


# Consistent hash

KEYS = [int.from_bytes(blake2b(b"%d" % i, digest_size=8).digest(), "big") for i in range(2000)]


def owners(pool, **options):
    picker = ConsistentHash(pool, **options)
    return [picker.pick(key, 0.0, ()).name for key in KEYS]


def test_the_same_key_goes_to_the_same_instance_whatever_the_order_of_members():
    pool = [Member(name) for name in "abcde"]
    assert owners(pool) == owners(pool[::-1])


def test_a_newcomer_takes_keys_only_for_itself():
    before = owners([Member(name) for name in "abcd"])
    after = owners([Member(name) for name in "abcde"])
    moved = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
    assert all(y == "e" for _, y in moved)
    assert 0.1 < len(moved) / len(KEYS) < 0.3


def test_a_usable_instance_keeps_its_keys_while_another_is_out():
    pool = [Member(name) for name in "abcd"]
    before = owners(pool, panic=0)
    pool[0].up = False
    after = owners(pool, panic=0)
    assert all(x == y for x, y in zip(before, after, strict=True) if x != "a")


def test_shares_follow_the_weights_roughly():
    share = Counter(owners([Member("a", weight=100), Member("b", weight=200), Member("c", weight=100)]))
    assert share["b"] / len(KEYS) == pytest.approx(0.5, abs=0.1)


@given(st.lists(st.sampled_from(KEYS[:5]), max_size=200), st.floats(1.0, 3.0))
def test_no_instance_is_busier_than_the_bound_times_its_share(keys, bound):
    pool = [Member(name) for name in "abcd"]
    picker = ConsistentHash(pool, bound=bound)
    for load, key in enumerate(keys, 1):
        picker.pick(key, 0.0, ()).in_flight += 1
        assert max(m.in_flight for m in pool) <= bound * load / 4 + 1


def test_a_hot_key_stays_when_there_is_no_bound():
    pool = [Member(name) for name in "abcd"]
    picker = ConsistentHash(pool, bound=float("inf"))
    for _ in range(50):
        picker.pick(KEYS[0], 0.0, ()).in_flight += 1
    assert sorted(m.in_flight for m in pool) == [0, 0, 0, 50]
