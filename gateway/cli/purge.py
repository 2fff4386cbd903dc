"""`headgate purge`: let the running gateway forget cached answers, in all of its workers."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlencode

from gateway.cli.common import NobodyThere, add_admin, ask, fail

BY = {
    "endpoint": "of an endpoint",
    "model": "of a model",
    "tag": "that an instance marked with `Cache-Tag: NAME`",
    "url": "to GET of HOST/PATH",
    "key": "of one prediction, by the key that `headgate explain` shows",
}


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("purge", help="forget cached answers")
    add_admin(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    for name, meaning in BY.items():
        which.add_argument(f"--{name}", metavar=name.upper(), help=f"the answers {meaning}")
    which.add_argument("--all", action="store_true", help="all answers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: done, however many there were."""
    chosen = {name: getattr(args, name) for name in BY if getattr(args, name)}
    try:
        told = ask(args.admin, "DELETE", "/cache" + (f"?{urlencode(chosen)}" if chosen else ""))
    except NobodyThere as nobody:
        return fail(str(nobody), nobody.exit_code)
    print(f"{told['purged']} forgotten")
    return 0
