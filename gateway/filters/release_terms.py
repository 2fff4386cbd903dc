"""What the policies say of a release: between what, how fast, for whom, and what it is judged by.

Values and their checks alone; release.py chooses arms by them, runtime/releasing.py moves the weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.kind import REQUIRED, Reference, setting
from gateway.config.units import Duration, Factor, Ratio
from gateway.governance.ramp import Plan
from gateway.pipeline.choice import NEWEST
from gateway.pipeline.releases import FLIPS, PREDICTIONS, Criteria

STABLE: Final = "stable"


@dataclass(frozen=True, slots=True)
class Predictions:
    """When a prediction of the candidate is another one than stable's."""

    max_abs: float = setting(0.001, "tolerated difference of a number", example=0.001, at_least=0)
    max_rel: float = setting(
        0.0, "tolerated besides, as a share of stable's number", example=0.01, at_least=0
    )
    allowed: Ratio = setting(
        Ratio(0.001), "share of the pairs that may differ by more", example="0.1%", at_least=1e-6, at_most=0.4
    )
    flips: Ratio | None = setting(
        None,
        "share of the pairs in which another class may win; none: not looked at",
        example="1%",
        at_least=1e-6,
        at_most=0.4,
    )
    sample: Ratio = setting(
        Ratio(0.1), "share of stable's requests that the candidate is asked, too", example="10%", at_most=1
    )
    timeout: Duration = setting(
        Duration(5.0), "how long the candidate may take", example="2s", at_least=0.001
    )


@dataclass(frozen=True, slots=True)
class JudgeBy:
    """What the candidate must not be worse in; with a factor, it may be by so much."""

    errors: Factor | None = setting(
        Factor(1.25), "failures of its instances", example="1.25x", at_least=1, at_most=100
    )
    rejections: Factor | None = setting(
        Factor(1.25), "requests that it answers with 4xx", example="1.25x", at_least=1, at_most=100
    )
    latency_p50: Factor | None = setting(None, "its median latency", example="1.2x", at_least=1, at_most=100)
    latency_p90: Factor | None = setting(
        None, "its latency's 90th percentile", example="1.2x", at_least=1, at_most=100
    )
    latency_p99: Factor | None = setting(
        None, "its latency's 99th percentile", example="1.2x", at_least=1, at_most=100
    )
    predictions: Predictions | None = setting(
        None, "what it predicts, beside stable", example="{max_abs: 0.001, sample: 10%}"
    )
    false_alarm: Ratio = setting(
        Ratio(0.01),
        "probability that a candidate that is no worse is ever condemned",
        example="1%",
        at_least=1e-6,
        at_most=0.2,
    )

    def criteria(self) -> Criteria:
        """As the release needs it."""
        comparisons = {"errors": self.errors, "rejections": self.rejections}
        quantiles = {
            "latency_p50": (0.5, self.latency_p50),
            "latency_p90": (0.9, self.latency_p90),
            "latency_p99": (0.99, self.latency_p99),
        }
        pairs = self.predictions
        rates = {} if pairs is None else {PREDICTIONS: float(pairs.allowed)}
        if pairs is not None and pairs.flips is not None:
            rates[FLIPS] = float(pairs.flips)
        return Criteria(
            {name: float(factor) for name, factor in comparisons.items() if factor is not None},
            {name: (q, float(factor)) for name, (q, factor) in quantiles.items() if factor is not None},
            rates,
            self.false_alarm,
            0.0 if pairs is None else pairs.sample,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that a candidate must answer before anybody is sent to it."""

    path: str = setting(REQUIRED, "its path", example="/v1/models/digits:predict")
    body: str = setting("", "its body, JSON; empty: a GET", example='{"instances": [[0, 1]]}')
    status: int = setting(200, "the status of a right answer", "status", at_least=100, at_most=599)
    timeout: Duration = setting(Duration(5.0), "how long it may take", example="5s", at_least=0.001)

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"expected a path that starts with '/', found {self.path!r}")


@dataclass(frozen=True, slots=True)
class Ready:
    """When a candidate could take all requests."""

    instances: int = setting(1, "healthy instances, at least", "instances", at_least=1)
    sample: Sample | None = setting(
        None, "what each of them must answer", example="{path: /v1/models/digits:predict, body: …}"
    )


@dataclass(frozen=True, slots=True)
class Release:
    """A new version beside the one that serves now."""

    kind: Literal["canary", "blue_green", "rolling"] = setting(
        "canary",
        "how: a share of the requests tries the candidate; all of them at once, when it is ready; "
        "as its instances replace stable's",
    )
    stable: str = setting(STABLE, "what serves now: a label, version or pool", example="stable")
    candidate: str = setting(NEWEST, "what shall serve: a label, version or pool", example="newest")
    weight: Ratio | None = setting(
        None, "the candidate's share of the requests, fixed; none: 10%, or the ramp", example="10%", at_most=1
    )
    ramp: tuple[Ratio, ...] = setting(
        (), "the candidate's shares, one after the other; 100% ends it", example="[5%, 25%, 50%, 100%]"
    )
    pause: Duration = setting(Duration(300.0), "how long each step lasts at least", example="5m", at_least=0)
    requests: int = setting(
        100, "of the candidate that each step takes at least (pairs, at 0%)", "requests", at_least=0
    )
    sticky: Literal["principal", "client", "cookie", "prediction", "none"] = setting(
        "none",
        "what meets the same arm every time: a principal, a client address, a browser (by a cookie that the "
        "gateway sets), the same prediction, or nothing",
    )
    headers: Mapping[str, str] = setting(
        {}, "requests with one of these fields meet the candidate anyway", example="{x-canary: always}"
    )
    cookies: Mapping[str, str] = setting(
        {}, "requests with one of these cookies meet the candidate anyway", example="{beta: 'on'}"
    )
    judge: JudgeBy | None = setting(
        None, "what it must not be worse in", example="{errors: 1.25x, latency_p99: 1.2x}"
    )
    on_fail: Literal["rollback", "hold", "alarm"] = setting(
        "rollback", "what a verdict does: weight 0 at once, no further step, or an event alone"
    )
    ready: Ready = setting(Ready(), "blue_green: when the candidate may have everything", example="{}")
    hold: Duration = setting(
        Duration(1.0), "how long requests wait at most while all workers flip", example="1s", at_most=10
    )
    override: bool = setting(True, "let principals that may choose an arm by x-headgate-send")

    def names(self) -> Iterable[Reference]:
        """Both arms."""
        return [Reference("target", self.stable), Reference("target", self.candidate)]

    def check(self) -> Iterable[str]:
        """Two arms are two; steps ascend."""
        if self.stable == self.candidate:
            yield f"expected a candidate other than stable, found {self.candidate!r} for both"
        if self.weight is not None and self.ramp:
            yield "expected a weight or a ramp, found both"
        if self.kind != "canary" and (self.weight is not None or self.ramp):
            yield f"a {self.kind} release has neither weight nor ramp: it follows the candidate's instances"
        try:
            self.plan()
        except ValueError as wrong:
            yield f"ramp: {wrong}"

    def plan(self) -> Plan:
        """Its course. Raises ValueError for steps that don't ascend."""
        steps = self.ramp or (Ratio(0.1) if self.weight is None else self.weight,)
        return Plan(self.kind, tuple(float(step) for step in steps), self.pause, self.requests, self.on_fail)
