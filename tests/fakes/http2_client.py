"""An HTTP/2 client that sends whatever a test wants, raw frames right or wrong, and reads what comes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20

Fields = Sequence[tuple[str, str]]


@dataclass
class Frame:
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends(self) -> bool:
        return bool(self.flags & END_STREAM) and self.kind in (DATA, HEADERS)

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        at = 4 if self.kind == GOAWAY else 0
        return int(struct.unpack(">I", self.payload[at : at + 4])[0])


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None
) -> bytes:
    """Return the bytes of a frame; length: what its head says, where that is not the truth."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """Return a SETTINGS frame, such as settings(_4=100): identifier 4 is 100."""
    pairs = [struct.pack(">HI", int(name[1:]), value) for name, value in values.items()]
    return frame(SETTINGS, payload=b"".join(pairs))


def number(value: int) -> bytes:
    """Return 32 bits."""
    return struct.pack(">I", value)


def request(*more: tuple[str, str], method: str = "GET", path: str = "/") -> list[tuple[str, str]]:
    """Return the fields of a plain request."""
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.example"), *more]


class Http2Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.frames: list[Frame] = []
        self.heads: dict[int, list[list[tuple[str, str]]]] = {}
        self.bodies: dict[int, bytes] = {}
        self.closed = False

    @classmethod
    async def connect(cls, address: tuple[str, int], hello: bytes = PREFACE + settings()) -> Http2Client:
        """Connect, and send `hello`."""
        reader, writer = await asyncio.open_connection(*address)
        client = cls(reader, writer)
        client.send(hello)
        return client

    def send(self, *data: bytes) -> None:
        """Send bytes."""
        self.writer.write(b"".join(data))

    def block(self, fields: Fields) -> bytes:
        """Return fields as a header block."""
        return self.encoder.encode(list(fields), huffman=False)

    def head(self, stream: int, fields: Fields, end: bool = True) -> bytes:
        """Return a HEADERS frame."""
        return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.block(fields))

    async def read(self, patience: float = 3.0) -> Frame | None:
        """Read one frame, None when the connection is over."""
        try:
            async with asyncio.timeout(patience):
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            return None
        got = Frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)
        self.frames.append(got)
        if got.kind == HEADERS:
            assert got.flags & END_HEADERS, "the gateway's heads fit into one frame"
            fields = [(str(name), str(value)) for name, value in self.decoder.decode(payload)]
            self.heads.setdefault(got.stream, []).append(fields)
        elif got.kind == DATA:
            self.bodies[got.stream] = self.bodies.get(got.stream, b"") + payload
        return got

    async def until(self, kind: int, stream: int | None = None, patience: float = 3.0) -> Frame:
        """Read on to a frame of this kind (and stream)."""
        while True:
            got = await self.read(patience)
            assert got is not None, f"the connection ended before frame {kind}: {self.frames}"
            if got.kind == kind and stream in (None, got.stream):
                return got

    async def answer(self, stream: int, patience: float = 3.0) -> int:
        """Read on to the end of a stream's answer; returns its status."""
        while True:
            got = await self.read(patience)
            assert got is not None, f"the connection ended before the answer: {self.frames}"
            assert not (got.kind == RST_STREAM and got.stream == stream), f"reset with {got.code}"
            if got.stream == stream and got.ends:
                return int(
                    dict(self.heads[stream][-1 if ":status" in dict(self.heads[stream][-1]) else 0])[
                        ":status"
                    ]
                )

    async def end(self, patience: float = 3.0) -> Frame | None:
        """Read to the end of the connection; returns its last GOAWAY."""
        last = None
        while (got := await self.read(patience)) is not None:
            if got.kind == GOAWAY:
                last = got
        return last

    async def ping(self) -> None:
        """Make sure that the connection lives, and has seen everything that was sent."""
        self.send(frame(PING, payload=b"areyouok"))
        while True:
            got = await self.until(PING)
            if got.flags & ACK and got.payload == b"areyouok":
                return

    def close(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()
