"""Where requests go that nobody else sent elsewhere: one target, or several by weight.

    send: stable                           a label, a version, a pool, or `newest`
    send: {stable: 95%, canary: 5%}        shares of the requests, each request for itself

An explicit version or label in the URL, the override header and a release go first (pipeline/choice.py);
an operator's `headgate send` goes before a release.
Unlike a release, weights know no better and no worse arm: a share whose pool is dead fails over by `retry`
within the pool and by `degrade`, not to the other share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.config.check import weights_problem
from gateway.config.kind import REQUIRED, Reference, setting
from gateway.config.units import Ratio
from gateway.governance.split import Split
from gateway.http.message import Response
from gateway.pipeline.choice import NEWEST, Choices, choose
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule


@dataclass(frozen=True, slots=True)
class Send:
    """Where requests go."""

    weights: Mapping[str, Ratio] = setting(
        REQUIRED,
        "target (pool, version, label or `newest`) and its share of the requests",
        example="{stable: 95%, canary: 5%}",
        short=True,
    )

    @classmethod
    def from_text(cls, text: str) -> Send:
        """Read one target: `stable`, `2`, `digits-v2`, `newest`."""
        return cls({text: Ratio(1.0)})

    def names(self) -> Iterable[Reference]:
        """Every target it sends to."""
        return [Reference("target", name, reached=share > 0) for name, share in self.weights.items()]

    def check(self) -> Iterable[str]:
        """Shares add up to 100%."""
        wrong = weights_problem(self.weights)
        return [wrong] if wrong else []


class SendFilter(Filter):
    """Chooses pool and version."""

    name = "send"
    place = 81

    def __init__(self, rule: Rule[Send], parts: Parts) -> None:
        self._rule = rule
        self._choices = Choices(parts)
        self._split = Split(rule.value.weights)
        self._only = self._split.arms[0] if len(self._split.arms) == 1 else ""
        self._chance = parts.ids.chance
        found = [self._choices.must_find(target) for target in self._split.arms]
        # One target that always means the same is found once.
        self._fixed = found[0] if self._only and self._only != NEWEST else None

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Choose, unless somebody did; what an operator sends beats a release."""
        if ctx.chosen_by and not (self._rule.override and ctx.chosen_by == "release"):
            return None
        target = self._only or self._split.choose(self._chance())
        chosen = self._fixed or self._choices.must_find(target)
        if self._rule.enforce:
            choose(ctx, chosen, "send")
            ctx.arm = ""
        if ctx.trail is not None:
            ctx.note(
                "send",
                f"{'' if self._rule.enforce else 'would choose '}pool {chosen.pool.name} by {target}",
                self._rule.policy,
                self._rule.origin,
                {"version": chosen.version, **self._split.weights},
            )
        return None


def _build(rules: Sequence[Rule[Send]], parts: Parts) -> Iterable[Filter]:
    return [SendFilter(rule, parts) for rule in rules]


KIND = FilterKind("send", Send, summary="where requests go, by weight", build=_build)
