"""HPACK without a memory: a field is written the same way each time, so that it is written once. RFC 7541.

Compression pays where bytes are dear. Between a gateway and its neighbours they are not, and hpack's
encoder, which looks each field up in a table that changes with each field, was a seventh of a gRPC call's
cost. So the encoder's dynamic table is given up with the first block (§6.3: a size of 0), after which
nothing that the peer offers can make us remember its fields, and a field's bytes depend on nothing but the
field: one of the static table's 61 where it stands there (§6.1), else a literal that is never entered
anywhere (§6.2.2), its name by number where the static table has it. Whole fields that repeat are kept, up
to a bound and by name: never those that may hold a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hpack import Encoder, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

_NO_TABLE: Final = b"\x20"  # §6.3: dynamic table size update to 0
_WHOLE: Final = {field: bytes((0x80 | at,)) for at, field in enumerate(HeaderTable.STATIC_TABLE, 1)}
_NUMBERS: Final = {  # of a name that stands there several times the first
    field[0]: at for at, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))
}

_BOUND: Final = 1024
_LONGEST: Final = 128
_REPEATED: Final = frozenset(
    b":authority :method :path :scheme :status accept accept-encoding cache-control content-type date "
    b"grpc-accept-encoding grpc-encoding grpc-status server te user-agent vary via x-forwarded-host "
    b"x-forwarded-proto x-headgate-pool x-headgate-reason x-headgate-version".split()
)
_names: dict[tuple[bytes, int], bytes] = {}  # a literal's name, with its first bits
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


def _name(name: bytes, first: int) -> bytes:
    """Return the beginning of a literal: its kind and its name (§6.2.2, §6.2.3)."""
    number = _NUMBERS.get(name)
    if number is not None:
        made = encode_integer(number, 4, first)
    else:
        made = bytes((first,)) + encode_integer(len(name), 7, 0) + name
    if len(_names) < _BOUND and len(name) <= 64:
        _names[name, first] = made
    return made


def _literal(name: bytes, value: bytes, first: int) -> bytes:
    head = _names.get((name, first)) or _name(name, first)
    size = len(value)
    if size < 127:
        return b"%b%c%b" % (head, size, value)
    return head + encode_integer(size, 7, 0) + value


def encode_field(field: Field) -> bytes:
    """Return one field's bytes."""
    if isinstance(field, NeverIndexedHeaderTuple):
        return _literal(field[0], field[1], 0x10)
    made = _WHOLE.get(field)
    if made is None:
        made = _literal(field[0], field[1], 0x00)
        if field[0] in _REPEATED and len(made) <= _LONGEST and len(_fields) < _BOUND:
            _fields[field] = made
    return made


class PlainEncoder(Encoder):
    """What h2 is given in place of hpack's encoder."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    @property
    def header_table_size(self) -> int:
        """Bytes of the dynamic table: there is none, whatever the peer offers."""
        return 0

    @header_table_size.setter
    def header_table_size(self, value: int) -> None: ...

    def encode(  # type: ignore[override]  # of the many forms that hpack takes, the one that is used
        self, headers: Iterable[Field], huffman: bool = False
    ) -> bytes:
        """Return the header block."""
        known = _fields
        parts = [known.get(field) or encode_field(field) for field in headers]
        if not self._begun:
            self._begun = True
            parts.insert(0, _NO_TABLE)
        return b"".join(parts)
