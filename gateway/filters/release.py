"""From one version to the next: a canary gets a share of the requests, the stable version the rest.

    release: {kind: canary, stable: stable, candidate: newest, weight: 10%}

Every request takes part by chance of its own, or by what it is or whom it comes from (`sticky`): then a
principal, a client address, or a prediction meets the same arm every time and on every gateway, and stays in
the candidate's arm while its weight grows. The release's name salts the choice, so that it isn't always the
same few who go first. `sticky: prediction` is for endpoints with a cache, which keeps each version's answers
apart: the same question then finds its answer again, and is asked once however many ask it at once.

A request that names a version in its URL or by the override header takes no part and counts in no arm. A
dead candidate (no instance that could take a call) falls back to stable; a dead stable does not fall back
to a candidate that nobody trusts yet: that is what `degrade` is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.kind import Reference, setting
from gateway.config.units import Ratio
from gateway.dialects.canonical import canonical_key
from gateway.dialects.protocol import Operation
from gateway.dialects.tensors import InferRequest
from gateway.governance.split import Split, place
from gateway.http.message import Response
from gateway.pipeline.choice import NEWEST, Choice, Choices, choose
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.pool import Pool
from gateway.pipeline.prediction import is_prediction, read_prediction
from gateway.pipeline.promise import Eventual, Promise

STABLE: Final = "stable"
CANDIDATE: Final = "candidate"


@dataclass(frozen=True, slots=True)
class Release:
    """A new version beside the one that serves now."""

    kind: Literal["canary"] = setting("canary", "how: a share of the requests tries the candidate")
    stable: str = setting(STABLE, "what serves now: a label, version or pool", example="stable")
    candidate: str = setting(NEWEST, "what shall serve: a label, version or pool", example="newest")
    weight: Ratio = setting(Ratio(0.1), "the candidate's share of the requests", example="10%", at_most=1)
    sticky: Literal["principal", "client", "prediction", "none"] = setting(
        "none",
        "what meets the same arm every time: a principal, a client address, the same prediction, or nothing",
    )
    override: bool = setting(True, "let principals that may choose an arm by x-headgate-send")

    def names(self) -> Iterable[Reference]:
        """Both arms."""
        return [Reference("target", self.stable), Reference("target", self.candidate)]

    def check(self) -> Iterable[str]:
        """Two arms are two."""
        if self.stable == self.candidate:
            yield f"expected a candidate other than stable, found {self.candidate!r} for both"


class ReleaseFilter(Filter):
    """Chooses the arm, and by it pool and version."""

    name = "release"
    place = 80

    def __init__(self, rule: Rule[Release], parts: Parts) -> None:
        release = rule.value
        self._rule = rule
        self._choices = Choices(parts)
        self._split = Split({CANDIDATE: release.weight, STABLE: 1.0 - release.weight})
        self._salt = (rule.policy or parts.endpoint).encode()
        self._chance = parts.ids.chance
        self._signatures = parts.signatures
        self.needs_body = release.sticky == "prediction"
        self.fallbacks = 0  # requests that a dead candidate sent to stable
        for target in (release.stable, release.candidate):
            self._choices.must_find(target)

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Choose, unless the URL or the override header did."""
        if ctx.chosen_by and (ctx.chosen_by != "override" or self._rule.value.override):
            return None
        if not self.needs_body or not is_prediction(ctx):
            self._choose(ctx, self._key(ctx))
            return None
        infer = read_prediction(ctx, self._signatures)
        if not isinstance(infer, Promise):
            self._choose(ctx, _content(infer))
            return None
        later: Promise[Response | Refusal | None] = Promise()

        def read(late: InferRequest | Refusal) -> None:
            self._choose(ctx, _content(late))
            later.resolve(None)

        infer.then(read, later.reject)
        return later

    def _choose(self, ctx: Context, key: bytes | None) -> None:
        point = self._chance() if key is None else place(key, self._salt)
        asks = ctx.target is not None and ctx.target.operation is not Operation.INFER
        arm = STABLE if asks else self._split.choose(point)  # what is asked about a model is asked of stable
        stable = self._choices.must_find(self._rule.value.stable)
        chosen = stable
        if arm == CANDIDATE:
            arm, chosen = self._candidate(ctx, stable)
        if self._rule.enforce:
            choose(ctx, chosen, "release")
            ctx.arm = arm
            if key is None:  # chance chose: whatever the other arm has answered already would do as well
                ctx.other_arms = self._others(ctx, stable, arm)
        if ctx.trail is not None:
            numbers = {"version": chosen.version, "weight": self._rule.value.weight, "point": round(point, 4)}
            verdict = f"{'' if self._rule.enforce else 'would choose '}{arm}: pool {chosen.pool.name}"
            ctx.note("release", verdict, self._rule.policy, self._rule.origin, numbers)

    def _others(self, ctx: Context, stable: Choice, arm: str) -> tuple[tuple[str, Pool, str], ...]:
        if arm == CANDIDATE:
            return ((STABLE, stable.pool, stable.version),)
        other = self._choices.must_find(self._rule.value.candidate)
        return ((CANDIDATE, other.pool, other.version),) if self._split.weights[CANDIDATE] > 0 else ()

    def _candidate(self, ctx: Context, stable: Choice) -> tuple[str, Choice]:
        candidate = self._choices.must_find(self._rule.value.candidate)
        if candidate.pool is stable.pool and candidate.version == stable.version:
            return STABLE, stable  # the newest is the stable one: nothing is being released
        if not candidate.usable(ctx.now):
            self.fallbacks += 1
            return STABLE, stable
        return CANDIDATE, candidate

    def _key(self, ctx: Context) -> bytes | None:
        match self._rule.value.sticky:
            case "none" | "prediction":
                return None
            case "principal" if ctx.principal is not None:
                return b"principal " + ctx.principal.name.encode()
            case _:
                return b"client " + ctx.client.encode()


def _content(infer: InferRequest | Refusal) -> bytes | None:
    """What is asked; None if it can't be read, which is not ours to judge."""
    return None if isinstance(infer, Refusal) else canonical_key(infer, infer.model, "", b"")


def _build(rules: Sequence[Rule[Release]], parts: Parts) -> Iterable[Filter]:
    return [ReleaseFilter(rule, parts) for rule in rules]


KIND = FilterKind("release", Release, summary="from one version to the next", build=_build)
