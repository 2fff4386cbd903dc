"""Train the three digits classifiers of `backends/models/` and write them as ONNX, the same bytes every
time.

    python -m backends.train_digits [--out backends/models]

Data: scikit-learn's copy of the UCI optical digits, 1,797 images of 8 × 8 pixels with values 0..16
(Alpaydin and Kaynak, 1998). One quarter is held out and never trained on; `samples.json` is drawn from
that quarter, so what the demo and the tests show are digits that no model has seen.

    digits 1      perceptron 64-64-32-10                 the stable version
    digits 2      perceptron 64-128-64-10, which also saw every image shifted by one pixel: the candidate
    digits-lite   one linear layer 64-10                 a tenth of the arithmetic, for a degraded answer

All three share one signature, so that a gateway can swap them: input `input` FP32 [n, 64] in raw pixel
values (the division by 16 is part of the graph), outputs `probabilities` FP32 [n, 10] and `label` INT64
[n]. Training needs the `test` extra (scikit-learn, onnx); serving does not.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

PIXEL_MAX = 16.0
SIDE = 8
CLASSES = 10
SAMPLES_PER_DIGIT = 2
OPSET, IR_VERSION = 17, 8  # old enough for every ONNX Runtime that the `serve` extra allows


@dataclass(frozen=True, slots=True)
class Layers:
    """The dense layers of a classifier: weights[i] is [inputs, outputs], biases[i] is [outputs]."""

    weights: Sequence[Floats]
    biases: Sequence[Floats]


@dataclass(frozen=True, slots=True)
class Digits:
    """Images [n, 64] in raw pixel values 0..16, and their labels [n]; train and held-out."""

    train_images: Floats
    train_labels: Labels
    test_images: Floats
    test_labels: Labels


def read_digits() -> Digits:
    """Return the data set, split once and for all: one quarter held out."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        images.astype(np.float32), labels.astype(np.int64), test_size=0.25, random_state=0
    )
    return Digits(train_images=parts[0], train_labels=parts[2], test_images=parts[1], test_labels=parts[3])


# Training


def train_perceptron(images: Floats, labels: Labels, hidden: tuple[int, ...], iterations: int) -> Layers:
    """Fit a perceptron with rectified hidden layers on images scaled to 0..1."""
    model = MLPClassifier(hidden, max_iter=iterations, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is fixed
        model.fit(images / PIXEL_MAX, labels)
    return _as_layers(model.coefs_, model.intercepts_)


def train_linear(images: Floats, labels: Labels) -> Layers:
    """Fit a multinomial logistic regression: one layer, no hidden units."""
    model = LogisticRegression(C=1.0, max_iter=500).fit(images / PIXEL_MAX, labels)
    return _as_layers([model.coef_.T], [model.intercept_])


def shifted(images: Floats, labels: Labels) -> tuple[Floats, Labels]:
    """Return the images and each of them moved one pixel up, down, left and right; empty pixels move
    in."""
    squares = images.reshape(-1, SIDE, SIDE)
    padded = np.pad(squares, ((0, 0), (1, 1), (1, 1)))
    moves = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    copies = [padded[:, y : y + SIDE, x : x + SIDE].reshape(-1, SIDE * SIDE) for y, x in moves]
    return np.concatenate(copies), np.tile(labels, len(moves))


def _as_layers(weights: Sequence[Floats], biases: Sequence[Floats]) -> Layers:
    return Layers(
        weights=[np.ascontiguousarray(weight, dtype=np.float32) for weight in weights],
        biases=[np.ascontiguousarray(bias, dtype=np.float32) for bias in biases],
    )


# Writing ONNX


def build_graph(layers: Layers, name: str) -> onnx.ModelProto:
    """Return input/16 -> (Gemm -> Relu)* -> Gemm -> Softmax, ArgMax as a checked ONNX model."""
    constants = [numpy_helper.from_array(np.array(1 / PIXEL_MAX, dtype=np.float32), "scale")]
    nodes = [helper.make_node("Mul", ["input", "scale"], ["scaled"])]
    current, last = "scaled", len(layers.weights) - 1
    for index, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        constants.append(numpy_helper.from_array(weight, f"weight{index}"))
        constants.append(numpy_helper.from_array(bias, f"bias{index}"))
        linear = "logits" if index == last else f"linear{index}"
        nodes.append(helper.make_node("Gemm", [current, f"weight{index}", f"bias{index}"], [linear]))
        if index < last:
            nodes.append(helper.make_node("Relu", [linear], [f"hidden{index}"]))
            current = f"hidden{index}"
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", SIDE * SIDE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "headgate"
    onnx.checker.check_model(model, full_check=True)
    return model


def draw_samples(digits: Digits) -> list[dict[str, object]]:
    """Return held-out rows, two of each digit: `{"label": 3, "pixels": [64 integers 0..16]}`."""
    rows = [
        row
        for digit in range(CLASSES)
        for row in np.flatnonzero(digits.test_labels == digit)[:SAMPLES_PER_DIGIT]
    ]
    return [
        {"label": int(digits.test_labels[row]), "pixels": digits.test_images[row].astype(int).tolist()}
        for row in rows
    ]


def accuracy(layers: Layers, images: Floats, labels: Labels) -> float:
    """Return the share of images whose most likely class is their label, computed with NumPy alone."""
    signal = images / PIXEL_MAX
    for index, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        signal = signal @ weight + bias
        if index < len(layers.weights) - 1:
            signal = np.maximum(signal, 0)
    return float((signal.argmax(axis=1) == labels).mean())


def train_all(out: Path) -> dict[str, float]:
    """Train and write every model below `out`; returns the held-out accuracy by `name/version`."""
    digits = read_digits()
    more_images, more_labels = shifted(digits.train_images, digits.train_labels)
    trained = {
        "digits/1": train_perceptron(digits.train_images, digits.train_labels, (64, 32), iterations=120),
        "digits/2": train_perceptron(more_images, more_labels, (128, 64), iterations=60),
        "digits-lite/1": train_linear(digits.train_images, digits.train_labels),
    }
    for place, layers in trained.items():
        (out / place).mkdir(parents=True, exist_ok=True)
        graph_name = place.replace("/", "_").replace("-", "_")
        (out / place / "model.onnx").write_bytes(
            build_graph(layers, graph_name).SerializeToString(deterministic=True)
        )
    lines = ",\n ".join(json.dumps(row) for row in draw_samples(digits))
    (out / "samples.json").write_text(f"[{lines}]\n", encoding="utf-8")
    return {
        place: accuracy(layers, digits.test_images, digits.test_labels) for place, layers in trained.items()
    }


def main() -> None:
    """Train, write, and print the held-out accuracy of each model."""
    parser = argparse.ArgumentParser(
        prog="python -m backends.train_digits", description="Train the demo's models."
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "models", help="repository to write into"
    )
    for place, share in train_all(parser.parse_args().out).items():
        print(f"{place:14} {share:.1%} of the held-out digits")


if __name__ == "__main__":
    main()
