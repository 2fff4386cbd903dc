"""Where tensors come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.tensors import DTYPES, NUMPY
from loadtests.users.tensors import BadInput, RandomTensors, load

DIGITS = Signature((TensorSpec("input", "FP32", (-1, 64)),), (TensorSpec("label", "INT64", (-1,)),))
PAIR = Signature((TensorSpec("a", "INT64", (-1, 2)), TensorSpec("b", "BYTES", (-1,))), ())
SAMPLES = Path(__file__).parents[3] / "loadtests" / "digits.json"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("datatype", DTYPES)
def test_random_tensors_fit_the_signature(datatype: str, rng: np.random.Generator) -> None:
    signature = Signature((TensorSpec("x", datatype, (-1, 3, -1)),), ())
    batch = RandomTensors(signature, low=0, high=9, length=5).draw(4, rng)
    assert batch.rows == 4
    assert batch.inputs["x"].shape == (4, 3, 5)
    if datatype != "BYTES":
        assert batch.inputs["x"].dtype == NUMPY[datatype]


def test_a_model_without_a_batch_gets_one_row(rng: np.random.Generator) -> None:
    batch = RandomTensors(Signature((TensorSpec("x", "FP32", (2, 2)),), ())).draw(8, rng)
    assert batch.rows == 1
    assert batch.inputs["x"].shape == (2, 2)


def test_the_digits_come_with_their_labels(rng: np.random.Generator) -> None:
    records = load(SAMPLES, DIGITS)
    batch = records.draw(3, rng)
    assert batch.inputs["input"].shape == (3, 64)
    assert batch.inputs["input"].dtype == np.float32
    assert set(batch.expected["label"].tolist()) <= set(range(10))


def test_noise_makes_a_row_new_and_little_else(rng: np.random.Generator) -> None:
    records = load(SAMPLES, DIGITS)
    plain = records.draw(1, np.random.default_rng(1))
    noisy = records.draw(1, np.random.default_rng(1), noise=0.001)
    assert plain.expected["label"] == noisy.expected["label"]
    distance = np.abs(plain.inputs["input"] - noisy.inputs["input"]).max()
    assert 0 < distance <= 0.001 * 16 + 1e-5


def test_noise_leaves_integers_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"a": [1, 2], "b": "x"}]))
    batch = load(path, PAIR).draw(1, rng, noise=0.5)
    assert batch.inputs["a"].tolist() == [[1, 2]]
    assert batch.inputs["b"].tolist() == ["x"]


def test_an_npy_file_is_a_pool_of_rows(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "rows.npy", np.arange(128.0).reshape(2, 64))
    batch = load(tmp_path / "rows.npy", DIGITS).draw(5, rng)
    assert batch.inputs["input"].shape == (5, 64)
    assert not batch.expected


@pytest.mark.parametrize(
    ("content", "signature", "reason"),
    [
        pytest.param("[[1, 2", DIGITS, "neither .npy nor JSON", id="broken JSON"),
        pytest.param("[[1, 2, 3]]", DIGITS, r"shape \(3,\)", id="wrong shape"),
        pytest.param("[]", DIGITS, "no rows", id="nothing"),
        pytest.param('[["x"]]', DIGITS, "no FP32 array", id="text for numbers"),
        pytest.param("[[1, 2]]", PAIR, "several inputs", id="one array for two inputs"),
        pytest.param('[{"a": [1, 2]}]', PAIR, "lacks the input 'b'", id="a missing input"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(
    tmp_path: Path, content: str, signature: Signature, reason: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=reason):
        load(path, signature)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.json can't be read"):
        load(tmp_path / "none.json", DIGITS)
