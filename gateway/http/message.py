"""HTTP messages as values: what a parser produces and a serializer consumes.

Names of header fields are lower-case bytes, in the order received; a field sent twice stands there twice.
Nothing here knows sockets, framing on the wire, or policies. RFC 9110 §5, §6.
"""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]


def find(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of the field `name` (lower-case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def find_all(headers: Headers, name: bytes) -> list[bytes]:
    """Return every value of the field `name` (lower-case), in order."""
    return [value for key, value in headers if key == name]


class Request:
    """One request's head, and its body once somebody needed it whole.

    target: as received (origin-form, or `*`). path: normalised once by the parser (percent-decoded unreserved
    characters, no dot segments), the only path that endpoints, authorisation, cache keys and the upstream
    see. query: without `?`, b"" if none. length: bytes of body announced; None = chunked; 0 = no body.
    body: the complete body, or None while it is still streaming past. minor: HTTP/1.<minor> as the client
    spoke it; 2: HTTP/2. keep_alive, expect_continue: what it wished for its connection. trailers: fields that
    came after the body, there with its last piece. te_trailers: it wants those of the response. upgrade: the
    protocols it would rather speak, as its Upgrade field names them, b"" for none.
    """

    __slots__ = (
        "body",
        "expect_continue",
        "headers",
        "host",
        "keep_alive",
        "length",
        "method",
        "minor",
        "path",
        "query",
        "target",
        "te_trailers",
        "trailers",
        "upgrade",
    )

    def __init__(
        self,
        method: bytes,
        path: bytes,
        headers: Headers,
        *,
        query: bytes = b"",
        target: bytes = b"",
        host: bytes = b"",
        minor: int = 1,
        length: int | None = 0,
        body: bytes | None = b"",
        keep_alive: bool = True,
        expect_continue: bool = False,
        te_trailers: bool = False,
        upgrade: bytes = b"",
    ) -> None:
        self.method = method
        self.target = target or (path + b"?" + query if query else path)
        self.path = path
        self.query = query
        self.headers = headers
        self.host = host
        self.minor = minor
        self.length = length
        self.body = body
        self.keep_alive = keep_alive
        self.expect_continue = expect_continue
        self.te_trailers = te_trailers
        self.trailers: Headers | None = None
        self.upgrade = upgrade

    def rewritten(self, path: bytes, target: bytes, headers: Headers) -> Request:
        """Return the same request with another path, target and header; query and body are kept.

        Not its trailers, which must be looked at first, and not its Upgrade, which somebody must allow.
        """
        return Request(
            self.method,
            path,
            headers,
            query=self.query,
            target=target,
            length=self.length,
            body=self.body,
            te_trailers=self.te_trailers,
        )

    def with_headers(self, headers: Headers) -> Request:
        """Return the same request with other fields; everything else is kept."""
        made = self.rewritten(self.path, self.target, headers)
        made.trailers = self.trailers
        made.upgrade = self.upgrade
        return made

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the field `name` (lower-case), or None."""
        return find(self.headers, name)

    def __repr__(self) -> str:
        return f"<Request {self.method.decode('latin-1')} {self.target.decode('latin-1')}>"


class Response:
    """One response's head, and its body when it is already whole.

    body: bytes when the message is complete as it stands (a filter's answer, or an upstream response that
    came in one read); None when chunks follow. length: bytes announced by the upstream; None = unknown
    (chunked or until close). A response to HEAD, a 204 or a 304 has body b"" and keeps the announced length
    for its header. trailers: fields that came after the body, there with its last piece.
    """

    __slots__ = ("body", "headers", "length", "status", "trailers")

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: bytes | None = b"",
        *,
        length: int | None = None,
    ) -> None:
        self.status = status
        self.headers: Headers = [] if headers is None else headers
        self.body = body
        self.length = len(body) if length is None and body is not None else length
        self.trailers: Headers | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the field `name` (lower-case), or None."""
        return find(self.headers, name)

    def __repr__(self) -> str:
        size = "streaming" if self.body is None else f"{len(self.body)} B"
        return f"<Response {self.status} {size}>"
