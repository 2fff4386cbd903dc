"""`headgate throttle | degrade | send | clear`.

Change one endpoint now, in an incident, for a bounded time.

They edit `policies/overrides.yaml`, which beats every other rule, never ties and must expire; the running
gateway sees the file within a second. Each prints the diff it made and when it ends.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from math import ceil
from typing import Any

from gateway.cli.common import add_policies, fail


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the four commands."""
    throttle = commands.add_parser(
        "throttle", help="limit an endpoint now: headgate throttle digits 20/s --for 30m"
    )
    throttle.add_argument("endpoint")
    throttle.add_argument("value", metavar="RATE", help="like 20/s or '5/s per principal burst 5'")
    degrade = commands.add_parser(
        "degrade", help="answer from a lesser pool now: headgate degrade digits --to lite"
    )
    degrade.add_argument("endpoint")
    degrade.add_argument("--to", dest="value", required=True, metavar="POOL")
    send = commands.add_parser(
        "send", help="send an endpoint's traffic elsewhere now: headgate send digits v1"
    )
    send.add_argument("endpoint")
    send.add_argument("value", metavar="TARGET", help="a version, a label or a pool")
    clear = commands.add_parser("clear", help="undo: headgate clear digits")
    clear.add_argument("endpoint")
    for name, parser in (("throttle", throttle), ("degrade", degrade), ("send", send)):
        parser.add_argument(
            "--for", dest="duration", default="1h", metavar="TIME", help="like 30m (default 1h)"
        )
        parser.set_defaults(run=run, verb=name)
        add_policies(parser)
    clear.set_defaults(run=run, verb="clear")
    add_policies(clear)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: written; 1: the policies would not load with it, so nothing was written."""
    from gateway.config.load import OVERRIDES_FILE, load
    from gateway.config.overrides import OverridesError, clear_override, set_override
    from gateway.config.units import parse_duration
    from gateway.filters.catalog import KINDS

    now = time.time()
    ends = ""
    try:
        if args.verb == "clear":
            edit = clear_override(args.policies, args.endpoint, now)
        else:
            until = now + parse_duration(args.duration)
            edit = set_override(args.policies, args.endpoint, {args.verb: args.value}, until, now)
            ends = f"ends {datetime.fromtimestamp(ceil(until), UTC):%Y-%m-%d %H:%M:%S}Z (in {args.duration})"
        diff = edit.diff
        if not diff:
            print("nothing to change")
            return 0
        after = load(args.policies, KINDS, edits={OVERRIDES_FILE: edit.after})
        if after.schema is None:
            print(after.report())
            return fail("nothing was written", 1)
        edit.write()
    except ValueError as error:
        return fail(str(error), 2)
    except (OverridesError, OSError) as error:
        return fail(str(error), 1)
    print(diff, end="")
    if ends:
        print(ends)
    return 0
