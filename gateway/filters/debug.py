"""Answers that say who served them: `debug: true` adds pool, instance, version and attempts.

    x-headgate-pool: digits-v2      x-headgate-instance: digits-v2-1
    x-headgate-version: 2           x-headgate-attempts: 1

An answer that no instance gave (a refusal, a cache hit) names none. Off by default: names of instances are
nobody else's business. Instances are named by their id in the registry, which is their address only where one
was written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.kind import setting
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual

POOL: Final = b"x-headgate-pool"
INSTANCE: Final = b"x-headgate-instance"
VERSION: Final = b"x-headgate-version"
ATTEMPTS: Final = b"x-headgate-attempts"
_NAMES: Final = frozenset((POOL, INSTANCE, VERSION, ATTEMPTS))


@dataclass(frozen=True, slots=True)
class Debug:
    """Whether answers say who served them."""

    on: bool = setting(True, "add x-headgate-pool, -instance, -version and -attempts to answers", short=True)


class DebugFilter(Filter):
    """Adds the fields; an upstream's fields of these names are taken out first."""

    name = "debug"

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Add what is known of who served."""
        headers = [field for field in response.headers if field[0] not in _NAMES]
        if ctx.pool is not None and (ctx.attempts or (ctx.refusal is None and ctx.error is None)):
            headers.append((POOL, ctx.pool.name.encode("latin-1", "replace")))
            version = ctx.version or ctx.pool.version
            if version:
                headers.append((VERSION, version.encode("latin-1", "replace")))
        if ctx.instance is not None:
            headers.append((INSTANCE, ctx.instance.id.encode("latin-1", "replace")))
        headers.append((ATTEMPTS, b"%d" % ctx.attempts))
        response.headers = headers
        return response


class Silent(Filter):
    """`debug: false`: adds nothing, and still counts as the rule that was chosen."""

    name = "debug"


def _build(rules: Sequence[Rule[Debug]], parts: Parts) -> Iterable[Filter]:
    return [DebugFilter() if rules[0].value.on else Silent()]


KIND = FilterKind("debug", Debug, summary="answers say which pool and instance served them", build=_build)
