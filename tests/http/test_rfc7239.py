from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.forwarded import Forwarding
from gateway.http.message import Headers
from gateway.http.rfc7239 import parse_forwarded

PROXIES = Forwarding(["10.0.0.0/8"])


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (b"for=192.0.2.43", [{b"for": b"192.0.2.43"}]),
        (b'For="[2001:db8:cafe::17]:4711"', [{b"for": b"[2001:db8:cafe::17]:4711"}]),
        (
            b"for=192.0.2.60;proto=http;by=203.0.113.43",
            [{b"for": b"192.0.2.60", b"proto": b"http", b"by": b"203.0.113.43"}],
        ),
        (b"for=192.0.2.43, for=198.51.100.17", [{b"for": b"192.0.2.43"}, {b"for": b"198.51.100.17"}]),
        (b'for=a;host="x;for=b, for=c"', [{b"for": b"a", b"host": b"x;for=b, for=c"}]),
        (rb'for=a;host="say \"for=b\""', [{b"for": b"a", b"host": b'say "for=b"'}]),
    ],
)
def test_elements_are_read_as_the_rfc_writes_them(value: bytes, elements: list[dict[bytes, bytes]]) -> None:
    assert parse_forwarded(value) == elements


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b",",
        b"for",
        b"for=",
        b"for=a,",
        b"for=a;",
        b'for="a',
        b"for=a b",
        b"for=a;for=b",
        b"=a",
        b'for="a"b',
    ],
)
def test_what_does_not_fit_is_believed_in_no_part(value: bytes) -> None:
    assert parse_forwarded(value) == []


@given(st.binary(max_size=200))
def test_no_bytes_raise(value: bytes) -> None:
    parse_forwarded(value)


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_a_quoted_value_never_leaks_into_the_structure(host: str) -> None:
    quoted = host.replace("\\", "\\\\").replace('"', '\\"').encode()
    assert parse_forwarded(b'for=1.2.3.4;host="%b"' % quoted) == [
        {b"for": b"1.2.3.4", b"host": host.encode()}
    ]


def seen(*headers: tuple[bytes, bytes]) -> tuple[str, dict[bytes, bytes]]:
    fields: Headers = list(headers)
    made = PROXIES.add(fields, address="10.0.0.9", scheme="https", host=b"api")
    return made.client, dict(made.fields)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([(b"forwarded", b'for=1.2.3.4;host="x;for=9.9.9.9"')], "1.2.3.4"),
        ([(b"forwarded", b"for=9.9.9.9, for=1.2.3.4")], "1.2.3.4"),
        ([(b"forwarded", b"for=9.9.9.9"), (b"forwarded", b"for=1.2.3.4")], "1.2.3.4"),
        ([(b"forwarded", b"for=1.2.3.4;")], "10.0.0.9"),
        ([(b"x-forwarded-for", b"9.9.9.9"), (b"forwarded", b"for=1.2.3.4")], "10.0.0.9"),
        ([(b"x-forwarded-for", b"9.9.9.9"), (b"forwarded", b"junk")], "10.0.0.9"),
        ([(b"x-forwarded-for", b"1.2.3.4"), (b"forwarded", b"for=1.2.3.4")], "1.2.3.4"),
        ([(b"x-forwarded-for", b"8.8.8.8, 1.2.3.4"), (b"forwarded", b"for=7.7.7.7, for=1.2.3.4")], "1.2.3.4"),
        ([(b"x-forwarded-for", b"[2001:db8::1]:443")], "2001:db8::1"),
        ([(b"x-forwarded-for", b"1.2.3.4:5678")], "1.2.3.4"),
        ([(b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-for", b"1.2.3.4")], "1.2.3.4"),
        ([(b"x-forwarded-for", b"1.2.3.4, unknown")], "10.0.0.9"),
    ],
)
def test_a_client_cannot_speak_through_a_proxy(headers: list[tuple[bytes, bytes]], client: str) -> None:
    assert seen(*headers)[0] == client


def test_the_nearest_proxys_scheme_and_host_count() -> None:
    _, fields = seen((b"x-forwarded-proto", b"http"), (b"x-forwarded-proto", b"https"))
    assert fields[b"x-forwarded-proto"] == b"https"
    _, fields = seen((b"forwarded", b'for=1.2.3.4;proto=http;host="shop.example"'))
    assert (fields[b"x-forwarded-proto"], fields[b"x-forwarded-host"]) == (b"http", b"shop.example")
