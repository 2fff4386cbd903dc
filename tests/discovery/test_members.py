from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.discovery.members import (
    MAX_VALUE_BYTES,
    MAX_WEIGHT,
    AddressRules,
    Member,
    Rejected,
    format_address,
    member_from_fields,
    member_key,
    parse_address,
    read_member,
    service_prefix,
    split_key,
    write_member,
)

words = st.text(st.characters(categories=("L", "N"), include_characters="-_."), min_size=1, max_size=20)
hosts = st.one_of(
    st.just("backend-1.internal"),
    st.tuples(*[st.integers(0, 255)] * 3).map(lambda t: "10." + ".".join(map(str, t))),
    st.just("2001:db8::7"),
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
members = st.builds(
    Member,
    id=words,
    address=st.tuples(hosts, st.integers(1, 65535)),
    weight=st.integers(0, MAX_WEIGHT),
    version=st.none() | words,
    protocol=words,
    state=st.sampled_from(["up", "draining"]),
    models=st.lists(st.tuples(words, words)).map(tuple),
    labels=st.dictionaries(words, words).map(lambda labels: tuple(sorted(labels.items()))),
    zone=st.none() | words,
    started_at=st.none() | st.floats(0, 4e9),
)


def read(value: object) -> Member | Rejected:
    return read_member("i1", value.encode() if isinstance(value, str) else json.dumps(value).encode())


def good(value: object) -> Member:
    member = read(value)
    assert isinstance(member, Member), member
    return member


def reason(value: object) -> str:
    rejected = read(value)
    assert isinstance(rejected, Rejected), rejected
    return rejected.reason


@given(members)
def test_what_is_written_is_read_back(member: Member) -> None:
    assert read_member(member.id, write_member(member)) == member


@given(st.binary(max_size=200))
def test_no_value_whatever_raises(value: bytes) -> None:
    assert isinstance(read_member("i1", value), Member | Rejected)


@given(
    st.recursive(
        st.none() | st.booleans() | numbers | st.text(), lambda inner: st.dictionaries(st.text(), inner)
    )
)
def test_no_metadata_whatever_loses_a_good_address(metadata: object) -> None:
    assert good({"Addr": "10.0.0.1:80", "Metadata": metadata}).address == ("10.0.0.1", 80)


def test_what_a_plain_go_add_endpoint_writes_is_understood() -> None:
    assert good({"Op": 0, "Addr": "10.1.2.3:8000", "Metadata": None}).address == ("10.1.2.3", 8000)


@pytest.mark.parametrize(
    "value", ["10.1.2.3:8000", '"10.1.2.3:8000"', " 10.1.2.3:8000\n"], ids=["bare", "JSON string", "spaces"]
)
def test_a_bare_address_is_enough(value: str) -> None:
    assert good(value).address == ("10.1.2.3", 8000)


def test_an_ipv6_address_stands_in_brackets() -> None:
    member = good("[2001:db8::1]:8000")
    assert member.address == ("2001:db8::1", 8000)
    assert member.authority == "[2001:db8::1]:8000"


def test_unknown_fields_are_ignored() -> None:
    value = {"Addr": "10.0.0.1:80", "Attributes": {"x": 1}, "Metadata": {"version": "v2", "colour": "red"}}
    assert good(value).version == "v2"


def test_an_entry_that_is_no_addition_is_ignored_without_complaint() -> None:
    rejected = read({"Op": 1, "Addr": "10.0.0.1:80"})
    assert isinstance(rejected, Rejected)
    assert rejected.ignored


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0, 0),
        (-5, 0),
        (10_001, 10_000),
        (2.6, 3),
        ("50", 50),
        ("many", 100),
        (True, 100),
        (None, 100),
        (1e300, 100),
    ],
    ids=str,
)
def test_weights_are_clamped_and_nonsense_is_the_default(weight: object, expected: int) -> None:
    assert good({"Addr": "10.0.0.1:80", "Metadata": {"weight": weight}}).weight == expected


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([{"name": "digits", "version": "1"}], (("digits", "1"),)),
        ([{"name": "digits", "version": 2}], (("digits", "2"),)),
        (["digits"], (("digits", ""),)),
        ([{"version": "1"}, 7, None], (("7", ""),)),
        ("digits", ()),
    ],
    ids=["objects", "number", "names", "half wrong", "no list"],
)
def test_models_are_read_as_pairs(models: object, expected: tuple[tuple[str, str], ...]) -> None:
    assert good({"Addr": "10.0.0.1:80", "Metadata": {"models": models}}).models == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "host:port"),
        ({"Metadata": {}}, "no Addr"),
        ({"Addr": 7}, "no Addr"),
        ("10.0.0.1", "host:port"),
        ("10.0.0.1:0", "port"),
        ("10.0.0.1:65536", "port"),
        ("10.0.0.1:http", "port"),
        ("::1:80", "brackets"),
        ("http://10.0.0.1:80", "brackets"),
        ("a b:80", "neither"),
        ("x" * (MAX_VALUE_BYTES + 1), "bytes"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_rejected_with_the_reason(value: object, why: str) -> None:
    assert why in reason(value)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "255.255.255.255",
        "metadata.google.internal",
        "METADATA.google.internal.",
    ],
)
def test_metadata_services_are_blocked_under_every_name(host: str) -> None:
    assert "always blocked" in reason(f"{host}:80")


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.254.43518", "127.1", "x.0x1"])
def test_half_written_ip_addresses_are_refused(host: str) -> None:
    assert "not a complete IP address" in reason(f"{host}:80")


