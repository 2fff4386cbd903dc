"""Writing predictions and judging answers, in both dialects."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadtests.users.protocols import KSERVE_V2, TENSORFLOW_SERVING
from loadtests.users.signature import Signature, Spec
from loadtests.users.tensors import Batch

LABELLED = Signature(
    (Spec("x", "FP32", (-1, 2)),), (Spec("p", "FP32", (-1, 2)), Spec("label", "INT64", (-1,)))
)
SINGLE = Signature((Spec("x", "FP32", (-1, 2)),), (Spec("label", "INT64", (-1,)),))
PAIR = Signature((Spec("a", "INT64", (-1,)), Spec("b", "INT64", (-1,))), ())
FIXED = Signature((Spec("x", "FP32", (2,)),), (Spec("y", "FP32", (2,)),))
BATCH = Batch(
    {"x": np.array([[1, 2], [3, 4]], np.float32)},
    2,
    {"label": np.array([0, 1]), "p": np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)},
)
PREDICTIONS = [{"p": [0.5, 0.5], "label": 0}, {"p": [0.1, 0.90001], "label": 1}]


def outputs(**changes: object) -> list[dict[str, object]]:
    p = {"name": "p", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 0.5, 0.1, 0.90001]}
    label = {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1], **changes}
    return [p, label]


@pytest.mark.parametrize(
    ("target", "tensorflow", "kserve"),
    [
        pytest.param("", "/v1/models/m:predict", "/v2/models/m/infer", id="any version"),
        pytest.param("2", "/v1/models/m/versions/2:predict", "/v2/models/m/versions/2/infer", id="a version"),
        pytest.param(
            "canary", "/v1/models/m/labels/canary:predict", "/v2/models/m/versions/canary/infer", id="a label"
        ),
    ],
)
def test_where_predictions_go(target: str, tensorflow: str, kserve: str) -> None:
    assert TENSORFLOW_SERVING.predict_path("m", target) == tensorflow
    assert KSERVE_V2.predict_path("m", target) == kserve


@pytest.mark.parametrize(
    ("batch", "signature", "expected"),
    [
        pytest.param(BATCH, LABELLED, {"instances": [[1, 2], [3, 4]]}, id="one input"),
        pytest.param(
            Batch({"a": np.array([1, 2]), "b": np.array([3, 4])}, 2),
            PAIR,
            {"instances": [{"a": 1, "b": 3}, {"a": 2, "b": 4}]},
            id="two inputs",
        ),
        pytest.param(Batch({"x": np.array([1.0, 2.0])}, 1), FIXED, {"inputs": [1, 2]}, id="no batch"),
    ],
)
def test_tensorflow_serving_bodies(batch: Batch, signature: Signature, expected: object) -> None:
    assert json.loads(TENSORFLOW_SERVING.body(batch, signature)) == expected


def test_kserve_bodies_are_flat_with_their_shape() -> None:
    body = json.loads(KSERVE_V2.body(BATCH, LABELLED))
    assert body == {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}


def test_right_answers_are_right() -> None:
    assert TENSORFLOW_SERVING.check({"predictions": PREDICTIONS}, BATCH, LABELLED) is None
    assert KSERVE_V2.check({"outputs": outputs()}, BATCH, LABELLED) is None
    assert TENSORFLOW_SERVING.check({"predictions": [0, 1]}, BATCH, SINGLE) is None
    assert TENSORFLOW_SERVING.check({"outputs": [0.5, 1.5]}, Batch({}, 1), FIXED) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param([], "no JSON object", id="a list"),
        pytest.param({"error": "out of memory"}, "with an error: out of memory", id="an error"),
        pytest.param({}, "no list of predictions", id="nothing"),
        pytest.param({"predictions": PREDICTIONS[:1]}, "1 predictions for 2 rows", id="a row is missing"),
        pytest.param({"predictions": [{"p": [1, 0]}] * 2}, "declared are", id="an output is missing"),
        pytest.param(
            {"predictions": [{"p": [0.5], "label": 0}, {"p": [0.1], "label": 1}]}, "shape", id="a wrong shape"
        ),
        pytest.param(
            {"predictions": [PREDICTIONS[0], {**PREDICTIONS[1], "label": 7}]}, "is [0, 7]", id="a wrong label"
        ),
        pytest.param(
            {"predictions": [PREDICTIONS[0], {"p": [0.2, 0.8], "label": 1}]},
            "output 'p' is",
            id="wrong numbers",
        ),
    ],
)
def test_wrong_answers_of_tensorflow_serving(answer: object, reason: str) -> None:
    said = TENSORFLOW_SERVING.check(answer, BATCH, LABELLED)
    assert said is not None
    assert reason in said


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param({}, "no outputs", id="nothing"),
        pytest.param({"outputs": [{"name": "p"}]}, "lacks its name, datatype or shape", id="half an output"),
        pytest.param({"outputs": outputs()[:1]}, "declared are", id="an output is missing"),
        pytest.param(
            {"outputs": outputs(datatype="INT32")}, "is INT32, declared is INT64", id="a wrong type"
        ),
        pytest.param({"outputs": outputs(data=[0])}, "says shape", id="too little data"),
        pytest.param({"outputs": outputs(shape=[1, 2])}, "has shape", id="a wrong shape"),
        pytest.param({"outputs": outputs(data=[1, 1])}, "output 'label' is", id="a wrong label"),
    ],
)
def test_wrong_answers_of_kserve(answer: object, reason: str) -> None:
    said = KSERVE_V2.check(answer, BATCH, LABELLED)
    assert said is not None
    assert reason in said
