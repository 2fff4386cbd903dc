"""What the access log says of a request: one line of JSON.

Most requests are of one kind: answered, at the first try, with nothing to explain. Their lines are put
together by hand from pieces that are kept, at half of what a dict and an encoder cost; all others go the
general way, `record` and `line`. Both say the same (tests/telemetry/test_log_lines.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.pipeline.context import Context, Tried

KEPT: Final = 4096  # texts whose quoted form is remembered
LONGEST_KEPT: Final = 256  # signs
_THOUSANDTHS: Final = tuple(b".%03d" % number for number in range(1000))


@dataclass(frozen=True, slots=True)
class Unread:
    """An answer that was given before there was a request: a malformed head, too many connections …

    finished: s, monotonic.
    """

    code: str
    status: int
    client: str
    finished: float
    request_id: bytes = b""


class Lines:
    """Makes lines. Remembers texts that come again, and the second it is."""

    __slots__ = ("_quoted", "_raw", "_second", "_seconds")

    def __init__(self) -> None:
        self._quoted: dict[str, bytes] = {}
        self._raw: dict[bytes, bytes] = {}
        self._second = -1  # since the epoch
        self._seconds = b""  # the same, written

    def of(self, ctx: Context, epoch: float) -> bytes:
        """Return the line of a finished request. epoch: s, as `record`."""
        if _is_unusual(ctx):
            return line(record(ctx, epoch))
        request = ctx.request
        pieces = [
            b'{"time":',
            self._time(epoch + ctx.finished),
            b',"request_id":"',
            ctx.request_id,  # letters, digits and a few signs (pipeline/identify.py)
            b'","client":',
            self._text(ctx.client),
            b',"method":',
            self._bytes(request.method),
            b',"path":',
            self._bytes(request.path),
            b',"status":',
            str(ctx.status).encode(),
            b',"ms":',
            _milliseconds(ctx.finished - ctx.started),
            b',"bytes_in":',
            str(ctx.body_received or request.length or 0).encode(),
            b',"bytes_out":',
            str(ctx.body_sent).encode(),
        ]
        if ctx.endpoint is not None:
            pieces += (b',"endpoint":', self._text(ctx.endpoint.name))
        principal = ctx.principal
        if principal is not None:
            pieces += (b',"principal":', self._text(principal.name))
            if principal.plan:
                pieces += (b',"plan":', self._text(principal.plan))
            if principal.tenant:
                pieces += (b',"tenant":', self._text(principal.tenant))
        if ctx.attempts:
            pieces += (
                b',"pool":',
                b'""' if ctx.pool is None else self._text(ctx.pool.name),
                b',"instance":',
                b'""' if ctx.instance is None else self._text(ctx.instance.id),
                b',"upstream_ms":',
                _milliseconds(ctx.upstream_seconds),
            )
        if ctx.version:
            pieces += (b',"version":', self._text(ctx.version))
        if ctx.arm:
            pieces += (b',"arm":', self._text(ctx.arm))
        if ctx.cache_status:
            pieces += (b',"cache":', self._bytes(ctx.cache_status))
        if ctx.answered_by:
            pieces += (b',"decided_by":', self._text(ctx.answered_by))
        pieces.append(b"}\n")
        return b"".join(pieces)

    def _time(self, instant: float) -> bytes:
        thousandths = int(instant * 1000.0 + 0.5)
        second = thousandths // 1000
        if second != self._second:
            self._second = second
            self._seconds = str(second).encode()
        return self._seconds + _THOUSANDTHS[thousandths % 1000]

    def _text(self, text: str) -> bytes:
        known = self._quoted.get(text)
        if known is None:
            known = _quote(text)
            if len(text) <= LONGEST_KEPT:
                if len(self._quoted) >= KEPT:
                    self._quoted.clear()
                self._quoted[text] = known
        return known

    def _bytes(self, text: bytes) -> bytes:
        known = self._raw.get(text)
        if known is None:
            known = _quote(text.decode("latin-1"))
            if len(text) <= LONGEST_KEPT:
                if len(self._raw) >= KEPT:
                    self._raw.clear()
                self._raw[text] = known
        return known

    def __repr__(self) -> str:
        return f"<Lines | {len(self._quoted) + len(self._raw)} texts kept>"


def _is_unusual(ctx: Context) -> bool:
    """Tell whether there is more to say of it than `Lines.of` says by hand."""
    return (
        ctx.refusal is not None
        or ctx.error is not None
        or ctx.tries is not None
        or ctx.attempts > 1
        or ctx.waited > 0.0
        or ctx.sampled
        or ctx.grpc_status >= 0
        or bool(ctx.degraded)
        or bool(ctx.fault)
        or bool(ctx.rehearsed)
    )


def _milliseconds(seconds: float) -> bytes:
    """Write a duration in ms with three decimals."""
    micro = int(seconds * 1e6 + 0.5) if seconds > 0.0 else 0
    return str(micro // 1000).encode() + _THOUSANDTHS[micro % 1000]


def _quote(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except TypeError:  # as in `line`
        return json.dumps(text).encode()


# The general way


def line(fields: dict[str, object]) -> bytes:
    """Return one line of JSON, line feed included."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, which a token's claims may hold: escaped, as JSON allows
        return json.dumps(fields).encode() + b"\n"


