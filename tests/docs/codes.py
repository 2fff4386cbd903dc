"""The codes that docs/reliability.md lists: what clients may find in `x-headgate-reason`."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"


def documented_codes() -> frozenset[str]:
    """Return the codes of the table under `## Codes`."""
    table = PAGE.read_text().partition("\n## Codes\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    return frozenset(code for cell in cells for code in re.findall(r"`(\w+)`", cell))
