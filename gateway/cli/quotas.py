"""`headgate quotas [WHO]`: who spent how much of which quota, and what is left until when."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from gateway.cli.common import NobodyThere, add_admin, ask, fail


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "quotas", help="who spent how much of which quota, and what is left: headgate quotas alice"
    )
    parser.add_argument("who", nargs="?", default="", help="only this principal, tenant, address …")
    parser.add_argument(
        "--most", type=int, default=20, metavar="N", help="so many of each quota, the largest spenders first"
    )
    add_admin(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: told; 1: the gateway can't tell, and why; 2: wrong usage; 3: no gateway answers."""
    if not 0 < args.most < 100_000:
        return fail(f"--most is a number from 1 to 99999, not {args.most}", 2)
    try:
        told = ask(args.admin, "GET", "/quotas?" + urlencode({"who": args.who, "most": args.most}))
    except NobodyThere as nobody:
        return fail(str(nobody), nobody.exit_code)
    if told["trouble"]:
        return fail(f"what was spent of quotas is not known now: {told['trouble']}", 1)
    for quota in told["quotas"]:
        for line in lines(quota, args.who):
            print(line)
    if not told["quotas"]:
        print("no policy has a quota")
    return 0


def lines(quota: Mapping[str, Any], who: str = "") -> list[str]:
    """Show one quota: where it stands, and who spent most of it."""
    until = quota["until"]
    ends = "rolling" if until is None else f"until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"
    endpoints = ", ".join(quota["endpoints"])
    shown = [
        f"{quota['limit']}, {ends}",
        f"  {quota['policy']} at {quota['defined_at']}, for {endpoints}",
    ]
    rows = quota["spent"]
    width = max((len(row["who"]) for row in rows), default=0)
    for row in rows:
        used, left = row["used"], row["left"]
        figures = f"{_amount(used):>13} used {_amount(left):>13} left {used / (used + left):5.0%}"
        shown.append(f"  {row['who']:{width}} {figures}")
    if who and not rows:
        shown.append(f"  {who} spent nothing of it")
    elif not quota["spenders"]:
        shown.append("  nobody spent anything")
    elif not who and quota["spenders"] > len(rows):
        shown.append(f"  and {quota['spenders'] - len(rows)} more; all together {_amount(quota['used'])}")
    return shown


def _amount(tokens: float) -> str:
    return f"{tokens:,.0f}" if tokens >= 100 or tokens == int(tokens) else f"{tokens:,.1f}"
