"""The filters of limits, by when their cost is known: with the head, with the rows, or afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from gateway.filters.throttle_claims import Level, Unit
from gateway.filters.throttle_costs import CostThrottle
from gateway.filters.throttling import Book, BytesThrottle, HeadThrottle, RowsThrottle, Throttling
from gateway.pipeline.filter import Filter, Parts


def filters_of(levels: Sequence[Level], parts: Parts, book: Book) -> Iterator[Filter]:
    """Make at most three filters of all limits of one verb at one endpoint."""
    by_head = [level for level in levels if level.unit in ("requests", "bytes")]
    by_cost = [level for level in levels if level.unit in ("tokens", "compute")]
    by_rows = [level for level in levels if level.unit == "rows"]
    head: Throttling | None = None
    if by_head:
        counts_bytes = any(level.unit == "bytes" for level in by_head)
        head = BytesThrottle(by_head, parts, book) if counts_bytes else HeadThrottle(by_head, parts, book)
        yield head
    if by_cost:
        yield CostThrottle(by_cost, parts, book, head)
    if by_rows:
        yield RowsThrottle(by_rows, parts, book, head)


def unit_of(text: str) -> Unit:
    """Read what is counted."""
    singular = {"request": "requests", "row": "rows", "byte": "bytes", "token": "tokens"}
    unit = singular.get(text, text)
    if unit not in ("requests", "rows", "bytes", "tokens", "compute"):
        raise ValueError(
            f"expected requests, rows, bytes, tokens or compute before the slash, found {text!r}"
        )
    return cast("Unit", unit)
