from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import units
from gateway.config.units import Address, Rate


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_duration, "250ms", 0.25),
        (units.parse_duration, "10s", 10.0),
        (units.parse_duration, "5m", 300.0),
        (units.parse_duration, "1h30m", 5400.0),
        (units.parse_duration, "1d", 86400.0),
        (units.parse_duration, "0", 0.0),
        (units.parse_size, "512", 512),
        (units.parse_size, "64KiB", 65536),
        (units.parse_size, "10MB", 10_000_000),
        (units.parse_size, "0.5KiB", 512),
        (units.parse_ratio, "20%", 0.2),
        (units.parse_ratio, "0.2", 0.2),
        (units.parse_ratio, "1e-3", 0.001),
        (units.parse_ratio, "0.1%", 0.001),
        (units.parse_factor, "1.25x", 1.25),
        (units.parse_rate, "100/s", Rate(100.0, 1.0)),
        (units.parse_rate, "5/min", Rate(5.0, 60.0)),
        (units.parse_rate, "10/30s", Rate(10.0, 30.0)),
        (units.parse_instant, "2026-11-22 18:00Z", 1795370400.0),
        (units.parse_instant, "2026-11-22T19:00:00+01:00", 1795370400.0),
        (units.parse_instant, "1970-01-02", 86400.0),
        (units.parse_address, "127.0.0.1:8080", Address("127.0.0.1", 8080)),
        (units.parse_address, "[::1]:80", Address("::1", 80)),
        (units.parse_address, "backend_1.example:0", Address("backend_1.example", 0)),
    ],
)
def test_a_text_with_its_unit_is_read_in_base_units(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (units.parse_duration, "5", "did you mean '5s'"),
        (units.parse_duration, "22:30", "expected a duration"),
        (units.parse_duration, "-5s", "expected a duration"),
        (units.parse_duration, "1e3s", "expected a duration"),
        (units.parse_size, "1Mib", "expected a size"),
        (units.parse_size, "1.5B", "whole number of bytes"),
        (units.parse_ratio, "50", "did you mean '50%'"),
        (units.parse_ratio, "120%", "between 0% and 100%"),
        (units.parse_ratio, "half", "expected a ratio"),
        (units.parse_factor, "0x", "above zero"),
        (units.parse_rate, "0/s", "above zero"),
        (units.parse_rate, "5/fortnight", "expected a period"),
        (units.parse_rate, "5/0s", "above zero"),
        (units.parse_rate, "5", "expected a rate"),
        (units.parse_instant, "2026-11-22 18:00", "did you mean '2026-11-22 18:00Z'"),
        (units.parse_instant, "2026-02-30", "that exist"),
        (units.parse_instant, "tomorrow", "expected an instant"),
        (units.parse_address, "8080", "host:port"),
        (units.parse_address, "::1:80", "did you mean '[::1]:80'"),
        (units.parse_address, "[nope]:80", "IPv6"),
        (units.parse_address, "a:70000", "65535"),
        (units.parse_address, "a b:80", "host:port"),
        (units.parse_network, "10.0.0.1/8", "did you mean '10.0.0.0/8'"),
        (units.parse_network, "ten", "expected a network"),
    ],
)
def test_what_is_no_quantity_is_refused_with_a_hint(parse, text, message):
    with pytest.raises(ValueError, match="expected") as refused:
        parse(text)
    assert message in str(refused.value)


positive = st.floats(min_value=1e-3, max_value=1e7, allow_nan=False)


@given(positive)
def test_a_duration_reads_back_as_it_was_written(value):
    assert units.parse_duration(units.render_duration(value)) == value


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_reads_back_as_it_was_written(value):
    assert units.parse_size(units.render_size(value)) == value


@given(st.floats(min_value=0, max_value=1, allow_nan=False))
def test_a_ratio_reads_back_as_it_was_written(value):
    assert units.parse_ratio(units.render_ratio(value)) == value


@given(positive)
def test_a_factor_reads_back_as_it_was_written(value):
    assert units.parse_factor(units.render_factor(value)) == value


@given(positive, st.sampled_from([1.0, 60.0, 3600.0, 86400.0, 30.0, 0.25]))
def test_a_rate_reads_back_as_it_was_written(count, period):
    assert units.parse_rate(units.render_rate(Rate(count, period))) == Rate(count, period)


@given(st.integers(min_value=0, max_value=4_000_000_000))
def test_an_instant_reads_back_as_it_was_written(value):
    assert units.parse_instant(units.render_instant(value)) == value


@given(st.ip_addresses(), st.integers(min_value=0, max_value=65535))
def test_an_address_reads_back_as_it_was_written(host, port):
    address = Address(str(host), port)
    if "%" not in address.host:
        assert units.parse_address(units.render_address(address)) == address


@given(st.ip_addresses())
def test_a_network_reads_back_as_it_was_written(address):
    network = units.parse_network(str(address).partition("%")[0])
    assert units.parse_network(units.render_network(network)) == network


@pytest.mark.parametrize(
    ("render", "value", "text"),
    [
        (units.render_duration, 0.25, "250ms"),
        (units.render_duration, 5400.0, "90m"),
        (units.render_size, 1024 * 1024, "1MiB"),
        (units.render_size, 1500, "1500"),
        (units.render_ratio, 0.2, "20%"),
        (units.render_instant, 1795370400.0, "2026-11-22 18:00Z"),
        (units.render_rate, Rate(5, 60), "5/min"),
    ],
)
def test_quantities_are_written_as_people_write_them(render, value, text):
    assert render(value) == text


def test_a_rate_says_what_it_is_per_second():
    assert Rate(30, 60).per_second == 0.5
