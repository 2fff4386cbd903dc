"""Sends requests where `send` says: to one target, or several by weight. The policy itself: send.py."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.governance.split import Split
from gateway.http.message import Response
from gateway.pipeline.choice import NEWEST, Choices, choose
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Parts, Rule
from gateway.pipeline.moments import Filter


class SendFilter(Filter):
    """Chooses pool and version."""

    name = "send"
    place = 81

    def __init__(self, rule: Rule[object], weights: Mapping[str, float], parts: Parts) -> None:
        """weights: target -> share."""
        self._rule = rule
        self._enforce = rule.enforce
        self._override = rule.override
        self._choices = Choices(parts)
        self._split = Split(weights)
        self._only = self._split.arms[0] if len(self._split.arms) == 1 else ""
        self._chance = parts.ids.chance
        found = [self._choices.must_find(target) for target in self._split.arms]
        # One target that always means the same is found once.
        self._fixed = found[0] if self._only and self._only != NEWEST else None

    def on_request(self, ctx: Context) -> Response | Refusal | None:
        """Choose, unless somebody did; what an operator sends beats a release."""
        if ctx.chosen_by and not (self._override and ctx.chosen_by == "release"):
            return None
        target = self._only or self._split.choose(self._chance())
        chosen = self._fixed or self._choices.must_find(target)
        if self._enforce:
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
