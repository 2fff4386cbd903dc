"""`headgate explain`: how the running gateway would decide one request, with numbers and the lines that say
so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gateway.cli.common import NobodyThere, add_admin, ask, fail


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain", help="how the running gateway would decide one request; nothing is sent or spent"
    )
    add_admin(parser)
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("url", metavar="URL", help="path, or a whole URL")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument(
        "-d", "--data", default="", metavar="BODY", help="the body; @FILE reads it from a file"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: it would be served; 1: it would be refused."""
    headers = {}
    for header in args.header:
        name, colon, value = header.partition(":")
        if not colon:
            return fail(f"a header is written 'Name: value', found {header!r}", 2)
        headers[name.strip()] = value.strip()
    body = args.data
    if body.startswith("@"):
        try:
            body = sys.stdin.read() if body == "@-" else Path(body[1:]).read_text()
        except OSError as error:
            return fail(f"{body[1:]}: {error.strerror}", 2)
        except UnicodeDecodeError:
            return fail(f"{body[1:]}: a body that is not UTF-8 can't be explained", 2)
    asked = {"method": args.method.upper(), "url": args.url, "headers": headers, "body": body}
    try:
        told = ask(args.admin, "POST", "/explain", asked)
    except NobodyThere as nobody:
        return fail(str(nobody), nobody.exit_code)
    print(render(told))
    return 0 if told["status"] < 400 else 1


def render(told: dict[str, Any]) -> str:
    """Write the record for a person: one decision a line."""
    lines = [f"{told['method']} {told['path']}"]
    if told.get("endpoint"):
        lines.append(f"  endpoint  {told['endpoint']}  ({told.get('defined_at', '')})")
    for decision in told["trail"]:
        numbers = "  ".join(f"{name}={value}" for name, value in decision["numbers"].items())
        where = " ".join(part for part in (decision["policy"], decision["origin"]) if part)
        lines.append(
            f"  {decision['filter']:<9} {decision['verdict']}  {numbers}{f'  [{where}]' if where else ''}"
        )
    lines.append(f"  => {told['status']} {told.get('reason') or ''}".rstrip())
    if told.get("why"):
        lines.append(f"     {told['why']}")
    if told.get("passes_if"):
        lines.append(f"     it would pass {told['passes_if']}")
    if told.get("instance"):
        lines.append(f"     would be sent to {told['instance']} of pool {told['pool']}")
    return "\n".join(lines)
