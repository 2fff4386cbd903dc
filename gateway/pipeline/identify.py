"""What every request is known by: its id, its trace, and whom it came from.

The client's X-Request-Id is kept when it is short and plain, so that its logs and ours agree; a traceparent
that is well-formed is continued with a span of ours (W3C Trace Context, level 1), any other is replaced.
Made by hand, because a span of the OpenTelemetry SDK costs more than the rest of a request: spans are built
afterwards, for sampled ones.
"""

from __future__ import annotations

import re

from gateway.pipeline.context import Context
from gateway.pipeline.ports import Ids

REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=-]{1,128}")
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


def identify(ctx: Context, ids: Ids) -> None:
    """Give the request its id, its place in a trace, and the fields that say where it came from."""
    request, peer = ctx.request, ctx.peer
    request_id = parent = known = None
    for name, value in request.headers:
        if name == b"x-request-id":
            request_id = value
        elif name == b"traceparent":
            parent = value
    ours = ids.request_id()  # where id, trace and span all begin here, one number is enough for the three
    if request_id is not None and REQUEST_ID.fullmatch(request_id):
        ctx.request_id = request_id
    else:
        ctx.request_id = ours
    if parent is not None:
        known = TRACEPARENT.fullmatch(parent)
    if known is not None:
        ctx.trace_id, ctx.parent_span = known[1], known[2]
        ctx.sampled = bool(int(known[3], 16) & 1)
    else:
        ctx.trace_id = ours
        share = ctx.snapshot.trace_share
        ctx.sampled = share > 0.0 and ids.chance() < share
    ctx.span_id = ours[16:]
    ctx.traceparent = b"-".join([b"00", ctx.trace_id, ctx.span_id, b"01" if ctx.sampled else b"00"])
    forwarded = ctx.snapshot.forwarding.add(
        request.headers, address=peer.address, scheme=peer.scheme, host=request.host, minor=request.minor
    )
    ctx.client = forwarded.client
    ctx.forwarded = forwarded.fields
