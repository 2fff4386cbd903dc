"""Answer a prediction again that was answered before, and ask only once what many ask at the same time.

    cache: 30s
    cache: {ttl: 30s, stale_while_revalidate: 30s, stale_if_error: 10m, scope: principal}

On an endpoint without a model it is HTTP's cache of GET (cache_http.py); `rows: true` keeps predictions row
by row (cache_rows.py). What follows is about whole predictions (cache_whole.py).

Opt-in: whoever writes `cache` says that the model is a function of its input. The key is
taken from the tensors, never from the bytes, so one question has one answer however it is written and in
whatever dialect; to it belong the endpoint, the pool and version that were chosen, and whom the answer may
be shared with (`scope`). Only whole 200 answers are kept, in the dialect they were given in; a hit from
another dialect is translated. Sequences, and sampling without a seed, are never cached.

Requests for the same key are collapsed: the first goes on, the others wait for its answer, each with its
own deadline. If the first one's client leaves, or its attempt fails, the one that waited longest goes on
in its place. If its answer can't be shared, everybody goes on.

    fresh                       given at once; nothing is asked
    stale, revalidating         given at once while one request asks anew: the first that came after the
                                end of `ttl`; it waits for the new answer, nobody else does
    stale, if error             kept for `degrade` (its step `stale:`), given when nothing better can be had

Cache-Control is respected: of the client no-store, no-cache and max-age, of the instance no-store, private,
no-cache, max-age and s-maxage (which may shorten ttl, never lengthen it). Sources: RFC 9111, RFC 5861,
RFC 9211 (Cache-Status). The store, its bound and its purge: pipeline/answers.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.config.kind import REQUIRED, setting
from gateway.config.units import Duration, Ratio, Size
from gateway.filters.cache_http import HttpCacheFilter
from gateway.filters.cache_whole import CacheFilter
from gateway.pipeline.answers import Windows
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule


@dataclass(frozen=True, slots=True)
class Cache:
    """Answer again what was answered before."""

    ttl: Duration = setting(
        REQUIRED,
        "how long an answer is fresh; behind `match:`, one that doesn't say itself (0s: none)",
        example="30s",
        short=True,
        at_least=0,
    )
    stale_while_revalidate: Duration = setting(
        Duration(0.0), "how long after that it is given while one request asks anew", example="30s"
    )
    stale_if_error: Duration = setting(
        Duration(0.0), "how long after ttl `degrade` may give it when nothing else works", example="10m"
    )
    scope: Literal["principal", "tenant", "shared"] = setting(
        "principal", "whom an answer is shared with: each principal's own, its tenant's, or everybody's"
    )
    max_rows: int | None = setting(
        None, "larger predictions are neither looked up nor kept", "rows", example=64, at_least=1
    )
    rows: bool = setting(
        False, "keep predictions row by row: the model computes each row of a batch by itself", example=True
    )
    errors: Duration = setting(
        Duration(0.0), "how long an instance's 4xx to a whole prediction is given again", example="1s"
    )
    heuristic: Ratio = setting(
        Ratio(0.0),
        "behind `match:`: share of an answer's age since it changed for which it is fresh",
        example="10%",
    )
    size: Size = setting(Size(1024 * 1024), "larger answers are not kept", example="1MiB", at_least=1)


def _build(rules: Sequence[Rule[Cache]], parts: Parts) -> Iterable[Filter]:
    if parts.model:
        return [_whole(rule, parts) for rule in rules]
    return [_http(rule, parts) for rule in rules if rule.enforce]


def _whole(rule: Rule[Cache], parts: Parts) -> CacheFilter:
    cache = rule.value
    return CacheFilter(
        rule,
        parts,
        _windows(cache),
        errors=Windows(cache.errors) if cache.errors else None,
        scope=cache.scope,
        max_rows=cache.max_rows,
        by_rows=cache.rows,
        size=cache.size,
    )


def _http(rule: Rule[Cache], parts: Parts) -> HttpCacheFilter:
    cache = rule.value
    return HttpCacheFilter(parts, _windows(cache), cache.scope, cache.heuristic, cache.size)


def _windows(cache: Cache) -> Windows:
    return Windows(cache.ttl, cache.stale_while_revalidate, cache.stale_if_error)


KIND = FilterKind("cache", Cache, summary="answer again what was answered before", build=_build)
