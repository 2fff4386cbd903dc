"""One client's connection: bytes to requests, one at a time, and back. HTTP/1.1, the server's side. RFC 9112.

    reading a head --> exchange runs --> response sent --> reading the next head | draining the body |
    lingering | closed

Requests may be pipelined: what comes while one is being answered waits in a bounded buffer, then reading
stops. Nothing is read either while the client doesn't read its responses. A head that can be read in two
ways is answered with 400 and the connection closed: nothing after it can be trusted. Before a connection
with unread bytes is closed it lingers: the write side is shut, input is thrown away for a moment, so that
the reset caused by unread bytes doesn't destroy the answer on its way (RFC 9112 §9.6).

After a 101 the same connection is a tunnel's end: bytes pass both ways as they are, each way ends by itself,
and the connection is closed when both have.

How it ends, and within which time, is server/ending.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Final, cast

from gateway.http.message import Request
from gateway.http.parse import BadRequest
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Peer, Receiver
from gateway.server.body import Body
from gateway.server.ending import Ending
from gateway.server.stream import Stream

# What one connection may have done in one turn of the event loop, however much it sent at once: requests
# answered (a slice of a body counts as four), and bytes of a slice of a chunked body, which cost as chunks.
_TURNS: Final = 16
_SLICE: Final = 32 * 1024


class ServerConnection(Ending):
    """The protocol of one connection. `stream`: the request being answered, None between requests.

    asyncio's Protocol by shape: that base class would keep it from being compiled.
    """

    __slots__ = ()

    # What the loop reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = tcp = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        host = self._host
        tcp.set_write_buffer_limits(high=host.settings.write_high)
        if self._met is None:
            name = tcp.get_extra_info("peername")
            address, port = (name[0], name[1]) if isinstance(name, tuple) else ("", 0)
            self.peer = Peer(address, port)
        else:
            self.peer = self._met
        self._admitted = host.admit(self, self.peer.address)
        if self._admitted:
            self._arm(host.loop.time() + host.settings.head_timeout)
            if self._met is not None and _chose_http2(tcp):
                self._become_http2()
        else:
            self._refuse(503, "too_many_connections", "there are too many connections")

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of what comes after."""
        if self._closing and (self.stream is None or self.stream.body is None):
            return  # lingering, or said after the last request
        self._buffer = self._buffer + data if self._buffer else data
        self._run()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read: the response under way goes on (RFC 9112 §9.6)."""
        self._eof = True
        self._check_eof()
        return True

    def _check_eof(self) -> None:
        """The client sends no more: is there anything left to do for it?"""
        stream = self.stream
        if stream is None:
            if not (self._buffer and self._blocked):
                self._close()
        elif stream.is_tunnel:
            if stream.body is not None and not self._buffer:
                self._end_of_tunnel(stream)
        elif stream.body is not None and not self._buffer:
            self.transport.abort()  # in the middle of a body: there is nothing to answer

    def _end_of_tunnel(self, stream: Stream) -> None:
        """The client says no more through the tunnel."""
        stream.body = None
        receiver = stream.receiver
        try:
            receiver.on_body(b"", True)
        except Exception as bug:
            self._crash(receiver, bug)
        if stream.shut and stream is self.stream:
            self._end_stream(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, whoever ended it."""
        self._closing = True
        self._forget_timer()
        if self._admitted:
            self._admitted = False
            self._host.leave(self, self.peer.address)
        stream, self.stream = self.stream, None
        self._buffer = b""
        if stream is not None and not stream.done:
            receiver = stream.detach()
            try:
                receiver.on_client_gone()
            except Exception as bug:
                self._crash(receiver, bug)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self._blocked = True
        self._blocked_size = self.transport.get_write_buffer_size()
        self._arm(self._host.loop.time() + self._host.settings.send_timeout)
        self._tell_writable(False)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self._blocked = False
        if not self._closing:
            self._arm(self._next_deadline())
        self._tell_writable(True)
        self._run()

    def _tell_writable(self, ready: bool) -> None:
        stream = self.stream
        if stream is not None and stream.begun and not stream.done:
            receiver = stream.receiver
            try:
                receiver.on_writable(ready)
            except Exception as bug:
                self._crash(receiver, bug)

    # Reading

    def _run(self) -> None:
        """Understand as much of the buffer as the moment allows.

        Never recursive, however requests are answered.
        """
        if self._running:
            return
        self._running = True
        host = self._host
        receiver: Receiver | None = None
        turns = 0
        try:
            while self._buffer:
                if turns >= _TURNS:  # others want to be heard too
                    host.loop.call_soon(self._run)
                    self._balance()
                    return
                turns += 1
                stream = self.stream
                if stream is None:
                    if self._closing or self._blocked:
                        break
                    request = self._read_head()
                    if request is None:
                        break
                    stream = Stream(self, request, host.settings.chunk_limit)
                    receiver = stream.receiver = host.begin(request, self.peer, stream)
                    self.stream = stream
                    receiver.start()
                else:
                    body = stream.body
                    if body is None or not body.is_flowing():
                        break
                    receiver = stream.receiver
                    self._read_body(stream, body)
                    turns += _TURNS // 4
        except Exception as bug:
            self._crash(receiver, bug)
        finally:
            self._running = False
        if self._eof:
            self._check_eof()
        else:
            self._balance()

    def _read_head(self) -> Request | None:
        """Take the first request out of the buffer. None: its head is incomplete, or was refused."""
        host = self._host
        heads = self._heads
        data = self._buffer
        scanned = heads.scanned
        try:
            request = heads.take(data, host.settings)
        except BadRequest as error:
            if self._first and host.settings.http2 and data.startswith(b"PRI * HTTP/2.0\r\n"):
                self._become_http2()  # RFC 9113 §3.3: prior knowledge
            else:
                self._refuse(error.status, error.code, str(error), heads.refused)
            return None
        self._buffer = heads.rest
        if request is None:
            limit = host.loop.time() + host.settings.head_timeout
            if not scanned and (self._deadline > limit or host.draining):
                self._arm(limit)
            return None
        self._first = False
        self._deadline = inf
        return request

    def _become_http2(self) -> None:
        """Hand the connection over, with what was read of it, to the protocol that speaks HTTP/2."""
        from gateway.server.http2 import Http2Connection  # only where somebody speaks it

        self._forget_timer()
        self._admitted = False
        self._closing = True
        self._host.leave(self, self.peer.address)
        data, self._buffer = self._buffer, b""
        successor = Http2Connection(self._host, self.transport, self.peer)
        self.transport.set_protocol(cast(asyncio.Protocol, successor))  # by shape
        successor.take_over(data)

    def _read_body(self, stream: Stream, body: Body) -> None:
        data, self._buffer = self._buffer, b""
        if len(data) > _SLICE and body.is_chunked:
            data, self._buffer = data[:_SLICE], data[_SLICE:]
        try:
            piece = body.feed(data, self._host.settings.body_limit)
        except GatewayError as error:
            self._fail_body(stream, body, error)
            return
        done = body.done
        if done:
            self._buffer = body.rest + self._buffer if self._buffer else body.rest
            stream.body = None
            stream.request.trailers = body.trailers
        if body.draining:
            self._drain(stream, body)
            return
        if not self._blocked:
            self._deadline = self._next_deadline()
        if piece or done:
            stream.receiver.on_body(piece, done)

    # What a stream asks for

    def send(self, data: bytes) -> None:
        """Send bytes, together with those of other connections."""
        self._host.outbox.post(self.transport, data)

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """Put several pieces into the send buffer without copying them together."""
        self._host.outbox.flush()
        self.transport.writelines(pieces)

    def may_stay(self) -> bool:
        """May another request follow?"""
        return not (self._closing or self._host.draining or (self._eof and not self._buffer))

    def date(self) -> bytes:
        """The Date field's value now."""
        return self._host.date()

    def has_buffered(self) -> bool:
        """Have bytes after the head come already?"""
        return bool(self._buffer)

    def may_drain(self, body: Body) -> bool:
        """Is the rest of the body small enough to be read away?"""
        return body.may_drain(self._host.settings.drain_limit)

    def body_wanted(self, stream: Stream, body: Body) -> None:
        """Read the body, but not from within the caller."""
        if stream is self.stream:
            body.turn(self._host.loop.time())
            if not self._blocked:
                self._arm(self._next_deadline())
            self._host.loop.call_soon(self._run)

    def body_paused(self, stream: Stream, body: Body) -> None:
        """Stop reading the body."""
        if stream is self.stream:
            body.turn(self._host.loop.time())
            if not self._blocked:
                self._deadline = inf
            if not self._running:
                self._balance()

    def responded(self, stream: Stream, keep_alive: bool) -> None:
        """The response is out."""
        if stream is not self.stream:
            return
        if not keep_alive:
            self.stream = None
            self._close(unread=self._closing or stream.body is not None or bool(self._buffer))
        elif stream.body is not None:
            stream.body.drain()
            self._host.loop.call_soon(self._run)
            self._arm(self._host.loop.time() + self._host.settings.linger)
        else:
            self._next_request()

    def hang_up(self, stream: Stream) -> None:
        """The tunnel's instance says no more: nor do we, and when the client has ended too, it is over."""
        if stream is not self.stream:
            return
        if stream.body is None:
            self._end_stream(stream)
        else:
            self._host.outbox.flush()
            if not self.transport.is_closing():
                self.transport.write_eof()

    def _end_stream(self, stream: Stream) -> None:
        """A tunnel is over: so is its connection."""
        stream.detach()
        self.stream = None
        self._close()

    def break_off(self) -> None:
        """Break the connection now."""
        self._closing = True
        self._host.outbox.flush()
        self.transport.abort()

    # Between requests, and the end

    def _next_request(self) -> None:
        host = self._host
        self.stream = None
        if not self._buffer and self._eof:
            self._close()
            return
        if not self._blocked:
            patience = host.settings.farewell if host.draining else host.settings.idle_timeout
            self._arm(host.loop.time() + patience)
        if self._running:
            return  # the loop in _run goes on
        if self._buffer:
            self._run()
        elif not self._reading:
            self._balance()

    def _drain(self, stream: Stream, body: Body) -> None:
        """The answer was given without the body: throw the rest away, up to a bound."""
        if stream.body is None:
            self._next_request()
        elif body.received > self._host.settings.drain_limit:
            self.stream = None
            self._close(unread=True)

    def __repr__(self) -> str:
        state = "closing" if self._closing else "idle" if self.stream is None else repr(self.stream)
        return (
            f"<ServerConnection {self.peer.address}:{self.peer.port} | {state}, {len(self._buffer)} B ahead>"
        )


def _chose_http2(transport: asyncio.Transport) -> bool:
    """Tell whether the TLS handshake agreed on HTTP/2 (ALPN, RFC 9113 §3.2)."""
    tls = transport.get_extra_info("ssl_object")
    return tls is not None and tls.selected_alpn_protocol() == "h2"
