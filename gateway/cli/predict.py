"""`headgate predict`: ask a model for a prediction and print it."""

from __future__ import annotations

import argparse
import difflib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.common import NobodyThere, add_admin, ask, fail

if TYPE_CHECKING:
    from gateway.client.errors import Refused
    from gateway.client.tensors import Inputs, Prediction


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("predict", help="ask a model for a prediction")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npy, or JSON: nested lists for the only input, or an object of inputs by name",
    )
    port = os.environ.get("HEADGATE_HTTP_PORT", "8080")
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}", help="default: %(default)s")
    parser.add_argument("--key", default="", help="an API key (default: HEADGATE_KEY)")
    parser.add_argument("--dialect", default="kserve-v2", help="any of docs/client.md; default: %(default)s")
    parser.add_argument("--signature", default="", help="the model's, for servers that tell none")
    parser.add_argument("--ca", default="", metavar="FILE", help="PEM of authorities to trust (https)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", default="")
    which.add_argument("--label", default="", help="tensorflow-serving only: V2's URLs have no labels")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object of outputs by name")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the outputs: .npy (one), .npz or JSON"
    )
    add_admin(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: predicted; 1: refused; 2: an input or output file that can't be used; 3: nobody there."""
    from gateway.client.errors import Expired, Refused, Unreachable, Unreadable
    from gateway.client.sync import Client

    if args.label and args.dialect != "tensorflow-serving":
        return fail(
            "labels have a place in tensorflow-serving's URLs only: add --dialect tensorflow-serving", 2
        )
    try:
        inputs = _read(args.input)
        key = args.key or os.environ.get("HEADGATE_KEY", "")
        client = Client(
            args.url,
            dialect=args.dialect,
            key=key,
            timeout=args.timeout,
            signature=args.signature,
            ca=args.ca,
        )
    except OSError as error:
        return fail(f"{args.input}: {error.strerror}", 2)
    except (ValueError, ImportError) as error:
        return fail(str(error), 2)
    try:
        with client:
            prediction = client.predict(args.model, inputs, target=args.version or args.label)
    except Refused as refusal:
        return fail(f"{refusal}{_nearest(refusal, args)}", 1)
    except Unreadable as error:
        return fail(str(error), 2)
    except (Unreachable, Expired) as error:
        return fail(f"{args.url}: {error}", 3)
    if args.output is not None:
        try:
            _write(args.output, prediction)
        except (OSError, ValueError) as error:
            return fail(f"{args.output}: {error}", 2)
    print(_as_json(prediction) if args.json else render(prediction))
    return 0


def _read(path: Path) -> Inputs:
    """Read the user's file. Raises OSError and ValueError, which names the file."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
            return array
        content = json.loads(path.read_text())
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is neither .npy nor JSON: {error}") from error
    if not isinstance(content, list | dict):
        raise ValueError(f"{path}: a list, or an object of inputs by name, was expected")
    return content


def _write(path: Path, prediction: Prediction) -> None:
    import numpy as np

    arrays = dict(prediction.outputs)
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **arrays)
    elif path.suffix == ".npy":
        if len(arrays) != 1:
            raise ValueError(f"the model has {len(arrays)} outputs, and .npy holds one: use .npz")
        np.save(path, next(iter(arrays.values())), allow_pickle=False)
    else:
        path.write_text(_as_json(prediction) + "\n")


def _as_json(prediction: Prediction) -> str:
    outputs = {name: array.tolist() for name, array in prediction.outputs.items()}
    return json.dumps(outputs, default=lambda value: value.decode("utf-8", "replace"))


def render(prediction: Prediction) -> str:
    """Write the prediction for a person: one block per output."""
    import numpy as np

    version = f" version {prediction.version}" if prediction.version else ""
    lines = [f"{prediction.model}{version}"]
    for name, array in prediction.outputs.items():
        text = np.array2string(array, precision=6, suppress_small=True, max_line_width=100, threshold=200)
        lines.append(f"{name}  {array.dtype}{list(array.shape)}")
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)


def _nearest(refusal: Refused, args: argparse.Namespace) -> str:
    """Name the models most like the one asked for, if the admin API answers: the data plane tells nobody."""
    if refusal.code != "unknown_model":
        return ""
    try:
        endpoints = ask(args.admin, "GET", "/endpoints")
    except NobodyThere:
        return ""
    models = sorted({each["model"] for each in endpoints if each["model"]})
    near = difflib.get_close_matches(args.model, models, cutoff=0.5) or models[:5]
    return f"; there is {', '.join(near)}" if near else ""
