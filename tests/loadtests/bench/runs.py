"""A run as the history keeps it, without having measured anything."""

from __future__ import annotations

from typing import Any

from loadtests.bench import rows
from loadtests.bench.summary import Figures


def costs(median: float, ratio: float) -> Figures:
    return Figures(
        cpu_us_min=median - 1,
        cpu_us_quartile=median - 0.5,
        cpu_us_median=median,
        rate=20_000,
        p50_ms=1.5,
        p99_ms=3.0,
        ratio_min=ratio - 0.05,
        ratio_median=ratio,
        ratio_max=ratio + 0.05,
    )


def whole_run() -> dict[str, Any]:
    closed = {"nginx": costs(30.0, 1.0), "headgate": costs(33.0, 1.1), "aiohttp": costs(330.0, 11.0)}
    added = {
        "direct": Figures(p50_ms=0.05, p99_ms=0.1),
        "headgate": Figures(p50_ms=0.15, p99_ms=0.3, added_p50_ms=0.1, added_p99_ms=0.2),
    }
    idle = {"headgate": Figures(base_mib=50.0, kib_2000=2.0, kib_10000=1.9)}
    grown = {"10 endpoints": costs(40.0, 1.0), "10,000 endpoints": costs(42.0, 1.05)}
    figures = {"closed": closed, "latency": added, "memory": idle, "growth": grown}
    cached = closed | {"varnish": costs(25.0, 0.83)}
    return {
        "date": "2026-01-02",
        "cores": 2,
        "cpu": "EXAMPLE CPU",
        "kernel": "6.1",
        "python": "3.11.7",
        "commit": "0123456789",
        "versions": {"nginx": "1.22.1", "headgate": "0.1.0", "headgate-pure": "0.1.0"},
        "rounds": 6,
        "seconds": 600,
        "whole": True,
        "rows": {
            name: {
                "peers": cached if name == "cache" else figures[row.kind],
                "skipped": {"envoy": "not here (make peers)"} if name == "plain" else {},
                "notes": [],
            }
            for name, row in rows.ALL.items()
        },
    }
