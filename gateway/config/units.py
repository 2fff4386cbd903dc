"""The units of the policy language: texts to numbers in base units, and back.

In YAML a quantity always carries its unit: `250ms`, `1MiB`, `20%`, `100/s`, `1.25x`. In code it is a plain
number in the base unit (seconds, bytes, 1.0 = 100%), marked by a NewType so that the decoder knows how to
read a field and mypy tells a duration from a ratio.

Every `parse_x` raises ValueError with what was expected and what was found; every `render_x` writes the
shortest text that parses back to the same value. IEC and SI sizes differ as IEC 80000-13 has them: 1KiB is
1024 bytes, 1KB is 1000. Minutes are `m` in durations and `min` (or `m`) in rates.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final, NewType, TypeAlias

from gateway.config.pem_file import PemFile, parse_pem_path

Duration = NewType("Duration", float)
"""Seconds."""
Size = NewType("Size", int)
"""Bytes."""
Ratio = NewType("Ratio", float)
"""0.0 to 1.0."""
Factor = NewType("Factor", float)
"""A multiple; 1.0 changes nothing."""
Instant = NewType("Instant", float)
"""Seconds since the epoch, UTC."""

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` per `period` seconds, kept apart because answers name both (`q=100;w=60`)."""

    count: float
    period: float

    @property
    def per_second(self) -> float:
        """The same as one number."""
        return self.count / self.period

    def __str__(self) -> str:
        return render_rate(self)


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return render_address(self)


_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_SECONDS: Final[dict[str, int | Fraction]] = {"ms": Fraction(1, 1000), "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_PERIODS: Final = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}

_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_NUMBER}) ?([KkMG]i?B|B|)")
_PERCENT = re.compile(rf"({_NUMBER}) ?%")
_FACTOR = re.compile(rf"({_NUMBER}) ?[x×]?")
_RATE = re.compile(rf"({_NUMBER}) ?/ ?(.+)")
_PLAIN = re.compile(rf"{_NUMBER}(?:[eE][+-]?\d+)?")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?(Z|[+-]\d\d:?\d\d)?)?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")


# Durations


def parse_duration(text: str) -> Duration:
    """Read `250ms`, `10s`, `1.5h`, `1h30m` or `0`."""
    if text == "0":
        return Duration(0.0)
    if not _DURATION.fullmatch(text):
        hint = f"; did you mean '{text}s'?" if _PLAIN.fullmatch(text) else ""
        raise ValueError(
            f"expected a duration with its unit like 250ms, 10s, 5m, 1h or 1d, found {text!r}{hint}"
        )
    parts = _DURATION_PART.findall(text)
    return Duration(float(sum(Fraction(number) * _SECONDS[unit] for number, unit in parts)))


def render_duration(value: Duration | float) -> str:
    """Write the shortest text that parses back."""
    if value == 0:
        return "0s"
    return _shortest(value, _SECONDS, parse_duration)


def _shortest(value: float, units: Mapping[str, int | Fraction], parse: Callable[[str], float]) -> str:
    """Write value in the unit that needs no decimals and the fewest characters; of two such the larger."""
    candidates = []
    for unit, scale in units.items():
        exact = float(Fraction(value) / scale)
        texts = [_decimal(number) + unit for number in (f"{exact:.15g}", repr(exact))]
        candidates += [text for text in texts if parse(text) == value]
    if not candidates:
        return _decimal(repr(float(value))) + "s"
    return min(reversed(candidates), key=lambda text: ("." in text, len(text)))


def _decimal(number: str) -> str:
    """Write a float's repr without an exponent or a needless `.0`."""
    if "e" in number:
        number = f"{Fraction(number).limit_denominator(10**18).__float__():.20f}".rstrip("0")
    return number.removesuffix(".0").rstrip(".") or "0"


# Sizes


