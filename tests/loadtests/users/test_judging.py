"""What counts as a right answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from gateway.client.tensors import Prediction
from gateway.dialects.metadata import Signature, parse_signature
from loadtests.users.judging import fault
from loadtests.users.tensors import Batch

LABELLED = parse_signature("x: FP32[-1,2] -> p: FP32[-1,2], label: INT64[-1], name: BYTES[-1]")
FIXED = parse_signature("x: FP32[2] -> y: FP32[2]")
SILENT = Signature(LABELLED.inputs, ())
P = np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)
NAMES = np.array([b"cat", b"dog"], np.object_)
BATCH = Batch({}, 2, {"label": np.array([0, 1]), "p": P, "name": np.array(["cat", "dog"])})


def answer(**changes: object) -> Prediction:
    outputs: Mapping[str, object] = {"p": P + 1e-5, "label": np.array([0, 1]), "name": NAMES, **changes}
    arrays = {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}
    return Prediction("m", "", {k: v.astype(np.float32) if k == "p" else v for k, v in arrays.items()})


def test_right_answers_are_right() -> None:
    assert fault(answer(), BATCH, LABELLED) is None
    assert fault(answer(), BATCH, SILENT) is None, "what is not declared is not judged"
    assert fault(Prediction("m", "", {"y": np.zeros(2, np.float32)}), Batch({}, 1), FIXED) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"label": None}, "declared are", id="an output is missing"),
        pytest.param({"more": P}, "declared are", id="one too many"),
        pytest.param({"label": np.array([0, 1], np.int32)}, "is int32, declared is INT64", id="a wrong type"),
        pytest.param({"label": np.array([0])}, "has shape [1], expected [2]", id="a row is missing"),
        pytest.param({"p": P[:, :1]}, "has shape [2, 1], expected [2, 2]", id="a wrong shape"),
        pytest.param({"label": np.array([0, 7])}, "'label' is [0, 7], expected [0, 1]", id="a wrong label"),
        pytest.param({"p": P[::-1]}, "output 'p' is", id="rows in another order"),
        pytest.param({"p": P * np.nan}, "output 'p' is", id="no numbers"),
        pytest.param({"name": NAMES[::-1]}, "output 'name' is", id="wrong texts"),
    ],
)
def test_wrong_answers_are_told(changes: dict[str, object], reason: str) -> None:
    said = fault(answer(**changes), BATCH, LABELLED)
    assert said is not None
    assert reason in said
