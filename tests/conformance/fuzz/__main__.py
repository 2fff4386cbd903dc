"""Fuzz the readers of untrusted bytes.

    python -m tests.conformance.fuzz [--seconds 600] [--target request_head …] [--blind]

The time is shared among the targets. With atheris (libFuzzer for Python) inputs are bred by the branches that
they reach; without it (no wheel for this Python) by the lines, in a small loop of our own: `guided.py`. What
reaches new code is kept in .fuzz/, which git ignores; an input that breaks a law is written to
tests/conformance/corpus/<target>/, where `make test` plays it for ever. Exits with 1 when one was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.conformance.fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "tests/conformance/corpus"
KEPT = ROOT / ".fuzz"


def main() -> int:
    """Fuzz each target in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for all targets together")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="only this one (again: and this)"
    )
    parser.add_argument("--blind", action="store_true", help="do without atheris, even where it is there")
    args = parser.parse_args()
    names = args.target or list(TARGETS)
    bred = "" if args.blind else "with atheris " if importlib.util.find_spec("atheris") else ""
    broken = 0
    for name in names:
        seconds = max(1, round(args.seconds / len(names)))
        print(f"{name}: {seconds} s {bred or 'with our own loop '}…", flush=True)
        broken += fuzz(name, seconds, "atheris_one" if bred else "guided")
    return 1 if broken else 0


def fuzz(name: str, seconds: int, how: str) -> bool:
    """Fuzz one target; tell whether a law was broken."""
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    known = CORPUS / name
    known.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (folder / f"seed-{number}").write_bytes(seed)
    command = [
        sys.executable,
        "-m",
        f"tests.conformance.fuzz.{how}",
        name,
        str(seconds),
        str(folder),
        str(known),
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
