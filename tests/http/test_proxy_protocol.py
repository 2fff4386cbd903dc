from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.proxy_protocol import MAX_V1, SIGNATURE, BadProxyHeader, ProxyHeader, read_proxy_header

REST = b"GET / HTTP/1.1\r\n"
V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + (51234).to_bytes(2, "big") + (443).to_bytes(2, "big")
V6 = IPv6Address("2001:db8::7").packed + IPv6Address("::1").packed + V4[8:]


def v2(command: int, family: int, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return SIGNATURE + bytes([0x20 | command, family]) + size.to_bytes(2, "big") + data


GOOD = {
    "v1 over IPv4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n", "192.0.2.7", 51234),
    "v1 over IPv6": (b"PROXY TCP6 2001:DB8::7 ::1 1 0\r\n", "2001:db8::7", 1),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", "", 0),
    "v1 unknown with more": (b"PROXY UNKNOWN ffff::1 whatever\r\n", "", 0),
    "v2 over IPv4": (v2(1, 0x11, V4), "192.0.2.7", 51234),
    "v2 over IPv6": (v2(1, 0x21, V6), "2001:db8::7", 51234),
    "v2 with TLVs": (v2(1, 0x11, V4 + b"\x04\x00\x02ab" + b"\x20\x00\x00"), "192.0.2.7", 51234),
    "v2 of a UNIX socket": (v2(1, 0x31, bytes(216)), "", 0),
    "v2 unspecified": (v2(1, 0, b""), "", 0),
    "v2 unspecified with junk": (v2(1, 0, b"junk"), "", 0),
    "v2 local": (v2(0, 0, b""), "", 0),
    "v2 local with addresses": (v2(0, 0x11, V4), "", 0),
}


@pytest.mark.parametrize(("data", "address", "port"), GOOD.values(), ids=GOOD)
def test_a_header_is_read_and_what_follows_left_alone(data: bytes, address: str, port: int) -> None:
    assert read_proxy_header(data + REST) == ProxyHeader(len(data), address, port)


@pytest.mark.parametrize("data", [data for data, _, _ in GOOD.values()], ids=GOOD)
def test_every_part_of_a_header_is_a_reason_to_wait(data: bytes) -> None:
    assert all(read_proxy_header(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
        b"PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN " + b"x" * MAX_V1 + b"\r\n",
        SIGNATURE + b"\x11\x11\x00\x0c" + V4,
        v2(2, 0x11, V4),
        v2(1, 0x12, V4),
        v2(1, 0x41, V4),
        v2(1, 0x11, V4[:-1]),
        v2(1, 0x21, V4),
        v2(1, 0x11, V4 + b"\x04\x00"),
        v2(1, 0x11, V4 + b"\x04\x00\x03ab"),
        v2(1, 0x11, V4, length=5000),
    ],
)
def test_what_is_not_exactly_a_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read_proxy_header(data)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535), st.binary())
def test_both_versions_say_the_same(
    source: IPv4Address, destination: IPv4Address, port: int, other: int, rest: bytes
) -> None:
    text = f"PROXY TCP4 {source} {destination} {port} {other}\r\n".encode()
    ports = port.to_bytes(2, "big") + other.to_bytes(2, "big")
    binary = v2(1, 0x11, source.packed + destination.packed + ports)
    for data in (text, binary):
        assert read_proxy_header(data + rest) == ProxyHeader(len(data), str(source), port)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
)
def test_no_bytes_do_anything_but_be_read_wait_or_be_refused(data: bytes, start: bytes) -> None:
    try:
        header = read_proxy_header(start + data)
    except BadProxyHeader:
        return
    assert header is None or 0 < header.size <= len(start + data)
