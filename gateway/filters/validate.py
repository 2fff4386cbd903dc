"""Predictions are checked against the model's signature, before quota is charged or an instance is asked.

    validate: true              names, datatypes and shapes
    validate: {rows: 64}        and at most 64 rows

What can't be read is 400; what can be read but is not what the model takes is 422, and the answer shows the
expected signature. The signature is what the pool's instances told; while none has, the request passes and
the instance judges it: a gateway that has just started must not refuse what the model would take. Only
predictions are read; every other request passes unread. The tensors are read once: rows, cache and
translation find them in `ctx.parsed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.config.kind import setting
from gateway.dialects.errors import SIGNATURE_UNKNOWN, InvalidPrediction
from gateway.dialects.metadata import Signature, check
from gateway.dialects.tensors import InferRequest, rows
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.prediction import Signatures, is_prediction, read_prediction, refuse_invalid
from gateway.pipeline.promise import Eventual, Promise


@dataclass(frozen=True, slots=True)
class Validate:
    """Whether and how predictions are checked."""

    on: bool = setting(True, "check names, datatypes and shapes against the model's signature", short=True)
    rows: int | None = setting(None, "most rows of one prediction", "rows", example=64, at_least=1)

    def __post_init__(self) -> None:
        if self.rows is not None and not self.on:
            raise ValueError("expected no bound of rows where nothing is checked")


class ValidateFilter(Filter):
    """Refuses predictions that the model would not take."""

    name = "validate"
    needs_body = True

    def __init__(self, config: Validate, policy: str, signatures: Signatures) -> None:
        self._rows = config.rows
        self._policy = policy
        self._signatures = signatures

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Read the prediction and check it."""
        if not is_prediction(ctx):
            return None

        def judge(infer: InferRequest | Refusal) -> Eventual[Response | Refusal | None]:
            return self._judge(ctx, infer)

        read = read_prediction(ctx, self._signatures)
        return read.chain(judge) if isinstance(read, Promise) else judge(read)

    def _judge(self, ctx: Context, infer: InferRequest | Refusal) -> Eventual[Response | Refusal | None]:
        if isinstance(infer, Refusal):
            if infer.code == SIGNATURE_UNKNOWN:
                return None
            infer.policy = infer.policy or self._policy
            return infer
        count = rows(infer) if self._rows is not None else 0
        if self._rows is not None and count > self._rows:
            details: dict[str, object] = {"rows": count, "limit": self._rows}
            message = f"the prediction has {count} rows; at most {self._rows} are allowed"
            return Refusal(422, "too_many_rows", message, policy=self._policy, details=details)
        if ctx.pool is None:
            return None
        known = self._signatures.signature(ctx.pool, ctx.pool.model or infer.model, ctx.version)
        if isinstance(known, Promise):
            return known.chain(lambda signature: self._check(infer, signature))
        return self._check(infer, known)

    def _check(self, infer: InferRequest, signature: Signature | None) -> Refusal | None:
        if signature is None:
            return None
        try:
            check(infer, signature)
        except InvalidPrediction as wrong:
            return refuse_invalid(wrong, signature, self._policy)
        return None


class Unchecked(Filter):
    """`validate: false`: checks nothing, and still counts as the rule that was chosen."""

    name = "validate"


def _build(rules: Sequence[Rule[Validate]], parts: Parts) -> Iterable[Filter]:
    rule = rules[0]
    return [ValidateFilter(rule.value, rule.policy, parts.signatures) if rule.value.on else Unchecked()]


KIND = FilterKind(
    "validate",
    Validate,
    summary="predictions are checked against the model's signature",
    for_models=True,
    build=_build,
)