def parse_size(text: str) -> Size:
    """Read `512`, `64KiB`, `1MiB` or `10MB`; a part of a byte is refused."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2] not in _BYTES:
        raise ValueError(f"expected a size like 512, 64KiB, 1MiB or 10MB, found {text!r}")
    size = Fraction(found[1]) * _BYTES[found[2]]
    if size.denominator != 1:
        raise ValueError(f"expected a whole number of bytes, found {text!r}")
    return Size(int(size))


def render_size(value: Size | int) -> str:
    """Write in the largest unit that divides it."""
    for unit, scale in (
        ("GiB", 2**30),
        ("MiB", 2**20),
        ("KiB", 2**10),
        ("GB", 10**9),
        ("MB", 10**6),
        ("KB", 10**3),
    ):
        if value and value % scale == 0:
            return f"{value // scale}{unit}"
    return str(value)


# Ratios and factors


def parse_ratio(text: str) -> Ratio:
    """Read `20%` or `0.2`, between 0% and 100%."""
    percent = _PERCENT.fullmatch(text)
    if percent is None and not _PLAIN.fullmatch(text):
        raise ValueError(f"expected a ratio like 20% or 0.2, found {text!r}")
    value = float(Fraction(percent[1]) / 100) if percent else float(text)
    if not 0 <= value <= 1:
        hint = f"; did you mean '{text}%'?" if percent is None and value <= 100 else ""
        raise ValueError(f"expected a ratio between 0% and 100%, found {text!r}{hint}")
    return Ratio(value)


def render_ratio(value: Ratio | float) -> str:
    """Write in percent."""
    percent = _decimal(f"{float(Fraction(value) * 100):.13g}")
    if parse_ratio(percent + "%") == value:
        return percent + "%"
    return repr(float(value))


def parse_factor(text: str) -> Factor:
    """Read `1.25x` or `1.25`, above 0."""
    found = _FACTOR.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"expected a factor above zero like 1.25x, found {text!r}")
    return Factor(float(found[1]))


def render_factor(value: Factor | float) -> str:
    """Write with its x."""
    return _decimal(repr(float(value))) + "x"


# Rates


def parse_rate(text: str) -> Rate:
    """Read `100/s`, `5/min`, `20000/h` or, with a period of one's own, `10/30s`; above zero."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a rate like 100/s or 5/min, found {text!r}")
    count, period = float(found[1]), parse_period(found[2])
    if count <= 0:
        raise ValueError(f"expected a rate above zero like 100/s, found {text!r}")
    return Rate(count, period)


def parse_period(text: str) -> float:
    """Read what stands after a rate's slash: `s`, `min`, `hour` … or a duration. Seconds, above zero."""
    if text in _PERIODS:
        return float(_PERIODS[text])
    try:
        period = parse_duration(text)
    except ValueError:
        raise ValueError(f"expected a period like s, min, h, d or 30s, found {text!r}") from None
    if period <= 0:
        raise ValueError(f"expected a period above zero, found {text!r}")
    return period


def render_rate(value: Rate) -> str:
    """Write with the period's short name where it has one."""
    names = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "d"}
    period = names.get(value.period) or render_duration(value.period)
    return f"{_decimal(repr(float(value.count)))}/{period}"


# Instants


