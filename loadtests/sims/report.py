"""What a simulator returns: a table, the targets that it must meet, and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that must hold. what: a sentence; measured: in the unit of `bound`."""

    what: str
    measured: float
    relation: Literal["<=", ">="]
    bound: float

    @property
    def holds(self) -> bool:
        """Is it met?"""
        return self.measured <= self.bound if self.relation == "<=" else self.measured >= self.bound

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "MISSED"
        return f"{verdict}: {self.what}: {self.measured:.4g} {self.relation} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one simulator.

    judged: words on which scenarios parameters were tuned, and on which they were judged.
    """

    title: str
    judged: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    targets: Sequence[Target]
    draw: Callable[[Axes], None] | None = field(default=None, compare=False)

    def table(self) -> str:
        """The table as text, columns aligned."""
        cells = [[str(column) for column in self.columns]] + [
            [_text(cell) for cell in row] for row in self.rows
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(line.rstrip() for line in lines)

    def text(self) -> str:
        """Title, table and targets."""
        targets = "\n".join(str(target) for target in self.targets)
        return f"{self.title}\n{self.judged}\n\n{self.table()}\n\n{targets}\n"

    def save(self, folder: Path, name: str) -> None:
        """Write NAME.json, and NAME.png where there is something to draw and matplotlib is installed."""
        folder.mkdir(parents=True, exist_ok=True)
        known = {
            "title": self.title,
            "judged": self.judged,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "targets": [
                {"what": t.what, "measured": t.measured, "bound": t.bound, "holds": t.holds}
                for t in self.targets
            ],
        }
        (folder / f"{name}.json").write_text(json.dumps(known, indent=1) + "\n")
        if self.draw is None:
            return
        import matplotlib as mpl  # only here: tables need no matplotlib

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        self.draw(axes)
        axes.set_title(self.title, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)


def _text(cell: Cell) -> str:
    if cell is None:
        return "never"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
