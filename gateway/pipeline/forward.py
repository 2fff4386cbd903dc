"""The request as it goes upstream, and its answer as it comes back.

Where client and pool speak the same dialect the body's bytes are forwarded unchanged and only the URL may
be rewritten (the pool's own name for the model; a label to its version). Elsewhere the prediction is read
into neutral tensors, written in the pool's dialect, and its answer translated back. Fields that are the
connection's own, the client's credential and anything that claims to come from us are dropped; trusted
identity fields are added.
"""

from __future__ import annotations

from typing import Final

from gateway.dialects import losses
from gateway.dialects.catalogue import BY_NAME
from gateway.dialects.errors import SIGNATURE_UNKNOWN, InvalidPrediction
from gateway.dialects.grpc_errors import read_error
from gateway.dialects.metadata import Signature
from gateway.dialects.protocol import EXAMPLES, Dialect, Operation
from gateway.dialects.tensors import InferRequest
from gateway.http.forwarded import FORWARDED_FIELDS
from gateway.http.grpc import Status, status_of, trailers_only
from gateway.http.hop_by_hop import HOP_BY_HOP, Passing, end_to_end, one_hop_less
from gateway.http.message import Headers, Request, Response, find_all
from gateway.http.trailers import announced
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal, UpstreamUnreadable
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import Signatures, read_prediction, refuse_invalid
from gateway.pipeline.promise import Eventual, Promise


class Forward:
    """A request to send, and how to read its answer. answer_limit: bytes to read whole; 0 = let it stream."""

    __slots__ = ("answer_limit", "request")

    def __init__(self, request: Request, answer_limit: int = 0) -> None:
        self.request = request
        self.answer_limit = answer_limit

    def back(self, response: Response) -> Response:
        """Return the answer as the client gets it; 426 must say which protocols (RFC 9110 §15.5.22)."""
        wanted = find_all(response.headers, b"upgrade") if response.status == 426 else None
        response.headers = end_to_end(response.headers)
        if wanted:
            response.headers.append((b"upgrade", b", ".join(wanted)))
        return response


class Translated(Forward):
    """A prediction in the pool's dialect. Its answer comes back in the client's; so do its errors.

    lost: what of the request had no place in the pool's dialect.
    """

    __slots__ = ("_ctx", "_infer", "_lost", "_signature", "_theirs")

    def __init__(
        self,
        request: Request,
        ctx: Context,
        infer: InferRequest,
        theirs: Dialect,
        signature: Signature | None,
        lost: tuple[str, ...],
    ) -> None:
        super().__init__(request, ctx.snapshot.answer_limit)
        self._lost = lost
        self._ctx = ctx
        self._infer = infer
        self._theirs = theirs
        self._signature = signature

    def back(self, response: Response) -> Response:
        """Translate the answer; UpstreamUnreadable when it is not what the pool's dialect promises.

        What the client's own form can't carry (NaN in V2's JSON, outputs that have no rows) is refused as
        the client's: another form of its dialect, or another dialect, can.
        """
        ours = self._ctx.dialect
        assert ours is not None
        assert response.body is not None
        kept = without_body_fields(end_to_end(response.headers))
        said = response.headers if response.trailers is None else response.headers + response.trailers
        if not self._theirs.succeeded(response.status, said, response.body):
            known = self._theirs.read_error(response.status, said, response.body)
            status = known.kind.status
            headers, body = ours.write_error(status, known.kind.value, known.message, {})
            return Response(status, kept + headers, body)
        try:
            result = self._theirs.read_response(response.headers, response.body, self._expected())
        except InvalidPrediction as wrong:
            raise UpstreamUnreadable(
                f"the model server's answer can't be translated: {wrong.message}"
            ) from wrong
        try:
            headers, body = losses.write_response(ours, result, self._infer, self._lost)
        except InvalidPrediction as wrong:
            headers, body = ours.write_error(wrong.status, wrong.code, wrong.message, dict(wrong.details))
            reason = (b"x-headgate-reason", wrong.code.encode())
            return Response(wrong.status, [*kept, *headers, reason], body)
        return Response(200, kept + headers, body)

    def _expected(self) -> Signature | None:
        return None if self._signature is None else self._signature.named(self._infer.signature)


