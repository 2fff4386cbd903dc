"""One measurement of one contestant, and how they take turns.

A shared machine drifts by more than the differences that matter, so absolute figures of two runs can't be
compared. All contestants are up at once; a round gives each of them one window of load in turn; ratios are
taken within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SETTLE: Final = 0.2  # s between two windows


@dataclass(frozen=True, slots=True)
class Window:
    """Load on one contestant: requests done, CPU µs each, requests/s, p50 and p99 in ms.

    cpu_us is nan where nobody is measured (no gateway in the way). failed: answers that were no 2xx, or none
    at all.
    """

    requests: int
    cpu_us: float
    rate: float
    p50: float
    p99: float
    failed: int = 0


class Broken(Exception):
    """A window that can't be measured: the load ended badly, or nothing was answered. The text says which."""


Round = Mapping[str, Window]


def interleave(
    contestants: Mapping[str, Callable[[], Window]],
    rounds: int,
    settle: Callable[[float], None] = time.sleep,
    said: Callable[[str], None] = lambda text: None,
) -> tuple[list[Round], dict[str, str]]:
    """Return one window per contestant and round, and why some have none.

    A first round warms up and is thrown away. Whoever breaks is out of all rounds; the others go on.
    """
    measured: list[dict[str, Window]] = []
    broken: dict[str, str] = {}
    for number in range(rounds + 1):
        windows = {}
        for name, window in contestants.items():
            if name in broken:
                continue
            settle(SETTLE)
            try:
                windows[name] = window()
            except Broken as error:
                broken[name] = str(error)
        said(f"round {number} of {rounds}" if number else "warmed up")
        if number:
            measured.append(windows)
    for windows in measured:
        for name in broken:
            windows.pop(name, None)
    return list(measured), broken


def failures(rounds: Sequence[Round]) -> dict[str, int]:
    """Return the failed requests per contestant, where there are any."""
    names = rounds[0] if rounds else ()
    totals = {name: sum(windows[name].failed for windows in rounds) for name in names}
    return {name: count for name, count in totals.items() if count}
