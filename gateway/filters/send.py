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
from gateway.filters.sending import SendFilter
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


def _build(rules: Sequence[Rule[Send]], parts: Parts) -> Iterable[Filter]:
    return [SendFilter(rule, rule.value.weights, parts) for rule in rules]


KIND = FilterKind("send", Send, summary="where requests go, by weight", build=_build)
