"""The run as one picture, grasped in five seconds: what a request costs is a bar, and ours is blue.

SVG by hand, in the manner of docs/picture.svg. One panel per row of PANELS, cheapest first; all bars of a
panel have one scale; a bar that would leave it is cut, with a gap to show it, and its number says how long it
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from loadtests.bench import rows
from loadtests.bench.table import title

PANELS: Final = ("plain", "policy", "cache")
WIDTH, PANEL, GAP, MARGIN = 1120, 346, 20, 21
LABEL: Final = 128  # px before a bar
LONGEST: Final = 140  # px of a bar
BAR, PITCH, TOP = 20, 30, 96
CUT: Final = 5.0  # a bar ends at so many times NGINX's
INK, FAINT, OWN, PURE, OTHER = "#0f172a", "#475569", "#2563eb", "#93c5fd", "#cbd5e1"


def draw(run: Mapping[str, Any]) -> str:
    """Return the SVG of a run; rows that it doesn't have are left out."""
    panels = [name for name in PANELS if run["rows"].get(name, {}).get("peers")]
    most = max((len(run["rows"][name]["peers"]) for name in panels), default=0)
    height = TOP + most * PITCH + 44
    said = "; ".join(f"{rows.ALL[name].title}: {_in_words(run['rows'][name]['peers'])}" for name in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="14" role="img" '
        f"aria-label={quoteattr(f'CPU per request in microseconds. {said}.')}>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(
            MARGIN, 34, "CPU per request in µs, and times NGINX's: shorter is better", INK, size=19, bold=True
        ),
    ]
    for number, name in enumerate(panels):
        parts += _panel(MARGIN + number * (PANEL + GAP), name, run["rows"][name]["peers"])
    footer = f"median of {run['rounds']} interleaved rounds, {run['date']}, one core of an {run['cpu']}"
    footer += " · make bench · docs/benchmarks.md"
    if any(set(rows.ALL[name].lesser) & set(run["rows"][name]["peers"]) for name in panels):
        footer += " · * does less work"
    parts.append(_text(MARGIN, height - 14, footer, FAINT, size=12))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(x: float, name: str, measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    costs = {peer: figures["cpu_us_median"] for peer, figures in measured.items()}
    scale = min(max(costs.values()), CUT * costs.get("nginx", max(costs.values())))
    parts = [_text(x, 74, rows.ALL[name].title, INK, size=16, bold=True)]
    for place, (peer, cost) in enumerate(sorted(costs.items(), key=lambda item: item[1])):
        lesser = peer in rows.ALL[name].lesser
        parts += _bar(x, TOP + place * PITCH, peer, cost, cost / scale, measured[peer], lesser)
    return parts


def _bar(
    x: float, y: float, peer: str, cost: float, part: float, figures: Mapping[str, float], lesser: bool
) -> list[str]:
    own = peer.startswith("headgate")
    colour = {"headgate": OWN, "headgate-pure": PURE}.get(peer, OTHER)
    length = max(2.0, min(part, 1.0) * LONGEST)
    start, middle = x + LABEL, y + BAR / 2 + 5
    label = title(peer).replace("pure Python", "pure") + " *" * lesser
    parts = [
        _text(start - 8, middle, label, INK, end=True, bold=peer == "headgate"),
        f'<rect x="{start}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
    ]
    if part > 1:  # cut: two white strokes through the bar
        parts.append(
            f'<path d="M{start + length - 26:.1f} {y + BAR + 3} l8 -{BAR + 6} m5 0 l-8 {BAR + 6}" '
            f'stroke="#ffffff" stroke-width="3" fill="none"/>'
        )
    ratio = figures.get("ratio_median")
    beside = "" if ratio is None or peer == "nginx" else f" · {ratio:.1f}×"
    number = f"{cost:.0f}{beside}"
    parts.append(_text(start + length + 7, middle, number, INK if own else FAINT, bold=peer == "headgate"))
    return parts


def _text(
    x: float, y: float, text: str, colour: str, size: int = 14, bold: bool = False, end: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}{anchor}>{escape(text)}</text>'


def _in_words(measured: Mapping[str, Mapping[str, float]]) -> str:
    ordered = sorted(measured.items(), key=lambda item: item[1]["cpu_us_median"])
    return ", ".join(f"{title(peer)} {figures['cpu_us_median']:.0f}" for peer, figures in ordered)
