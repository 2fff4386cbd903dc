"""HTTP/2's states, held against the library `h2`: as its peer, both ways, and on arbitrary frames."""

from __future__ import annotations

from typing import Final

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http import h2_frames as frames
from gateway.http.h2_machine import Broken, Machine
from gateway.http.h2_streams import FRAME, STREAM_WINDOW
from tests.fakes.http2_client import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITIZED,
    frame,
    settings,
)

Field = tuple[bytes, bytes]
Told = dict[int, list[object]]

REQUEST: Final = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"a")]
RESPONSE: Final = [(b":status", b"200"), (b"content-type", b"text/plain")]
MORE = st.lists(st.tuples(st.sampled_from([b"x-a", b"x-b", b"cookie"]), st.binary(max_size=30)), max_size=3)


def library(client: bool) -> H2Connection:
    return H2Connection(
        H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )


class Theirs:
    """One side, spoken by h2. What it was told of each stream is kept."""

    def __init__(self, client: bool) -> None:
        self.h2 = library(client)
        self.told: Told = {}
        self.h2.initiate_connection()

    def feed(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.hear(event)

    def hear(self, event: Event) -> None:
        match event:
            case (
                RequestReceived() | ResponseReceived() | InformationalResponseReceived() | TrailersReceived()
            ):
                fields = [tuple(field) for field in event.headers]
                self.told.setdefault(event.stream_id, []).append(fields)
            case DataReceived():
                self.told.setdefault(event.stream_id, []).append(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamReset():
                self.told.setdefault(event.stream_id, []).append(int(event.error_code))
        if getattr(event, "stream_ended", None) is not None:
            self.told[event.stream_id].append("end")

    def begin(self, fields: list[Field], ended: bool) -> int:
        stream_id: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, fields, ended)
        return stream_id

    def send_headers(self, stream_id: int, fields: list[Field], ended: bool) -> bool:
        try:
            self.h2.send_headers(stream_id, fields, ended)
        except ProtocolError:
            return False
        return True

    def room(self, stream_id: int) -> int:
        try:
            return min(self.h2.local_flow_control_window(stream_id), FRAME)
        except ProtocolError:
            return 0

    def send_piece(self, stream_id: int, data: bytes, ended: bool) -> bool:
        try:
            self.h2.send_data(stream_id, data, ended)
        except ProtocolError:
            return False
        return True

    def reset_stream(self, stream_id: int, code: int) -> bool:
        try:
            self.h2.reset_stream(stream_id, ErrorCodes(code))
        except ProtocolError:
            return False
        return True

    def ping(self) -> None:
        self.h2.ping(b"12345678")

    def set_window(self, size: int) -> None:
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})

    def data_to_send(self) -> bytes:
        return bytes(self.h2.data_to_send())


class Ours:
    """One side, spoken by the machine."""

    def __init__(self, client: bool) -> None:
        self.machine = Machine(client, 0.0)
        self.told: Told = {}
        self.machine.open()

    def feed(self, data: bytes) -> None:
        for event in self.machine.feed(data, 0.0):
            told = self.told.setdefault(event.stream_id, [])
            if isinstance(event, frames.HeadReceived):
                told.extend([event.fields, "end"] if event.ended else [event.fields])
            elif isinstance(event, frames.TrailersReceived):
                told.extend([event.fields, "end"])
            elif isinstance(event, frames.DataReceived):
                told.extend([event.data, "end"] if event.ended else [event.data])
                self.machine.acknowledge(event.taken, event.stream_id)
            elif isinstance(event, frames.StreamReset):
                assert event.is_theirs, "the library did nothing wrong"
                told.append(event.code)

    def begin(self, fields: list[Field], ended: bool) -> int:
        return self.machine.begin(fields, ended)

    def send_headers(self, stream_id: int, fields: list[Field], ended: bool) -> bool:
        return self.machine.send_headers(stream_id, fields, ended)

    def room(self, stream_id: int) -> int:
        return self.machine.room(stream_id)

    def send_piece(self, stream_id: int, data: bytes, ended: bool) -> bool:
        return self.machine.send_piece(stream_id, data, ended)

    def reset_stream(self, stream_id: int, code: int) -> bool:
        return self.machine.reset_stream(stream_id, code)

    def ping(self) -> None:
        self.machine.ping(b"12345678")

    def set_window(self, size: int) -> None:
        """Ours never changes."""

    def data_to_send(self) -> bytes:
        return self.machine.data_to_send()


Side = Theirs | Ours


