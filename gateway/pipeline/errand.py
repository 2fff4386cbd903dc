"""A prediction that the gateway asks of a pool for itself: a step of a graph, or a batch of many clients'.

It goes the way of any other: the pool picks an instance, tries again, hedges and counts (tries.py). What
comes back is tensors. The request carries what the instance would have got from the client that it is done
for, and has that one's importance and its time. Where nobody waits for it any more it is called off.

    an answer                        InferResponse
    bad input, an unknown model      Refusal: any healthy instance would say the same
    everything else                  the promise is broken, with the GatewayError
"""

from __future__ import annotations

from gateway.dialects import losses
from gateway.dialects.catalogue import BY_NAME
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature
from gateway.dialects.protocol import Dialect
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.asker import Asker
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    GatewayError,
    Outcome,
    Refusal,
    UpstreamAnswerTooLarge,
    UpstreamFailed,
    UpstreamUnreadable,
)
from gateway.pipeline.forward import fields_upstream, without_body_fields
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.kept import Kept
from gateway.pipeline.mirroring import shadow
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import refuse_invalid
from gateway.pipeline.promise import Promise
from gateway.pipeline.tries import Tries

Said = InferResponse | Refusal


class Errand(Asker):
    """One prediction asked of one pool. answer: what came of it. ctx: of its tries.

    lost: what of the request had no place in the pool's dialect. headers: of the answer.
    """

    __slots__ = (
        "_dialect",
        "_gateway",
        "_infer",
        "_kept",
        "_over",
        "_pool",
        "_signature",
        "_tries",
        "_whole",
        "answer",
        "ctx",
        "headers",
        "lost",
    )

    def __init__(self, gateway: Gateway, ctx: Context, pool: Pool, infer: InferRequest) -> None:
        """ctx: of the request that this is done for."""
        super().__init__()
        now = gateway.clock.now()
        self._gateway = gateway
        self._pool = pool
        self._infer = infer
        self.ctx = shadow(ctx, pool, now, max(0.0, ctx.deadline - now))
        self.ctx.attempts = 0
        self.ctx.importance = ctx.importance
        self.ctx.safe_to_retry = True  # a prediction changes nothing
        self.ctx.parsed = None
        self._dialect: Dialect | None = BY_NAME.get(pool.speaks, ctx.dialect)
        self._signature: Signature | None = None
        self._tries: Tries | None = None
        self._whole: Response | None = None  # the head, while the body comes
        self._kept: Kept | None = None
        self._over = False
        self.lost = losses.NONE
        self.headers: Headers = []
        self.answer: Promise[Said] = Promise()

    def start(self) -> None:
        """Write it as the pool's instances understand it, which may take their signature, and send it."""
        pool = self._pool
        known = self._gateway.signatures.signature(pool, pool.model or self._infer.model, self.ctx.version)
        if isinstance(known, Promise):
            known.then(self._told, self._broke)
        else:
            self._told(known)

    def record(self, ctx: Context) -> None:
        """Add what it took so far to the record of the request that it is done for."""
        its = self.ctx
        ctx.attempts += its.attempts
        ctx.upstream_seconds += its.upstream_seconds
        its.attempts, its.upstream_seconds = 0, 0.0
        if its.instance is not None:
            ctx.instance = its.instance
        if its.tries:
            ctx.tries = [*(ctx.tries or ()), *its.tries]
            its.tries = None

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._over:
            return
        self._over = True
        self._count("dropped")
        tries, self._tries = self._tries, None
        if tries is not None:
            tries.drop(Outcome.IGNORED)

    def _told(self, signature: Signature | None) -> None:
        if self._over:
            return
        self._signature = signature
        dialect = self._dialect
        assert dialect is not None
        infer = renamed(self._infer, signature)
        try:
            self.lost = losses.of_request(infer, dialect)
            method, path, headers, body = dialect.write_request(infer, self._pool.model or infer.model, None)
        except InvalidPrediction as wrong:
            self._end(refuse_invalid(wrong, signature))
            return
        fields = [*without_body_fields(fields_upstream(self.ctx)), *headers]
        request = Request(method, path, fields, length=len(body), body=body, te_trailers=dialect.is_grpc)
        self._tries = tries = Tries(self, self._pool, request, self.ctx, self._gateway)
        try:
            tries.start()
        except Exception as bug:
            self.crash(bug)

    # Asker

    def on_upstream_response(self, response: Response) -> None:
        """The head is in: read the body whole."""
        if response.body is not None:
            self._complete(response)
            return
        limit = self.ctx.snapshot.answer_limit
        if response.length is not None and response.length > limit:
            self._too_large()
            return
        self._whole, self._kept = response, Kept(limit)

    def on_upstream_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the answer's body."""
        head, kept = self._whole, self._kept
        if head is None or kept is None:
            return
        if not kept.add(data):
            self._too_large()
        elif last:
            head.body = kept.whole()
            head.length = kept.size
            self._complete(head)

    def on_upstream_error(self, error: GatewayError) -> None:
        """The last attempt failed: try again, or give up."""
        self._whole = self._kept = None
        if self._tries is not None and not self._tries.again(error):
            self._broke(error)

    def crash(self, bug: Exception) -> None:
        """A bug: told, and this errand's alone."""
        self._gateway.observer.on_bug(self.ctx, bug)
        self.cancel()
        self.answer.reject(UpstreamFailed("the gateway failed to ask the model server"))

    # The end

    def _too_large(self) -> None:
        if self._tries is not None:
            self._tries.drop(Outcome.SUCCESS)
        self._broke(UpstreamAnswerTooLarge("the answer is too large to be read whole"))

    def _complete(self, response: Response) -> None:
        tries, self._tries = self._tries, None
        if tries is not None:
            tries.finish(response)
        self.headers = response.headers
        try:
            said = self._read(response)
        except GatewayError as error:
            self._broke(error)
            return
        self._end(said)

    def _read(self, response: Response) -> Said:
        dialect, body = self._dialect, response.body
        assert dialect is not None
        assert body is not None
        headers = response.headers if response.trailers is None else response.headers + response.trailers
        if dialect.succeeded(response.status, headers, body):
            signature = self._signature
            try:
                expected = None if signature is None else signature.named(self._infer.signature)
                return dialect.read_response(response.headers, body, expected)
            except InvalidPrediction as wrong:
                raise UpstreamUnreadable(f"pool '{self._pool.name}' answered what can't be read") from wrong
        known = dialect.read_error(response.status, headers, body)
        if known.kind.blames_instance:
            raise UpstreamFailed(f"pool '{self._pool.name}' failed: {known.kind.value}")
        return Refusal(known.kind.status, known.kind.value, known.message)

    def _broke(self, error: Exception) -> None:
        if self._over:
            return
        if isinstance(error, GatewayError):
            self._over, self._tries = True, None
            self._count(error.code)
            self.answer.reject(error)
        else:
            self.crash(error)

    def _end(self, said: Said) -> None:
        if not self._over:
            self._over = True
            self._count("refused" if isinstance(said, Refusal) else "answered")
            self.answer.resolve(said)

    def _count(self, result: str) -> None:
        endpoint = "-" if self.ctx.endpoint is None else self.ctx.endpoint.name
        self._gateway.observer.on_errand(endpoint, self._pool.name, result)

    def __repr__(self) -> str:
        return f"<Errand to {self._pool.name}{' over' if self._over else ''}>"


class Errands:
    """Makes errands for filters. One per worker."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def ask(self, ctx: Context, pool: Pool, infer: InferRequest) -> Errand:
        """Ask a pool with instances, for this request; `Errand.answer` may be there already."""
        errand = Errand(self._gateway, ctx, pool, infer)
        errand.start()
        return errand


def renamed(infer: InferRequest, signature: Signature | None) -> InferRequest:
    """Give the only input the name that the model has for it: models in a row seldom agree on names."""
    if signature is None or len(infer.inputs) != 1:
        return infer
    try:
        expected = signature.named(infer.signature).inputs
    except InvalidPrediction:
        return infer
    only = infer.inputs[0]
    if len(expected) != 1 or expected[0].name == only.name:
        return infer
    tensor = Tensor(expected[0].name, only.dtype, only.shape, only.data, only.params)
    return with_inputs(infer, (tensor,))


def with_inputs(infer: InferRequest, inputs: tuple[Tensor, ...]) -> InferRequest:
    """Return the same question about other tensors."""
    return InferRequest(
        infer.id,
        infer.model,
        infer.version,
        infer.label,
        infer.signature,
        inputs,
        infer.outputs,
        infer.params,
        infer.style,
    )
