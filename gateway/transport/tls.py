"""TLS between a TCP transport and a protocol: records in, bytes out, on memory BIOs.

    TCP transport --data_received--> TlsTransport --data_received--> ServerConnection | UpstreamConnection
    TCP transport <------write------ TlsTransport <------write------ ServerConnection | UpstreamConnection

It is both: the protocol of the TCP transport, and the transport of the protocol above. The event loops have
such a thing, too, and it is not used, because of what it lacks (ADR 0014): bytes read before TLS began (the
PROXY header) can't be handed to it, a failed handshake's alert is never sent, so that a client learns
nothing, half-closing is not possible, what waits for a paused reader is lost when the peer closes (uvloop),
and 256 KiB of read buffer belong to every connection.

Bounded memory: OpenSSL gives its own buffers back between records; the BIOs never hold more than one slice
of 16 KiB (a memory BIO never shrinks), and what comes while the protocol above pauses stays undecrypted
until it resumes, with the TCP transport paused as well.

The end of the stream: `write_eof` sends close_notify and TCP's FIN and still reads (RFC 8446 §6.1), so that
the answer that closes a connection is not destroyed by a reset (RFC 9112 §9.6). A FIN without close_notify is
an end as well, but not a clean one: `connection_lost` gets an error then, so that an answer without a length
isn't taken for whole (RFC 9112 §9.8).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

SLICE = 16 * 1024  # bytes, the largest record's content (RFC 8446 §5.1)


class Above(Protocol):
    """The protocol that speaks through the transport."""

    def data_received(self, data: bytes) -> None:
        """Decrypted bytes."""
        ...

    def eof_received(self) -> bool | None:
        """The peer sends no more; true: the connection stays open for what is still to be sent."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        ...

    def pause_writing(self) -> None:
        """The send buffer is full."""
        ...

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        ...


