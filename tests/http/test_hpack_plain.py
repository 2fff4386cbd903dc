from __future__ import annotations

from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.hpack_plain import PlainEncoder, encode_field, encode_integer

BLOCKS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([b":status", b"date", b"x-a", b"content-type", b"set-cookie"])
            | st.binary(min_size=1, max_size=200),
            st.sampled_from([b"200", b"404", b"application/grpc"]) | st.binary(max_size=600),
        ),
        max_size=6,
    ),
    max_size=5,
)


@given(BLOCKS)
def test_blocks_read_back_in_their_order(blocks):
    encoder, decoder = PlainEncoder(), Decoder()
    for block in blocks:
        assert [tuple(field) for field in decoder.decode(encoder.encode(block), raw=True)] == block


@given(BLOCKS)
def test_a_decoder_that_has_no_table_reads_them_too(blocks):
    encoder, decoder = PlainEncoder(), Decoder()
    decoder.max_allowed_table_size = 0
    for block in blocks:
        assert [tuple(field) for field in decoder.decode(encoder.encode(block), raw=True)] == block
    assert not decoder.header_table.dynamic_entries


def test_a_field_of_the_static_table_is_one_byte():
    assert encode_field((b":status", b"200")) == b"\x88"


def test_what_may_be_secret_is_never_to_be_indexed_by_anybody():
    block = PlainEncoder().encode([(b"authorization", b"secret"), (b"x-new", b"1"), (b"user-agent", b"a")])
    read = [type(field) for field in Decoder().decode(block, raw=True)]
    assert read[:2] == [NeverIndexedHeaderTuple] * 2
    assert read[2] is not NeverIndexedHeaderTuple


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_integers_read_back(number, bits):
    from hpack.hpack import decode_integer

    written = encode_integer(number, bits, 0)
    assert decode_integer(written, bits) == (number, len(written))
