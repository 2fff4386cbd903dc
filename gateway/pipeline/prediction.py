"""The prediction inside a request: read once, and only if a verb asks.

Bytes pass through untouched where client and pool speak the same dialect. The cache, row counting,
validation and translation need tensors; the first of them reads the body, the others find it in
`ctx.parsed`. TensorFlow Serving's JSON carries no dtypes, so reading it takes the model's signature, which
an instance of the pool must have told. A body with a Content-Encoding is decompressed here and nowhere else.
"""

from __future__ import annotations

from typing import Protocol

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, explain
from gateway.dialects.protocol import EXAMPLES, Operation
from gateway.dialects.tensors import InferRequest
from gateway.http.codings import READABLE, BadCoding, TooMuch, UnknownCoding, decoded
from gateway.http.message import find_all
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.pool import Pool
from gateway.pipeline.promise import Eventual, Promise

ROWS_KEPT: Slot[int] = Slot()
"""Rows of this prediction that the cache answered, where the others went to an instance."""


class Signatures(Protocol):
    """What models expect and return, learnt from the instances and kept (also when they are gone)."""

    def signature(self, pool: Pool, model: str, version: str) -> Eventual[Signature | None]:
        """Return the signature of `model` as the pool's instances tell it; None when none ever could.

        Answered at once when known. At most one fetch per pool is under way; a failed one is not repeated
        at once.
        """
        ...


def is_prediction(ctx: Context) -> bool:
    """Tell whether the request asks for an inference that we read.

    Classify and regress of TensorFlow Serving pass untouched where the pool speaks it, too.
    """
    target, pool = ctx.target, ctx.pool
    if target is None or ctx.dialect is None:
        return False
    if target.operation is Operation.INFER:
        return True
    return target.operation in EXAMPLES and pool is not None and pool.speaks not in ("http", ctx.dialect.name)


def read_prediction(ctx: Context, signatures: Signatures) -> Eventual[InferRequest | Refusal]:
    """Return the request's tensors, reading the body if nobody did yet.

    The body must be whole (`needs_body`).
    """
    if ctx.parsed is not None:
        return ctx.parsed
    known = _signature(ctx, signatures)
    if not isinstance(known, Promise):
        return _read(ctx, known)
    later: Promise[InferRequest | Refusal] = Promise()

    def told(signature: Signature | None) -> None:
        if not ctx.finished:  # else its body is gone, and nobody waits
            later.resolve(_read(ctx, signature))

    known.then(told, later.reject)
    return later


def read_at_once(ctx: Context, signatures: Signatures) -> InferRequest | Refusal:
    """Return the same without waiting: a signature that is being asked for counts as unknown."""
    if ctx.parsed is not None:
        return ctx.parsed
    known = _signature(ctx, signatures)
    return _read(ctx, None if isinstance(known, Promise) else known)


def _signature(ctx: Context, signatures: Signatures) -> Eventual[Signature | None]:
    if ctx.pool is None or ctx.target is None:
        return None
    return signatures.signature(ctx.pool, ctx.pool.model or ctx.target.model, ctx.version)


def _read(ctx: Context, signature: Signature | None) -> InferRequest | Refusal:
    assert ctx.target is not None
    assert ctx.dialect is not None
    assert ctx.request.body is not None
    body = plain_body(ctx)
    if isinstance(body, Refusal):
        return body
    headers = ctx.request.headers
    if body is not ctx.request.body:
        headers = [field for field in headers if field[0] != b"content-encoding"]
    try:
        ctx.parsed = ctx.dialect.read_request(ctx.target, headers, body, signature)
    except InvalidPrediction as wrong:
        return refuse_invalid(wrong, signature)
    return ctx.parsed


def plain_body(ctx: Context) -> bytes | Refusal:
    """Return the whole body as a dialect reads it, decompressed within the bound for bodies held whole.

    The request keeps the client's own bytes: who speaks its dialect gets them as they came.
    """
    body = ctx.request.body
    assert body is not None
    coding = ctx.request.header(b"content-encoding")
    if coding is None:
        return body
    limit = len(body) if ctx.endpoint is None else ctx.endpoint.body_limit
    try:
        if len(find_all(ctx.request.headers, b"content-encoding")) > 1:
            raise UnknownCoding("the body is coded more than once")
        return decoded(coding, body, limit)
    except UnknownCoding as unknown:
        return Refusal(415, "unknown_coding", str(unknown), headers=[(b"accept-encoding", READABLE)])
    except TooMuch as large:
        return Refusal(413, "body_too_large", str(large))
    except BadCoding as wrong:
        return Refusal(400, "bad_coding", str(wrong))


def refuse_invalid(wrong: InvalidPrediction, signature: Signature | None, policy: str = "") -> Refusal:
    """Say what is wrong with a prediction and show the expected signature, as far as it is known."""
    told = explain(wrong, signature)
    retry_after = 1.0 if told.status == 503 else None
    details = dict(told.details)
    return Refusal(
        told.status, told.code, told.message, policy=policy, retry_after=retry_after, details=details
    )
