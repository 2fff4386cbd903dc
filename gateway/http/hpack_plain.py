"""HPACK, the writing side, without a memory: a field is written the same way each time. RFC 7541. Sans-io.

Compression pays where bytes are dear. Between a gateway and its neighbours they are not, and an encoder that
looks each field up in a table which changes with each field was a seventh of a gRPC call's cost. So the
dynamic table is given up with the first block (§6.3: a size of 0), after which nothing that the peer offers
can make us remember its fields, and a field's bytes depend on nothing but the field: one of the static
table's 61 where it stands there (§6.1), else a literal that is entered nowhere, its name by number where the
static table has it.

Fields that repeat and can hold no secret are kept as they were written, up to a bound and by name. All others
are written as never to be indexed by anybody (§6.2.3), because the client may have wanted that, and who
passes such a field on must keep to it (§7.1.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

_NO_TABLE: Final = b"\x20"  # §6.3: dynamic table size update to 0
_WHOLE: Final = {field: bytes((0x80 | at,)) for at, field in enumerate(HeaderTable.STATIC_TABLE, 1)}
_NUMBERS: Final = {  # of a name that stands there several times the first
    field[0]: at for at, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))
}
_PLAIN: Final = 0x00  # §6.2.2
_NEVER: Final = 0x10  # §6.2.3

_BOUND: Final = 1024
_LONGEST: Final = 128
_REPEATED: Final = frozenset(
    b":authority :method :path :scheme :status accept accept-encoding cache-control content-type date "
    b"grpc-accept-encoding grpc-encoding grpc-status server te user-agent vary via x-forwarded-host "
    b"x-forwarded-proto x-headgate-pool x-headgate-reason x-headgate-version".split()
)
_names: dict[bytes, bytes] = {}  # how a literal of this name begins
_fields: dict[Field, bytes] = {}  # whole fields


def encode_integer(number: int, bits: int, first: int) -> bytes:
    """Return an integer in `bits` bits of the first byte, whose others are `first` (§5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((first | number,))
    out = bytearray((first | most,))
    number -= most
    while number >= 128:
        out.append(0x80 | (number & 0x7F))
        number >>= 7
    out.append(number)
    return bytes(out)


def _name(name: bytes) -> bytes:
    """Return the beginning of a literal: its kind and its name."""
    first = _PLAIN if name in _REPEATED else _NEVER
    number = _NUMBERS.get(name)
    if number is not None:
        made = encode_integer(number, 4, first)
    else:
        made = bytes((first,)) + encode_integer(len(name), 7, 0) + name
    if len(_names) < _BOUND and len(name) <= 64:
        _names[name] = made
    return made


def encode_field(field: Field) -> bytes:
    """Return one field's bytes."""
    made = _WHOLE.get(field)
    if made is None:
        name, value = field
        made = (_names.get(name) or _name(name)) + encode_integer(len(value), 7, 0) + value
        if name in _REPEATED and len(made) <= _LONGEST and len(_fields) < _BOUND:
            _fields[field] = made
    return made


class PlainEncoder:
    """One direction of one connection."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = False

    def encode(self, fields: Iterable[Field]) -> bytes:
        """Return the header block."""
        known = _fields
        parts = [known.get(field) or encode_field(field) for field in fields]
        if not self._begun:
            self._begun = True
            parts.insert(0, _NO_TABLE)
        return b"".join(parts)
