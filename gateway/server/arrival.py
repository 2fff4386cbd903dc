"""A connection before its first request: who is it (PROXY protocol), and is it encrypted (TLS).

    [PROXY header] --> [TLS handshake] --> ServerConnection
         |                  |
         closed             closed, with an alert; plain HTTP is told so

Everything here happens before anybody is known, so it is bounded: one deadline for all of it, the listener's
limit of connections, which counts arrivals as well, and a number of handshakes at once. A handshake costs
its place only once the client has begun to speak, and at most `PER_TURN` begin per turn of the event loop,
so that a storm of them slows those who wait and not those who are being served.

Nothing that a client does here is worth a line of the log: results are counted (`headgate_tls_handshakes`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Final, Protocol, cast

from gateway.http.proxy_protocol import BadProxyHeader, read_proxy_header
from gateway.http.serialize import write_response_head
from gateway.pipeline.ports import Cancellable, Peer, Timers
from gateway.server.client_certificate import read_client_certificate
from gateway.server.problem import problem
from gateway.server.settings import ServerSettings
from gateway.server.tls import ServerTls, failure
from gateway.transport.tls import Above, TlsTransport

PER_TURN: Final = 8  # handshakes begun in one turn of the loop: 1 ms each with RSA keys
FIRST_BYTES: Final = 16 * 1024  # of a client that waits for its handshake; a ClientHello is far smaller
_HANDSHAKE: Final = 22  # the first byte of every TLS connection: RFC 8446 §5.1


class Connected(Above, Protocol):
    """The protocol that takes over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is ready for its first request."""
        ...


class Gate(Protocol):
    """What an arrival needs of its listener."""

    settings: ServerSettings
    timers: Timers
    loop: asyncio.AbstractEventLoop
    tls: ServerTls | None
    handshakes: Handshakes

    def date(self) -> bytes:
        """The Date field's value now."""
        ...

    def expects_proxy(self, address: str) -> bool | None:
        """Whether a PROXY header must come from there; None: nobody may connect from there."""
        ...

    def came(self, arrival: Arrival, address: str | None) -> bool:
        """Count an arrival; False when there are too many. None: its address isn't known yet."""
        ...

    def left(self, arrival: Arrival) -> None:
        """Forget an arrival: it became a connection, or ended."""
        ...

    def take_over(self, peer: Peer) -> Connected:
        """Make the protocol that speaks HTTP."""
        ...

    def settled(self, connection: Connected) -> None:
        """The connection has begun."""
        ...

    def count(self, result: str, address: str) -> None:
        """Count how a handshake or a header ended: `ok` or one of a few words."""
        ...


