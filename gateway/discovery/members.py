"""Members: who serves what, as registries say it.

A registry holds one key per instance, `/services/<namespace>/<service>/<id>`, and one value in the form that
gRPC's etcd naming writes, so that a plain Go `endpoints.Manager.AddEndpoint` is understood without changes:

    {"Op": 0, "Addr": "10.1.2.3:8000", "Metadata": {"weight": 100, "version": "v2", "models": […], …}}

Reading is lenient about what it may ignore (unknown fields, a Metadata that is absent, a string, or half
wrong) and strict about what it would act upon: the address. Whoever can write to the registry chooses where
the gateway connects to, so link-local, metadata-service, multicast and unspecified addresses are refused
whatever the configuration says, and `AddressRules.networks` narrows the rest (server-side request forgery,
CWE-918).
Nothing here does I/O or resolves names; `AddressRules.refuse` may be asked again once a name was resolved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

import orjson

Network = IPv4Network | IPv6Network
State = Literal["up", "draining"]

MAX_WEIGHT: Final = 10_000
DEFAULT_WEIGHT: Final = 100
MAX_VALUE_BYTES: Final = 64 * 1024

# Where no model server lives but cloud credentials might. The single hosts are the metadata services of
# AWS (IPv6), Alibaba, Azure and Oracle; the others' are link-local.
BLOCKED: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "::/128",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::254/128",
    )
)
_BLOCKED_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"}
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})\Z")
_NUMERIC_LABEL = re.compile(r"(\d+|0[xX][0-9a-fA-F]*)\Z")
_TOKEN = re.compile(r"[^\x00-\x20\x7f/]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class Member:
    """One registered instance of a service.

    id: unique within the service; `<host>-<port>-<boot nonce>` when registered by this package.
    address: (host, port); the host is an IP address or a DNS name, without brackets.
    weight: 0–10000, relative within the pool; 0 = registered but given no traffic.
    models: (name, version) pairs; version "" when it was not said. labels: sorted (name, value) pairs.
    started_at: s since the epoch, None when unknown.
    """

    id: str
    address: tuple[str, int]
    weight: int = DEFAULT_WEIGHT
    version: str | None = None
    protocol: str = "http"
    state: State = "up"
    models: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    zone: str | None = None
    started_at: float | None = None

    @property
    def authority(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return format_address(self.address)

    def __repr__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"<Member {self.authority}{version} | {self.state}, weight {self.weight}>"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A registry entry that was not taken, and why. `ignored`: rightly so (Op ≠ 0), nothing to warn about."""

    reason: str
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Which addresses a registry may send traffic to.

    networks: only addresses inside these; () = any that is not blocked. blocked: never, even inside
    `networks`. names: whether DNS names are accepted; None = only without `networks`, since a name can be
    pointed anywhere after it was checked. Set it when the resolver's answer goes through `refuse` again.
    """

    networks: tuple[Network, ...] = ()
    blocked: tuple[Network, ...] = BLOCKED
    names: bool | None = None

    @classmethod
    def within(cls, *networks: str) -> AddressRules:
        """Allow only these CIDRs, e.g. `within("10.0.0.0/8", "127.0.0.0/8")`; ValueError on a bad one."""
        return cls(networks=tuple(ip_network(network) for network in networks))

    def refuse(self, host: str) -> str | None:
        """Why `host` may not be connected to; None = it may."""
        try:
            address = _unwrap(ip_address(host))
        except ValueError:
            return self._refuse_name(host)
        if any(address in network for network in self.blocked):
            return (
                f"address {host} is link-local, multicast, unspecified or a metadata service: always blocked"
            )
        if self.networks and not any(address in network for network in self.networks):
            return f"address {host} is outside the allowed networks"
        return None

    def _refuse_name(self, host: str) -> str | None:
        name = host.rstrip(".").lower()
        if len(name) > 253 or not all(_LABEL.match(label) for label in name.split(".")):
            return f"{host!r} is neither an IP address nor a DNS name"
        # "127.1", "0x7f.1", "2130706433": resolvers read these as IPv4 addresses (WHATWG URL §3.5).
        if _NUMERIC_LABEL.match(name.rpartition(".")[2]):
            return f"{host!r} is not a complete IP address"
        if name in _BLOCKED_NAMES:
            return f"{host} is a cloud metadata service: always blocked"
        if not (self.names if self.names is not None else not self.networks):
            return f"{host} is a name, and only addresses inside the allowed networks are accepted"
        return None


ANY_ADDRESS: Final = AddressRules()


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside ::ffff:a.b.c.d, 64:ff9b:: (NAT64) or 2002:: (6to4): the same machine."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


# Addresses


def parse_address(text: str) -> tuple[str, int]:
    """Read `host:port` or `[v6]:port`. Raises ValueError that names what is wrong."""
    host, colon, port_text = text.strip().rpartition(":")
    if not colon or not host:
        raise ValueError(f"expected host:port, got {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, got {text!r}")
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise ValueError(f"port must be 1–65535, got {text!r}")
    return host, int(port_text)


def format_address(address: tuple[str, int]) -> str:
    """Write (host, port) as `host:port`, IPv6 in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Keys


