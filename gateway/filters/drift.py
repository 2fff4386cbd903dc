"""Watch what a version predicts while it serves: `drift: {sample: 10%}`.

Of a sample of the answered predictions two numbers are watched, each by itself (governance/drift.py):

    class    where the largest number of the first row stands; of integers: the first one
    score    the largest number of the first row

An alarm is an event beside those of releases, `headgate_drift_alarms_total`, a line of the log, and the
beginning of a new watch; how near it is says `headgate_drift_evidence`. It decides nothing: whether the model
or the world changed, it can't know.
Every pool and version is watched by itself, and by every worker for itself: its share of `false_alarm` is
1 / workers. What the cache or a lesser pool answered isn't watched, nor answers above 64 KiB.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.config.kind import setting
from gateway.config.units import Ratio
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.tensors import InferResponse
from gateway.governance.drift import Drift as Watch
from gateway.http.codings import BadCoding, TooMuch, UnknownCoding, decoded
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.prediction import is_prediction
from gateway.pipeline.promise import Eventual
from gateway.pipeline.releases import Drifted

MOST: Final = 64 * 1024  # bytes of an answer
PLAIN: Final = 1024 * 1024  # bytes of one once it is decompressed
VERSIONS: Final = 16  # watched at once

log = logging.getLogger("headgate.drift")


@dataclass(frozen=True, slots=True)
class Drift:
    """Tell when a version predicts otherwise than it used to."""

    sample: Ratio = setting(
        Ratio(0.1), "share of the predictions that is looked at", example="10%", at_least=1e-6, at_most=1
    )
    false_alarm: Ratio = setting(
        Ratio(0.01),
        "probability that a version that didn't change ever raises an alarm",
        example="1%",
        at_least=1e-6,
        at_most=0.2,
    )


class DriftFilter(Filter):
    """Looks at a sample of the answers."""

    name = "drift"

    def __init__(self, config: Drift, parts: Parts) -> None:
        self._sample = float(config.sample)
        self._each = config.false_alarm / 2 / max(1, parts.gateways())  # two numbers are watched
        self._endpoint = parts.endpoint
        self._chance = parts.ids.chance
        self._watches = parts.pressure.drifts
        self._book = parts.releases
        self._drawn: Slot[bool] = Slot()

    def on_request(self, ctx: Context) -> None:
        """Draw the sample, and ask for its answers whole."""
        if not ctx.dry and is_prediction(ctx) and self._chance() < self._sample:
            self._drawn.set(ctx, True)
            ctx.want_whole = max(ctx.want_whole, MOST)

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Look at the answer, if the model gave it."""
        body = response.body
        if (
            self._drawn.get(ctx)
            and body is not None
            and len(body) <= MOST
            and self._is_the_models(ctx, response)
        ):
            for what, value in self._read(ctx, response):
                self._observe(ctx, what, value)
        return response

    def _is_the_models(self, ctx: Context, response: Response) -> bool:
        return bool(
            response.status == 200
            and ctx.attempts
            and ctx.error is None
            and ctx.refusal is None
            and not ctx.degraded
            and ctx.pool is not None
        )

    def _read(self, ctx: Context, response: Response) -> Iterable[tuple[str, float]]:
        if ctx.dialect is None:
            return []
        body, coding = response.body or b"", response.header(b"content-encoding")
        try:
            plain = body if coding is None else decoded(coding, body, PLAIN)
            return list(numbers(ctx.dialect.read_response(response.headers, plain, None)))
        except (InvalidPrediction, BadCoding, TooMuch, UnknownCoding):
            return []  # `validate` and the judge look after that

    def _observe(self, ctx: Context, what: str, value: float) -> None:
        pool = "" if ctx.pool is None else ctx.pool.name
        key = (self._endpoint, f"{pool} {ctx.version}".strip(), what)
        watch = self._watches.get(key)
        if watch is None or watch.false_alarm != self._each:
            if len(self._watches) >= 2 * VERSIONS:
                self._watches.pop(next(iter(self._watches)))
            watch = self._watches[key] = Watch(self._each)
        if watch.observe(value, self._chance()):
            said = "drift of %s of %s of endpoint %s after %d answers: %s"
            log.warning(said, what, key[1], key[0], watch.seen, watch.why)
            if self._book is not None:
                self._book.drifted(Drifted(*key, watch.why, watch.seen))

    def close(self) -> None:
        """Watch no more."""
        for key in [key for key in self._watches if key[0] == self._endpoint]:
            del self._watches[key]


def numbers(answer: InferResponse) -> Iterator[tuple[str, float]]:
    """Return what is watched of an answer: of its first row of its first output of numbers."""
    for tensor in answer.outputs:
        if isinstance(tensor.data, list) or not tensor.data.size:
            continue
        columns = tensor.data.size // tensor.shape[0] if tensor.shape else 1
        row = tensor.data.reshape(-1)[:columns].astype(np.float64)
        if tensor.data.dtype.kind == "f":
            if row.size > 1:
                yield "class", float(row.argmax())
            yield "score", float(row.max())
        else:
            yield "class", float(row.argmax() if row.size > 1 else row[0])
        return


def _build(rules: Sequence[Rule[Drift]], parts: Parts) -> Iterable[Filter]:
    return [DriftFilter(rule.value, parts) for rule in rules]


KIND = FilterKind(
    "drift", Drift, summary="tell when a version predicts otherwise", by_principal=False, build=_build
)
