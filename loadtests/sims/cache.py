"""How often does a cache have what it is asked for, whatever the traffic?

Ours (gateway/governance/bounded_map.py) beside what others use (cache_rivals.py), on traces that each of them
likes or hates (cache_traces.py). All get the same bytes, and the same sizes; what ours spends for each entry
beside key and value is left out on all sides. The hit ratio counts from the first request on, cold start
included. Time is processor time per request of ours and of LRU, in Python, with the play of the shadows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gateway.governance.bounded_map import BoundedMap
from gateway.governance.eviction import OVERHEAD
from loadtests.sims.cache_rivals import Arc, Lfu, Lru, Policy, S3Fifo, Sieve, WTinyLfu
from loadtests.sims.cache_traces import HELD_OUT, TUNED, Trace
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REQUESTS = 50_000
TUNED_SEED, HELD_OUT_SEED = 1, 7001
JUDGED = ("LRU", "SIEVE", "S3-FIFO", "W-TinyLFU")
"""The best of these on a trace is what ours is measured against; the others are there to be seen."""

KEY = 16  # bytes


class Ours:
    """The gateway's cache, asked as the others are."""

    def __init__(self, capacity: int, entries: int) -> None:
        self.map: BoundedMap[bool] = BoundedMap(capacity + entries * OVERHEAD)

    def access(self, key: int, size: int) -> bool:
        name = key.to_bytes(KEY, "little")
        if self.map.get(name) is not None:
            return True
        self.map.put(name, True, size - KEY)
        return False


POLICIES: dict[str, Callable[[int, int], Policy]] = {
    "ours": Ours,
    "LRU": lambda capacity, entries: Lru(capacity),
    "SIEVE": lambda capacity, entries: Sieve(capacity),
    "S3-FIFO": lambda capacity, entries: S3Fifo(capacity),
    "W-TinyLFU": WTinyLfu,
    "ARC": lambda capacity, entries: Arc(capacity),
    "LFU": lambda capacity, entries: Lfu(capacity),
}


class Played(NamedTuple):
    """Hit ratio of each, and µs of processor time per request."""

    hits: dict[str, float]
    took: dict[str, float]

    @property
    def gap(self) -> float:
        """Points by which ours hits more often than the best of those it is judged by."""
        return 100 * (self.hits["ours"] - max(self.hits[name] for name in JUDGED))


def play(trace: Trace, seed: int, requests: int = REQUESTS) -> Played:
    """Let everybody play one trace."""
    keys, sizes = (column.tolist() for column in trace.requests(seed, requests))
    capacity = sum(sizes) * trace.entries // len(sizes)
    hits, took = {}, {}
    for name, make in POLICIES.items():
        access = make(capacity, trace.entries).access
        before = time.process_time()
        hits[name] = sum(map(access, keys, sizes)) / requests
        took[name] = 1e6 * (time.process_time() - before) / requests
    return Played(hits, took)


def run() -> Report:
    """Every policy on every trace."""
    rows: list[list[Cell]] = []
    gaps: dict[str, list[float]] = {"tuned": [], "held out": []}
    played: list[tuple[str, Played]] = []
    cases = [("tuned", name, trace, TUNED_SEED) for name, trace in TUNED.items()]
    cases += [("held out", name, trace, HELD_OUT_SEED) for name, trace in HELD_OUT.items()]
    for kind, name, trace, seed in cases:
        one = play(trace, seed)
        gaps[kind].append(one.gap)
        played.append((f"{name}, {kind}", one))
        figures = [round(one.hits[policy], 3) for policy in POLICIES]
        rows.append([kind, name, trace.entries, *figures, round(one.gap, 1), round(one.took["ours"], 1)])
    worst = {kind: -min(found) for kind, found in gaps.items()}
    return Report(
        "Cache: hit ratio against the best of LRU, SIEVE, S3-FIFO and W-TinyLFU",
        f"Constants were chosen on the tuned traces (seed {TUNED_SEED}) and judged on the others, "
        f"on seed {HELD_OUT_SEED}; {REQUESTS} requests each.",
        ("", "trace", "entries", *POLICIES, "gap, points", "µs, ours"),
        rows,
        (
            Target("points behind the best, worst tuned trace", worst["tuned"], "<=", 1.0),
            Target("points behind the best, worst held-out trace", worst["held out"], "<=", 3.0),
        ),
        lambda axes: _draw(axes, played),
    )


def _draw(axes: Axes, played: list[tuple[str, Played]]) -> None:
    """Points above or below the best, per trace: ours as bars, the others as marks."""
    places = list(range(len(played)))
    axes.bar(places, [one.gap for _, one in played], color="tab:blue", label="ours")
    for name, mark in zip(JUDGED, "v^sd", strict=True):
        best = [max(one.hits[other] for other in JUDGED) for _, one in played]
        below = [100 * (one.hits[name] - most) for (_, one), most in zip(played, best, strict=True)]
        axes.plot(places, below, mark, markersize=4, label=name, alpha=0.7)
    axes.axhline(-3, color="gray", linewidth=0.8, linestyle="--")
    axes.set_ylim(-30, 8)
    axes.set_xticks(places, [label for label, _ in played], fontsize=4, rotation=90)
    axes.set_ylabel("points against the best of the four")
    axes.legend(frameon=False, fontsize=7, ncols=5, loc="lower left")
