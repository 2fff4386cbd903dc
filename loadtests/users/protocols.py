"""Two dialects as a load test needs them: the URLs, the body of a prediction, and what a right answer is.
No I/O.

`check` returns None for a right answer, else what is wrong with it: names, row counts, shapes, datatypes, and
the values of the outputs that are known. Numbers in JSON have passed through decimal text and perhaps another
version of the model, so floats are compared with a tolerance.

Source: TensorFlow Serving "RESTful API" (row form `instances`, column form `inputs`); KServe V2 "Inference".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from loadtests.users.signature import Signature, from_kserve, from_tensorflow
from loadtests.users.tensors import Batch

RELATIVE, ABSOLUTE = 1e-3, 1e-4  # tolerance of floats


class Dialect(Protocol):
    """What a user must know to speak to a model server. target: "", a version or a label."""

    name: str

    def metadata_path(self, model: str, target: str) -> str:
        """Where the model says what it takes."""
        ...

    def read_metadata(self, document: object) -> Signature:
        """Read that. Raises Unreadable."""
        ...

    def predict_path(self, model: str, target: str) -> str:
        """Where predictions are posted."""
        ...

    def body(self, batch: Batch, signature: Signature) -> bytes:
        """Write a prediction's request."""
        ...

    def check(self, document: object, batch: Batch, signature: Signature) -> str | None:
        """Tell what is wrong with the answer."""
        ...


class TensorFlowServing:
    """`POST /v1/models/NAME:predict`, row form for batched models, column form for others."""

    name = "tensorflow-serving"

    def metadata_path(self, model: str, target: str) -> str:
        return f"{self._model(model, target)}/metadata"

    def predict_path(self, model: str, target: str) -> str:
        return f"{self._model(model, target)}:predict"

    def _model(self, model: str, target: str) -> str:
        if not target:
            return f"/v1/models/{model}"
        return f"/v1/models/{model}/{'versions' if target.isdigit() else 'labels'}/{target}"

    def read_metadata(self, document: object) -> Signature:
        return from_tensorflow(document)

    def body(self, batch: Batch, signature: Signature) -> bytes:
        columns = {name: array.tolist() for name, array in batch.inputs.items()}
        if not signature.batched:
            return json.dumps({"inputs": _alone(columns)}).encode()
        if len(columns) == 1:
            return json.dumps({"instances": next(iter(columns.values()))}).encode()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return json.dumps({"instances": rows}).encode()

    def check(self, document: object, batch: Batch, signature: Signature) -> str | None:
        if not isinstance(document, dict):
            return "the answer is no JSON object"
        if "error" in document:
            return f"an answer of 200 with an error: {document['error']}"
        names = [spec.name for spec in signature.outputs]
        if signature.batched:
            rows = document.get("predictions")
            if not isinstance(rows, list):
                return "the answer has no list of predictions"
            if len(rows) != batch.rows:
                return f"{len(rows)} predictions for {batch.rows} rows"
            named = bool(rows) and isinstance(rows[0], dict)
            found = {name: [row.get(name) for row in rows] for name in rows[0]} if named else {"": rows}
        else:
            outputs = document.get("outputs")
            if outputs is None:
                return "the answer has no outputs"
            found = outputs if isinstance(outputs, dict) else {"": outputs}
        if set(found) == {""} and len(names) == 1:  # an only output goes without its name
            found = {names[0]: found[""]}
        return _compare({name: (None, None, value) for name, value in found.items()}, batch, signature)


class KServeV2:
    """`POST /v2/models/NAME/infer`, JSON tensors."""

    name = "kserve-v2"

    def metadata_path(self, model: str, target: str) -> str:
        return f"/v2/models/{model}{f'/versions/{target}' if target else ''}"

    def predict_path(self, model: str, target: str) -> str:
        return f"{self.metadata_path(model, target)}/infer"

    def read_metadata(self, document: object) -> Signature:
        return from_kserve(document)

    def body(self, batch: Batch, signature: Signature) -> bytes:
        inputs = [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": list(batch.inputs[spec.name].shape),
                "data": batch.inputs[spec.name].ravel().tolist(),
            }
            for spec in signature.inputs
        ]
        return json.dumps({"inputs": inputs}).encode()

    def check(self, document: object, batch: Batch, signature: Signature) -> str | None:
        outputs = document.get("outputs") if isinstance(document, dict) else None
        if not isinstance(outputs, list):
            return "the answer has no outputs"
        try:
            found = {
                one["name"]: (one["datatype"], tuple(one["shape"]), one.get("data", [])) for one in outputs
            }
        except (KeyError, TypeError):
            return "an output lacks its name, datatype or shape"
        return _compare(found, batch, signature)


TENSORFLOW_SERVING = TensorFlowServing()
KSERVE_V2 = KServeV2()


def _alone(columns: Mapping[str, object]) -> object:
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _compare(
    found: Mapping[str, tuple[str | None, tuple[int, ...] | None, object]],
    batch: Batch,
    signature: Signature,
) -> str | None:
    """Hold every output against its declaration and, where it is known, its value."""
    declared = {spec.name for spec in signature.outputs}
    if declared and set(found) != declared:
        return f"outputs {sorted(found)}, declared are {sorted(declared)}"
    for name, (datatype, shape, value) in found.items():
        spec = signature.output(name)
        array = np.asarray(value)
        if shape is not None:
            if array.size != int(np.prod(shape)):
                return f"output '{name}' says shape {list(shape)} and has {array.size} elements"
            array = array.reshape(shape)
        if spec is None:
            continue
        if datatype is not None and datatype != spec.datatype:
            return f"output '{name}' is {datatype}, declared is {spec.datatype}"
        if spec.shape is not None:
            want = (batch.rows, *spec.shape[1:]) if spec.batched else spec.shape
            if array.ndim != len(want) or any(
                w not in (-1, h) for w, h in zip(want, array.shape, strict=True)
            ):
                return f"output '{name}' has shape {list(array.shape)}, expected {list(want)}"
        if name in batch.expected and not _same(array, batch.expected[name]):
            return f"output '{name}' is {array.tolist()}, expected {batch.expected[name].tolist()}"
    return None


def _same(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape:
        return False
    if np.issubdtype(expected.dtype, np.floating):
        return bool(np.allclose(found.astype(np.float64), expected, rtol=RELATIVE, atol=ABSOLUTE))
    return bool((found == expected).all())