def carry(sender: Side, receiver: Side, cut: int) -> None:
    data = sender.data_to_send()
    if not data:
        return
    receiver.feed(data[:cut])
    receiver.feed(data[cut:])


OPS = st.one_of(
    st.tuples(st.just("begin"), st.booleans(), MORE),
    st.tuples(st.just("answer"), st.integers(0, 4), st.booleans(), MORE),
    st.tuples(st.sampled_from(["up", "down"]), st.integers(0, 4), st.integers(0, 40_000), st.booleans()),
    st.tuples(st.sampled_from(["up trailers", "down trailers"]), st.integers(0, 4), MORE),
    st.tuples(st.sampled_from(["up reset", "down reset"]), st.integers(0, 4)),
    st.tuples(st.just("window"), st.sampled_from([0, 1, 1000, 65_535, 1_000_000])),
    st.tuples(st.just("ping")),
    st.tuples(st.just("carry"), st.integers(0, 200)),
)


def play(client: Side, server: Side, script: list[tuple[object, ...]]) -> None:
    """Play a script on two sides; whatever was said on one is told on the other."""
    said: dict[str, Told] = {"up": {}, "down": {}}
    bodies: dict[tuple[str, int], str] = {}  # how far each direction of a stream is: open, ended, reset
    streams: list[int] = []
    both = {"up": client, "down": server}

    def note(way: str, stream: int, *what: object) -> None:
        said[way].setdefault(stream, []).extend(what)

    def exchange(cut: int = 0) -> None:
        for _ in range(4):
            carry(client, server, cut)
            carry(server, client, cut)

    exchange()
    for op in script:
        kind = str(op[0])
        way = "up" if kind.startswith("up") else "down"
        if kind == "begin" and len(streams) < 5:
            fields = [*REQUEST, *op[2]]  # type: ignore[misc]
            stream = client.begin(fields, bool(op[1]))
            streams.append(stream)
            note("up", stream, fields, *(["end"] if op[1] else []))
            bodies["up", stream] = "ended" if op[1] else "open"
            exchange(3)
        elif kind == "window":
            client.set_window(int(str(op[1])))
            server.set_window(int(str(op[1])))
        elif kind == "ping":
            client.ping()
            server.ping()
        elif kind == "carry":
            exchange(int(str(op[1])))
        elif streams and kind != "begin":
            stream = streams[int(str(op[1])) % len(streams)]
            state = bodies.get((way, stream), "none")
            if kind == "answer" and state == "none":
                fields = [*RESPONSE, *op[3]]  # type: ignore[misc]
                if server.send_headers(stream, fields, bool(op[2])):
                    note("down", stream, fields, *(["end"] if op[2] else []))
                    bodies["down", stream] = "ended" if op[2] else "open"
            elif kind in ("up", "down") and state == "open":
                size = min(int(str(op[2])), both[way].room(stream))
                if both[way].send_piece(stream, b"x" * size, bool(op[3])):
                    note(way, stream, b"x" * size, *(["end"] if op[3] else []))
                    bodies[way, stream] = "ended" if op[3] else "open"
            elif kind.endswith("trailers") and state == "open":
                fields = [(b"x-sum", b"1"), *op[2]]  # type: ignore[misc]
                if both[way].send_headers(stream, fields, True):
                    note(way, stream, fields, "end")
                    bodies[way, stream] = "ended"
            elif kind.endswith("reset"):
                both_ended = all(bodies.get((one, stream)) == "ended" for one in both)
                if not both_ended and both[way].reset_stream(stream, 8):
                    note(way, stream, 8)
                    bodies["up", stream] = bodies["down", stream] = "reset"
                exchange()
    exchange()
    exchange()
    for way, hearer in (("up", server), ("down", client)):
        for stream, words in said[way].items():
            heard = [one for one in hearer.told.get(stream, []) if one not in (b"", 8)]
            meant = [one for one in words if one not in (b"", 8)]
            if bodies[way, stream] == "reset":  # which may have crossed what was said before it
                meant = meant[: len(heard)]
            assert heard == meant, (way, stream)


@given(st.lists(OPS, max_size=25))
def test_a_server_and_the_library_s_client_understand_each_other(script):
    play(Theirs(True), Ours(False), script)


@given(st.lists(OPS, max_size=25))
def test_a_client_and_the_library_s_server_understand_each_other(script):
    play(Ours(True), Theirs(False), script)


# Arbitrary frames: what we let pass the library lets pass, and the other way round


def block(fields: list[Field]) -> bytes:
    return b"".join(bytes((0x00, len(name))) + name + bytes((len(value),)) + value for name, value in fields)


def a_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frame(kind, flags, stream, payload)


