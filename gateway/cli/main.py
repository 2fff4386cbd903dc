"""The command `headgate`. Each command is one module with `add_parser`.

What it needs is imported when it runs.

Exit codes: 0 done, 1 the answer is no (invalid policies, a refused request), 2 wrong usage, 3 nobody to
talk to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import gateway
from gateway.cli import (
    check,
    demo,
    diff,
    endpoints,
    explain,
    keys,
    models,
    overrides,
    predict,
    purge,
    quotas,
    register,
    releases,
    serve,
)
from gateway.runtime.form import form

COMMANDS = (
    serve,
    demo,
    check,
    diff,
    explain,
    endpoints,
    keys,
    models,
    register,
    overrides,
    predict,
    purge,
    quotas,
    releases,
)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="headgate", description="The gateway in front of machine-learning models.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"headgate {gateway.__version__} ({form()})")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `headgate endpoints | head`
        sys.stderr.close()
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
