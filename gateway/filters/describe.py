"""What a model is and whether it can serve.

Metadata, status and readiness, answered in the client's dialect.

Always on for model endpoints. The gateway answers by itself, from the signatures it has learnt and the
instances it sees, so that a TensorFlow Serving client can describe a model whose instances speak KServe V2,
and so that a version is reported available only while some instance of its pool can take a request.
"""

from __future__ import annotations

from gateway.dialects.metadata import Signature
from gateway.dialects.protocol import Dialect, Operation, VersionState
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Parts
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import is_prediction
from gateway.pipeline.promise import Eventual, Promise

PASSING = frozenset({Operation.CLASSIFY, Operation.REGRESS, Operation.EXPLAIN})
"""What goes untouched to instances of the client's dialect, where it isn't translated."""
DESCRIBING = frozenset({Operation.METADATA, Operation.STATUS, Operation.READY})


class Describe(Filter):
    """Answers METADATA, STATUS and READY; lets everything else pass."""

    name = "describe"

    def __init__(self, parts: Parts) -> None:
        self._model = parts.model
        self._signatures = parts.signatures
        self._pools = {version: parts.pools[pool] for version, pool in parts.versions.items()}

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Answer what asks about the model."""
        target, dialect = ctx.target, ctx.dialect
        if target is None or dialect is None or is_prediction(ctx):
            return None
        if target.operation in PASSING and ctx.pool is not None and ctx.pool.speaks == dialect.name:
            return None
        if target.operation not in DESCRIBING:
            what = f"{target.operation.value} is not served here; send a prediction instead"
            return Refusal(501, "unsupported", what)
        if target.operation is not Operation.METADATA:
            wanted = ctx.version if target.version or target.label else ""
            status, headers, body = dialect.write_status(target, self._states(ctx, wanted))
            return Response(status, list(headers), body)
        if ctx.pool is None:
            return Refusal(503, "unavailable", "no pool serves this model", retry_after=1.0)
        asked, served = bool(target.version or target.label), ctx.version
        known = self._signatures.signature(ctx.pool, ctx.pool.model or self._model, "")
        if not isinstance(known, Promise):
            return self._metadata(dialect, asked, served, known)
        return known.chain(lambda signature: self._metadata(dialect, asked, served, signature))

    def _metadata(
        self, dialect: Dialect, asked: bool, served: str, signature: Signature | None
    ) -> Response | Refusal:
        """asked: whether the URL named a version. served: the version whose signature it is."""
        if signature is None:
            return Refusal(
                503,
                "signature_unknown",
                f"no instance has told the signature of '{self._model}' yet",
                retry_after=1.0,
            )
        versions = [served] if asked and served else sorted(self._pools, key=_numerically)
        headers, body = dialect.write_metadata(self._model, versions, signature, served)
        return Response(200, list(headers), body)

    def _states(self, ctx: Context, wanted: str) -> list[VersionState]:
        pools: dict[str, Pool] = self._pools
        if not pools and ctx.pool is not None:
            pools = {ctx.pool.version or "1": ctx.pool}
        return [
            VersionState(version, "AVAILABLE" if pool.usable(ctx.now) else "UNLOADING")
            for version, pool in sorted(pools.items(), key=lambda item: _numerically(item[0]))
            if not wanted or version == wanted
        ]


def _numerically(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (-1, version)
