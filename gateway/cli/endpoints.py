"""`headgate endpoints`: what clients can call on the running gateway, and who serves it."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli.common import NobodyThere, add_admin, ask, fail


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("endpoints", help="what the running gateway serves, and who serves it")
    add_admin(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one block per endpoint."""
    try:
        endpoints = ask(args.admin, "GET", "/endpoints")
        instances = ask(args.admin, "GET", "/instances")
    except NobodyThere as nobody:
        return fail(str(nobody), nobody.exit_code)
    for endpoint in endpoints:
        what = f"model {endpoint['model']}" if endpoint["model"] else "by path"
        print(f"{endpoint['name']}  ({what}; {endpoint['defined_at']})")
        for version, pool in endpoint["versions"].items():
            labels = [label for label, named in endpoint["labels"].items() if named == version]
            print(f"  version {version}{' ' + ','.join(labels) if labels else ''} -> pool {pool}")
        print(f"  {' > '.join(endpoint['filters'])}")
    for instance in instances:
        print(
            f"{instance['pool']:<16} {instance['address']:<22} {_state(instance):<20} "
            f"{instance['in_flight']} in flight, {instance['latency_ms']} ms, "
            f"{instance['successes']} good, {instance['failures']} bad"
        )
    return 0


def _state(instance: dict[str, Any]) -> str:
    """Its state; with its share of an even one where it gets less."""
    state: str = instance["state"]
    return f"{state} ({instance['share']:.0%})" if state in ("down_weighted", "doubted") else state