PAYLOADS = st.one_of(
    st.just(block(REQUEST)),
    st.just(block([*REQUEST, (b"content-length", b"3")])),
    st.just(block([(b"x-sum", b"1")])),
    st.sampled_from(
        [b"", b"abc", b"\x02abc\0\0", bytes(4), bytes(5), bytes(8), b"\0\4\0\0\0\5", b"\0\0\0\x09"]
    ),
    st.binary(max_size=12),
)
FRAMES = st.builds(
    a_frame,
    st.sampled_from([0, 0, 1, 1, 1, 2, 3, 4, 6, 7, 8, 9, 0x20]),
    st.sampled_from(
        [0, END_STREAM, END_HEADERS, END_HEADERS | END_STREAM, PADDED, PADDED | END_STREAM, 0x25]
    ),
    st.sampled_from([0, 1, 1, 1, 3, 3, 2, 5]),
    PAYLOADS,
)


def judged_by_the_library(data: bytes) -> bool:
    """Whether h2 finds nothing wrong."""
    h2 = library(False)
    h2.initiate_connection()
    h2.clear_outbound_data_buffer()
    try:
        events = h2.receive_data(data)
    except Exception:  # besides its own it lets hyperframe's and Python's through
        return False
    if any(isinstance(event, StreamReset) and not event.remote_reset for event in events):
        return False
    said = bytes(h2.data_to_send())
    while said:
        if said[3] in (frames.RST_STREAM, frames.GOAWAY):
            return False
        said = said[9 + int.from_bytes(said[:3], "big") :]
    return True


def judged_by_us(data: bytes) -> bool:
    machine = Machine(False, 0.0)
    machine.open()
    try:
        events = machine.feed(data, 0.0)
    except Broken:
        return False
    return not any(isinstance(event, frames.StreamReset) and not event.is_theirs for event in events)


@given(st.lists(FRAMES, max_size=6))
@example(
    [frame(HEADERS, END_HEADERS, 1, block(REQUEST)), frame(DATA, END_STREAM, 1, b"x"), frame(DATA, 0, 1)]
)
@example([frame(HEADERS, PRIORITIZED | END_HEADERS, 1, bytes(5) + block(REQUEST))])
@example([frame(HEADERS, 0, 1, block(REQUEST)), frame(CONTINUATION, END_HEADERS, 1)])
def test_arbitrary_frames_are_judged_as_the_library_judges_them(sent):
    data = PREFACE + settings() + b"".join(sent)
    assert judged_by_us(data) == judged_by_the_library(data)


@given(st.booleans(), st.binary(max_size=200), st.integers(0, 200))
def test_nothing_but_broken_is_ever_raised(client, data, cut):
    machine = Machine(client, 0.0)
    machine.open()
    data = (b"" if client else PREFACE) + settings() + data
    try:
        machine.feed(data[:cut], 0.0)
        machine.feed(data[cut:], 0.0)
    except Broken:
        assert machine.data_to_send()


def test_windows_are_given_back_before_the_peer_runs_dry():
    """A body of 2 MiB goes through in frames that the library's client is always allowed to send."""
    client, server = Theirs(True), Ours(False)
    carry(client, server, 0)
    carry(server, client, 0)
    stream = client.begin(REQUEST, False)
    sent = 0
    while sent < 2 << 20:
        size = client.room(stream)
        assert size > 0
        assert client.send_piece(stream, bytes(size), False)
        sent += size
        carry(client, server, 0)
        carry(server, client, 0)
    assert sum(len(piece) for piece in server.told[stream][1:]) == sent


def test_padding_counts_for_the_window():
    machine = Machine(False, 0.0)
    head = frame(HEADERS, END_HEADERS, 1, block(REQUEST))
    padded = frame(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255))
    machine.feed(PREFACE + settings() + head + padded * (STREAM_WINDOW // 257), 0.0)
    with pytest.raises(Broken):
        machine.feed(padded, 0.0)


def test_a_head_larger_than_a_frame_goes_out_in_several():
    client, server = Ours(True), Theirs(False)
    fields = [*REQUEST, *[(b"x-%d" % n, b"v" * 1000) for n in range(40)]]
    server.h2.decoder.max_header_list_size = 1 << 20
    client.begin(fields, True)
    carry(client, server, 0)
    assert server.told[1] == [fields, "end"]


def test_streams_run_out_of_numbers():
    machine = Machine(True, 0.0)
    machine._highest_out = 2**31 - 3
    assert machine.begin(REQUEST, True) == 2**31 - 1
    assert machine.begin(REQUEST, True) == 0
