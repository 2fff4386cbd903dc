"""`headgate models push | list | compare | promote | retire | restore`: what a model repository holds.

The repository is a folder or a URL that fsspec knows (`s3://bucket/models`); a model server that polls it
follows by itself. What the commands decide is written to `<model>/state.yaml`; cards are never touched.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.common import fail

if TYPE_CHECKING:
    from backends.comparing import Comparison
    from backends.files import Files
    from backends.lifecycle import Version

COMMANDS = {
    "push": "publish a model file or folder as a new version, if it passes its sample",
    "list": "versions, their labels, and which are retired",
    "compare": "two versions side by side: cards, graphs, answers, times",
    "promote": "point a label (stable) at a version",
    "retire": "serve a version no more: 410 with its successor; its files stay",
    "restore": "serve a retired version again",
}


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its six verbs."""
    models = commands.add_parser("models", help="push, list, compare, promote, retire and restore models")
    verbs = models.add_subparsers(title="verbs", metavar="VERB", required=True)
    parsers = {verb: verbs.add_parser(verb, help=meaning) for verb, meaning in COMMANDS.items()}
    default = os.environ.get("HEADGATE_REPOSITORY", "models")
    for verb, parser in parsers.items():
        if verb == "list":
            parser.add_argument("model", metavar="MODEL", nargs="?", default="")
        else:
            parser.add_argument("model", metavar="MODEL")
        parser.add_argument(
            "--repository",
            metavar="DIR|URL",
            default=default,
            help="default: models, or HEADGATE_REPOSITORY",
        )
        parser.add_argument(
            "--storage", type=json.loads, default={}, metavar="JSON", help="options of the URL's file system"
        )
        parser.set_defaults(run=run, verb=verb)
    for verb in ("promote", "retire", "restore"):
        parsers[verb].add_argument("version", metavar="VERSION")
    push = parsers["push"].add_argument
    push("source", type=Path, metavar="FILE|DIR", help="an ONNX file, or a folder with one")
    push("--version", default="", help="default: the newest and one")
    push("--card", type=Path, metavar="FILE", help="the version's model.yaml")
    compare = parsers["compare"].add_argument
    compare("before", metavar="VERSION")
    compare("after", metavar="VERSION")
    compare("--input", type=Path, metavar="FILE", help="rows as .npy or .npz (default: the card's sample)")
    parsers["promote"].add_argument("--label", default="stable", help="default: %(default)s")
    parsers["retire"].add_argument(
        "--successor", default="", metavar="VERSION|MODEL[=VERSION]", help="who answers in its place"
    )
    parsers["retire"].add_argument("--reason", default="", help="said to those who still ask for it")


def run(args: argparse.Namespace) -> int:
    """Exit code 0: done; 1: it can't be done, and why; 2: the backend's packages are not installed."""
    try:
        from backends.errors import LoadError
        from backends.files import open_files
        from backends.strict_yaml import ConfigError
    except ImportError as error:
        return fail(f"models need more packages: {error} (pip install 'headgate[serve]')", 2)
    try:
        for line in _act(args, open_files(args.repository, args.storage)):
            print(line)
    except (LoadError, ConfigError) as error:
        return fail(str(error), 1)
    return 0


def _act(args: argparse.Namespace, files: Files) -> list[str]:
    from backends import lifecycle

    model: str = args.model
    match args.verb:
        case "list":
            return table(lifecycle.list_versions(files, model))
        case "push":
            version = lifecycle.push(files, model, args.source, args.version, args.card)
            return [f"{model} version {version} is in {args.repository}"]
        case "promote":
            before = lifecycle.promote(files, model, args.version, args.label)
            said = f"; it was version {before}" if before else ""
            return [f"{model} {args.label} is version {args.version} now{said}"]
        case "retire":
            today = time.strftime("%Y-%m-%d", time.gmtime())
            lifecycle.retire(files, model, args.version, args.successor, args.reason, today)
            return [f"{model} version {args.version} is retired; its files stay: headgate models restore"]
        case "restore":
            lifecycle.restore(files, model, args.version)
            return [f"{model} version {args.version} is served again"]
        case _:
            return _compare(args, files)


def table(versions: list[Version]) -> list[str]:
    """Return the lines that show versions, a column each for what differs."""
    rows = [("MODEL", "VERSION", "STATE", "LABELS", "DATE", "SUMMARY")]
    for one in versions:
        state = "incomplete" if not one.complete else "available"
        if one.retired is not None:
            state = f"retired -> {one.retired.successor}" if one.retired.successor else "retired"
        labels = ",".join(one.labels) or "-"
        rows.append((one.name, one.version, state, labels, one.card.date or "-", one.card.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]


def _compare(args: argparse.Namespace, files: Files) -> list[str]:
    from backends.comparing import compare
    from backends.errors import LoadError
    from backends.lifecycle import fetch_version

    rows = None
    if args.input is not None:
        import numpy as np

        try:
            loaded = np.load(args.input, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise LoadError(f"{args.input}: {error}") from error
        rows = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [
            (fetch_version(files, args.model, version, Path(scratch) / side), version)
            for side, version in (("before", args.before), ("after", args.after))
        ]
        return comparison(args.before, args.after, compare(folders[0], folders[1], rows))


def comparison(before: str, after: str, found: Comparison) -> list[str]:
    """Return the lines that show a comparison."""
    lines = [f"{key}: {was or '-'} -> {now or '-'}" for key, (was, now) in found.card.items()]
    if found.signature is not None:
        lines.append(f"signature: {found.signature[0]} -> {found.signature[1]}")
    lines.append(f"answers to {found.rows} rows:")
    lines += [f"  {one.output}: {one.equal:.1%} equal, apart by {one.worst:.3g}" for one in found.outputs]
    for version, (one, full) in zip((before, after), found.seconds, strict=True):
        lines.append(f"version {version}: {one * 1e6:,.0f} us a row, {full * 1e6:,.0f} us a full batch")
    return lines
