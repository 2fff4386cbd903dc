"""`headgate diff`: what would change if these policies were loaded, compared with a running gateway or a
folder.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any

from gateway.cli.common import NobodyThere, add_admin, add_policies, ask, fail
from gateway.cli.releases import drift_line


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("diff", help="what would change if the policies were loaded")
    add_policies(parser)
    add_admin(parser)
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with this folder, not with the running gateway"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: nothing would change; 1: something would, or the policies are invalid."""
    from gateway.config.listing import listing
    from gateway.runtime.policies import read

    loaded = read(args.policies)
    if loaded.schema is None:
        print(loaded.report())
        return 1
    if args.against is not None:
        other = read(args.against)
        if other.schema is None:
            print(other.report())
            return 1
        before, name = listing(other.schema), str(args.against)
        released, drifts = [], []
    else:
        try:
            before, name = ask(args.admin, "GET", "/policies")["listing"], "running"
            released = ask(args.admin, "GET", "/releases")
            drifts = ask(args.admin, "GET", "/drifts")
        except NobodyThere as nobody:
            return fail(f"{nobody} (or compare two folders with --against DIR)", nobody.exit_code)
    after = listing(loaded.schema)
    changes = list(difflib.unified_diff(before, after, name, str(args.policies), lineterm="", n=0))
    for line in changes:
        print(line)
    if not changes:
        print("nothing would change")
    for one in released:
        if one["phase"] not in ("ramping", "resting") or one["step"]:
            print(f"# beside the policies: release {one['name']} is {one['phase']}, {one['candidate']} has")
            print(f"#   {one['weight']:.0%} of the requests (headgate releases says why)")
    for one in drifts:
        print(f"# beside the policies: {drift_line(one)}")
    return 1 if changes else 0
