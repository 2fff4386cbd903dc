"""One connection to a Redis server: commands out in batches, replies in order.

Commands issued within one turn of the event loop leave in one write, and their replies come back in few
reads: at 64 per batch a command costs a few microseconds, where a client that awaits each reply costs a
hundred and more. Replies come in the order of the commands (RESP2), so what is pending is a queue, and
one timer watches its head: a server that does not answer its oldest command within `timeout` answers
none, and the connection is given up with everything pending.

Parsing is hiredis'. Source: the Redis protocol specification (RESP2), "Redis pipelining".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import hiredis

from gateway.pipeline.ports import StoreUnavailable

Reply = Callable[[object], None]
"""Takes a reply: bytes, int, None, a list of these, or an exception (hiredis.ReplyError,
StoreUnavailable)."""

ReplyError = hiredis.ReplyError

MAX_PENDING = 50_000
"""Commands without a reply: beyond that the server is too far behind to wait for."""

MAX_REPLY = 64 << 20
"""Bytes without a whole reply in them: no answer to what we ask is that long."""

_INCOMPLETE = object()


def encode(*args: bytes) -> bytes:
    """Return one command as an array of bulk strings."""
    return b"*%d\r\n" % len(args) + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


class Connection(asyncio.Protocol):
    """A pipelined connection. timeout: seconds for a reply. on_lost: called once, with the reason in
    words."""

    __slots__ = (
        "_loop",
        "_lost",
        "_on_lost",
        "_out",
        "_pending",
        "_reader",
        "_timeout",
        "_timer",
        "_transport",
        "_unread",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, on_lost: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._on_lost = on_lost
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._out: list[bytes] = []
        self._pending: deque[tuple[float, Reply]] = deque()  # when it was sent, who waits
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._unread = 0  # bytes since the last whole reply

    def send(self, command: bytes, reply: Reply) -> None:
        """Send one encoded command. `reply` is called exactly once, never before this returns unless it
        fails."""
        if self._lost or len(self._pending) >= MAX_PENDING:
            reply(
                StoreUnavailable("the connection is lost" if self._lost else "the server is too far behind")
            )
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        self._pending.append((self._loop.time(), reply))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check)

    def call(self, *args: bytes) -> asyncio.Future[object]:
        """Send one command whose reply may be awaited; a ReplyError or StoreUnavailable is raised
        there."""
        future: asyncio.Future[object] = self._loop.create_future()

        def settle(reply: object) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.send(encode(*args), settle)
        return future

    def give_up(self, why: str) -> None:
        """Close at once; everything pending fails."""
        if self._transport is not None:
            self._transport.abort()
        self._lose(why)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out and not self._lost:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _check(self) -> None:
        """The timer: see whether the oldest command has waited too long."""
        self._timer = None
        if not self._pending:
            return
        waited = self._loop.time() - self._pending[0][0]
        if waited >= self._timeout:
            self.give_up(f"no reply within {self._timeout * 1000:g} ms")
        else:
            self._timer = self._loop.call_later(self._timeout - waited, self._check)

    def _lose(self, why: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        pending, self._pending = self._pending, deque()
        error = StoreUnavailable(why)
        self._on_lost(why)
        for _, reply in pending:
            reply(error)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected; whoever made it goes on with the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand each reply to whoever waits for it."""
        reader = self._reader
        try:
            reader.feed(data)
            self._unread += len(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                if not self._pending:
                    self.give_up("the server said something nobody asked for")
                    return
                self._unread = 0
                self._pending.popleft()[1](reply)
            if self._unread > MAX_REPLY:
                self.give_up(f"a reply of more than {MAX_REPLY >> 20} MiB")
        except hiredis.ProtocolError:
            self.give_up("what the server says is not RESP")

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by the server, or by the network."""
        self._lose("the connection was closed" if exc is None else f"the connection broke: {exc}")

    def __repr__(self) -> str:
        return f"<Connection to Redis {'lost' if self._lost else 'up'} | {len(self._pending)} pending>"
