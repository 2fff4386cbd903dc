"""HPACK, the reading side: header blocks to fields, within bounds. RFC 7541. Sans-io.

A block is read in one pass over its bytes. What it may unfold to is bounded while it is read, not after
(an entry of the table costs a byte to name again: the "HPACK bomb", CVE-2016-6581). Whatever can't be read
ends the connection (RFC 9113 §4.3): the peer's table and ours would differ from then on.

The static table and the states of the Huffman code are `hpack`'s data; its decoder, written for all forms of
input, took longer than the rest of a gRPC call. tests/http/test_hpack_read.py holds the two against each
other.
"""

from __future__ import annotations

from typing import Final

from hpack.huffman_table import HUFFMAN_TABLE
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

TABLE: Final = 4096  # bytes of the dynamic table: what it is where SETTINGS say nothing (§4.2)
_ENTRY: Final = 32  # bytes that an entry counts beside its name and value (§4.1)
_STATIC: Final[list[Field]] = [(b"", b""), *HeaderTable.STATIC_TABLE]
_STATICS: Final = 61
_LONGEST: Final = 1 << 24  # no integer of a block that we take is larger

# The Huffman code as a machine that takes four bits at a time: the next state, what to do, and the byte.
_NEXT: Final = bytes([entry[0] for entry in HUFFMAN_TABLE])
_FLAGS: Final = bytes([entry[1] for entry in HUFFMAN_TABLE])
_BYTE: Final = bytes([entry[2] for entry in HUFFMAN_TABLE])
_MAY_END: Final = 1
_EMIT: Final = 2
_FAIL: Final = 4

_NAMES_BOUND: Final = 1024
_names: dict[bytes, bytes] = {}  # names by their Huffman code; values are not kept: they may be secrets


class BadBlock(ValueError):
    """A header block that can't be read. is_large: because it unfolds to more than is allowed."""

    def __init__(self, why: str, is_large: bool = False) -> None:
        super().__init__(why)
        self.is_large = is_large


def read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """Return the integer that begins in the low `bits` of a byte, and where it ends (§5.1)."""
    size = len(block)
    if at >= size:
        raise BadBlock("a header block is cut short")
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    shift = 0
    while True:
        if at >= size:
            raise BadBlock("a header block is cut short")
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        shift += 7
        if number > _LONGEST or shift > 35:
            raise BadBlock("a number in a header block is too large")
        if byte < 0x80:
            return number, at


def decode_huffman(code: bytes) -> bytes:
    """Return what a Huffman code says (§5.2). Raises BadBlock, for wrong padding as well."""
    out = bytearray()
    state = 0
    flags = _MAY_END
    for byte in code:
        index = (state << 4) + (byte >> 4)
        flags = _FLAGS[index]
        if flags & _EMIT:
            out.append(_BYTE[index])
        elif flags & _FAIL:
            raise BadBlock("a Huffman code has a symbol that no byte has")
        index = (_NEXT[index] << 4) + (byte & 0x0F)
        flags = _FLAGS[index]
        if flags & _EMIT:
            out.append(_BYTE[index])
        elif flags & _FAIL:
            raise BadBlock("a Huffman code has a symbol that no byte has")
        state = _NEXT[index]
    if not flags & _MAY_END:
        raise BadBlock("a Huffman code ends within a symbol")
    return bytes(out)


class HpackReader:
    """One direction of one connection. bound: bytes that a block may unfold to (RFC 9113 §10.5.1)."""

    __slots__ = ("_bound", "_entries", "_most", "_size")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._entries: list[Field] = []  # the newest comes last
        self._size = 0  # bytes of them, as §4.1 counts
        self._most = TABLE

    def read(self, block: bytes) -> list[Field]:
        """Return a block's fields. Raises BadBlock, after which nothing more can be read."""
        fields: list[Field] = []
        at = total = 0
        end = len(block)
        while at < end:
            first = block[at]
            if first >= 0x80:  # §6.1: a field of a table
                if first == 0xFF:
                    index, at = read_integer(block, at, 7)
                else:
                    index = first & 0x7F
                    at += 1
                field = self._entry(index)
            elif first >= 0x40:  # §6.2.1: a literal that enters the table
                field, at = self._literal(block, at, 6)
                self._enter(field)
            elif first >= 0x20:  # §6.3
                if fields:
                    raise BadBlock("a table's size changes within a header block")
                at = self._resize(block, at)
                continue
            else:  # §6.2.2, §6.2.3: one that does not
                field, at = self._literal(block, at, 4)
            total += len(field[0]) + len(field[1]) + _ENTRY
            if total > self._bound:
                raise BadBlock("a header block is too large", True)
            fields.append(field)
        return fields

    def _entry(self, index: int) -> Field:
        if 0 < index <= _STATICS:
            return _STATIC[index]
        entries = self._entries
        at = len(entries) - (index - _STATICS)
        if index == 0 or at < 0:
            raise BadBlock("a header block names an entry that is not there")
        return entries[at]

    def _literal(self, block: bytes, at: int, bits: int) -> tuple[Field, int]:
        index, at = read_integer(block, at, bits)
        name, at = self._name(block, at) if index == 0 else (self._entry(index)[0], at)
        is_coded = at < len(block) and block[at] >= 0x80
        size, at = read_integer(block, at, 7)
        end = at + size
        value = block[at:end]
        if end > len(block):
            raise BadBlock("a header block is cut short")
        return (name, decode_huffman(value) if is_coded else value), end

    def _name(self, block: bytes, at: int) -> tuple[bytes, int]:
        is_coded = at < len(block) and block[at] >= 0x80
        size, at = read_integer(block, at, 7)
        end = at + size
        name = block[at:end]
        if end > len(block):
            raise BadBlock("a header block is cut short")
        if not is_coded:
            return name, end
        known = _names.get(name)
        if known is None:
            known = decode_huffman(name)
            if len(_names) < _NAMES_BOUND and size <= 64:
                _names[name] = known
        return known, end

    def _enter(self, field: Field) -> None:
        """Enter a field; what is larger than the whole table empties it (§4.4)."""
        size = len(field[0]) + len(field[1]) + _ENTRY
        self._evict(self._most - size)
        if size <= self._most:
            self._entries.append(field)
            self._size += size

    def _evict(self, room: int) -> None:
        """Let the oldest go until no more than `room` bytes are left."""
        entries = self._entries
        gone = 0
        while self._size > room and gone < len(entries):
            name, value = entries[gone]
            self._size -= len(name) + len(value) + _ENTRY
            gone += 1
        if gone:
            del entries[:gone]

    def _resize(self, block: bytes, at: int) -> int:
        most, at = read_integer(block, at, 5)
        if most > TABLE:
            raise BadBlock("a table is made larger than is allowed")
        self._most = most
        self._evict(most)
        return at

    def __repr__(self) -> str:
        return f"<HpackReader | {len(self._entries)} entries, {self._size} of {self._most} B>"
