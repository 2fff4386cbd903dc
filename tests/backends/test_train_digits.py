from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from backends.engine import Engine, EngineSettings
from backends.train_digits import (
    Layers,
    accuracy,
    build_graph,
    draw_samples,
    read_digits,
    shifted,
    train_linear,
)
from tests.backends.models import DIGITS


@pytest.mark.parametrize(
    ("model", "at_least"), [("digits/1", 0.97), ("digits/2", 0.98), ("digits-lite/1", 0.95)]
)
def test_the_committed_models_read_the_held_out_digits(model: str, at_least: float) -> None:
    digits = read_digits()
    engine = Engine.open(DIGITS / model / "model.onnx", EngineSettings(device="cpu"))
    assert str(engine.signature) == "(input FP32 [n,64]) -> (probabilities FP32 [n,10], label INT64 [n])"
    labels = engine.run({"input": digits.test_images})["label"]
    assert (labels == digits.test_labels).mean() >= at_least


def test_the_committed_samples_are_the_scripts_and_cover_every_digit() -> None:
    samples = json.loads((DIGITS / "samples.json").read_text())
    assert samples == draw_samples(read_digits())
    assert sorted({sample["label"] for sample in samples}) == list(range(10))
    assert all(len(sample["pixels"]) == 64 for sample in samples)


def test_lite_is_much_smaller() -> None:
    lite, full = (DIGITS / place / "model.onnx" for place in ("digits-lite/1", "digits/1"))
    assert lite.stat().st_size * 5 < full.stat().st_size


def test_the_graph_computes_what_training_measured() -> None:
    digits = read_digits()
    layers = train_linear(digits.train_images, digits.train_labels)
    model = build_graph(layers, "linear")
    assert build_graph(layers, "linear").SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    committed = onnx.load(str(DIGITS / "digits-lite" / "1" / "model.onnx"))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in committed.graph.initializer}
    again = Layers([weights["weight0"]], [weights["bias0"]])
    assert np.allclose(weights["weight0"], layers.weights[0], atol=1e-2)
    assert (
        abs(
            accuracy(layers, digits.test_images, digits.test_labels)
            - accuracy(again, digits.test_images, digits.test_labels)
        )
        < 0.01
    )


def test_shifting_moves_pixels_by_one_and_keeps_labels() -> None:
    image = np.zeros((1, 64), dtype=np.float32)
    image[0, 9] = 5  # row 1, column 1
    images, labels = shifted(image, np.array([7]))
    assert labels.tolist() == [7] * 5
    assert sorted(int(one.argmax()) for one in images) == [1, 8, 9, 10, 17]
