"""`headgate releases | promote | rollback | pause | resume`: what the judge did, and what a person decides.

Unlike `headgate send`, they change no file: the state of a release stands beside the policies, until these
name another candidate.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from gateway.cli.common import NobodyThere, add_admin, ask, fail

ACTS = {
    "promote": "send all traffic to a release's candidate: headgate promote digits",
    "rollback": "take a release's candidate back, at once: headgate rollback digits",
    "pause": "stop a release at the weight that it has reached",
    "resume": "let a release go on; one that was taken back starts anew",
}


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the five commands."""
    listed = commands.add_parser("releases", help="releases, their weights, and what the judge made of them")
    add_admin(listed)
    listed.set_defaults(run=run, verb="")
    for act, meaning in ACTS.items():
        parser = commands.add_parser(act, help=meaning)
        parser.add_argument("name", help="the release's, its endpoint's or its policy's")
        add_admin(parser)
        parser.set_defaults(run=run, verb=act)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: done; 1: it can't be done, and why; 3: no gateway answers."""
    drifts = []
    try:
        if args.verb:
            shown = [ask(args.admin, "POST", f"/releases/{quote(args.name, safe='@')}/{args.verb}")]
        else:
            shown = ask(args.admin, "GET", "/releases")
            drifts = ask(args.admin, "GET", "/drifts")
    except NobodyThere as nobody:
        return fail(str(nobody), nobody.exit_code)
    for one in shown:
        for line in lines(one):
            print(line)
    if not shown:
        print("nothing is being released")
    for one in drifts:
        print(drift_line(one))
    return 0


def drift_line(alarm: Mapping[str, Any]) -> str:
    """Show one alarm of `drift`."""
    when = datetime.fromtimestamp(alarm["time"], UTC)
    return (
        f"drift at {when:%Y-%m-%d %H:%M:%S} UTC: {alarm['of']} of {alarm['version']} at {alarm['endpoint']}, "
        f"{alarm['why']} (after {alarm['seen']} answers)"
    )


DECIDED = {
    "elsewhere": " (another gateway decides)",
    "alone": " (the other gateways can't be asked: it only takes back)",
}


def lines(release: Mapping[str, Any]) -> list[str]:
    """Show one release: where it stands, and the numbers behind it."""
    asked, failed = release["requests"], release["errors"]
    shown = [
        f"{release['name']}: {release['kind']} {release['stable']} -> {release['candidate']}, "
        f"{release['phase']} at {release['weight']:.0%}{DECIDED.get(release.get('decided', 'here'), '')}",
        f"  requests {asked['stable']} : {asked['candidate']}, errors {failed['stable']} : "
        f"{failed['candidate']}, pairs {release['pairs']}, fallbacks {release['fallbacks']}",
    ]
    if "judge" in release:
        shown.append(f"  {release['judge']}")
    if "last_difference" in release:
        shown.append(f"  last difference: {release['last_difference']}")
    return shown
