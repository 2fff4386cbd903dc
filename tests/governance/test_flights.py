"""Of many who want the same, one fetches; nobody is forgotten, whoever leaves."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.flights import Flights, Role


class Waiter:
    """Somebody who wants something."""


A, B, C, D = (Waiter() for _ in range(4))


def test_the_first_leads_and_the_others_are_served_in_order_of_arrival():
    flights = Flights()
    assert [flights.join(b"k", waiter) for waiter in (A, B, C)] == [Role.LEADER, Role.JOINER, Role.JOINER]
    assert flights.land(b"k") == [B, C]
    assert flights.join(b"k", D) is Role.LEADER


def test_other_keys_are_other_flights():
    flights = Flights()
    assert flights.join(b"k", A) is Role.LEADER
    assert flights.join(b"l", B) is Role.LEADER
    assert flights.land(b"k") == []
    assert len(flights) == 1


def test_a_leader_who_leaves_hands_over_to_the_one_who_waited_longest():
    flights = Flights()
    for waiter in (A, B, C):
        flights.join(b"k", waiter)
    assert flights.leave(b"k", A) == B
    assert flights.land(b"k") == [C]


def test_a_joiner_who_leaves_is_not_served_and_changes_no_leader():
    flights = Flights()
    for waiter in (A, B, C):
        flights.join(b"k", waiter)
    assert flights.leave(b"k", B) is None
    assert flights.land(b"k") == [C]


def test_a_full_flight_sends_newcomers_alone():
    flights = Flights(max_joiners=2)
    assert [flights.join(b"k", waiter) for waiter in (A, B, C, D)][2:] == [Role.JOINER, Role.ALONE]
    assert flights.leave(b"k", D) is None
    assert flights.land(b"k") == [B, C]


def test_leaving_twice_or_after_the_landing_does_nothing():
    flights = Flights()
    flights.join(b"k", A)
    assert flights.leave(b"k", A) is None
    assert flights.leave(b"k", A) is None
    assert flights.land(b"k") == []
    assert repr(flights) == "<Flights 0 under way, 0 waiting>"


@given(st.lists(st.tuples(st.sampled_from(["join", "land", "leave"]), st.integers(0, 2), st.integers(0, 9))))
def test_every_flight_has_exactly_one_leader_and_everybody_ends_once(steps):
    flights = Flights(max_joiners=3)
    waiters = [Waiter() for _ in range(10)]
    leaders: dict[int, Waiter] = {}
    waiting: dict[int, list[Waiter]] = {}
    for what, key, index in steps:
        waiter = waiters[index]
        aboard = waiter is leaders.get(key) or waiter in waiting.get(key, [])
        if what == "join" and not aboard:
            role = flights.join(key, waiter)
            if role is Role.LEADER:
                assert key not in leaders
                leaders[key] = waiter
                waiting[key] = []
            elif role is Role.JOINER:
                waiting[key].append(waiter)
            else:
                assert len(waiting[key]) == 3
        elif what == "land":
            assert flights.land(key) == waiting.pop(key, [])
            leaders.pop(key, None)
        elif what == "leave":
            heir = flights.leave(key, waiter)
            if waiter is leaders.get(key):
                expected = waiting[key].pop(0) if waiting[key] else None
                assert heir is expected
                if heir is None:
                    del leaders[key], waiting[key]
                else:
                    leaders[key] = heir
            else:
                assert heir is None
                if aboard:
                    waiting[key].remove(waiter)
        assert len(flights) == len(leaders)
