"""`headgate keys new NAME`: make an API key, show it once, and print what goes into the policy files.

Only the key's SHA-256 is ever stored. The key is 192 bits of the operating system's chance behind a prefix
that says what it is, so that scanners find a leaked one; its first characters stay beside the hash, to know
it by. The key goes to stdout's first line, so that `headgate keys new alice | head -1` is the key alone.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import secrets
import sys
import time
from typing import TYPE_CHECKING, Final

from gateway.config.units import parse_duration, parse_instant, render_instant

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

SECRET_BYTES: Final = 24
SHOWN: Final = 4  # characters of the secret that stay readable
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_PREFIX = re.compile(r"[A-Za-z0-9_-]*")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("keys", help="make API keys", description="Make API keys.")
    commands = parser.add_subparsers(dest="keys_command", required=True, metavar="COMMAND")
    new = commands.add_parser(
        "new",
        help="make a key, show it once, and print its policy lines",
        description="Make an API key. The key is shown once; the policy files hold its hash.",
    )
    new.add_argument("name", metavar="NAME", type=_name, help="the principal that the key is for")
    new.add_argument("--plan", type=_name, default=None, help="the principal's plan")
    new.add_argument("--tenant", type=_name, default=None, help="the organisation that pays")
    new.add_argument(
        "--model",
        type=_model,
        action="append",
        default=[],
        help="a model it may call, * for all; may be repeated",
    )
    new.add_argument(
        "--expires",
        type=_expiry,
        default=None,
        metavar="WHEN",
        help="30d from now, or a date like 2027-01-01",
    )
    new.add_argument("--prefix", type=_prefix, default="hg_", help="what the key starts with (default: hg_)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the key and its policy lines. Returns 0."""
    key = args.prefix + secrets.token_urlsafe(SECRET_BYTES)
    print(key)
    print()
    print("# Keep the key now: it can't be shown again. Into a policy file goes:")
    print(policy_lines(key, args.name, args.prefix, args.plan, args.tenant, args.model, args.expires), end="")
    if not args.model:
        print(f"note: {args.name} may call nothing until `may` names a model or an endpoint", file=sys.stderr)
    return 0


def policy_lines(
    key: str,
    name: str,
    prefix: str,
    plan: str | None,
    tenant: str | None,
    models: list[str],
    expires: float | None,
) -> str:
    """Return the YAML of a principal with this one key, which is not in it. expires: s since the epoch."""
    lines = ["principals:", f"  {_quoted(name)}:"]
    if plan:
        lines.append(f"    plan: {_quoted(plan)}")
    if tenant:
        lines.append(f"    tenant: {_quoted(tenant)}")
    lines += ["    keys:", f"      - hash: {hash_of(key)}", f'        prefix: "{key[: len(prefix) + SHOWN]}"']
    if expires is not None:
        lines.append(f'        expires: "{render_instant(expires)}"')
    allowed = ", ".join(_quoted(model) for model in models)
    lines.append(f"    may: {{models: [{allowed}]}}")
    return "\n".join(lines) + "\n"


def hash_of(key: str) -> str:
    """Return what the policy files hold of a key."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def _quoted(name: str) -> str:
    """Write a name so that YAML reads it as text; `no`, `1.10` and `2027-01-01` would be something else."""
    return name if name.isidentifier() and name.lower() not in _YAML_WORDS else f'"{name}"'


_YAML_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a name of letters, digits, _ . @ and -, found {text!r}")
    return text


def _model(text: str) -> str:
    return text if text == "*" else _name(text)


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, _ and -, found {text!r}")
    return text


def _expiry(text: str) -> float:
    """Read `30d`, `12h` (rounded up to the minute) or an instant; it must lie ahead. s since the epoch."""
    now = time.time()
    try:
        if re.match(r"\d{4}-", text):
            instant = float(parse_instant(text))
        else:
            instant = math.ceil((now + parse_duration(text)) / 60) * 60.0 if parse_duration(text) else now
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if instant <= now:
        raise argparse.ArgumentTypeError(f"expected a time to come, found {text!r}")
    return instant
