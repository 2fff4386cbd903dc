"""The reading side of HPACK, held against `hpack`'s decoder and encoder, and RFC 7541's own examples."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.hpack_read import BadBlock, HpackReader, decode_huffman, read_integer

NAMES = st.sampled_from([b":method", b":path", b"x-a", b"x-b", b"cookie"]) | st.binary(
    min_size=1, max_size=40
)
FIELDS = st.lists(
    st.tuples(NAMES, st.sampled_from([b"GET", b"/", b""]) | st.binary(max_size=300)), max_size=8
)
MANY = 1 << 20

# RFC 7541 C.4 and C.6: blocks of one connection each, with Huffman codes; C.6's table has 256 bytes.
REQUESTS = [
    ("828684418cf1e3c2e5f23a6ba0ab90f4ff", 57),
    ("828684be5886a8eb10649cbf", 110),
    ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", 164),
]


@given(st.lists(FIELDS, max_size=6), st.booleans(), st.sampled_from([4096, 100, 0]))
def test_blocks_of_another_encoder_read_as_they_were_written(blocks, huffman, table):
    encoder, reader = Encoder(), HpackReader(MANY)
    encoder.header_table_size = table
    for block in blocks:
        assert reader.read(encoder.encode(block, huffman=huffman)) == block


@given(st.lists(st.binary(max_size=60), max_size=4))
@example([b"\x82\x3f\xe1\x1f"])
@example([b"\x20\x3f\xe1\x1f\x40\x01a\x01b", b"\xbe"])
@example([b"\x40\x81\x1c\x81\x1c\xbe"])
def test_whatever_comes_both_readers_say_the_same(blocks):
    ours, theirs = HpackReader(MANY), Decoder(MANY)
    for block in blocks:
        try:
            expected = [tuple(field) for field in theirs.decode(block, raw=True)]
        except HPACKError:
            with pytest.raises(BadBlock):
                ours.read(block)
            return
        try:
            read = ours.read(block)
        except BadBlock as bad:
            why = str(bad)
            break
        assert read == expected
    else:
        return
    assert "too large" in why  # of numbers: none above 16 MiB is taken here


def test_the_examples_of_the_rfc():
    reader = HpackReader(MANY)
    for block, size in REQUESTS:
        fields = reader.read(bytes.fromhex(block))
        assert dict(fields)[b":authority"] == b"www.example.com"
        assert f"{size} of 4096" in repr(reader)


def test_an_entry_as_large_as_the_table_empties_it():
    reader = HpackReader(MANY)
    assert reader.read(b"\x40\x01a\x01b") == [(b"a", b"b")]
    reader.read(b"\x40\x01c" + b"\x7f\x81\x1f" + b"x" * 4096)
    with pytest.raises(BadBlock):
        reader.read(b"\xbe")


@pytest.mark.parametrize(
    ("block", "is_large"),
    [
        (b"\x80", False),
        (b"\xff\xff\xff\xff\xff\xff\xff\x0f", False),
        (b"\x82\x20", False),
        (b"\x3f\xe2\x1f", False),
        (b"\x40\x05ab", False),
        (b"\x00\x01a\x85\xff\xff\xff\xff\xff", False),
        (b"\x40\x01a\x28" + b"x" * 40 + b"\xbe" * 20, True),
    ],
    ids=["index 0", "a number without end", "a late size", "a larger table", "cut short", "EOS", "a bomb"],
)
def test_what_can_t_be_read_says_so(block, is_large):
    with pytest.raises(BadBlock) as bad:
        HpackReader(1000).read(block)
    assert bad.value.is_large is is_large


def test_padding_of_more_than_seven_bits_is_no_padding():
    assert decode_huffman(b"") == b""
    assert decode_huffman(b"\x1f") == b"a"
    with pytest.raises(BadBlock):
        decode_huffman(b"\x1f\xff")


def test_integers_of_the_rfc():
    assert read_integer(b"\x1f\x9a\x0a", 0, 5) == (1337, 3)
    assert read_integer(b"\x0a", 0, 5) == (10, 1)
    assert read_integer(b"\x2a", 0, 8) == (42, 1)