def parse_instant(text: str) -> Instant:
    """Read `2026-11-22 18:00Z`, any ISO 8601 instant with its zone, or a date (its midnight, UTC)."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError(
            f"expected an instant like 2026-11-22 18:00Z or a date like 2027-01-01, found {text!r}"
        )
    date, clock, zone = found.groups()
    if clock is not None and zone is None:
        raise ValueError(f"expected an instant with its zone, found {text!r}; did you mean '{text}Z'?")
    try:
        moment = datetime.fromisoformat(
            f"{date}T{clock or '00:00'}{'+00:00' if zone in ('Z', None) else zone}"
        )
    except ValueError:
        raise ValueError(f"expected a date and time that exist, found {text!r}") from None
    return Instant(moment.timestamp())


def render_instant(value: Instant | float) -> str:
    """Write in UTC, as a date where it is a midnight, to the minute or second where that is exact."""
    moment = datetime.fromtimestamp(value, UTC)
    if moment.time() == datetime.min.time():
        return f"{moment:%Y-%m-%d}"
    if moment.second == 0 and moment.microsecond == 0:
        return f"{moment:%Y-%m-%d %H:%M}Z"
    return f"{moment:%Y-%m-%d %H:%M:%S}{f'.{moment.microsecond:06d}' if moment.microsecond else ''}Z"


# Addresses


def parse_address(text: str) -> Address:
    """Read `host:port` or `[ipv6]:port`; port 0 asks the kernel for a free one."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"expected an address host:port like 127.0.0.1:8080, found {text!r}")
    if int(port) > 65535:
        raise ValueError(f"expected a port between 0 and 65535, found {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        _must_be_ipv6(host, text)
    elif not _HOST.fullmatch(host):
        hint = f"; did you mean '[{host}]:{port}'?" if ":" in host else ""
        raise ValueError(f"expected an address host:port like 127.0.0.1:8080, found {text!r}{hint}")
    return Address(host, int(port))


def _must_be_ipv6(host: str, text: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"expected an IPv6 address in brackets like [::1]:8080, found {text!r}") from None


def render_address(value: Address) -> str:
    """Write IPv6 in brackets."""
    return f"[{value.host}]:{value.port}" if ":" in value.host else f"{value.host}:{value.port}"


def parse_network(text: str) -> Network:
    """Read a CIDR block or a single address; host bits that are set are refused."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"expected a network like 10.0.0.0/8 or ::1, found {text!r}") from None
    raise ValueError(f"expected a network without host bits, found {text!r}; did you mean '{meant}'?")


def render_network(value: Network) -> str:
    """Write a single address without its mask."""
    return str(value.network_address) if value.num_addresses == 1 else str(value)


# What the decoder, the JSON Schema and the reference know of a unit


@dataclass(frozen=True, slots=True)
class Unit:
    """How one type of quantity is read, written, named and matched.

    pattern: an ECMA-262 regular expression that every accepted text matches; the parser is stricter.
    number: whether a bare number is accepted too.
    """

    name: str
    parse: Callable[[str], object]
    render: Callable[..., str]
    example: str
    pattern: str
    number: bool = False


UNITS: Final[dict[object, Unit]] = {
    Duration: Unit("a duration", parse_duration, render_duration, "10s", r"^(0|([0-9.]+(ms|s|m|h|d))+)$"),
    Size: Unit("a size", parse_size, render_size, "1MiB", r"^[0-9.]+ ?([KkMG]i?B|B)?$", number=True),
    Ratio: Unit(
        "a ratio", parse_ratio, render_ratio, "20%", r"^([0-9.]+ ?%|[0-9.]+([eE][+-]?[0-9]+)?)$", number=True
    ),
    Factor: Unit("a factor", parse_factor, render_factor, "1.25x", r"^[0-9.]+ ?[x×]?$", number=True),
    Rate: Unit("a rate", parse_rate, render_rate, "100/s", r"^[0-9.]+ ?/ ?[0-9a-z.]+$"),
    Instant: Unit(
        "an instant",
        parse_instant,
        render_instant,
        "2026-11-22 18:00Z",
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?$",
    ),
    Address: Unit("an address", parse_address, render_address, "127.0.0.1:8080", r"^.+:[0-9]{1,5}$"),
    Network: Unit(
        "a network", parse_network, render_network, "10.0.0.0/8", r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"
    ),
    PemFile: Unit("a PEM file", parse_pem_path, str, "/etc/headgate/tls.pem", r"^.+$"),
}


def is_finite(value: float) -> bool:
    """Whether a number can be counted with."""
    return math.isfinite(value)
