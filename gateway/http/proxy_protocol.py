"""The PROXY protocol, versions 1 and 2: who connected to the proxy in front, said before the first byte.

    v1    PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\\r\\n                     text, at most 107 bytes
    v2    12 bytes signature, version and command, family, length, addresses, TLVs     binary

Whoever may send it can claim any address, so it is read from trusted peers only, and never guessed: where it
is expected and malformed the connection is closed. LOCAL (the proxy itself asks, a health check), UNKNOWN,
UNSPEC and UNIX name no address that we could use: the connection is the proxy's own. TLVs are skipped.
Source: haproxy.org/download/3.0/doc/proxy-protocol.txt, §2.1, §2.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1: Final = 107  # bytes with CRLF, §2.1
MAX_V2: Final = 4096  # bytes of a v2 header that we wait for; the format would allow 65551

_PREFIX: Final = b"PROXY "
_LINE = re.compile(rb"(TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
_ADDRESSES: Final = {0x11: 12, 0x21: 36, 0x31: 216}  # TCP over IPv4, over IPv6, UNIX stream: bytes


class BadProxyHeader(ValueError):
    """What came is no PROXY header, or one that is not well formed."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """size: bytes that it took. address, port: the client's; "" and 0 where it names none."""

    size: int
    address: str = ""
    port: int = 0


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header that `data` begins with; None: more bytes are needed. Raises BadProxyHeader."""
    if data.startswith(SIGNATURE):
        return _read_v2(data)
    if data.startswith(_PREFIX):
        return _read_v1(data)
    if SIGNATURE.startswith(data) or _PREFIX.startswith(data):
        return None
    raise BadProxyHeader("expected a PROXY header, found something else")


# Version 1


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise BadProxyHeader("the PROXY line is too long")
        return None
    line = data[len(_PREFIX) : end]
    size = end + 2
    if line == b"UNKNOWN" or line.startswith(b"UNKNOWN "):
        return ProxyHeader(size)  # §2.1: the rest of the line is ignored
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadProxyHeader("the PROXY line is malformed")
    family, source, destination, source_port, destination_port = found.groups()
    if int(source_port) > 65535 or int(destination_port) > 65535:
        raise BadProxyHeader("the PROXY line names a port that is none")
    read = IPv4Address if family == b"TCP4" else IPv6Address
    try:
        read(destination.decode())
        return ProxyHeader(size, str(read(source.decode())), int(source_port))
    except AddressValueError:
        raise BadProxyHeader("the PROXY line names an address that is none") from None


# Version 2


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 15
    if version != 2 or command > 1:
        raise BadProxyHeader("the PROXY header's version or command is not known")
    size = 16 + int.from_bytes(data[14:16], "big")
    if size > MAX_V2:
        raise BadProxyHeader("the PROXY header is too long")
    if len(data) < size:
        return None
    family = data[13]
    if command == 0:
        return ProxyHeader(size)  # LOCAL: §2.2, the family must be ignored
    if family == 0:
        return ProxyHeader(size)  # UNSPEC
    addresses = _ADDRESSES.get(family)
    if addresses is None or size < 16 + addresses:
        raise BadProxyHeader("the PROXY header's addresses are not those of a stream")
    _check_tlvs(data[16 + addresses : size])
    if family == 0x11:
        return ProxyHeader(size, str(IPv4Address(data[16:20])), int.from_bytes(data[24:26], "big"))
    if family == 0x21:
        return ProxyHeader(size, str(IPv6Address(data[16:32])), int.from_bytes(data[48:50], "big"))
    return ProxyHeader(size)


def _check_tlvs(data: bytes) -> None:
    """Walk over type, length and value of each to the very end."""
    at = 0
    while at < len(data):
        if at + 3 > len(data):
            raise BadProxyHeader("the PROXY header's last TLV is cut off")
        at += 3 + int.from_bytes(data[at + 1 : at + 3], "big")
    if at != len(data):
        raise BadProxyHeader("the PROXY header's last TLV is cut off")
