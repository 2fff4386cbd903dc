"""PaddlePaddle -> a version, by paddle2onnx; Paddle is needed here only, never to serve.

    from backends.export.paddle import export
    export(layer, (rows,), Path("new"), inputs=["x"], outputs=["y"])
    headgate models push net new

Paddle names a graph's tensors by itself; they are renamed to what the caller says, in order, so that a
version can follow another without its clients noticing. Dimension 0 is free.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle

from backends.export.version_folder import TOLERANCE, Card, write_version
from backends.tensors import Array

OPSET = 17


def export(
    layer: Any,
    rows: Sequence[Array],
    folder: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    tolerance: float = TOLERANCE,
    card: Card | None = None,
) -> Path:
    """Write a version of a layer; returns the folder. LoadError when the export differs.

    rows: an array for each of `inputs`. outputs: names for what the layer returns.
    """
    layer.eval()
    returned = layer(*[paddle.to_tensor(row) for row in rows])
    said = returned if isinstance(returned, tuple | list) else (returned,)
    specs = [
        paddle.static.InputSpec([None, *row.shape[1:]], str(row.dtype), name)
        for name, row in zip(inputs, rows, strict=True)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        paddle.onnx.export(layer, f"{scratch}/model", input_spec=specs, opset_version=OPSET)
        graph = onnx.load(f"{scratch}/model.onnx")
    rename(graph, inputs, outputs)
    return write_version(
        folder,
        graph.SerializeToString(),
        dict(zip(inputs, rows, strict=True)),
        {name: np.asarray(one.numpy()) for name, one in zip(outputs, said, strict=True)},
        tolerance=tolerance,
        card={"dependencies": ["paddlepaddle", "paddle2onnx"], **(card or {})},
    )


def rename(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give a graph's inputs and outputs these names, in order."""
    new = dict(zip((value.name for value in graph.graph.input), inputs, strict=True))
    new |= dict(zip((value.name for value in graph.graph.output), outputs, strict=True))
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = new[value.name]
    for node in graph.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
