"""Keras or a TensorFlow SavedModel -> a version, by tf2onnx; TensorFlow is needed here only, never to serve.

    from backends.export.tensorflow import export, export_saved_model
    export(model, {"x": rows}, Path("new"))
    export_saved_model(Path("saved/1"), {"x": rows}, Path("new"))
    headgate models push net new

A SavedModel's `serving_default` signature gives the names of inputs and outputs, the same that TensorFlow
Serving shows; its answers are the oracle of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx

from backends.export.version_folder import TOLERANCE, Card, write_version
from backends.tensors import Array

OPSET = 17
SIGNATURE = "serving_default"


def export(
    model: Any,
    rows: Mapping[str, Array],
    folder: Path,
    *,
    output: str = "output",
    tolerance: float = TOLERANCE,
    card: Card | None = None,
) -> Path:
    """Write a version of a Keras model with one output; returns the folder. LoadError when it differs.

    rows: a few rows for each input, in the model's order.
    """
    signature = [_free(name, tensor) for name, tensor in rows.items()]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def call(*inputs: Any) -> dict[str, Any]:
        return {output: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)}

    return _export(call, signature, rows, folder, tolerance, card)


def export_saved_model(
    saved: Path,
    rows: Mapping[str, Array],
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    card: Card | None = None,
) -> Path:
    """Write a version of a SavedModel's serving signature; returns the folder. LoadError when it differs."""
    loaded = tf.saved_model.load(str(saved))  # who holds its variables: the signature alone doesn't
    signature = [_free(name, tensor) for name, tensor in rows.items()]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def call(*inputs: Any) -> dict[str, Any]:
        said: dict[str, Any] = loaded.signatures[SIGNATURE](**dict(zip(rows, inputs, strict=True)))
        return said

    return _export(call, signature, rows, folder, tolerance, card)


def _export(
    call: Any,
    signature: list[Any],
    rows: Mapping[str, Array],
    folder: Path,
    tolerance: float,
    card: Card | None,
) -> Path:
    said = {name: np.asarray(value) for name, value in call(*map(tf.constant, rows.values())).items()}
    graph, _ = tf2onnx.convert.from_function(call, input_signature=signature, opset=OPSET)
    return write_version(
        folder,
        graph.SerializeToString(),
        rows,
        said,
        tolerance=tolerance,
        card={"dependencies": ["tensorflow", "tf2onnx"], **(card or {})},
    )


def _free(name: str, tensor: Array) -> Any:
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=name)
