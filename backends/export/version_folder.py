"""From a graph and a few rows to a version that can be pushed: the file, and a card whose sample proves it.

    FOLDER/model.onnx
    FOLDER/model.yaml     inputs, outputs and a sample: the rows, and what the *original* model says to them

The expected answers are the original library's, not ONNX Runtime's: a server that loads the version repeats
the proof that the export kept its meaning. Every recipe of this package ends here:

    headgate models push MODEL FOLDER
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from backends.card import CARD
from backends.engine import Engine
from backends.errors import LoadError
from backends.providers import EngineSettings
from backends.tensors import Array, TensorSpec

TOLERANCE = 1e-4
Card = Mapping[str, object]  # keys of model.yaml that a recipe or its caller adds: summary, author, lineage …


def write_version(
    folder: Path,
    model: bytes,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    tolerance: float = TOLERANCE,
    card: Card | None = None,
) -> Path:
    """Write a version and hold it to its sample; returns the folder. LoadError when the export differs.

    model: ONNX. inputs: a few rows by input name. outputs: what the original says to them, by output name; an
    output that stands for none is not looked at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    engine = Engine.open(folder / "model.onnx", EngineSettings("cpu"))
    written = {
        "inputs": {spec.name: _declare(spec) for spec in engine.signature.inputs},
        "outputs": {spec.name: _declare(spec) for spec in engine.signature.outputs},
        "sample": {
            "inputs": {name: tensor.tolist() for name, tensor in inputs.items()},
            "outputs": {name: tensor.tolist() for name, tensor in outputs.items()},
            "tolerance": tolerance,
        },
        **(card or {}),
    }
    (folder / CARD).write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    _hold(folder, engine, inputs, outputs, tolerance)
    return folder


def _hold(
    folder: Path,
    engine: Engine,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    tolerance: float,
) -> None:
    answered = engine.run(inputs)
    for name, expected in outputs.items():
        actual = answered.get(name)
        if actual is None or actual.shape != expected.shape:
            raise LoadError(f"{folder}: the export has no output {name!r} of shape {list(expected.shape)}")
        if actual.dtype.kind == "f":
            worst = float(np.max(np.abs(actual - expected), initial=0.0))
            if not worst <= tolerance:
                raise LoadError(
                    f"{folder}: the export's {name!r} is off by {worst:.3g}, allowed is {tolerance:g}"
                )
        elif not np.array_equal(actual, expected):
            raise LoadError(f"{folder}: the export's {name!r} differs from the original's")


def _declare(spec: TensorSpec) -> str:
    return f"{spec.dtype.name} [{', '.join('n' if size < 0 else str(size) for size in spec.shape)}]"
