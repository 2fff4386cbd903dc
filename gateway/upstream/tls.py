"""TLS with instances: what the verb `tls` says becomes a context, and a connection that is verified.

A certificate is verified against the system's authorities or the verb's `ca`, and must be for the instance's
host or the verb's `server_name` (RFC 9110 §4.3.4). Why a handshake failed goes to the log, once per reason
and minute; a client only hears that it did.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from gateway.pipeline.pool_verbs import Tls
from gateway.transport.tls import Above, TlsTransport

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


def client_context(tls: Tls, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """Load the files. Raises OSError (ssl.SSLError is one) for files that changed since they were checked."""
    context = ssl.create_default_context(cafile=None if tls.ca is None else tls.ca.path)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(list(alpn))
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None and tls.key is not None:
        context.load_cert_chain(tls.cert.path, tls.key.path, password="")
    return context


class ClientTls:
    """Contexts made once per settings and shared by everything that asks instances."""

    __slots__ = ("_contexts",)

    def __init__(self) -> None:
        self._contexts: dict[tuple[Tls, tuple[str, ...]], ssl.SSLContext] = {}

    def context(self, tls: Tls, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
        """Return the context of these settings. Raises OSError."""
        key = (tls, alpn)
        known = self._contexts.get(key)
        if known is None:
            if len(self._contexts) >= 256:  # certificates that were renewed and are not used any more
                self._contexts.clear()
            known = self._contexts[key] = client_context(tls, alpn)
        return known


class Dialling:
    """The protocol of a connection until its handshake is over. done: resolved then, or rejected."""

    __slots__ = ("_above", "_context", "_loop", "_name", "_tcp", "_tls", "done")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        name: str,
        above: Callable[[], asyncio.Protocol],
    ) -> None:
        """name: whose certificate is expected. above: makes the protocol that takes over."""
        self._loop = loop
        self._context = context
        self._name = name
        self._above = above
        self._tcp: asyncio.Transport | None = None
        self._tls: TlsTransport | None = None
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self._tcp = cast(asyncio.Transport, transport)
        self._tls = TlsTransport(self._loop, self._tcp, self._open, _ignore)
        self.data_received(b"")

    def _open(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, server_hostname=self._name)

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake."""
        tls, tcp = self._tls, self._tcp
        if tls is None or tcp is None or self.done.done():
            return
        try:
            established = tls.shake_hands(data)
        except ssl.SSLError as error:
            self.done.set_exception(error)
            tcp.close()
            return
        if established:
            connection = self._above()
            tcp.set_protocol(cast(asyncio.BaseProtocol, tls))
            tls.set_protocol(cast(Above, connection))
            connection.connection_made(cast(asyncio.BaseTransport, tls))
            self.done.set_result(None)
            tls.start()

    def eof_received(self) -> bool:
        """The instance doesn't want to go on."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The instance closed in mid-handshake."""
        if not self.done.done():
            self.done.set_exception(ConnectionResetError("the handshake was broken off"))

    def pause_writing(self) -> None:
        """The instance doesn't read; the time for connecting will end."""

    def resume_writing(self) -> None:
        """It reads again."""


async def connect_tls(
    loop: asyncio.AbstractEventLoop,
    context: ssl.SSLContext,
    name: str,
    host: str,
    port: int,
    above: Callable[[], asyncio.Protocol],
) -> None:
    """Connect, verify, and hand over to the protocol. Raises OSError; cancelled, it leaves nothing open."""
    dialling = Dialling(loop, context, name, above)
    tcp, _ = await loop.create_connection(lambda: cast(asyncio.Protocol, dialling), host, port)
    try:
        await dialling.done
    except BaseException:
        tcp.abort()
        raise


def _ignore(error: ssl.SSLError) -> None:
    """The protocol above hears of the connection's loss."""
