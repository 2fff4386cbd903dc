"""Every recipe: fit, export, push, serve; the server's answers are scikit-learn's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from backends.errors import LoadError
from backends.export.scikit_learn import export
from backends.export.version_folder import write_version
from backends.files import LocalFiles
from backends.lifecycle import push
from tests.backends.conftest import Loader
from tests.backends.models import adder

IMAGES, LABELS = (np.asarray(one)[:300] for one in load_digits(return_X_y=True))
IMAGES = IMAGES.astype(np.float32)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(LinearRegression(), id="linear regression"),
        pytest.param(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)), id="logistic pipeline"
        ),
        pytest.param(DecisionTreeClassifier(max_depth=6, random_state=1), id="tree"),
        pytest.param(DecisionTreeRegressor(max_depth=6, random_state=1), id="regression tree"),
        pytest.param(RandomForestClassifier(10, random_state=1), id="forest"),
        pytest.param(SVC(random_state=1), id="support vector machine"),
        pytest.param(LinearSVC(random_state=1), id="linear support vector machine"),
    ],
)
async def test_a_fitted_model_is_exported_pushed_and_says_the_same(
    load: Loader, tmp_path: Path, model: Any
) -> None:
    model.fit(IMAGES, LABELS)
    folder = export(model, IMAGES[:4], tmp_path / "new", card={"summary": "from scikit-learn"})
    (tmp_path / "repository").mkdir()
    await asyncio.to_thread(push, LocalFiles(tmp_path / "repository"), "m", folder)
    served = load(tmp_path / "repository").find("m")
    assert served.signature.batched
    assert (served.card.summary, served.card.sample is not None) == ("from scikit-learn", True)
    rows = IMAGES[100:160]
    answer = await served.batcher.submit({"input": rows}, len(rows))
    said = np.asarray(model.predict(rows))
    first = next(iter(answer.values()))
    assert np.allclose(first.reshape(said.shape), said, atol=1e-3)


def test_an_export_that_changed_its_meaning_is_refused(tmp_path: Path) -> None:
    rows = {"left": np.ones((2, 2), np.float32), "right": np.ones((2, 2), np.float32)}
    with pytest.raises(LoadError, match="off by 1"):
        write_version(tmp_path / "a", adder(), rows, {"sum": np.full((2, 2), 3, np.float32)})
    with pytest.raises(LoadError, match="no output 'total'"):
        write_version(tmp_path / "b", adder(), rows, {"total": np.full((2, 2), 2, np.float32)})
    folder = write_version(tmp_path / "c", adder(), rows, {"sum": np.full((2, 2), 2, np.float32)})
    assert "FP32 [n, 2]" in (folder / "model.yaml").read_text()
