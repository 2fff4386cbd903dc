"""The readers of HTTP/2, for the fuzzer: header blocks and frames."""

from __future__ import annotations

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

from gateway.http import h2_frames as frames
from gateway.http.h2_machine import Broken, Machine
from gateway.http.hpack_read import BadBlock, HpackReader
from tests.fakes.http2_client import END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, number, settings

BOUND = 64 * 1024
REQUEST = [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "a.example")]


def fields_of(data: bytes) -> list[tuple[bytes, bytes]] | str:
    """What `hpack` reads in a header block."""
    try:
        return [(bytes(name), bytes(value)) for name, value in Decoder(BOUND).decode(data, raw=True)]
    except HPACKError as error:
        return type(error).__name__


def read_block(data: bytes) -> tuple[list[tuple[bytes, bytes]] | None, str]:
    """What we read in it, and why nothing, where it is nothing."""
    try:
        return HpackReader(BOUND).read(data), ""
    except BadBlock as bad:
        return None, str(bad)


def play(data: bytes, cut: int) -> str:
    """What a server's machine makes of bytes that come in two pieces."""
    machine = Machine(False, 0.0)
    machine.open()
    told = []
    try:
        for piece in (data[:cut], data[cut:]):
            told += [shown(event) for event in machine.feed(piece, 0.0)]
    except Broken as broken:
        return f"broken {broken.code} {broken}"
    return " ".join(told) + machine.data_to_send().hex()


def shown(event: frames.Event) -> str:
    """An event as text."""
    what: object = ""
    if isinstance(event, frames.HeadReceived):
        what = (event.fields, event.ended)
    elif isinstance(event, frames.TrailersReceived):
        what = event.fields
    elif isinstance(event, frames.DataReceived):
        what = (event.data, event.taken, event.ended)
    elif isinstance(event, frames.StreamReset):
        what = (event.code, event.is_theirs)
    return f"{type(event).__name__} {event.stream_id} {what}"


def seeds_of_blocks() -> list[bytes]:
    """Header blocks to begin with."""
    return [
        Encoder().encode(REQUEST, huffman=True),
        Encoder().encode([*REQUEST, ("x", "a" * 300)], huffman=False),
        b"\x3f\xe1\x1f\x40\x01a\x01b\xbe",
        b"\x82\xff\x80\x01",
    ]


def seeds_of_frames() -> list[bytes]:
    """Connections to begin with."""
    hello = PREFACE + settings(_4=1000)
    get = frame(HEADERS, END_HEADERS | END_STREAM, 1, Encoder().encode(REQUEST))
    post = frame(HEADERS, END_HEADERS, 3, Encoder().encode([*REQUEST, ("content-length", "3")]))
    body = frame(frames.DATA, END_STREAM | frames.PADDED, 3, b"\x01abc\0")
    return [
        hello + get + post + body,
        hello + post + frame(frames.RST_STREAM, 0, 3, number(8)) + body,
        hello + get + frame(frames.WINDOW_UPDATE, 0, 0, number(9)) + frame(frames.PING, 0, 0, b"12345678"),
        hello + frame(HEADERS, END_STREAM, 1, b"\x82") + frame(frames.CONTINUATION, END_HEADERS, 1, b"\x84"),
    ]
