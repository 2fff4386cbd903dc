"""Let clients and instances go on in another protocol: `upgrade: [websocket]`.

Denied by default: without this verb a client's Upgrade field ends here, and the instance answers the request
as the plain one that it also is (RFC 9110 §7.8). With it, the first of the client's protocols that is on the
list is asked of the instance. All policies decide on the handshake as on any request: who it is, how often,
behind which breaker, within which time; nothing that the client says afterwards is read, so nothing of it
can be limited or cached, and `limits.tunnel_idle` takes the place of the timeout. An instance that answers
anything but a 101 has declined, and its answer is an answer.

Refused when the policies are read: protocols in which further requests would pass unseen (h2c, HTTP/2.0,
TLS/1.0). CONNECT is refused altogether: this gateway knows instances, not addresses that clients name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import REQUIRED, setting
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}"
_PROTOCOL: Final = re.compile(rf"{_TOKEN}(/{_TOKEN})?")
_HIDES_REQUESTS: Final = frozenset(("h2c", "h2", "http", "tls", "connect-udp", "connect-ip"))


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Which protocols a connection may change to."""

    protocols: tuple[str, ...] = setting(
        REQUIRED,
        "protocols that clients may change to, as the Upgrade field names them",
        example="[websocket]",
        short=True,
    )

    def __post_init__(self) -> None:
        if not self.protocols:
            raise ValueError("expected at least one protocol like websocket, found an empty list")
        for protocol in self.protocols:
            if not _PROTOCOL.fullmatch(protocol):
                raise ValueError(f"expected protocols like websocket, found {protocol!r}")
            if protocol.lower().partition("/")[0] in _HIDES_REQUESTS:
                raise ValueError(
                    f"expected protocols like websocket, found {protocol!r}: requests inside it would pass "
                    "the policies unseen"
                )


class UpgradeFilter(Filter):
    """Sets `ctx.upgrade`."""

    name = "upgrade"

    def __init__(self, config: Upgrade) -> None:
        self._allowed = {protocol.lower().encode(): protocol.encode() for protocol in config.protocols}

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Take the first of the client's protocols that is allowed; it listed them by preference."""
        wished = ctx.request.upgrade
        if wished:
            for protocol in wished.split(b","):
                known = self._allowed.get(protocol.strip(b" \t").lower())
                if known is not None:
                    ctx.upgrade = known
                    break
        return None


def _build(rules: Sequence[Rule[Upgrade]], parts: Parts) -> Iterable[Filter]:
    return [UpgradeFilter(rules[0].value)]


KIND = FilterKind(
    "upgrade", Upgrade, summary="let connections go on in another protocol, like WebSocket", build=_build
)