def record(ctx: Context | Unread, epoch: float) -> dict[str, object]:
    """Return what the log says of one request. Empty fields are left out; durations are milliseconds.

    epoch: seconds between the monotonic clock's zero and the Unix epoch.
    """
    if isinstance(ctx, Unread):
        time = round(epoch + ctx.finished, 3)
        known = {"request_id": ctx.request_id.decode("latin-1")} if ctx.request_id else {}
        return {"time": time, **known, "client": ctx.client, "status": ctx.status, "reason": ctx.code}
    request = ctx.request
    line: dict[str, object] = {
        "time": round(epoch + ctx.finished, 3),
        "request_id": ctx.request_id.decode("latin-1"),
        "client": ctx.client,
        "method": request.method.decode("latin-1"),
        "path": request.path.decode("latin-1"),
        "status": ctx.status,
        "ms": round((ctx.finished - ctx.started) * 1000, 3),
        "bytes_in": ctx.body_received or request.length or 0,
        "bytes_out": ctx.body_sent,
    }
    if ctx.grpc_status >= 0:
        line["grpc_status"] = ctx.grpc_status
    if ctx.endpoint is not None:
        line["endpoint"] = ctx.endpoint.name
    if ctx.principal is not None:
        line["principal"] = ctx.principal.name
        if ctx.principal.plan:
            line["plan"] = ctx.principal.plan
        if ctx.principal.tenant:
            line["tenant"] = ctx.principal.tenant
    if ctx.waited:
        line["waited_ms"] = round(ctx.waited * 1000, 3)
    if ctx.attempts:
        line["pool"] = "" if ctx.pool is None else ctx.pool.name
        line["instance"] = "" if ctx.instance is None else ctx.instance.id
        line["upstream_ms"] = round(ctx.upstream_seconds * 1000, 3)
        if ctx.attempts > 1:
            line["attempts"] = ctx.attempts
        if ctx.tries is not None:
            line["tries"] = [_try(tried) for tried in ctx.tries]
    if ctx.version:
        line["version"] = ctx.version
    if ctx.arm:
        line["arm"] = ctx.arm
    if ctx.cache_status:
        line["cache"] = ctx.cache_status.decode("latin-1")
    if ctx.degraded:
        line["degraded"] = ctx.degraded
        line["degraded_by"] = ctx.degraded_by
    if ctx.fault:
        line["fault"] = ctx.fault
    if ctx.refusal is not None:
        line["reason"] = ctx.refusal.code
        line["policy"] = ctx.refusal.policy
        line["decided_by"] = ctx.answered_by
        line["why"] = ctx.refusal.message
        if "limit" in ctx.refusal.details:
            line["limit"] = ctx.refusal.details["limit"]
    elif ctx.error is not None:
        line["reason"] = ctx.error.code
        line["why"] = str(ctx.error)
    elif ctx.answered_by:
        line["decided_by"] = ctx.answered_by
    if ctx.rehearsed:
        line["would_refuse"] = [f"{policy}: {code}" for policy, code in ctx.rehearsed]
    if ctx.sampled:
        line["trace_id"] = ctx.trace_id.decode("latin-1")
    return line


def _try(tried: Tried) -> dict[str, object]:
    return {
        "instance": tried.instance,
        "kind": tried.kind,
        "ended": tried.ended,
        "ms": round(tried.seconds * 1000, 3),
    }