def test_blocked_addresses_stay_blocked_inside_an_allowed_network() -> None:
    assert AddressRules.within("0.0.0.0/0", "::/0").refuse("169.254.169.254") is not None


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("10.1.2.3", True),
        ("192.0.2.1", False),
        ("backend", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1", False),
    ],
)
def test_an_allowlist_admits_only_its_networks(host: str, allowed: bool) -> None:
    assert (AddressRules.within("10.0.0.0/8").refuse(host) is None) is allowed


def test_names_pass_an_allowlist_only_when_the_resolver_asks_again() -> None:
    rules = AddressRules(networks=AddressRules.within("10.0.0.0/8").networks, names=True)
    assert rules.refuse("backend-1") is None


@given(hosts, st.integers(1, 65535))
def test_addresses_round_trip(host: str, port: int) -> None:
    assert parse_address(format_address((host, port))) == (host, port)


def test_the_flat_form_of_files_is_read_by_the_same_rules() -> None:
    member = member_from_fields("i1", {"address": "10.0.0.1:80", "version": 2, "labels": {"lane": "canary"}})
    assert member == Member("i1", ("10.0.0.1", 80), version="2", labels=(("lane", "canary"),))
    assert isinstance(member_from_fields("i1", {"address": "169.254.169.254:80"}), Rejected)
    assert isinstance(member_from_fields("i1", {}), Rejected)


# Keys


@given(words, words, words)
def test_keys_round_trip(namespace: str, service: str, member_id: str) -> None:
    key = member_key(namespace, service, member_id)
    assert split_key(key, service_prefix(namespace)) == (service, member_id)


def test_an_id_may_contain_slashes_as_go_zero_writes_them() -> None:
    assert split_key("/services/default/orders/a/b", "/services/default/") == ("orders", "a/b")


@pytest.mark.parametrize(
    "key",
    ["/services/default2/a/b", "/services/default/a", "/services/default/a/", "/services/default//b", "x"],
)
def test_keys_of_another_form_are_none_of_ours(key: str) -> None:
    assert split_key(key, "/services/default/") is None


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a\n", "x" * 256])
def test_names_that_would_not_read_back_are_errors(name: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        member_key("default", name, "i")


def test_a_member_shows_its_state() -> None:
    assert repr(Member("i", ("10.0.0.1", 80), version="v1")) == "<Member 10.0.0.1:80 v1 | up, weight 100>"
