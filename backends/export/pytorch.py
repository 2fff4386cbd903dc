"""PyTorch -> a version, by torch.onnx's exporter; torch is needed here only, never to serve.

    from backends.export.pytorch import export
    export(module, (rows,), Path("new"), inputs=["x"], outputs=["y"])
    headgate models push net new

Dimension 0 of every input and output is free, so that batches may be joined. The module is exported as it is
in evaluation mode: dropout and batch statistics are those of inference.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.export.version_folder import TOLERANCE, Card, write_version

OPSET = 18


def export(
    module: Any,
    rows: Sequence[Any],
    folder: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    tolerance: float = TOLERANCE,
    card: Card | None = None,
) -> Path:
    """Write a version of a module; returns the folder. LoadError when the export differs.

    rows: a tensor for each of `inputs`, a few rows each. outputs: names for what the module returns.
    """
    module.eval()
    with torch.no_grad():
        returned = module(*rows)
    said = returned if isinstance(returned, tuple | list) else (returned,)
    names = [*inputs, *outputs]
    file = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(rows),
        file,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={name: {0: "n"} for name in names},
        opset_version=OPSET,
        dynamo=False,
    )
    return write_version(
        folder,
        file.getvalue(),
        {name: row.numpy() for name, row in zip(inputs, rows, strict=True)},
        {name: np.asarray(one.numpy()) for name, one in zip(outputs, said, strict=True)},
        tolerance=tolerance,
        card={"dependencies": ["torch"], **(card or {})},
    )
