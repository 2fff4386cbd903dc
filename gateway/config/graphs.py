"""Inference graphs in YAML: a pool that has no instances but asks other pools.

    pools:
      whole:   {graph: {sequence: [scale, classify]}}
      council: {graph: {ensemble: [digits-v1, digits-v2, lite], by: vote, need: 2}}
      careful: {graph: {cascade: {first: lite, then: digits-v2, below: 90%}}}
      sorted:  {graph: {switch: [{to: big, rows_over: 64}, {to: small}]}}
      shared:  {graph: {split: {digits-v1: 90%, digits-v2: 10%}}}
      spread:  {graph: {scatter: digits-v1, rows: 64}}

A member is any pool that speaks a serving protocol, another graph too, as long as none comes back to itself.
What each does, and when it fails: pipeline/graphs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.config.kind import REQUIRED, setting
from gateway.config.units import Duration, Ratio


@dataclass(frozen=True, slots=True)
class Case:
    """Where a switch leads when all that is written holds; nothing written always does."""

    to: str = setting(REQUIRED, "the pool", example="big", short=True)
    rows_over: int | None = setting(None, "the prediction has more rows", "rows", example=64, at_least=0)
    headers: Mapping[str, str] = setting(
        {}, "header fields and the value each must have", example="{x-tier: gold}"
    )
    plans: tuple[str, ...] = setting((), "whoever asks is on one of these plans", example="[gold]")

    @property
    def always(self) -> bool:
        """Nothing is asked for."""
        return self.rows_over is None and not self.headers and not self.plans


@dataclass(frozen=True, slots=True)
class Cascade:
    """A cheap model first; the rows that it isn't sure of go to a better one."""

    first: str = setting(REQUIRED, "the pool that is asked about all rows", example="lite")
    then: str = setting(REQUIRED, "the pool that is asked about the doubtful ones", example="digits-v2")
    below: Ratio = setting(
        Ratio(0.9), "a row is doubtful when its largest value is smaller", example="90%", at_most=1
    )
    output: str = setting(
        "", "the output to look at, classes on its last axis; empty: the first floating one", example="scores"
    )


@dataclass(frozen=True, slots=True)
class Graph:
    """How a pool without instances answers predictions: exactly one of the six."""

    sequence: tuple[str, ...] = setting(
        (), "pools in a row: each gets what the one before answered", example="[scale, classify]"
    )
    ensemble: tuple[str, ...] = setting(
        (), "pools that are all asked; their answers become one", example="[digits-v1, digits-v2]"
    )
    switch: tuple[Case, ...] = setting(
        (), "the first case that holds says which pool is asked", example="[{to: big, rows_over: 64}, small]"
    )
    cascade: Cascade | None = setting(
        None, "a second pool for the doubtful rows", example="{first: lite, then: digits-v2}"
    )
    split: Mapping[str, Ratio] = setting({}, "pools by chance, with their shares", example="{a: 90%, b: 10%}")
    scatter: str = setting("", "a pool that gets large batches in parts, side by side", example="digits-v1")
    by: Literal["mean", "vote", "all"] = setting(
        "mean",
        "ensemble: floats averaged and the rest voted on; the class voted on; or all outputs side by side",
    )
    weights: Mapping[str, float] = setting(
        {}, "ensemble: how much a member counts; 1 where nothing is said", example="{digits-v2: 2}"
    )
    need: int | None = setting(
        None,
        "ensemble: answers that are enough when members fail; none: all",
        "members",
        example=2,
        at_least=1,
    )
    patience: Duration | None = setting(
        None,
        "ensemble: after so long `need` answers are enough, stragglers called off; none: waits for all",
        example="50ms",
        at_least=0.001,
    )
    rows: int = setting(64, "scatter: rows of one part, at most", "rows", at_least=1)

    def __post_init__(self) -> None:
        said = [name for name in FORMS if getattr(self, name)]
        if len(said) != 1:
            found = " and ".join(said) or "none of them"
            raise ValueError(f"expected one of {', '.join(FORMS)} in a graph, found {found}")
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterable[str]:
        if self.split and abs(sum(self.split.values()) - 1.0) > 1e-9:
            yield f"expected shares that add up to 100%, found {sum(self.split.values()) * 100:g}%"
        if len(set(self.ensemble)) != len(self.ensemble):
            yield "expected every member of an ensemble once, found one twice"
        for member, weight in self.weights.items():
            if member not in self.ensemble or weight <= 0:
                yield f"expected weights above 0 of members, found {member}: {weight:g}"
        if self.need is not None and self.need > len(self.ensemble):
            yield f"expected need: at most the {len(self.ensemble)} members, found {self.need}"
        if self.patience is not None and self.need is None:
            yield "expected need: beside patience: so many answers are enough once it is over, found none"
        if self.switch and any(case.always for case in self.switch[:-1]):
            yield "expected only the last case of a switch without a condition"

    @property
    def members(self) -> tuple[str, ...]:
        """The pools it asks, each once, in the order written."""
        named = [*self.sequence, *self.ensemble, *(case.to for case in self.switch), *self.split]
        if self.cascade is not None:
            named += [self.cascade.first, self.cascade.then]
        return tuple(dict.fromkeys([*named, *([self.scatter] if self.scatter else [])]))


FORMS = ("sequence", "ensemble", "switch", "cascade", "split", "scatter")
