"""The figures in README.md: written from the newest whole run of the history, never by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from loadtests.bench import history, peers, picture, rows
from loadtests.bench.table import title

README: Final = peers.ROOT / "README.md"
PICTURE: Final = peers.ROOT / "docs" / "bench.svg"
BEGIN: Final = "<!-- bench: written by `python -m loadtests.bench --readme` -->"
END: Final = "<!-- /bench -->"
TABLE: Final = ("plain", "policy", "cache", "64k", "10m", "connect", "tls")
COLUMNS: Final = tuple(peers.ALL)


def rewrite(readme: Path = README, drawing: Path = PICTURE, record: Path = history.HISTORY) -> int:
    """Put the newest whole run between the two comments, and draw it. Returns an exit code."""
    run = history.newest_whole(record)
    if run is None:
        print("no whole run in the history yet: make bench", file=sys.stderr)
        return 1
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        print(f"{readme.name} has no place for it: {BEGIN} … {END}", file=sys.stderr)
        return 1
    before, rest = text.split(BEGIN, 1)
    readme.write_text(f"{before}{BEGIN}\n{section(run)}\n{END}{rest.split(END, 1)[1]}")
    drawing.write_text(picture.draw(run))
    return 0


def section(run: Mapping[str, Any]) -> str:
    """Return the part of README.md: machine and date, then CPU per request, latency, memory, growth."""
    return "\n\n".join([_machine(run), _costs(run), _rest(run)])


def _machine(run: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{peers.ALL[name].title} {version}"
        for name, version in run["versions"].items()
        if version and name in peers.ALL and name != "headgate-pure"
    )
    return (
        f"CPU per request in µs, median of {run['rounds']} interleaved rounds, and the ratio to NGINX doing\n"
        f"the same (`make bench`, {run['date']}, commit {run['commit']}, "
        f"{run['cores']} cores of an {run['cpu']}, "
        f"Linux {run['kernel']}, Python {run['python']};\n{versions})."
    )


def _costs(run: Mapping[str, Any]) -> str:
    shown = [name for name in COLUMNS if any(name in run["rows"][row]["peers"] for row in TABLE)]
    lines = ["| | " + " | ".join(title(name) for name in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in TABLE:
        measured = run["rows"][name]["peers"]
        cells = [_cost(peer, measured.get(peer), peer in rows.ALL[name].lesser) for peer in shown]
        lines.append(f"| {rows.ALL[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cost(peer: str, figures: Mapping[str, float] | None, lesser: bool) -> str:
    if figures is None or "cpu_us_median" not in figures:
        return ""
    cost = figures["cpu_us_median"]
    text = f"{cost:,.0f}" if cost >= 1000 else f"{cost:.1f}"
    if "ratio_median" in figures and peer != peers.BASELINE:
        text += f" ({figures['ratio_median']:.2f}×)"
    return f"[{text}]" if lesser else text


def _rest(run: Mapping[str, Any]) -> str:
    lines = []
    for name in ("latency", "latency-policy"):
        measured = run["rows"][name]["peers"]
        added = [
            f"{title(peer)} {figures['added_p50_ms'] * 1000:.0f} / {figures['added_p99_ms'] * 1000:.0f} µs"
            for peer, figures in measured.items()
            if "added_p50_ms" in figures
        ]
        lines.append(f"- {rows.ALL[name].title.capitalize()}, p50 / p99: {', '.join(added)}.")
    memory = run["rows"]["memory"]["peers"]
    each = [f"{title(peer)} {figures['kib_10000']} KiB" for peer, figures in memory.items()]
    lines.append(f"- Memory per idle connection, of 10,000: {', '.join(each)}.")
    growth = run["rows"]["growth"]["peers"]
    ratios = [f"{name} {figures['ratio_median']:.2f}×" for name, figures in growth.items()][1::2]
    lines.append(f"- Cost as it grows, beside the smallest: {', '.join(ratios)}.")
    lines.append("- [In brackets]: it does less work than the others. What can't be compared, and how it was")
    lines.append("  measured: [docs/benchmarks.md](docs/benchmarks.md).")
    return "\n".join(lines)
