"""Recipes whose library is too large for every run: HEADGATE_EXPORT=torch,tensorflow,paddle runs them.

pip install torch | tensorflow-cpu tf2onnx | paddlepaddle paddle2onnx
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from backends.card import read_card
from backends.lifecycle import prove

CHOSEN = os.environ.get("HEADGATE_EXPORT", "").split(",")
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 12


def opted_in(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in CHOSEN, reason=f"asked for by HEADGATE_EXPORT={name}")


def proven(folder: Path) -> str:
    """Hold the version to its sample as a server would; returns what its card declares."""
    prove(folder.parent, folder.name)
    card = read_card(folder.parent, folder.name)
    assert card.sample is not None
    assert card.sample.outputs
    return f"{list(card.inputs)} -> {list(card.outputs)}"


@opted_in("torch")
def test_a_pytorch_module_says_the_same_as_a_version(tmp_path: Path) -> None:
    import torch

    from backends.export.pytorch import export

    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 2)
    )
    folder = export(net, (torch.from_numpy(ROWS),), tmp_path / "net" / "1", inputs=["x"], outputs=["y"])
    assert proven(folder) == "['x'] -> ['y']"


@opted_in("tensorflow")
@pytest.mark.filterwarnings("ignore")
def test_a_keras_model_and_a_saved_model_say_the_same_as_versions(tmp_path: Path) -> None:
    import tensorflow as tf

    from backends.export.tensorflow import export, export_saved_model

    tf.random.set_seed(1)
    model = tf.keras.Sequential(
        [tf.keras.Input((4,), name="x"), tf.keras.layers.Dense(8, "relu"), tf.keras.layers.Dense(2, name="y")]
    )
    folder = export(model, {"x": ROWS}, tmp_path / "keras" / "1", output="y")
    assert proven(folder) == "['x'] -> ['y']"
    model.export(str(tmp_path / "saved"), verbose=False)
    names = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    (name,) = names.structured_input_signature[1]
    folder = export_saved_model(tmp_path / "saved", {name: ROWS}, tmp_path / "saved-model" / "1")
    assert proven(folder).startswith(f"['{name}'] -> ")


@opted_in("paddle")
@pytest.mark.filterwarnings("ignore")
def test_a_paddle_layer_says_the_same_as_a_version(tmp_path: Path) -> None:
    import paddle

    from backends.export.paddle import export

    paddle.seed(1)
    net = paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.ReLU(), paddle.nn.Linear(8, 2))
    folder = export(net, (ROWS,), tmp_path / "net" / "1", inputs=["x"], outputs=["y"])
    assert proven(folder) == "['x'] -> ['y']"
