"""A request's body on its way in: how much of it came, whether anybody wants it now, how long it may take.

    unwanted --proceed--> flowing <--pause, resume--> paused;  --the answer is complete--> draining

A body must be complete within body_timeout + received / body_rate seconds (Apache's mod_reqtimeout has the
same rule). Only the time in which we read counts: while it is paused or not wanted yet, nobody can blame the
client. What a client says through a tunnel has the same states, but neither an end of its own nor a time.
"""

from __future__ import annotations

from math import inf

from gateway.http.framing import BadFraming, BodyReader, ChunkedReader, CloseReader, LengthReader
from gateway.http.message import Headers, Request
from gateway.pipeline.errors import BadBody, BodyTooLarge
from gateway.server.settings import ServerSettings


class Body:
    """What is still to come of one request. `done` turns true with its last byte; `rest` came after that."""

    __slots__ = ("_clock", "_reader", "draining", "is_tunnel", "paused", "received", "wanted")

    def __init__(self, reader: BodyReader, is_tunnel: bool = False) -> None:
        self._reader = reader
        self.is_tunnel = is_tunnel
        self.received = 0  # bytes
        self._clock = 0.0  # while reading: when it would have begun without pauses; else: s spent reading
        self.wanted = is_tunnel  # proceed() was called
        self.paused = False
        self.draining = False  # the response is complete, the rest is read away

    @property
    def is_chunked(self) -> bool:
        """Does it come in chunks, each of which costs time, however small?"""
        return isinstance(self._reader, ChunkedReader)

    @property
    def done(self) -> bool:
        """Was its last byte read?"""
        return self._reader.done

    @property
    def rest(self) -> bytes:
        """What came after its last byte."""
        return self._reader.rest

    @property
    def trailers(self) -> Headers | None:
        """What came with its last chunk."""
        return self._reader.trailers if isinstance(self._reader, ChunkedReader) else None

    def is_flowing(self) -> bool:
        """Is it to be read now?"""
        return not self.paused and (self.wanted or self.draining)

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return what of it is in `data`. Raises BadBody, and BodyTooLarge for more than `limit` in all."""
        try:
            piece = self._reader.feed(data)
        except BadFraming as error:
            raise BadBody(f"the request's body is malformed: {error}") from None
        self.received += len(piece)
        if self.received > limit and not (self.is_tunnel or self.draining):
            raise BodyTooLarge("the request's body is too large")
        return piece

    def turn(self, now: float) -> None:
        """Reading begins, or stops: turn the clock from one meaning to the other."""
        self._clock = now - self._clock

    def deadline(self, settings: ServerSettings) -> float:
        """The instant by which it must be complete, while it is read; inf while the client waits for us."""
        if self.is_tunnel or self.paused or not self.wanted:
            return inf
        return self._clock + settings.body_timeout + self.received / settings.body_rate

    def may_drain(self, limit: int) -> bool:
        """Is the rest small enough to be read away? Chunks are counted as they come."""
        reader = self._reader
        return not (isinstance(reader, LengthReader) and reader.left > limit) and not self.is_tunnel

    def drain(self) -> None:
        """Nobody wants it any more."""
        self.draining = True
        self.paused = False
        self.received = 0

    def __repr__(self) -> str:
        state = (
            "draining"
            if self.draining
            else "paused"
            if self.paused
            else "flowing"
            if self.wanted
            else "unwanted"
        )
        return f"<Body {state} | {self._reader!r}>"


def body_of(request: Request, chunk_limit: int) -> Body | None:
    """Return what is still to come of a request; None when it is whole."""
    if request.body is not None:
        return None
    length = request.length
    return Body(ChunkedReader(max_chunks=chunk_limit) if length is None else LengthReader(length))


def tunnel_body() -> Body:
    """Return what a client says through a tunnel."""
    return Body(CloseReader(), is_tunnel=True)
