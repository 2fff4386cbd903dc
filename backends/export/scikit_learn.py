"""scikit-learn -> a version: linear models, trees, forests, SVMs, and pipelines of them, by skl2onnx.

Classifiers give `label` and `probabilities` (a plain tensor: the ZipMap that skl2onnx would add makes a list
of dictionaries, which no serving protocol carries); regressors give `variable`.

    from backends.export.scikit_learn import export
    export(model, rows, Path("new"))          # rows: float32 [n, features]
    headgate models push churn new

Where a model decides by a threshold (trees), rows are compared in float32 as the graph does: a value that is
not a float32 can fall on the other side of a split than in scikit-learn's float64.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.base import is_classifier

from backends.export.version_folder import TOLERANCE, Card, write_version
from backends.tensors import Array

OPSET = {"": 17, "ai.onnx.ml": 3}  # old enough for every ONNX Runtime that the `serve` extra allows
INPUT = "input"


def export(
    model: Any, rows: Array, folder: Path, *, tolerance: float = TOLERANCE, card: Card | None = None
) -> Path:
    """Write a version of a fitted estimator; returns the folder. LoadError when the export differs.

    rows: a few rows [n, features] to prove it with. card: more keys of its model.yaml.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    graph = _convert(model, rows[:1])
    graph.graph.input[0].name, old = INPUT, graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = [INPUT if name == old else name for name in node.input]
    for output in graph.graph.output:  # rows are free in every output: batches may be joined
        dims = output.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "n"
    names = [output.name for output in graph.graph.output]
    said = _said(model, rows)
    return write_version(
        folder,
        graph.SerializeToString(),
        {INPUT: rows},
        dict(zip(names, said, strict=False)),
        tolerance=tolerance,
        card={"dependencies": ["scikit-learn", "skl2onnx"], **(card or {})},
    )


def _convert(model: Any, row: Array) -> Any:
    """Return the graph, without ZipMap where the converter would add one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # skl2onnx reads what scikit-learn will drop
        if is_classifier(model):
            try:
                return to_onnx(model, row, options={id(model): {"zipmap": False}}, target_opset=OPSET)
            except NameError:  # how skl2onnx says that this converter knows no such option: it adds none
                pass
        return to_onnx(model, row, target_opset=OPSET)


def _said(model: Any, rows: Array) -> list[Array]:
    """Return what scikit-learn says, in the order of the graph's outputs."""
    if not is_classifier(model):
        return [np.asarray(model.predict(rows), dtype=np.float32).reshape(len(rows), -1)]
    labels = np.asarray(model.predict(rows))
    if not hasattr(model, "predict_proba"):
        return [labels]
    return [labels, np.asarray(model.predict_proba(rows), dtype=np.float32)]
