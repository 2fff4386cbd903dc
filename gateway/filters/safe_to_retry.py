"""`safe_to_retry: true`: sending a request of this endpoint twice does no harm.

A prediction changes nothing, so a POST of one may go to a second instance when the first broke after taking
it. By default only the methods that RFC 9110 §9.2.2 calls idempotent may: what an unknown POST does twice,
nobody knows. Retries themselves (how many, on what, within which budget) are the pools' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.config.kind import setting
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual


@dataclass(frozen=True, slots=True)
class SafeToRetry:
    """Whether requests may be sent twice."""

    on: bool = setting(True, "sending a request twice does no harm", short=True)


class SafeToRetryFilter(Filter):
    """Sets `ctx.safe_to_retry`."""

    name = "safe_to_retry"

    def __init__(self, config: SafeToRetry) -> None:
        self._safe = config.on

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Say what the policy says."""
        ctx.safe_to_retry = self._safe
        return None


def _build(rules: Sequence[Rule[SafeToRetry]], parts: Parts) -> Iterable[Filter]:
    return [SafeToRetryFilter(rules[0].value)]


KIND = FilterKind("safe_to_retry", SafeToRetry, summary="sending a request twice does no harm", build=_build)
