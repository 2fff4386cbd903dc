"""Run the simulators: `python -m loadtests.sims [NAME ...]`. Exit code 1 when a target is missed.

Each simulator is seeded, needs no network and no other process, and takes at most a minute. It drives the
algorithms of gateway/governance themselves, not copies; competitors are written anew from their papers or
documentation, and stand for the idea, not for the product.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from loadtests.sims.report import Report

NAMES = (
    "release",
    "predictions",
    "drift",
    "overload",
    "fairness",
    "balancing",
    "ejection",
    "retries",
    "affinity",
    "leases",
    "cache",
)
OUT = Path(__file__).parents[1] / "out" / "sims"


def simulator(name: str) -> Callable[[], Report]:
    """Return the `run` of loadtests/sims/NAME.py."""
    run: Callable[[], Report] = import_module(f"loadtests.sims.{name}").run
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and save."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.sims", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for tables and pictures")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no such simulator: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    missed = 0
    for name in options.names or NAMES:
        began = time.monotonic()
        report = simulator(name)()
        report.save(options.out, name)
        print(f"== {name} ({time.monotonic() - began:.0f} s)\n{report.text()}", flush=True)
        missed += sum(not target.holds for target in report.targets)
    if missed:
        print(f"{missed} target(s) missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
