"""What a request costs through Headgate and through others, in one interleaved run.

    python -m loadtests.bench [--rows plain,policy] [--peers nginx,headgate] [--rounds 6] [--quick] [--json]
    python -m loadtests.bench --readme        put the newest whole run into README.md and docs/bench.svg

docs/benchmarks.md: the method, the rows, and what can't be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from loadtests.bench import contest, history, peers, picture, processes, readme, rows, site, table
from loadtests.bench.processes import NotStarted

TOOLS = {"wrk": "wrk", "cc": "gcc libc6-dev", "taskset": "util-linux", "openssl": "openssl"}
QUICK_ROWS = ("plain", "policy", "latency")
QUICK_PEERS = ("nginx", "headgate", "headgate-pure", "haproxy", "envoy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0; 1 when nothing could be measured; 2 when a tool is missing."""
    options = _parse(arguments)
    if options.readme:
        return readme.rewrite()
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool, path=processes.PATH) is None]
    if missing:
        print(f"the bench needs {' '.join(missing)} (as root on Debian: make peers)", file=sys.stderr)
        return 2
    if not {processes.GATEWAYS, processes.LOAD} <= os.sched_getaffinity(0):
        print("the bench needs cores 0 and 1: one for gateways, one for their load", file=sys.stderr)
        return 2
    processes.allow_many_files()
    if "headgate" in options.peers and peers.stale():
        _say("the compiled build is older than the sources (make native)")
    began = time.monotonic()
    run = history.start(options.peers, options.rounds)
    results = _hold(options)
    run = history.finish(run, results, time.monotonic() - began, whole=_whole(options))
    if options.record:
        history.append(run)
    if options.picture:
        options.picture.write_text(picture.draw(run))
    print(json.dumps(run, indent=2) if options.json else table.write(run))
    return 0 if any(result.peers for result in results) else 1


def _hold(options: argparse.Namespace) -> list[contest.Result]:
    chosen = [peers.ALL[name] for name in options.peers]
    results = []
    for name in options.rows:
        row = rows.ALL[name]
        _say(f"{row.name}: {row.title}")
        with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
            try:
                with site.opened(Path(folder)) as place:
                    results.append(contest.hold(row, chosen, options.rounds, place, _say))
            except (NotStarted, subprocess.CalledProcessError, OSError) as error:
                _say(f"{row.name}: not measured: {contest.spoiled(error)}")
                results.append(contest.Result(row.name, {}, {"": contest.spoiled(error)}))
    return results


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# Command line


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench", description=(__doc__ or "").splitlines()[0]
    )
    default = [name for name, peer in peers.ALL.items() if not peer.optional]
    parser.add_argument("--rows", type=_names, help=f"of {','.join(rows.ALL)} (default: all)")
    parser.add_argument("--peers", type=_names, help=f"of {','.join(peers.ALL)}")
    parser.add_argument("--rounds", type=int, help="windows per contestant (default: 6; --quick: 2)")
    parser.add_argument(
        "--quick", action="store_true", help=f"a smoke: {','.join(QUICK_ROWS)}, 2 rounds, not recorded"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw this run")
    parser.add_argument("--readme", action="store_true", help="put the newest whole run into README.md")
    parser.add_argument(
        "--no-record", dest="record", action="store_false", help="leave loadtests/history alone"
    )
    options = parser.parse_args(arguments)
    options.peers = options.peers or list(QUICK_PEERS if options.quick else default)
    options.rows = options.rows or list(QUICK_ROWS if options.quick else rows.ALL)
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.record = options.record and not options.quick
    for given, known in ((options.rows, rows.ALL), (options.peers, peers.ALL)):
        if unknown := set(given) - set(known):
            parser.error(f"no such thing: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if peers.BASELINE not in options.peers:
        options.peers.insert(0, peers.BASELINE)
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


def _whole(options: argparse.Namespace) -> bool:
    """Is this a run that README.md may show: every row, every peer that isn't optional?"""
    wanted = {name for name, peer in peers.ALL.items() if not peer.optional}
    return set(options.rows) == set(rows.ALL) and wanted <= set(options.peers)


if __name__ == "__main__":
    raise SystemExit(main())
