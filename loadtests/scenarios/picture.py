"""The play as one picture: what clients got, how long it took, who served, how the canary's share settled.

matplotlib without a screen. Colours tell families apart for colour-blind readers too (Okabe and Ito).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from loadtests.scenarios import timetable as at
from loadtests.scenarios.checks import CONFIDENCE, chosen
from loadtests.scenarios.director import Play
from loadtests.scenarios.verdicts import Check, binomial_interval, percentile
from loadtests.users.record import Answer

if TYPE_CHECKING:  # a type of matplotlib's, for annotations only
    from matplotlib.axes import Axes

BIN: Final = 0.5  # s
PAPER: Final = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}  # below a text
INK, FAINT = "#1c2733", "#8795a1"
KINDS: Final[tuple[tuple[str, str, Callable[[Answer], bool]], ...]] = (
    ("200 from a model", "#56b4e9", lambda one: one.status == 200 and not one.hit and not one.degraded),
    ("200 from the cache", "#0072b2", lambda one: one.status == 200 and one.hit and not one.degraded),
    ("200 degraded (x-degraded)", "#009e73", lambda one: one.status == 200 and bool(one.degraded)),
    ("429 free plan", "#f0e442", lambda one: one.status == 429 and one.policy == "free-tier"),
    ("429 endpoint", "#e69f00", lambda one: one.status == 429 and one.policy != "free-tier"),
    ("503, 504", "#d55e00", lambda one: one.status not in (200, 429)),
)
STATES: Final = {
    "up": "#bfe3d4",
    "ejected": "#e69f00",
    "unhealthy": "#d55e00",
    "breaker_open": "#a50f15",
    "breaker_half_open": "#cc79a7",
    "draining": "#8795a1",
}


def draw(play: Play, checks: Sequence[Check], path: Path) -> None:
    """Write the picture."""
    plt.rcParams.update(
        {"font.size": 9.5, "axes.edgecolor": FAINT, "text.color": INK, "axes.labelcolor": INK}
    )
    figure, (traffic, latency, members, canary) = plt.subplots(
        4, 1, figsize=(13, 10.5), sharex=True, height_ratios=[3.2, 2.2, 1.3, 1.5], layout="constrained"
    )
    failed = sum(1 for one in checks if not one.ok)
    verdict = (
        f"{failed} of {len(checks)} assertions failed" if failed else f"all {len(checks)} assertions held"
    )
    figure.suptitle(
        f"The demo, driven past its limits: {len(play.answers):,} requests, {verdict}",
        fontsize=13,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    _traffic(traffic, play)
    _latency(latency, play)
    _members(members, play)
    _canary(canary, play)
    for axes in (traffic, latency, members, canary):
        axes.spines[["top", "right"]].set_visible(False)
        for when in _marks(play).values():
            axes.axvline(when, color=INK, linewidth=0.7, linestyle=(0, (2, 3)), zorder=3)
    canary.set_xlim(0, at.END)
    canary.set_xticks(range(0, int(at.END) + 1, 5))
    canary.set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _marks(play: Play) -> dict[str, float]:
    names = {
        "edit": "free plan\n5/s → 15/s",
        "mistake": "mistake\nsaved",
        "mend": "mended",
        "kill": "kill -9\nof v1-a",
        "restart": "started\nagain",
        "freeze": "v2 frozen\n(SIGSTOP)",
        "thaw": "goes\non",
    }
    marks = {text: play.events[name] for name, text in names.items() if name in play.events}
    return {**marks, f"surge\n+{at.CROWD.rate:.0f}/s": at.SURGE, "its end": at.SURGE_ENDS}


def _traffic(axes: Axes, play: Play) -> None:
    edges = np.arange(0.0, at.END + BIN, BIN)
    counts = []
    for _, _, is_one in KINDS:
        instants = [one.received for one in play.answers if is_one(one)]
        counts.append(np.histogram(instants, edges)[0] / BIN)
    axes.stackplot(
        np.repeat(edges, 2)[1:-1],
        [np.repeat(count, 2) for count in counts],
        colors=[colour for _, colour, _ in KINDS],
        labels=[name for name, _, _ in KINDS],
        linewidth=0,
    )
    axes.set_ylabel("answers per second")
    top = float(np.sum(counts, axis=0).max())
    axes.set_ylim(0, top * 1.3)
    axes.legend(loc="upper left", frameon=False, bbox_to_anchor=(0.0, 1.02), handlelength=1.2)
    for number, (text, when) in enumerate(_marks(play).items()):
        axes.annotate(
            text,
            (when, 1.0 - 0.1 * (number % 2)),  # neighbours stand on two lines, so that none covers another
            xycoords=("data", "axes fraction"),
            xytext=(3, -1),
            textcoords="offset points",
            va="top",
            fontsize=8,
            linespacing=1.05,
            bbox=PAPER,
            zorder=5,
        )


def _latency(axes: Axes, play: Play) -> None:
    bins: dict[int, list[float]] = {}
    for one in play.answers:
        if one.status == 200:
            bins.setdefault(int(one.sent / BIN), []).append(one.took * 1000)
    instants = sorted(bins)
    for share, colour, name in ((0.5, "#0072b2", "p50"), (0.99, "#d55e00", "p99")):
        values = [percentile(bins[slot], share) for slot in instants]
        axes.step(
            [slot * BIN for slot in instants], values, where="post", color=colour, linewidth=1.5, label=name
        )
    axes.axhline(at.TIMEOUT * 1000, color=FAINT, linewidth=1)
    axes.annotate(f"timeout, {at.TIMEOUT:g} s", (at.FREEZE - 1, at.TIMEOUT * 1150), ha="right", color=FAINT)
    axes.set_yscale("log")
    axes.set_ylim(top=at.TIMEOUT * 1000 * 3)
    axes.set_yticks([1, 10, 100, 1000], ["1 ms", "10 ms", "100 ms", "1 s"])
    axes.set_ylabel("latency of 200s, as clients see it")
    axes.grid(axis="y", color="#e6ebef")
    axes.legend(loc="upper left", ncols=2, frameon=False)


def _members(axes: Axes, play: Play) -> None:
    order: dict[str, str] = {}
    for sight in play.sights:
        for one in sight.instances:
            order.setdefault(str(one["id"]), str(one["pool"]))
    ids = sorted(order, key=lambda id: (order[id], id == play.restarted, id != play.killed), reverse=True)
    for row, id in enumerate(ids):
        for state, begin, end in _spells(play, id):
            axes.barh(row, end - begin, left=begin, height=0.72, color=STATES.get(state, FAINT), linewidth=0)
    axes.set_yticks(range(len(ids)), [_title(play, id, order[id]) for id in ids])
    axes.tick_params(axis="y", length=0)
    shown = {state for id in ids for state, _, _ in _spells(play, id)}
    handles = [
        Patch(color=colour, label=name.replace("_", " ")) for name, colour in STATES.items() if name in shown
    ]
    axes.legend(
        handles=handles, loc="lower left", ncols=6, frameon=False, bbox_to_anchor=(0, 0.98), handlelength=1.2
    )


def _title(play: Play, id: str, pool: str) -> str:
    if id == play.killed:
        return f"{pool} a"
    if id == play.restarted:
        return f"{pool} a, again"
    return f"{pool} b" if pool == "digits-v1" else pool


def _spells(play: Play, id: str) -> list[tuple[str, float, float]]:
    """The states of one instance, each with its beginning and end.

    The breaker of an instance that the health check has given up is shown all the same: red beats orange.
    """
    spells: list[tuple[str, float, float]] = []
    for sight in play.sights:
        one = sight.of(id)
        if one is None:
            continue
        state = str(one["state"])
        if one["breaker"] not in (None, "closed"):
            state = f"breaker_{one['breaker']}"
        if spells and spells[-1][0] == state and sight.asked - spells[-1][2] < 1.0:
            spells[-1] = (state, spells[-1][1], sight.seen)
        else:
            begin = spells[-1][2] if spells and sight.asked - spells[-1][2] < 1.0 else sight.asked
            spells.append((state, begin, sight.seen))
    return spells


def _canary(axes: Axes, play: Play) -> None:
    answers = chosen(play)
    total = np.arange(1, len(answers) + 1)
    candidate = np.array(list(accumulate(one.version == "2" for one in answers)))
    instants = [one.sent for one in answers]
    steps = np.unique(np.geomspace(20, max(21, len(answers)), 60).astype(int)).clip(max=len(answers))
    band = np.array([binomial_interval(int(n), at.CANARY_SHARE, CONFIDENCE) for n in steps]) / steps[:, None]
    at_steps = [instants[n - 1] for n in steps]
    axes.fill_between(at_steps, band[:, 0] * 100, band[:, 1] * 100, color="#dcebf5", linewidth=0)
    axes.axhline(at.CANARY_SHARE * 100, color=FAINT, linewidth=1)
    axes.plot(instants[20:], (candidate / total * 100)[20:], color="#0072b2", linewidth=1.4)
    axes.set_ylim(0, 25)
    axes.set_ylabel("canary's share, %\nso far")
    axes.annotate(
        f"{CONFIDENCE:.1%} of chance around 10 %",
        (0.99, 0.8),
        xycoords="axes fraction",
        ha="right",
        color=FAINT,
    )
