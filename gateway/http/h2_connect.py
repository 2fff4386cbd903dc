"""Extended CONNECT: a WebSocket over one stream of HTTP/2, as the Upgrade that it means. RFC 8441. Sans-io.

    :method CONNECT, :protocol websocket, :path /chat   ->   GET /chat, Upgrade: websocket
    101 Switching Protocols                             ->   :status 200, and frames of data from there on

So policies see one kind of handshake, whatever the client speaks. What HTTP/1.1 wants and HTTP/2 does
without, the key and its answer (RFC 6455 §4.1; RFC 8441 §5), is asked and checked here, in the client's
place.

A CONNECT without `:protocol` is refused where heads are read: this gateway knows instances, not addresses
that clients name.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Final

from gateway.http.h2_heads import Field, write_response
from gateway.http.message import Request, Response, find

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_KEY: Final = b"sec-websocket-key"
_ACCEPT: Final = b"sec-websocket-accept"


def ask_in_http1(request: Request, nonce: bytes) -> None:
    """Add what a WebSocket's handshake has in HTTP/1.1. nonce: 16 bytes that nobody could foresee."""
    if request.upgrade.lower() == b"websocket":
        kept = [field for field in request.headers if field[0] != _KEY]
        request.headers = [*kept, (_KEY, b64encode(nonce))]


def agrees(request: Request, response: Response) -> bool:
    """Tell whether a 101 answers the handshake that was asked; RFC 6455 §4.1 wants the key's digest."""
    key = find(request.headers, _KEY)
    if key is None:
        return True
    digest = sha1(key + _GUID, usedforsecurity=False).digest()
    return find(response.headers, _ACCEPT) == b64encode(digest)


def write_tunnel_response(response: Response, date: bytes) -> list[Field]:
    """Return the head that opens the tunnel towards the client. Raises UnsafeField."""
    kept = [field for field in response.headers if field[0] != _ACCEPT]
    return write_response(Response(200, kept, None), None, date)
