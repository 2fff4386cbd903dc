"""After a 101: two pipes, one each way, until both sides have said all. RFC 9110 §7.8, RFC 6455.

The policies have decided on the handshake, like on any request; what follows is not HTTP and none of their
business. What stays: the call counts against its pool's limit and the gateway's until the end, a slow
reader on either side holds back the other, silence of `limits.tunnel_idle` ends it, and the access log gets
one line, at the end, with the bytes of each way.

Each half ends by itself: a side that says no more may still listen (RFC 9293 §3.6). The tunnel is over when
both halves are, or as soon as either connection breaks.
"""

from __future__ import annotations

from gateway.pipeline.context import Context
from gateway.pipeline.ports import Downstream


class Tunnels:
    """Those of one worker: how many are open and were opened, bytes through all of them."""

    __slots__ = ("bytes_in", "bytes_out", "open", "opened")

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.bytes_in = 0  # from clients
        self.bytes_out = 0  # to clients

    def __repr__(self) -> str:
        return f"<Tunnels | {self.open} open of {self.opened}>"


class Tunnel:
    """One open tunnel: who still talks, and how much was said. Who opens it closes it, once."""

    __slots__ = ("_all", "_client_talks", "_ctx", "_down", "_instance_talks")

    def __init__(self, tunnels: Tunnels, ctx: Context, down: Downstream) -> None:
        self._all = tunnels
        self._ctx = ctx
        self._down = down
        self._client_talks = True
        self._instance_talks = True
        tunnels.open += 1
        tunnels.opened += 1

    def from_client(self, data: bytes, last: bool) -> None:
        """Count what the client said; last: it says no more."""
        size = len(data)
        self._ctx.body_received += size
        self._all.bytes_in += size
        if last:
            self._client_talks = False

    def from_instance(self, data: bytes, last: bool) -> None:
        """Pass on what the instance said; last: it says no more."""
        size = len(data)
        self._ctx.body_sent += size
        self._all.bytes_out += size
        if data:
            self._down.write(data)
        if last:
            self._instance_talks = False
            self._down.end()

    @property
    def is_over(self) -> bool:
        """Whether both have said all."""
        return not (self._client_talks or self._instance_talks)

    def close(self) -> None:
        """It is over."""
        self._all.open -= 1

    def __repr__(self) -> str:
        client = "client talks" if self._client_talks else "client is silent"
        return f"<Tunnel | {client}, {'instance talks' if self._instance_talks else 'instance is silent'}>"
