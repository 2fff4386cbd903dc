from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.comparing import compare
from backends.errors import LoadError
from backends.files import LocalFiles
from backends.lifecycle import list_versions, promote, push, restore, retire
from tests.backends.models import DIGITS, adder, put

SAMPLE = {"inputs": {"left": [[1, 2]], "right": [[3, 4]]}, "outputs": {"sum": [[4, 6]]}}
TODAY = "2026-11-22"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return shutil.copytree(DIGITS, tmp_path / "repository")


@pytest.fixture
def files(repository: Path) -> LocalFiles:
    return LocalFiles(repository)


def shown(files: LocalFiles, model: str) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(one.version, one.labels, one.retired is not None) for one in list_versions(files, model)]


def test_a_pushed_version_is_the_next_number_and_keeps_the_models_card(
    files: LocalFiles, repository: Path
) -> None:
    model = repository / "digits" / "2" / "model.onnx"
    assert push(files, "digits", model) == "3"
    assert push(files, "digits", model, version="7") == "7"
    assert (repository / "digits" / "7" / "model.onnx").read_bytes() == model.read_bytes()
    assert shown(files, "digits")[2:] == [("3", (), False), ("7", (), False)]


def test_a_version_that_fails_its_sample_is_seen_by_nobody(files: LocalFiles, repository: Path) -> None:
    wrong = put(repository.parent, "x", "1", adder()) / "model.onnx"
    with pytest.raises(LoadError, match="digits version 3: input 'input' is not in the graph"):
        push(files, "digits", wrong)
    card = repository.parent / "card.yaml"
    card.write_text("sample: {inputs: {left: [[1, 2]], right: [[3, 4]]}, outputs: {sum: [[4, 7]]}}")
    with pytest.raises(LoadError, match="the sample's 'sum' is off by 1"):
        push(files, "sum", wrong, card=card)
    assert len(shown(files, "digits")) == 2
    assert not (repository / "sum").exists()


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("digits", "1", "has a version 1, and versions never change"),
        ("digits", "one", "a version is a whole number"),
        ("a/b", "", "is no name for a model"),
        (".hidden", "", "is no name for a model"),
    ],
)
def test_what_cannot_be_pushed_is_refused(
    files: LocalFiles, repository: Path, model: str, version: str, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        push(files, model, repository / "digits" / "2" / "model.onnx", version=version)


def test_commands_never_touch_a_card(files: LocalFiles, repository: Path) -> None:
    before = (repository / "digits" / "model.yaml").read_bytes()
    assert promote(files, "digits", "2") == "1"
    retire(files, "digits", "1", "2", "reads worse", TODAY)
    assert shown(files, "digits") == [("1", (), True), ("2", ("canary", "stable"), False)]
    restore(files, "digits", "1")
    assert shown(files, "digits")[0] == ("1", (), False)
    assert (repository / "digits" / "model.yaml").read_bytes() == before
    assert (repository / "digits" / "1" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("version", "successor", "message"),
    [
        ("1", "", "digits version 1 is stable; promote another one first"),
        ("3", "", "has no version '3'; known: 1, 2"),
        ("2", "9", "has no version '9'"),
        ("2", "digist", "did you mean 'digits'"),
        ("2", "2", "cannot succeed"),
    ],
)
def test_a_version_in_use_or_a_successor_that_is_not_there_is_refused(
    files: LocalFiles, repository: Path, version: str, successor: str, message: str
) -> None:
    (repository / "digits" / "state.yaml").write_text("labels: {canary: '3'}\n")
    with pytest.raises(LoadError, match=message):
        retire(files, "digits", version, successor, "", TODAY)


def test_a_retired_version_is_promoted_only_after_it_is_restored(files: LocalFiles) -> None:
    promote(files, "digits", "1", "canary")
    retire(files, "digits", "2", "digits-lite", "", TODAY)
    with pytest.raises(LoadError, match="retired; restore it first"):
        promote(files, "digits", "2")
    with pytest.raises(LoadError, match="is not retired"):
        restore(files, "digits", "1")
    restore(files, "digits", "2")
    assert promote(files, "digits", "2") == "1"


def test_two_versions_are_compared_by_what_they_say_and_what_they_answer(repository: Path) -> None:
    found = compare((repository / "digits", "1"), (repository / "digits", "2"))
    assert set(found.card) == {"summary"}
    assert (found.signature, found.rows) == (None, 2)
    by_name = {one.output: one for one in found.outputs}
    assert (by_name["label"].equal, by_name["label"].worst) == (1.0, 0.0)
    assert 0 < by_name["probabilities"].worst < 0.1
    assert all(seconds > 0 for pair in found.seconds for seconds in pair)
    rows = {"": np.zeros((5, 64), dtype=np.float64)}
    assert compare((repository / "digits", "1"), (repository / "digits", "1"), rows).outputs[0].equal == 1.0