class Handshakes:
    """How many handshakes of one port are under way; the others wait in order."""

    __slots__ = ("_loop", "_pumping", "_waiting", "limit", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self.limit = limit
        self.running = 0
        self._waiting: deque[Arrival] = deque()
        self._pumping = False

    @property
    def waiting(self) -> int:
        """Clients that said hello and wait."""
        return len(self._waiting)

    def enter(self, arrival: Arrival) -> None:
        """Begin soon, or when another ends."""
        self._waiting.append(arrival)
        self._pump_soon()

    def leave(self) -> None:
        """One ended."""
        self.running -= 1
        if self._waiting:
            self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        begun = 0
        while self._waiting and self.running < self.limit and begun < PER_TURN:
            arrival = self._waiting.popleft()
            if not arrival.over:
                self.running += 1
                begun += 1
                arrival.begin()
        if self._waiting and self.running < self.limit:
            self._pump_soon()

    def __repr__(self) -> str:
        return f"<Handshakes {self.running} of {self.limit}, {self.waiting} waiting>"


class Arrival:
    """The protocol of one connection until HTTP begins. over: it became something else, or ended."""

    __slots__ = (
        "_address",
        "_buffer",
        "_deaf",
        "_gate",
        "_handshaking",
        "_headed",
        "_port",
        "_queued",
        "_tcp",
        "_timer",
        "_tls",
        "over",
    )

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._tcp: asyncio.Transport | None = None
        self._tls: TlsTransport | None = None
        self._address = ""
        self._port = 0
        self._buffer = b""
        self._headed = True  # no PROXY header is awaited
        self._queued = False
        self._handshaking = False  # holds one of the places
        self._deaf = False  # an answer is on its way, input is thrown away
        self._timer: Cancellable | None = None
        self.over = False

    # What the loop reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client, or the proxy in front of it, connected."""
        self._tcp = tcp = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        gate = self._gate
        name = tcp.get_extra_info("peername")
        self._address, self._port = (name[0], name[1]) if isinstance(name, tuple) else ("", 0)
        expected = gate.expects_proxy(self._address)
        if expected is None:
            self._drop("untrusted")
            return
        self._headed = not expected
        if not gate.came(self, self._address if self._headed else None):
            self._drop("too_many")
            return
        settings = None if gate.tls is None else gate.tls.settings
        patience = gate.settings.head_timeout if settings is None else settings.handshake_timeout
        self._timer = gate.timers.at(gate.loop.time() + patience, self._expire)
        if self._headed and gate.tls is None:
            self._hand_over()

    def data_received(self, data: bytes) -> None:
        """Bytes of the PROXY header, or of the handshake."""
        if self._deaf or self.over:
            return
        if self._handshaking and self._tls is not None:
            self._shake(data)
            return
        self._buffer += data
        if not self._headed and not self._read_header():
            return
        if self._gate.tls is None:
            self._hand_over()
        elif self._buffer and not self._queued:
            self._expect_hello()
        elif self._tcp is not None and len(self._buffer) > FIRST_BYTES:
            self._tcp.pause_reading()

    def eof_received(self) -> bool:
        """The client left before it was anybody: the transport closes itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        if not self.over and not self._deaf:
            self._count("left")
        self._end()

    def pause_writing(self) -> None:
        """A client that doesn't read its handshake runs into the deadline."""

    def resume_writing(self) -> None:
        """It reads again."""

    # PROXY protocol

    def _read_header(self) -> bool:
        """Take the header out of the buffer. False: it is incomplete, or was refused."""
        try:
            header = read_proxy_header(self._buffer)
        except BadProxyHeader:
            self._drop("bad_proxy_header")
            return False
        if header is None:
            return False
        self._headed = True
        self._buffer = self._buffer[header.size :]
        if header.address:
            self._address, self._port = header.address, header.port
        self._gate.left(self)
        if not self._gate.came(self, self._address):
            self._drop("too_many")
            return False
        return True

    # TLS

    def _expect_hello(self) -> None:
        """Tell a handshake from what only an honest mistake can be."""
        if self._buffer[0] == _HANDSHAKE:
            self._queued = True
            self._gate.handshakes.enter(self)
        elif self._buffer[:1].isalpha():
            self._answer_plainly()
        else:
            self._drop("not_tls")

    def begin(self) -> None:
        """A place is free."""
        gate, tcp = self._gate, self._tcp
        assert tcp is not None
        assert gate.tls is not None
        self._handshaking = True
        self._tls = TlsTransport(gate.loop, tcp, gate.tls.open, self._broken)
        tcp.resume_reading()
        data, self._buffer = self._buffer, b""
        self._shake(data)

    def _shake(self, data: bytes) -> None:
        tls = self._tls
        assert tls is not None
        try:
            established = tls.shake_hands(data)
        except ssl.SSLError as error:
            self._count(failure(error))
            self._farewell()
            return
        if established:
            self._count("ok")
            self._hand_over()

    def _broken(self, error: ssl.SSLError) -> None:
        """Bytes after the handshake were no TLS."""
        self._count("broken")

    def _answer_plainly(self) -> None:
        """Plain HTTP on a port for HTTPS: say so, unencrypted."""
        self._count("plain_http")
        response = problem(400, "tls_required", "this port speaks HTTPS; the request came unencrypted")
        body = response.body or b""
        head = write_response_head(response, length=len(body), connection=b"close", date=self._gate.date())
        if self._tcp is not None:
            self._tcp.write(head + body)
        self._farewell()

    # The end, one way or the other

    def _hand_over(self) -> None:
        """HTTP begins."""
        gate, tcp = self._gate, self._tcp
        assert tcp is not None
        data, self._buffer = self._buffer, b""
        tls = self._tls
        certificate = None if tls is None else read_client_certificate(tls.ssl)
        peer = Peer(self._address, self._port, "http" if tls is None else "https", certificate)
        self._end()
        connection = gate.take_over(peer)
        if tls is None:
            tcp.set_protocol(cast(asyncio.BaseProtocol, connection))
            connection.connection_made(tcp)
            if data:
                connection.data_received(data)
        else:
            tcp.set_protocol(cast(asyncio.BaseProtocol, tls))
            tls.set_protocol(connection)
            connection.connection_made(cast(asyncio.BaseTransport, tls))
            tls.start()
        gate.settled(connection)

    def _farewell(self) -> None:
        """Let the client read what it was told: close the sending side, throw its input away for a while."""
        gate, tcp = self._gate, self._tcp
        assert tcp is not None
        self._end()
        self._deaf = True
        if not tcp.is_closing():
            tcp.write_eof()
            self._timer = gate.timers.at(gate.loop.time() + gate.settings.linger, tcp.abort)

    def _expire(self) -> None:
        self._timer = None
        self._drop("timeout")

    def _drop(self, result: str) -> None:
        """Close without a word."""
        self._count(result)
        self._end()
        if self._tcp is not None:
            self._tcp.abort()

    def _count(self, result: str) -> None:
        self._gate.count(result, self._address)

    def _end(self) -> None:
        """Give back what was taken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._handshaking:
            self._handshaking = False
            self._gate.handshakes.leave()
        if not self.over:
            self.over = True
            self._gate.left(self)

    def drain(self) -> None:
        """The listener stops: whoever is on the way in may still come, if it is quick."""
        if self._timer is not None:
            self._timer.cancel()
            gate = self._gate
            self._timer = gate.timers.at(gate.loop.time() + gate.settings.linger, self._expire)

    def abort(self) -> None:
        """The listener closes."""
        self._end()
        if self._tcp is not None:
            self._tcp.abort()

    def __repr__(self) -> str:
        state = "over" if self.over else "handshake" if self._handshaking else "waiting"
        return f"<Arrival {self._address}:{self._port} | {state}, {len(self._buffer)} B>"
