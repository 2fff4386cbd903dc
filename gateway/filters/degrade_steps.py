"""The steps of a ladder of lesser answers: what each needs, and what it serves.

    {pool: digits-lite}       another pool, if some instance of it could take a call
    {stale: 10m}              an expired answer, if the cache has one that is young enough
    {throttle: 5/s}           so many go to the pool that was meant, the important first
    {predict: {label: 0}}     one row of outputs, the same for every row asked for, in the client's dialect
    {respond: {status: 503}}  a fixed answer, always

A constant prediction has the datatypes and shapes that the model's signature declares; where no instance
ever told it, those that the written values suggest. It can't serve who speaks no dialect (gRPC, plain APIs),
nor a request whose tensors can't be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from gateway.config.kind import setting
from gateway.config.units import Duration, Rate, render_duration
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor, numbers, rows
from gateway.governance.thinning import Thinning
from gateway.http.message import Headers, Response
from gateway.pipeline import answer
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Parts
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import Signatures, is_prediction, read_at_once
from gateway.pipeline.promise import Promise

WORDS: Mapping[str, bool] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Respond:
    """A fixed answer."""

    status: int = setting(503, "status code", example=503, at_least=200, at_most=599, short=True)
    body: str = setting("", "what it says; empty: an error in the client's dialect", example='{"label": 0}')
    retry_after: Duration | None = setting(None, "when coming back makes sense", example="5s")
    headers: Mapping[str, str] = setting(
        {}, "header fields to add", example="{content-type: application/json}"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of the ladder: exactly one of these."""

    pool: str | None = setting(None, "another pool, such as a smaller model's", example="digits-lite")
    stale: Duration | None = setting(None, "an expired cached answer of at most this age", example="10m")
    throttle: Rate | None = setting(
        None,
        "so many go to the pool that was meant, the important first; others to the next step",
        example="5/s",
    )
    predict: Mapping[str, tuple[str, ...]] | None = setting(
        None,
        "a constant prediction: of each output one row's values, row-major",
        example="{label: 0, probabilities: [0.1, 0.9]}",
    )
    respond: Respond | None = setting(None, "a fixed answer", example="{status: 503, retry_after: 5s}")

    @classmethod
    def from_text(cls, text: str) -> Step:
        """Read a pool's name."""
        return cls(pool=text)

    def __post_init__(self) -> None:
        given = [self.pool, self.stale, self.throttle, self.predict, self.respond]
        if sum(one is not None for one in given) != 1:
            raise ValueError("expected exactly one of pool, stale, throttle, predict and respond in a step")
        if self.predict is not None and not all((*self.predict.values(), self.predict)):
            raise ValueError("expected an output with its values in predict, like {label: 0}")


@dataclass(frozen=True, slots=True)
class Walk:
    """How far one request came. next: index of the step to try next. meant: where it was sent at first."""

    next: int
    meant: Pool | None
    version: str


class Rung:
    """One step, built. label: what `x-degraded` says. needs_body: it serves only who was read whole."""

    __slots__ = ("_constant", "_policy", "_pool", "_step", "_thinning", "label", "needs_body")

    def __init__(self, step: Step, policy: str, parts: Parts) -> None:
        self._step = step
        self._policy = policy
        self._pool = None if step.pool is None else parts.pools[step.pool]
        self._thinning: Thinning | None = None
        self._constant = None if step.predict is None else _Constant(step.predict, parts.signatures)
        self.needs_body = step.predict is not None
        if step.throttle is not None:
            rate = step.throttle.per_second
            self._thinning = Thinning(rate, max(1.0, rate / 10.0))
        if step.pool is not None:
            self.label = f"pool:{step.pool}"
        elif step.stale is not None:
            self.label = f"stale:{render_duration(step.stale)}"
        elif step.throttle is not None:
            self.label = f"throttle:{step.throttle}"
        else:
            self.label = "predict" if step.predict is not None else "respond"

    def serve(self, ctx: Context, code: str, walk: Walk) -> Response | Pool | None:
        """Return the lesser answer or the pool to try; None: this step can't serve now.

        code: what went wrong, for an error without a body of its own.
        """
        if self._pool is not None:
            return self._other_pool(ctx)
        if self._step.stale is not None:
            return _stale(ctx, self._step.stale)
        if self._thinning is not None:
            return self._thinned_out(ctx, self._thinning, walk)
        if self._constant is not None:
            return self._constant.serve(ctx, walk)
        return None if self._step.respond is None else self._respond(ctx, self._step.respond, code)

    def prime(self, ctx: Context) -> None:
        """Learn while there is somebody to ask what will be needed when there is nobody."""
        if self._constant is not None and ctx.pool is not None:
            self._constant.signature(ctx, ctx.pool, ctx.version)

    def _other_pool(self, ctx: Context) -> Pool | None:
        pool = self._pool
        if pool is None or pool is ctx.pool or not pool.usable(ctx.now) or ctx.now >= ctx.deadline:
            return None
        ctx.version = ""
        return pool

    def _thinned_out(self, ctx: Context, thinning: Thinning, walk: Walk) -> Pool | None:
        pool = walk.meant
        if pool is None or not pool.usable(ctx.now) or ctx.now >= ctx.deadline:
            return None
        if not thinning.take(ctx.importance, ctx.now, spend=not ctx.dry):
            return None
        ctx.version = walk.version
        return pool

    def _respond(self, ctx: Context, fixed: Respond, code: str) -> Response:
        if not fixed.body and fixed.status >= 400:
            return answer.refused(
                ctx,
                Refusal(
                    fixed.status,
                    code,
                    "this request can't be served right now",
                    policy=self._policy,
                    retry_after=fixed.retry_after,
                    headers=_fields(fixed.headers),
                ),
            )
        headers = _fields(fixed.headers)
        if fixed.body and not any(name == b"content-type" for name, _ in headers):
            is_json = fixed.body.lstrip()[:1] in ("{", "[")
            headers.append(
                (b"content-type", b"application/json" if is_json else b"text/plain; charset=utf-8")
            )
        if fixed.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(fixed.retry_after))))
        headers.append((b"cache-control", b"no-store"))
        return Response(fixed.status, headers, fixed.body.encode())


