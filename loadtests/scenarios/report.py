"""The table of checks as text, and as a page: our assertions and the picture, above locust's own report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from loadtests.scenarios.checks import control_note
from loadtests.scenarios.director import Play
from loadtests.scenarios.verdicts import Check

STYLE = """
.headgate {font: 15px/1.45 system-ui, sans-serif; color: #1c2733; background: #fff; padding: 24px 32px}
.headgate h1 {font-size: 22px; margin: 0 0 4px} .headgate p {margin: 4px 0 16px; color: #4a5a68}
.headgate table {border-collapse: collapse; margin-bottom: 16px}
.headgate td, .headgate th {text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid #dde4ea;
  vertical-align: top}
.headgate .held {color: #1d7f4e; font-weight: 600} .headgate .failed {color: #b3261e; font-weight: 700}
.headgate img {width: 100%; max-width: 1280px; display: block}
"""


def as_text(checks: Sequence[Check]) -> str:
    """A table for the terminal."""
    rows = [("", "expected", "measured", "verdict")]
    rows += [(one.name, one.expected, one.measured, "held" if one.ok else "FAILED") for one in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]))
        for row in rows
    )


def write_report(play: Play, checks: Sequence[Check], locust: Path, out: Path) -> None:
    """Write out/report.html; it needs no other file. The picture is expected at out/load.png."""
    ours = _section(play, checks, out / "load.png")
    theirs = locust.read_text() if locust.exists() else "<html><body></body></html>"
    head, body, rest = theirs.partition("<body>")
    (out / "report.html").write_text(head + body + ours + rest if body else ours + theirs)


def _section(play: Play, checks: Sequence[Check], picture: Path) -> str:
    failed = sum(1 for one in checks if not one.ok)
    verdict = f"{failed} of {len(checks)} failed" if failed else f"all {len(checks)} held"
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{escape(one.expected)}</td><td>{escape(one.measured)}</td>"
        f'<td class="{"held" if one.ok else "failed"}">{"held" if one.ok else "FAILED"}</td></tr>'
        for one in checks
    )
    image = base64.b64encode(picture.read_bytes()).decode()
    return (
        f'<style>{STYLE}</style><div class="headgate"><h1>The demo, driven past its limits: {verdict}</h1>'
        f"<p>{len(play.answers)} requests. {escape(control_note(play))}.</p>"
        f"<table><tr><th></th><th>expected</th><th>measured</th><th>verdict</th></tr>{rows}</table>"
        f'<img alt="requests, latency and instances over time" src="data:image/png;base64,{image}"></div>'
    )
