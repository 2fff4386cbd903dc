"""What several commands share: where the policies are, and how to ask a running gateway."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DEFAULT_ADMIN = "http://127.0.0.1:9080"


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the token is for no proxy to see


class NobodyThere(Exception):
    """The admin API did not answer. exit_code: of the command that asked."""

    exit_code = 3


class Refused(NobodyThere):
    """The admin API answered No: a missing token, a question that it does not understand."""

    exit_code = 1


def add_policies(parser: argparse.ArgumentParser) -> None:
    """Add `--policies`."""
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("HEADGATE_POLICIES", "policies")),
        help="the policy folder (default: policies, or HEADGATE_POLICIES)",
    )


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Add `--admin` and `--token`."""
    port = os.environ.get("HEADGATE_ADMIN_PORT")
    default = os.environ.get("HEADGATE_ADMIN") or (f"http://127.0.0.1:{port}" if port else DEFAULT_ADMIN)
    parser.add_argument(
        "--admin",
        metavar="URL",
        default=default,
        help=f"the running gateway's admin API (default: {DEFAULT_ADMIN}, or HEADGATE_ADMIN)",
    )


def ask(admin: str, method: str, path: str, body: object = None) -> Any:
    """Ask the admin API and return its JSON. Raises NobodyThere, and Refused for an error with a reason."""
    headers = {"Accept": "application/json"}
    token = os.environ.get("HEADGATE_ADMIN_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(admin.rstrip("/") + path, data=data, headers=headers, method=method)
        with DIRECT.open(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refused(admin, error) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NobodyThere(f"no gateway answers at {admin} ({reason}); is it running?") from error


def _refused(admin: str, error: urllib.error.HTTPError) -> NobodyThere:
    try:
        with error:
            detail = str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return NobodyThere(f"{admin} answered {error.code}, and that is no Headgate")
    hint = " (HEADGATE_ADMIN_TOKEN holds it)" if error.code == 401 else ""
    return Refused(f"{detail}{hint}")


def fail(message: str, code: int) -> int:
    """Say what is wrong, on stderr; returns the exit code."""
    print(f"headgate: {message}", file=sys.stderr)
    return code