class Whole(Forward):
    """A call that goes on unchanged; where its answer came whole, its outcome stands where all can see it."""

    def back(self, response: Response) -> Response:
        """Return the answer; one that failed with the status that HTTP has for it, and no body."""
        response.headers = end_to_end(response.headers)
        if response.body is None or response.status != 200:
            return response
        said = response.headers if response.trailers is None else response.headers + response.trailers
        status = status_of(response, response.trailers)
        headers = [field for field in said if field[0] not in _OUTCOME]
        if status is Status.OK:
            ended = Response(200, [*headers, (b"grpc-status", b"0")], response.body)
        else:
            known = read_error(200, said)
            fields = trailers_only(status, known.message)
            ended = Response(known.kind.status, without_body_fields(headers) + fields, b"")
        return ended


def translates(ctx: Context, pool: Pool) -> bool:
    """Tell whether this pool needs the prediction in another dialect than the client's."""
    return (
        ctx.dialect is not None
        and ctx.target is not None
        and (ctx.target.operation is Operation.INFER or ctx.target.operation in EXAMPLES)
        and pool.speaks not in ("http", ctx.dialect.name)
    )


def goes_whole(ctx: Context, pool: Pool) -> bool:
    """Tell whether a body that is still on its way must be read whole first.

    Small ones, because they can be sent twice then, what is to be translated, and what a graph asks about.
    """
    length = ctx.request.length
    small = length is not None and length <= ctx.snapshot.replay_limit
    return small or pool.is_graph or translates(ctx, pool)


def forward(ctx: Context, pool: Pool, signatures: Signatures) -> Eventual[Forward | Refusal]:
    """Make the upstream request for this pool. Translation needs the whole body in ctx.request.body."""
    if not translates(ctx, pool):
        if ctx.dialect is not None and ctx.dialect.is_grpc:
            return Whole(_unchanged(ctx, pool))
        return Forward(_unchanged(ctx, pool))

    def translate(infer: InferRequest | Refusal) -> Eventual[Forward | Refusal]:
        if isinstance(infer, Refusal):
            return infer
        known = signatures.signature(pool, pool.model or infer.model, ctx.version)
        if isinstance(known, Promise):
            return known.chain(lambda late: _write(ctx, pool, infer, late))
        return _write(ctx, pool, infer, known)

    read = read_prediction(ctx, signatures)
    return read.chain(translate) if isinstance(read, Promise) else translate(read)


def _write(ctx: Context, pool: Pool, infer: InferRequest, signature: Signature | None) -> Forward | Refusal:
    theirs = BY_NAME[pool.speaks]
    version = _version_upstream(ctx, pool)
    if signature is None and not theirs.is_typed:
        unknown = InvalidPrediction(SIGNATURE_UNKNOWN, "the model's signature is not known yet")
        return refuse_invalid(unknown, None)  # the answer could not be read: don't ask for it
    try:
        lost = losses.of_request(infer, theirs)
        method, path, headers, body = theirs.write_request(infer, pool.model or infer.model, version)
    except InvalidPrediction as wrong:
        return refuse_invalid(wrong, signature)
    fields = without_body_fields(fields_upstream(ctx)) + headers
    request = Request(method, path, fields, length=len(body), body=body, te_trailers=theirs.is_grpc)
    return Translated(request, ctx, infer, theirs, signature, lost)


def _version_upstream(ctx: Context, pool: Pool) -> str | None:
    """Return the version to name in the URL: where the client named one, or where one pool serves several.

    Servers differ on versions in URLs (docs/serving.md), so none is named where the pool itself says it all.
    """
    if ctx.endpoint is None or not ctx.version or ctx.endpoint.versions.get(ctx.version) is not pool:
        return None
    named = ctx.target is not None and (ctx.target.version is not None or ctx.target.label is not None)
    shared = sum(1 for other in ctx.endpoint.versions.values() if other is pool) > 1
    return ctx.version if named or shared else None


