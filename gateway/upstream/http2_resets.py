"""What a reset by an instance means. RFC 9113 §7, §8.7; the gRPC project's PROTOCOL-HTTP2.md, "Errors".

A stream that is reset has failed alone: its connection and the other calls go on. Its error code says what a
gRPC client would have been told without a gateway between, and whether the request was processed at all.
"""

from __future__ import annotations

from typing import Final

from gateway.http.h2_frames import CANCEL, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, REFUSED_STREAM, StreamReset
from gateway.pipeline.errors import (
    GatewayError,
    UpstreamCalm,
    UpstreamCancelled,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamStreamReset,
    UpstreamTooWeak,
)

_BY_CODE: Final[dict[int, type[GatewayError]]] = {
    REFUSED_STREAM: UpstreamRefused,
    CANCEL: UpstreamCancelled,
    ENHANCE_YOUR_CALM: UpstreamCalm,
    INADEQUATE_SECURITY: UpstreamTooWeak,
}


def error_of_reset(event: StreamReset) -> GatewayError:
    """Return what befell a call."""
    if not event.is_theirs:
        return UpstreamProtocolError("the instance's answer is malformed")
    kind = _BY_CODE.get(event.code, UpstreamStreamReset)
    if kind is UpstreamRefused:
        return kind("the instance refused the request before reading it")
    return kind(f"the instance gave its answer up (HTTP/2 error {event.code})")


def error_of_goaway() -> GatewayError:
    """Return what befell a call that a GOAWAY leaves out."""
    return UpstreamRefused("the instance was about to go before it read the request")
