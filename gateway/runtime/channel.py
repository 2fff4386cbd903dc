"""Messages over a socket pair: four bytes of length, big-endian, then that many bytes.

Bounded both ways: a frame above `LIMIT` ends the channel, and so does a reader that lets more than `BACKLOG`
bytes pile up. What `Frames` does with bytes is pure; `Channel` is the asyncio side of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

LIMIT = 64 * 1024 * 1024  # bytes of one frame: policies with 100,000 principals are under half of it
BACKLOG = 128 * 1024 * 1024  # bytes that may wait to be written
HEAD = 4

log = logging.getLogger("headgate.workers")


class BadFrame(Exception):
    """The bytes are no frames; nothing after them can be understood."""


class Frames:
    """Bytes in pieces of any size -> whole frames."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are complete now. Raises BadFrame."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        while len(buffer) - start >= HEAD:
            size = int.from_bytes(buffer[start : start + HEAD], "big")
            if size > self._limit:
                raise BadFrame(f"a frame of {size} bytes; {self._limit} are allowed")
            end = start + HEAD + size
            if len(buffer) < end:
                break
            frames.append(bytes(buffer[start + HEAD : end]))
            start = end
        del buffer[:start]
        return frames


def frame(data: bytes) -> bytes:
    """Write one frame."""
    return len(data).to_bytes(HEAD, "big") + data


class Channel(asyncio.Protocol):
    """One end of a socket pair. on_frame: called per message; on_end: once, when nothing more will come."""

    def __init__(self, on_frame: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._ended = False

    @classmethod
    async def open(
        cls, end: socket.socket, on_frame: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> Channel:
        """Speak over one end of a socket pair, which belongs to the channel from now on.

        The other side may be heard before this returns: who answers at once makes the channel first, and
        calls `speak`.
        """
        made = cls(on_frame, on_end)
        await made.speak(end)
        return made

    async def speak(self, end: socket.socket) -> None:
        """Begin, over one end of a socket pair, which belongs to the channel from now on."""
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            frames = self._frames.feed(data)
        except BadFrame as error:
            log.error("channel broken: %s", error)
            self.close()
            return
        for one in frames:
            if self._ended:
                return
            self._on_frame(one)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if not self._ended:
            self._ended = True
            self._on_end()

    def send(self, data: bytes) -> None:
        """Send one message; to a channel that ended it is lost."""
        transport = self._transport
        if transport is None or self._ended or transport.is_closing():
            return
        transport.write(frame(data))
        if transport.get_write_buffer_size() > BACKLOG:
            log.error("channel broken: the other side doesn't read")
            transport.abort()

    @property
    def waiting(self) -> int:
        """Bytes that the other side has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """End it; what was sent is still delivered."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()