def _fields(headers: Mapping[str, str]) -> Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _stale(ctx: Context, oldest: float) -> Response | None:
    stale = ctx.stale
    return stale.response if stale is not None and stale.age <= oldest else None


# A constant prediction


class _Constant:
    """The outputs of one row, given for each row that is asked for."""

    __slots__ = ("_outputs", "_signatures")

    def __init__(self, outputs: Mapping[str, tuple[str, ...]], signatures: Signatures) -> None:
        self._outputs = outputs
        self._signatures = signatures

    def signature(self, ctx: Context, pool: Pool, version: str) -> Signature | None:
        """Return the model's signature if it is known; ask for it otherwise."""
        if ctx.target is None:
            return None
        known = self._signatures.signature(pool, pool.model or ctx.target.model, version)
        return None if isinstance(known, Promise) else known

    def serve(self, ctx: Context, walk: Walk) -> Response | None:
        """Write it in the client's dialect; None where that can't be done."""
        if ctx.dialect is None or not is_prediction(ctx) or ctx.request.body is None:
            return None
        infer = self._asked(ctx, walk)
        if infer is None:
            return None
        known = None if walk.meant is None else self.signature(ctx, walk.meant, walk.version)
        count = rows(infer)
        try:
            specs = (
                {} if known is None else {spec.name: spec for spec in known.named(infer.signature).outputs}
            )
            tensors = tuple(
                _tensor(name, values, specs.get(name), count) for name, values in self._outputs.items()
            )
            made = InferResponse(infer.id, infer.model, walk.version, tensors, {})
            headers, body = ctx.dialect.write_response(made, infer)
        except InvalidPrediction as misfit:
            if ctx.trail is not None:
                ctx.note("degrade", f"the constant prediction does not fit: {misfit.message}")
            return None
        return Response(200, [*headers, (b"cache-control", b"no-store")], body)

    def _asked(self, ctx: Context, walk: Walk) -> InferRequest | None:
        now_at = ctx.pool, ctx.version
        ctx.pool, ctx.version = walk.meant, walk.version
        asked = read_at_once(ctx, self._signatures)
        ctx.pool, ctx.version = now_at
        return asked if isinstance(asked, InferRequest) else None


def _tensor(name: str, values: Sequence[str], spec: TensorSpec | None, count: int) -> Tensor:
    """Make one output of `count` rows; raises InvalidPrediction if the values don't fit the declared ones."""
    scalars = [_scalar(value) for value in values]
    dtype = _suggested(scalars) if spec is None else spec.dtype
    row = _row_shape(len(values), spec)
    batched = spec is None or spec.shape is None or spec.shape[:1] == (-1,)
    if prod(row) != len(values):
        raise InvalidPrediction("wrong_shape", f"{name!r} has {len(values)} values, not {prod(row)}")
    shape = (count, *row) if batched else row
    times = count if batched else 1
    if dtype == "BYTES":
        return Tensor(name, dtype, shape, [value.encode() for value in values] * times)
    return Tensor(name, dtype, shape, numbers(name, dtype, shape, scalars * times))


def _row_shape(size: int, spec: TensorSpec | None) -> tuple[int, ...]:
    """Return the shape of one row: the declared one, an open dimension filled by what is there."""
    if spec is None or spec.shape is None:
        return () if size == 1 else (size,)
    row = spec.shape[1:] if spec.shape[:1] == (-1,) else spec.shape
    fixed = prod(dim for dim in row if dim >= 0)
    if row.count(-1) == 1 and fixed and size % fixed == 0:
        return tuple(size // fixed if dim < 0 else dim for dim in row)
    return row if -1 not in row else (size,)


def _scalar(text: str) -> object:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return WORDS.get(text, text)


def _suggested(scalars: Sequence[object]) -> str:
    kinds = {type(scalar) for scalar in scalars}
    if kinds <= {int}:
        return "INT64"
    if kinds <= {int, float}:
        return "FP32"
    return "BOOL" if kinds <= {bool} else "BYTES"
