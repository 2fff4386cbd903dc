from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.codings import BadCoding, TooMuch, UnknownCoding, accepts_gzip, compressor, decoded

MIB = 1 << 20


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        (b"gzip", True),
        (b"GZip", True),
        (b"x-gzip", True),
        (b"*", True),
        (b"deflate, gzip;q=0.5, br", True),
        (b"gzip ; q=1.000", True),
        (b"gzip;q=0.001", True),
        (b"identity;q=0.5, gzip;q=0.5", True),
        (b"identity;q=0, *", True),
        (b"", False),
        (b"br", False),
        (b"identity", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"identity, gzip;q=0.5", False),
        (b"gzip;q=2", False),
        (b"gzip;q=-1", False),
        (b"gzip;q=0.0001", False),
        (b"gzip;q=", False),
        (b"gzip;level=1", False),
        (b"gzipped", False),
        (b"gzip;q=x, br", False),
        (b"gzip," * 1000, False),
    ],
)
def test_quality_values_are_read_as_rfc_9110_has_them(field: bytes, accepted: bool) -> None:
    assert accepts_gzip(field) is accepted


@given(st.binary(max_size=64))
def test_any_accept_encoding_is_read_without_failing(field: bytes) -> None:
    assert accepts_gzip(field) in (True, False)


@given(st.binary(max_size=5000), st.sampled_from([b"gzip", b"x-gzip", b" GZIP ", b"deflate", b"identity"]))
def test_what_was_compressed_is_read_back(body: bytes, coding: bytes) -> None:
    wire = {b"deflate": zlib.compress, b"identity": bytes}.get(coding, gzip.compress)(body)
    assert decoded(coding, wire, 1 << 20) == body


@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_pieces_make_one_stream_that_can_be_read_at_each_point(pieces: list[bytes]) -> None:
    stream, reader = compressor(1), zlib.decompressobj(31)
    for piece in pieces:
        assert reader.decompress(stream.compress(piece) + stream.flush(zlib.Z_SYNC_FLUSH)) == piece
    assert reader.decompress(stream.flush()) == b""
    assert reader.eof


@pytest.mark.parametrize(
    "coding", [b"br", b"zstd", b"compress", b"gzip, gzip", b"gzip,", b"chunked", b"\xff"]
)
def test_another_coding_is_unknown(coding: bytes) -> None:
    with pytest.raises(UnknownCoding):
        decoded(coding, b"x", MIB)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"x",
        gzip.compress(b"hello")[:-1],
        gzip.compress(b"hello")[:-8],
        gzip.compress(b"hello") + b"more",
        gzip.compress(b"hello") + gzip.compress(b"world"),
        gzip.compress(b"hello")[:-5] + b"\0" + gzip.compress(b"hello")[-4:],
    ],
    ids=["empty", "no gzip", "one byte short", "no trailer", "more", "two members", "wrong sum"],
)
def test_a_body_that_is_not_what_it_says_is_refused(wire: bytes) -> None:
    with pytest.raises(BadCoding):
        decoded(b"gzip", wire, MIB)


def test_a_bomb_is_let_go_at_the_bound() -> None:
    bomb = gzip.compress(bytes(50 * MIB))
    with pytest.raises(TooMuch):
        decoded(b"gzip", bomb, 4 * MIB)
    with pytest.raises(TooMuch):  # within the size, but nothing honest is a thousand times smaller
        decoded(b"gzip", gzip.compress(bytes(MIB)), 4 * MIB)
    assert len(decoded(b"gzip", gzip.compress(bytes(60_000)), 4 * MIB)) == 60_000
