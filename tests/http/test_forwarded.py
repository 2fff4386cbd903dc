"""Who the client is, and who may say so."""

from __future__ import annotations

import pytest

from gateway.http.forwarded import Forwarded, Forwarding
from gateway.http.message import Headers

PROXIES = Forwarding(["10.0.0.0/8", "::1"])


def add(forwarding: Forwarding, headers: Headers, address: str = "10.0.0.9") -> Forwarded:
    return forwarding.add(headers, address=address, scheme="http", host=b"api:80")


def test_a_stranger_says_nothing_about_the_client() -> None:
    headers = [
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-forwarded-proto", b"https"),
    ]
    made = add(PROXIES, headers, "9.9.9.9")
    assert made.client == "9.9.9.9"
    assert dict(made.fields) == {
        b"x-forwarded-for": b"9.9.9.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"api:80",
        b"forwarded": b'for=9.9.9.9;proto=http;host="api:80"',
        b"via": b"1.1 headgate",
    }


@pytest.mark.parametrize(
    ("recorded", "client", "chain"),
    [
        (b"1.2.3.4", "1.2.3.4", b"1.2.3.4, 10.0.0.9"),
        (b"6.6.6.6, 1.2.3.4", "1.2.3.4", b"6.6.6.6, 1.2.3.4, 10.0.0.9"),
        (b"1.2.3.4, 10.1.1.1", "1.2.3.4", b"1.2.3.4, 10.1.1.1, 10.0.0.9"),
        (b"10.1.1.1", "10.1.1.1", b"10.1.1.1, 10.0.0.9"),
        (b"1.2.3.4:5555", "1.2.3.4", b"1.2.3.4, 10.0.0.9"),
        (b"[2001:db8::1]:80", "2001:db8::1", b"2001:db8::1, 10.0.0.9"),
        (b"::ffff:1.2.3.4", "1.2.3.4", b"1.2.3.4, 10.0.0.9"),
        (b"1.2.3.4, unknown", "10.0.0.9", b"10.0.0.9"),
        (b"\xff\r, junk", "10.0.0.9", b"10.0.0.9"),
        (b"", "10.0.0.9", b"10.0.0.9"),
    ],
)
def test_a_trusted_proxy_speaks_for_its_clients(recorded: bytes, client: str, chain: bytes) -> None:
    made = add(PROXIES, [(b"x-forwarded-for", recorded)])
    assert made.client == client
    assert dict(made.fields)[b"x-forwarded-for"] == chain


def test_a_trusted_proxy_may_speak_rfc_7239() -> None:
    made = add(PROXIES, [(b"forwarded", b'for="[2001:db8::1]:4711";proto=https, For=10.1.1.1')])
    assert made.client == "2001:db8::1"
    assert dict(made.fields)[b"forwarded"] == (
        b'for="[2001:db8::1]", for=10.1.1.1, for=10.0.0.9;proto=http;host="api:80"'
    )


def test_a_trusted_proxy_tells_scheme_and_host() -> None:
    headers = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"shop.example, inner")]
    fields = dict(add(PROXIES, headers).fields)
    assert (fields[b"x-forwarded-proto"], fields[b"x-forwarded-host"]) == (b"https", b"shop.example")
    odd = [(b"x-forwarded-proto", b"javascript"), (b"x-forwarded-host", b"a b")]
    fields = dict(add(PROXIES, odd).fields)
    assert (fields[b"x-forwarded-proto"], fields[b"x-forwarded-host"]) == (b"http", b"api:80")


def test_only_so_many_hops_are_believed() -> None:
    recorded = b", ".join([b"10.1.1.1"] * 500)
    assert dict(add(PROXIES, [(b"x-forwarded-for", recorded)]).fields)[b"x-forwarded-for"].count(b",") == 32


def test_without_a_host_none_is_invented() -> None:
    made = Forwarding().add([], address="9.9.9.9", scheme="http", host=b"", minor=0)
    assert dict(made.fields) == {
        b"x-forwarded-for": b"9.9.9.9",
        b"x-forwarded-proto": b"http",
        b"forwarded": b"for=9.9.9.9;proto=http",
        b"via": b"1.0 headgate",
    }


def test_networks_are_checked_when_they_are_given() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        Forwarding(["not-a-network"])
    assert not PROXIES.is_trusted("/run/socket")
    assert PROXIES.is_trusted("::ffff:10.2.3.4")
