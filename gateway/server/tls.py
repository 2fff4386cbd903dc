"""TLS with clients: the settings become contexts, the name a client asks for chooses among them.

The first certificate is for everybody who asks for no name, or for one that is not listed. Versions 1.2 and
1.3, and of 1.2 only cipher suites with forward secrecy and authenticated encryption (RFC 9325 §4.2; they are
those that HTTP/2 allows, RFC 9113 §9.2.2). Renegotiation and compression are off. Session tickets are the
library's: their keys live as long as a context, so a reload, which makes new contexts, ends them, and nobody
resumes a session that was begun under other authorities.

Client certificates are asked for where `client_ca` is set. OpenSSL verifies chain, dates and purpose before
the handshake is complete; what fails never becomes a connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

from gateway.config.schema import Certificate, ListenTls

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsUnusable(Exception):
    """A certificate, key or authority can't be used; the text names the files and says why."""


class ServerTls:
    """What one port's handshakes are made with. Frozen: a reload makes another."""

    __slots__ = ("_by_name", "context", "settings")

    def __init__(self, settings: ListenTls, http2: bool = True) -> None:
        """Load every file. Raises TlsUnusable."""
        self.settings = settings
        self.context = _context(settings, settings, http2)
        self._by_name = {
            name.lower().rstrip("."): _context(settings, pair, http2) for name, pair in settings.sni.items()
        }
        if self._by_name:
            self.context.sni_callback = self._choose

    def context_for(self, name: str | None) -> ssl.SSLContext:
        """Return the context for a name: its own, its wildcard's (one label, RFC 9525 §6.3), or the first."""
        if name is None:
            return self.context
        name = name.lower().rstrip(".")
        known = self._by_name.get(name)
        if known is None:
            known = self._by_name.get("*." + name.partition(".")[2])
        return self.context if known is None else known

    def _choose(self, handshake: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        handshake.context = self.context_for(name)

    def open(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """Begin one handshake, the server's side."""
        return self.context.wrap_bio(incoming, outgoing, server_side=True)

    def __repr__(self) -> str:
        return f"<ServerTls {self.settings.cert} | {len(self._by_name)} more names>"


def _context(settings: ListenTls, pair: Certificate, http2: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    try:
        context.load_cert_chain(pair.cert.path, pair.key.path, password="")
        if settings.client_ca is not None:
            context.load_verify_locations(settings.client_ca.path)
            wanted = settings.client_cert == "required"
            context.verify_mode = ssl.CERT_REQUIRED if wanted else ssl.CERT_OPTIONAL
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(file) for file in (pair.cert, pair.key, settings.client_ca) if file is not None)
        raise TlsUnusable(f"{files}: {getattr(error, 'reason', None) or error.strerror or error}") from error
    return context


# What failed handshakes are counted as

_REASONS: Final[Mapping[str, str]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "CERTIFICATE_VERIFY_FAILED": "bad_certificate",
    "UNSUPPORTED_PROTOCOL": "no_shared_version",
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no_shared_cipher",
}


def failure(error: ssl.SSLError) -> str:
    """Return one of a few words for what OpenSSL calls a failure; `refused`: the client's own alert."""
    reason = str(getattr(error, "reason", "") or "")
    if "_ALERT_" in reason:
        return "refused"
    return _REASONS.get(reason, "malformed")
