"""Requests cut out of what a connection has read: where a head ends, and whether its body is here already.

Sans-io. A small body that came in the same read as its head becomes part of the request at once, chunked or
not; of a chunked one that is still coming, what is here must be well-formed before anything of the request
goes anywhere. What can't become a good request any more is refused at once, not when the client's time is
up.
"""

from __future__ import annotations

from gateway.http.framing import BadFraming, ChunkedReader
from gateway.http.message import Request
from gateway.http.parse import BadRequest, check_unfinished, parse_request, read_ahead
from gateway.server.settings import ServerSettings


class Heads:
    """Where one connection's reading of heads stands.

    scanned: bytes in which no head ends, 0 between heads. rest: what comes after what `take` returned.
    refused: the request whose body was refused, None where the head was.
    """

    __slots__ = ("_skipped", "refused", "rest", "scanned")

    def __init__(self) -> None:
        self.scanned = 0
        self.rest = b""
        self.refused: Request | None = None
        self._skipped = False  # an empty line before the request line was forgiven

    def take(self, data: bytes, settings: ServerSettings) -> Request | None:
        """Return the first request in `data` (not empty); None: its head is incomplete. Raises BadRequest."""
        ahead = None if self.scanned else read_ahead(data, settings.head)
        if ahead is not None:
            self._skipped = False
            return self._take_body(ahead[0], data, ahead[1], settings)
        self.rest = data
        if data[0] == 13 and not self._skipped:  # RFC 9112 §2.2: one empty line before a request is forgiven
            if len(data) == 1:
                return None
            if data[1] == 10:
                self.rest = data = data[2:]
                self._skipped = True
        end = data.find(b"\r\n\r\n", max(self.scanned - 3, 0))
        if end < 0:
            check_unfinished(data, self.scanned, settings.head)
            self.scanned = len(data)
            return None
        request = parse_request(data[: end + 4], settings.head)
        self.scanned = 0
        self._skipped = False
        return self._take_body(request, data, end + 4, settings)

    def _take_body(self, request: Request, data: bytes, at: int, settings: ServerSettings) -> Request:
        """Take the body, which begins at `at`, where all of it is here already. Returns the request."""
        length = request.length
        if length:
            if length > settings.body_limit:
                self.rest = data
                self.refused = request
                raise BadRequest(413, "body_too_large", "the request's body is too large")
            if len(data) >= at + length:
                request.body = data[at : at + length]
                at += length
        elif length is None and len(data) > at:
            self.rest = data
            self.rest = self._take_chunks(request, data[at:], settings)
            return request
        self.rest = data[at:]
        return request

    def _take_chunks(self, request: Request, data: bytes, settings: ServerSettings) -> bytes:
        """Take a chunked body that is here to its end; returns what is left."""
        reader = ChunkedReader(max_chunks=settings.chunk_limit)
        try:
            body = reader.feed(data)
        except BadFraming as error:
            self.refused = request
            raise BadRequest(400, "bad_body", f"the request's body is malformed: {error}") from None
        if not reader.done or len(body) > settings.body_limit:
            return data
        request.body = body
        request.length = len(body)
        request.trailers = reader.trailers
        return reader.rest

    def __repr__(self) -> str:
        return f"<Heads | {self.scanned} B scanned>"
