"""Who is the client, when proxies stand between: X-Forwarded-*, Forwarded and Via.

Anyone can write these fields, so they are believed only from peers inside the trusted networks; from all
others they are dropped and written anew. The client's address is found from the right: the nearest hop is
the peer itself, and each address further left is believed only as long as the one to its right is trusted.
Via is different: it records the path, nobody may remove it, and ours is added at its end (RFC 9110 §7.6.3).
RFC 7239 for Forwarded.

Where both X-Forwarded-For and Forwarded come, a proxy may have written one of them and passed the other on as
the client sent it: only the hops on which both agree are believed. Of several X-Forwarded-Proto or -Host
lines the last one counts, which is the nearest proxy's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from gateway.http.message import Headers, find, find_all
from gateway.http.rfc7239 import parse_forwarded

# What a client's request must lose before the fields of `Forwarding.add` are appended.
FORWARDED_FIELDS: Final = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    )
)

_PROTO = re.compile(rb"https?")
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,260}")
_MAX_HOPS: Final = 32


@dataclass(frozen=True, slots=True)
class Forwarded:
    """fields: to append to the request. client: textual address of the client as far as it can be trusted."""

    fields: tuple[tuple[bytes, bytes], ...]
    client: str


class Forwarding:
    """Writes the fields for one gateway. trusted: networks in CIDR form whose members may speak for others.

    Raises ValueError for a network that is none.
    """

    __slots__ = ("_direct", "_networks", "_via")

    def __init__(self, trusted: Sequence[str] = (), via: bytes = b"headgate") -> None:
        self._networks = tuple(ip_network(network, strict=False) for network in trusted)
        self._via = (b"1.0 " + via, b"1.1 " + via, b"2 " + via)  # by Request.minor
        # Untrusted peers get the same fields for every request of a connection: made once.
        self._direct = lru_cache(maxsize=4096)(self._build)

    def add(self, headers: Headers, *, address: str, scheme: str, host: bytes, minor: int = 1) -> Forwarded:
        """Return what to append for a request that came from `address` over `scheme` for `host`.

        headers: as received; the caller drops FORWARDED_FIELDS from them and appends `fields`.
        """
        if not self._networks or not self.is_trusted(address):
            return self._direct(address, scheme, host, minor)
        elements = _elements(headers)
        nearest = elements[-1] if elements else {}
        proto = _last(headers, b"x-forwarded-proto") or nearest.get(b"proto")
        original = _last(headers, b"x-forwarded-host") or nearest.get(b"host")
        proto = _first(proto, _PROTO) or scheme.encode()
        original = _first(original, _HOST) or host
        chain = _chain(headers, elements)
        return self._build(address, proto.decode(), original, minor, tuple(chain))

    def is_trusted(self, address: str) -> bool:
        """Is the address inside one of the trusted networks? False for what is no address."""
        try:
            number = _plain(address)
        except ValueError:
            return False
        return any(number in network for network in self._networks)

    def _build(
        self, address: str, scheme: str, host: bytes, minor: int, chain: tuple[str, ...] = ()
    ) -> Forwarded:
        hops = [*chain, address]
        fields: tuple[tuple[bytes, bytes], ...] = (
            (b"x-forwarded-for", ", ".join(hops).encode()),
            (b"x-forwarded-proto", scheme.encode()),
            (b"x-forwarded-host", host),
            (b"forwarded", self._forwarded(hops, scheme, host)),
            (b"via", self._via[minor]),
        )
        if not host:  # an HTTP/1.0 client that named none
            fields = tuple(field for field in fields if field[0] != b"x-forwarded-host")
        return Forwarded(fields, self._client(hops))

    def _forwarded(self, hops: Sequence[str], scheme: str, host: bytes) -> bytes:
        elements = ["for=" + _node(hop) for hop in hops]
        elements[-1] += f";proto={scheme}" + (f';host="{host.decode()}"' if host else "")
        return ", ".join(elements).encode()

    def _client(self, hops: Sequence[str]) -> str:
        for hop in reversed(hops):
            if not self.is_trusted(hop):
                return hop
        return hops[0]


def _elements(headers: Headers) -> list[dict[bytes, bytes]]:
    """Return what Forwarded holds, empty where it is absent or malformed."""
    recorded = find_all(headers, b"forwarded")
    return parse_forwarded(b",".join(recorded)) if recorded else []


def _chain(headers: Headers, elements: Sequence[Mapping[bytes, bytes]]) -> list[str]:
    """Return the addresses that earlier hops recorded, client first."""
    recorded = find_all(headers, b"x-forwarded-for")
    if not recorded:
        return _hops([element.get(b"for", b"") for element in elements])
    hops = _hops([text.strip() for text in b",".join(recorded).split(b",")])
    if not find(headers, b"forwarded"):
        return hops
    others = _hops([element.get(b"for", b"") for element in elements])
    agreed = 0
    while agreed < min(len(hops), len(others)) and hops[-1 - agreed] == others[-1 - agreed]:
        agreed += 1
    return hops[len(hops) - agreed :]


def _hops(texts: Sequence[bytes]) -> list[str]:
    """Return the addresses right of the last unreadable one."""
    chain: list[str] = []
    for text in texts[-_MAX_HOPS:]:
        try:
            chain.append(str(_plain(_without_port(text.decode("ascii")))))
        except ValueError:  # `unknown`, an obfuscated name, or junk: nothing left of it can be believed
            chain.clear()
    return chain


def _last(headers: Headers, name: bytes) -> bytes | None:
    """Return the field's last line."""
    lines = find_all(headers, name)
    return lines[-1] if lines else None


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1 : text.find("]")]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Return the address; an IPv4 one that came over an IPv6 socket as IPv4. Raises ValueError."""
    number = ip_address(address.partition("%")[0])
    return (number.ipv4_mapped or number) if isinstance(number, IPv6Address) else number


def _node(address: str) -> str:
    return f'"[{address}]"' if ":" in address else address


def _first(value: bytes | None, shape: re.Pattern[bytes]) -> bytes | None:
    """Return the first member of a list field, if it has the shape."""
    if value is None:
        return None
    member = value.partition(b",")[0].strip()
    return member if shape.fullmatch(member) else None
