"""loadtests/history/bench.jsonl: a line per run, with what a reader needs to judge it.

Nothing in it names the machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from loadtests.bench import peers
from loadtests.bench.contest import Result

HISTORY: Final = peers.ROOT / "loadtests" / "history" / "bench.jsonl"
Run = dict[str, Any]  # as it stands in the file


def start(names: Iterable[str], rounds: int) -> Run:
    """Return what is known before the first row. stale: the compiled build is older than the sources."""
    models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    present = [peers.ALL[name] for name in names if not peers.ALL[name].missing()]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {peer.name: peer.version() for peer in present},
        "stale": peers.stale(),
        "rounds": rounds,
    }


def finish(run: Run, results: Sequence[Result], seconds: float, whole: bool) -> Run:
    """Return the run with its figures. whole: README.md may show it, if every row has figures."""
    return {
        **run,
        "seconds": round(seconds),
        "whole": whole and all(result.peers for result in results),
        "rows": {
            result.row: {key: value for key, value in asdict(result).items() if key != "row"}
            for result in results
        },
    }


def _commit() -> str:
    """Return the commit that is checked out, with + where files differ from it; empty outside of git."""
    try:
        ran = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--dirty=+"],
            capture_output=True,
            text=True,
            cwd=peers.ROOT,
        )
    except OSError:
        return ""
    return ran.stdout.strip()


def append(run: Run, path: Path = HISTORY) -> None:
    """Add a line."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as history:
        history.write(json.dumps(run, allow_nan=False) + "\n")


def newest_whole(path: Path = HISTORY) -> Run | None:
    """Return the last run that has every row; None: there is none yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    runs = [json.loads(line) for line in lines]
    return next((run for run in reversed(runs) if run.get("whole")), None)