def _unchanged(ctx: Context, pool: Pool) -> Request:
    request = ctx.request
    path, target = request.path, request.target
    if ctx.target is not None and ctx.dialect is not None and ctx.target.model:
        version = _version_upstream(ctx, pool)
        named = ctx.target.version or ctx.target.label
        if (pool.model and pool.model != ctx.target.model) or version != named:
            model = pool.model or ctx.target.model
            path = ctx.dialect.path_for(ctx.target, model, version)
            target = path + b"?" + request.query if request.query else path
            if ctx.target.inside:
                return _renamed(ctx, request.rewritten(path, target, fields_upstream(ctx)), model, version)
    made = request.rewritten(path, target, fields_upstream(ctx))
    if request.trailers is not None:
        made.trailers = trailers(ctx)
    made.upgrade = ctx.upgrade
    return made


def _renamed(ctx: Context, made: Request, model: str, version: str | None) -> Request:
    """Write the pool's own name of the model, and the version chosen, into the message."""
    assert ctx.target is not None
    assert ctx.dialect is not None
    assert made.body is not None
    made.body = ctx.dialect.renamed(ctx.target, made.headers, made.body, model, version)
    made.length = len(made.body)
    made.headers = [field for field in made.headers if field[0] != b"grpc-encoding"]
    return made


def is_stream(response: Response) -> bool:
    """Tell whether an answer's parts matter as they come, so that nobody may hold them back."""
    if response.status == 101:
        return True
    kind = response.header(b"content-type")
    return kind is not None and kind.partition(b";")[0].strip().lower() in _STREAMS


def trailers(ctx: Context) -> Headers | None:
    """Return the trailers of the client's request that go on: announced, and not its credential."""
    sent = ctx.request.trailers
    if not sent:
        return None
    names = announced(ctx.request.headers)
    return [
        field
        for field in sent
        if field[0] in names and _FORWARDED[field[0]] and field[0] != ctx.credential_field
    ] or None


def fields_upstream(ctx: Context) -> Headers:
    """Return the client's end-to-end fields without its credential and our names; add what we vouch for."""
    fields = end_to_end(ctx.request.headers, _FORWARDED)
    strip = ctx.credential_field
    if strip:
        fields = [field for field in fields if field[0] != strip]
    if ctx.request.method == b"OPTIONS":
        fields = one_hop_less(fields)
    fields += ctx.forwarded
    fields.append((b"x-request-id", ctx.request_id))
    fields.append((b"traceparent", ctx.traceparent))
    principal = ctx.principal
    if principal is not None:
        fields.append((b"x-headgate-principal", principal.name.encode("utf-8")))
        if principal.plan:
            fields.append((b"x-headgate-plan", principal.plan.encode("utf-8")))
        if principal.tenant:
            fields.append((b"x-headgate-tenant", principal.tenant.encode("utf-8")))
    return fields


_STREAMS: Final = frozenset((b"text/event-stream", b"application/x-ndjson", b"multipart/x-mixed-replace"))
_FORWARDED: Final = Passing(
    HOP_BY_HOP | FORWARDED_FIELDS | {b"host", b"x-request-id", b"traceparent"}, prefix=b"x-headgate-"
)
_OUTCOME: Final = frozenset((b"grpc-status", b"grpc-message"))
_BODY_FIELDS: Final = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"inference-header-content-length",
        b"etag",
        b"digest",
        b"accept",
        b"accept-encoding",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-status",
        b"grpc-message",
        b"te",
    }
)


def without_body_fields(headers: Headers) -> Headers:
    """Drop what describes the body that is being replaced, or says what the answer may be.

    Triton compresses an answer for who accepts that, and we could not read it.
    """
    return [field for field in headers if field[0] not in _BODY_FIELDS]
