"""What ends at this hop."""

from __future__ import annotations

from gateway.http.hop_by_hop import HOP_BY_HOP, Passing, end_to_end


def test_fields_of_the_connection_stay_behind() -> None:
    assert end_to_end([(name, b"x") for name in HOP_BY_HOP if name != b"connection"] + [(b"a", b"1")]) == [
        (b"a", b"1")
    ]


def test_fields_that_connection_names_stay_behind() -> None:
    headers = [
        (b"a", b"1"),
        (b"connection", b"close, A ,\tx-b"),
        (b"x-b", b"2"),
        (b"c", b"3"),
        (b"connection", b"D"),
        (b"d", b"4"),
    ]
    assert end_to_end(headers) == [(b"c", b"3")]


def test_connection_close_takes_no_field_with_it() -> None:
    assert end_to_end([(b"a", b"1"), (b"connection", b"close"), (b"b", b"2")]) == [(b"a", b"1"), (b"b", b"2")]


def test_other_names_can_be_kept_back_in_the_same_pass() -> None:
    passing = Passing(HOP_BY_HOP | {b"a"}, b"x-own-")
    headers = [(b"a", b"1"), (b"b", b"2"), (b"te", b"x"), (b"x-own-c", b"3"), (b"x-ow", b"4")]
    for _ in range(2):
        assert end_to_end(headers, passing) == [(b"b", b"2"), (b"x-ow", b"4")]


def test_names_that_clients_make_up_do_not_fill_the_memory() -> None:
    passing = Passing()
    assert len(end_to_end([(b"x-%d" % number, b"") for number in range(5000)], passing)) == 5000
    assert len(passing) == 2048


def test_a_later_connection_field_is_read_too() -> None:
    headers = [(b"connection", b"close"), (b"a", b"1"), (b"connection", b"A")]
    assert end_to_end(headers) == []


def test_order_and_repetition_are_kept() -> None:
    headers = [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]
    assert end_to_end(headers) == headers
