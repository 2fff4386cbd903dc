"""`headgate check`: read the policies as a reload would, and say everything that is wrong, with file and
line.
"""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli.common import add_policies


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="check the policies: every error with file, line and column")
    add_policies(parser)
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema for editors instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: they would run; 1: they would not, and here is why."""
    from gateway.filters.catalog import KINDS
    from gateway.runtime.policies import read

    if args.schema:
        from gateway.config.json_schema import write_schema

        print(write_schema(KINDS), end="")
        return 0
    loaded = read(args.policies)
    if loaded.schema is None:
        print(loaded.report())
        print(f"{len(loaded.errors)} error{'s' if len(loaded.errors) != 1 else ''} in {args.policies}")
        return 1
    schema = loaded.schema
    print(
        f"{args.policies}: {len(schema.endpoints)} endpoints, {len(schema.pools)} pools, "
        f"{len(schema.policies)} policies, {len(schema.principals)} principals: good"
    )
    return 0