class TlsTransport:
    """One TLS connection, the server's side or the client's.

    Who makes it feeds `shake_hands`, then makes it the TCP transport's protocol, sets the protocol above and
    calls `start`. ssl: the library's side.
    """

    __slots__ = (
        "_above",
        "_closing",
        "_cut",
        "_deaf",
        "_eof",
        "_established",
        "_failed",
        "_incoming",
        "_late",
        "_loop",
        "_outgoing",
        "_paused",
        "_rest",
        "_shut",
        "_tcp",
        "ssl",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tcp: asyncio.Transport,
        open_tls: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        failed: Callable[[ssl.SSLError], None],
    ) -> None:
        """open_tls: makes the library's side. failed: is told of an error after the handshake."""
        self._loop = loop
        self._tcp = tcp
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl = open_tls(self._incoming, self._outgoing)
        self._failed = failed
        self._above: Above | None = None
        self._established = False
        self._closing = False
        self._deaf = False  # what comes is thrown away
        self._eof = False
        self._cut = False  # FIN without close_notify
        self._shut = False  # close_notify is sent
        self._late = False  # it came while bytes wait for a paused reader
        self._paused = False
        self._rest = b""  # came while nobody read, still encrypted

    # Handshake

    def shake_hands(self, data: bytes) -> bool:
        """Go on with the peer's bytes; with none a client begins.

        True: established; `start` gives the rest to the protocol above. Raises ssl.SSLError; what the peer
        must hear of it is sent.
        """
        view, self._rest = self._rest + data, b""
        try:
            for at in range(0, len(view) or 1, SLICE):
                self._incoming.write(view[at : at + SLICE])
                try:
                    self.ssl.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                self._established = True
                self._rest = view[at + SLICE :]
                break
        finally:
            self._flush()
        return self._established

    def start(self) -> None:
        """Hand up what was read already."""
        self._run()

    def selected_protocol(self) -> str | None:
        """What ALPN agreed on."""
        return self.ssl.selected_alpn_protocol()

    # What the TCP transport reports

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes."""
        if self._deaf:
            return
        if self._paused or self._rest:
            self._rest += data
        elif len(data) <= SLICE:
            self._incoming.write(data)
            self._read()
        else:
            self._rest = data
            self._run()

    def eof_received(self) -> bool:
        """TCP's FIN."""
        if not (self._eof or self._deaf):
            self._cut = True
            self._run()
            if self._paused and self._rest:
                self._late = True
                return True
        return self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection ended."""
        self._closing = self._deaf = True
        self._rest = b""
        above, self._above = self._above, None
        if exc is None and self._cut:
            exc = ssl.SSLEOFError("the peer closed without close_notify")
        if above is not None:
            above.connection_lost(exc)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        if self._above is not None:
            self._above.resume_writing()

    # Reading

    def _run(self) -> None:
        """Decrypt what waits, a slice at a time, for as long as the protocol above wants it."""
        if self._incoming.pending or self.ssl.pending():
            self._read()
        rest, self._rest = self._rest, b""
        view, at = memoryview(rest), 0
        while at < len(rest) and not (self._paused or self._deaf):
            self._incoming.write(view[at : at + SLICE])
            at += SLICE
            self._read()
        if at < len(rest) and not self._deaf:
            self._rest = rest[at:]
        if self._late and not (self._rest or self._paused):
            self._late = False
            if not self._end():
                self.close()

    def _read(self) -> None:
        """Decrypt what the library holds and hand it up, in one piece."""
        first = b""
        more: list[bytes] = []
        ended = False
        try:
            while True:
                chunk = self.ssl.read(SLICE)
                if not chunk:
                    ended = True
                    break
                if first:
                    more.append(chunk)
                else:
                    first = chunk
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # close_notify
            ended = True
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._break(error)
            return
        if self._outgoing.pending:
            self._flush()  # a new key, a ticket
        if first and self._above is not None:
            self._above.data_received(b"".join((first, *more)) if more else first)
        if ended and not self._deaf and not self._end():
            self.close()

    def _end(self) -> bool:
        """The peer sends no more. Tell it once."""
        if self._eof or self._above is None:
            return self._eof and not self._closing
        self._eof = True
        return bool(self._above.eof_received())

    def _break(self, error: ssl.SSLError) -> None:
        """Bytes that are no records, or were tampered with."""
        self._deaf = True
        self._failed(error)
        self._tcp.abort()

    # What the protocol above asks for

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._shut or self._deaf:
            return
        if len(data) <= SLICE:
            self.ssl.write(data)
            self._tcp.write(self._outgoing.read())
            return
        view = memoryview(data)
        records = []
        for at in range(0, len(data), SLICE):
            self.ssl.write(view[at : at + SLICE])
            records.append(self._outgoing.read())
        self._tcp.write(b"".join(records))

    def writelines(self, pieces: Sequence[bytes]) -> None:
        """Encrypt and send several pieces as one: a record costs more than a copy."""
        self.write(b"".join(pieces))

    def _flush(self) -> None:
        if self._outgoing.pending and not self._tcp.is_closing():
            self._tcp.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        """It can: close_notify is one-sided (RFC 8446 §6.1)."""
        return True

    def write_eof(self) -> None:
        """Send close_notify and FIN; what comes is still handed up."""
        if not (self._shut or self._closing):
            self._notify()
            self._tcp.write_eof()

    def close(self) -> None:
        """Send close_notify and what is in the send buffer, then close."""
        if not self._closing:
            if not (self._shut or self._deaf):
                self._notify()
            self._closing = self._deaf = True
            self._tcp.close()

    def _notify(self) -> None:
        self._shut = True
        with suppress(ssl.SSLError):  # wants the client's own close_notify, which is not waited for
            self.ssl.unwrap()
        self._flush()

    def abort(self) -> None:
        """Close at once; what is in the send buffer is lost."""
        self._closing = self._deaf = True
        self._tcp.abort()

    def is_closing(self) -> bool:
        """Nothing more can be sent."""
        return self._closing or self._tcp.is_closing()

    def pause_reading(self) -> None:
        """Hand nothing more up."""
        if not self._paused and not self.is_closing():
            self._paused = True
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Hand it up again; soon, not from within the caller."""
        if self._paused and not self.is_closing():
            self._paused = False
            self._tcp.resume_reading()
            if self._rest:
                self._loop.call_soon(self._run)

    def is_reading(self) -> bool:
        """Whether what comes is handed up."""
        return not self._paused and self._tcp.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the TCP transport's; a record is 22 bytes longer than its content."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that are not sent yet."""
        return self._tcp.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the TCP transport's."""
        return self._tcp.get_write_buffer_limits()

    def set_protocol(self, above: Above) -> None:
        """Hand the connection to another protocol."""
        self._above = above

    def get_protocol(self) -> Above | None:
        """Return who gets the bytes."""
        return self._above

    def get_extra_info(self, name: str, default: object = None) -> object:
        """`ssl_object`, `peercert`, `cipher`, else what the TCP transport knows."""
        match name:
            case "ssl_object":
                return self.ssl
            case "peercert":
                return self.ssl.getpeercert()
            case "cipher":
                return self.ssl.cipher()
        return self._tcp.get_extra_info(name, default)

    def __repr__(self) -> str:
        state = "closing" if self._closing else "established" if self._established else "handshake"
        return f"<TlsTransport {state} {self.ssl.version() or ''} | {len(self._rest)} B waiting>"
