"""Drive the demo past its limits and hold what happens against what the policies promise.

    python -m loadtests.scenarios [--out DIR] [--json]

Starts the demo itself, on free ports and over a copy of policies/; takes about a minute and a half. Prints a
table (expected, measured, verdict), writes DIR/report.html and DIR/load.png, appends a line to
loadtests/history/scenarios.jsonl. Exit code: 0 when everything held, 1 when something did not, 3 when the
demo or locust could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from loadtests.scenarios.checks import control_note, judge
from loadtests.scenarios.director import Play, perform
from loadtests.scenarios.picture import draw
from loadtests.scenarios.report import as_text, write_report
from loadtests.scenarios.stage import ROOT, StageError
from loadtests.scenarios.verdicts import Check

HISTORY = ROOT / "loadtests" / "history" / "scenarios.jsonl"


def main() -> int:
    """Run, judge, report."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.scenarios", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "loadtests" / "out", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.add_argument("--no-history", action="store_true", help="append no line to loadtests/history")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headgate-load-") as temporary:
        folder = Path(temporary)
        try:
            play = perform(folder, lambda text: print(f"  {text}", file=sys.stderr, flush=True))
        except StageError as error:
            print(f"load test: {error}", file=sys.stderr)
            return 3
        checks = judge(play)
        args.out.mkdir(parents=True, exist_ok=True)
        draw(play, checks, args.out / "load.png")
        write_report(play, checks, folder / "locust.html", args.out)
        shutil.copy(folder / "answers.jsonl", args.out / "answers.jsonl")
    summary = _summary(play, checks, time.monotonic() - began)
    if not args.no_history:
        _remember(summary)
    if args.json:
        print(json.dumps(summary))
    else:
        print(as_text(checks))
        print(control_note(play))
        print(f"{args.out}/report.html  {args.out}/load.png")
    return 0 if all(check.ok for check in checks) else 1


def _summary(play: Play, checks: list[Check], seconds: float) -> dict[str, object]:
    return {
        "date": date.today().isoformat(),
        "cores": _cores(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "seconds": round(seconds, 1),
        "requests": len(play.answers),
        "late": round(play.late, 3),
        "ok": all(check.ok for check in checks),
        "checks": [
            {"name": one.name, "expected": one.expected, "measured": one.measured, "ok": one.ok}
            for one in checks
        ],
    }


def _remember(summary: dict[str, object]) -> None:
    HISTORY.parent.mkdir(exist_ok=True)
    with HISTORY.open("a") as lines:
        lines.write(json.dumps(summary, ensure_ascii=False) + "\n")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