def service_prefix(namespace: str) -> str:
    """The one prefix to watch; always ends with `/`, so that `default` does not match `default2`."""
    if not _TOKEN.match(namespace):
        raise ValueError(
            f"a namespace is 1–255 printable characters without '/' or spaces, got {namespace!r}"
        )
    return f"/services/{namespace}/"


def member_key(namespace: str, service: str, member_id: str) -> str:
    """The key of one instance. Raises ValueError for a service or id that would not read back."""
    for what, name in (("service", service), ("id", member_id)):
        if not _TOKEN.match(name):
            raise ValueError(f"a {what} is 1–255 printable characters without '/' or spaces, got {name!r}")
    return f"{service_prefix(namespace)}{service}/{member_id}"


def split_key(key: str, prefix: str) -> tuple[str, str] | None:
    """(service, id) of a key under `prefix`; None if it is none of ours. The id may contain `/`."""
    service, slash, member_id = key.removeprefix(prefix).partition("/")
    if not key.startswith(prefix) or not slash or not _TOKEN.match(service):
        return None
    if not member_id or len(member_id) > 255 or not member_id.isprintable():
        return None
    return service, member_id


# Values


def read_member(member_id: str, value: bytes, rules: AddressRules = ANY_ADDRESS) -> Member | Rejected:
    """Read one registry value: the JSON object above, or a bare `host:port` as go-zero writes it.

    Optional fields that make no sense are left at their defaults; an address that makes no sense, or that
    `rules` refuse, rejects the entry. The caller keeps what it had under that key before.
    """
    if len(value) > MAX_VALUE_BYTES:
        return Rejected(f"{len(value)} bytes, at most {MAX_VALUE_BYTES} are read")
    text = value.strip()
    if not text.startswith((b"{", b'"')):
        return _build(member_id, text.decode("utf-8", "replace"), {}, rules)
    try:
        document: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Rejected(f"not JSON: {error}")
    if isinstance(document, str):
        return _build(member_id, document, {}, rules)
    if not isinstance(document, dict):
        return Rejected("expected a JSON object or host:port")
    if document.get("Op", 0) != 0:
        return Rejected("Op is not 0 (add)", ignored=True)
    address = document.get("Addr")
    if not isinstance(address, str):
        return Rejected("no Addr")
    metadata = document.get("Metadata")
    return _build(member_id, address, metadata if isinstance(metadata, dict) else {}, rules)


def member_from_fields(
    member_id: str, fields: Mapping[str, object], rules: AddressRules = ANY_ADDRESS
) -> Member | Rejected:
    """Read the flat form of files and of the admin API: `address` beside the fields of Metadata."""
    address = fields.get("address")
    if not isinstance(address, str):
        return Rejected("no address: expected host:port")
    return _build(member_id, address, fields, rules)


def write_member(member: Member) -> bytes:
    """The value to put under `member_key`; `read_member(member.id, write_member(member)) == member`."""
    return orjson.dumps({"Op": 0, "Addr": member.authority, "Metadata": member_fields(member)})


def member_fields(member: Member) -> dict[str, object]:
    """Everything but id and address, as JSON values; what is unknown is left out."""
    fields: dict[str, object] = {"weight": member.weight, "protocol": member.protocol, "state": member.state}
    if member.version is not None:
        fields["version"] = member.version
    if member.models:
        fields["models"] = [{"name": name, "version": version} for name, version in member.models]
    if member.labels:
        fields["labels"] = dict(member.labels)
    if member.zone is not None:
        fields["zone"] = member.zone
    if member.started_at is not None:
        fields["started_at"] = member.started_at
    return fields


def _build(
    member_id: str, address: str, fields: Mapping[object, object] | Mapping[str, object], rules: AddressRules
) -> Member | Rejected:
    try:
        host, port = parse_address(address)
    except ValueError as error:
        return Rejected(str(error))
    refusal = rules.refuse(host)
    if refusal is not None:
        return Rejected(refusal)
    get = {str(key): value for key, value in fields.items()}.get
    return Member(
        id=member_id,
        address=(host, port),
        weight=clamp_weight(get("weight")),
        version=_text(get("version")),
        protocol=_text(get("protocol")) or "http",
        state="draining" if get("state") == "draining" else "up",
        models=_models(get("models")),
        labels=_labels(get("labels")),
        zone=_text(get("zone")),
        started_at=_number(get("started_at")),
    )


def clamp_weight(value: object) -> int:
    """Weight as an int within 0–10000; DEFAULT_WEIGHT for what is not a number."""
    number = _number(value)
    return DEFAULT_WEIGHT if number is None else max(0, min(MAX_WEIGHT, round(number)))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e15 else None  # also turns away nan and the infinities


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    return text if text and len(text) <= 255 and text.isprintable() else None


def _models(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        return ()
    models: list[tuple[str, str]] = []
    for item in value:
        fields = item if isinstance(item, dict) else {"name": item}
        name = _text(fields.get("name"))
        if name is not None:
            models.append((name, _text(fields.get("version")) or ""))
    return tuple(models)


def _labels(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        return ()
    pairs = ((_text(name), _text(text)) for name, text in value.items())
    return tuple(sorted((name, text) for name, text in pairs if name is not None and text is not None))
