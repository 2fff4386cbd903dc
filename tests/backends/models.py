"""Small ONNX graphs with known answers, and repositories of them on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import yaml
from onnx import TensorProto, helper

DIGITS = Path(__file__).resolve().parents[2] / "backends" / "models"


def graph(nodes: Sequence[onnx.NodeProto], inputs: Sequence[object], outputs: Sequence[object]) -> bytes:
    model = helper.make_model(
        helper.make_graph(nodes, "test", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def value(name: str, dtype: int, shape: Sequence[object]) -> object:
    return helper.make_tensor_value_info(name, dtype, shape)


def adder() -> bytes:
    """sum = left + right, FP32 [n, 2]: two inputs and one output."""
    return graph(
        [helper.make_node("Add", ["left", "right"], ["sum"])],
        [value("left", TensorProto.FLOAT, ["n", 2]), value("right", TensorProto.FLOAT, ["n", 2])],
        [value("sum", TensorProto.FLOAT, ["n", 2])],
    )


def logarithm() -> bytes:
    """y = ln x, FP32 [n]: not finite for zero and below."""
    return graph(
        [helper.make_node("Log", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])],
    )


def echo(dtype: int, shape: Sequence[object] = ("n",)) -> bytes:
    """y = x of any type and shape."""
    return graph(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", dtype, shape)], [value("y", dtype, shape)]
    )


def gatherer() -> bytes:
    """y = table[x] for a table of two rows, x INT64 [n]: an index beyond it fails in the engine."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [2], [10.0, 20.0])
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["table", "x"], ["y"])],
            "test",
            [value("x", TensorProto.INT64, ["n"])],
            [value("y", TensorProto.FLOAT, ["n"])],
            [table],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return model.SerializeToString()


def put(
    repository: Path, name: str, version: str, model: bytes, card: Mapping[str, object] | None = None
) -> Path:
    """Write one version; returns its folder. card: of the version."""
    folder = repository / name / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    if card is not None:
        (folder / "model.yaml").write_text(yaml.safe_dump(dict(card)))
    return folder
