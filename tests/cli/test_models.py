from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.cli.main import main

MODELS = Path(__file__).resolve().parents[2] / "backends" / "models"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return shutil.copytree(MODELS, tmp_path / "models")


def typed(repository: Path, *words: str) -> int:
    return main(["models", *words, "--repository", str(repository)])


def test_a_version_lives_from_push_to_restore(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(repository / "digits" / "2" / "model.onnx")
    assert typed(repository, "push", "digits", model) == 0
    assert typed(repository, "promote", "digits", "3") == 0
    assert typed(repository, "retire", "digits", "1", "--successor", "3", "--reason", "worse") == 0
    assert typed(repository, "list", "digits") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "digits stable is version 3 now; it was version 1"
    assert [line.split()[1:3] for line in out[4:]] == [
        ["1", "retired"],
        ["2", "available"],
        ["3", "available"],
    ]
    assert typed(repository, "restore", "digits", "1") == 0
    assert "served again" in capsys.readouterr().out


def test_two_versions_side_by_side(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(repository, "compare", "digits", "1", "2") == 0
    out = capsys.readouterr().out
    assert "  label: 100.0% equal, apart by 0" in out
    assert "us a full batch" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("promote", "digits", "9"), "headgate: model 'digits' has no version '9'; known: 1, 2"),
        (("list", "dogits"), "headgate: no model 'dogits'; did you mean 'digits'?"),
        (("push", "digits", "/nowhere.onnx"), "headgate: /nowhere.onnx: no such file or folder"),
        (("retire", "digits", "1"), "headgate: digits version 1 is stable; promote another one first"),
    ],
)
def test_what_cannot_be_done_is_said(
    repository: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert typed(repository, *words) == 1
    assert capsys.readouterr().err.splitlines() == [message]
