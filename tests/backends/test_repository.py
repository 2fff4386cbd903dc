from __future__ import annotations

from pathlib import Path

import pytest

from backends.card import Batching, Declared, read_card
from backends.errors import LoadError
from backends.repository import Choice, find_models
from backends.strict_yaml import ConfigError
from backends.tensors import ANY, BY_NAME
from tests.backends.models import DIGITS, adder, put


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in ("1", "2", "10"):
        put(tmp_path, "sum", version, adder())
    put(tmp_path, "other", "1", adder())
    (tmp_path / "samples.json").write_text("[]")
    (tmp_path / "sum" / "notes").mkdir()
    return tmp_path


def found(repository: Path, *choices: str) -> list[tuple[str, str]]:
    versions = find_models(repository, [Choice.parse(choice) for choice in choices])
    return [(one.card.name, one.card.version) for one in versions]


def test_versions_are_folders_with_a_whole_number_in_numeric_order(repository: Path) -> None:
    assert found(repository) == [("other", "1"), ("sum", "1"), ("sum", "2"), ("sum", "10")]


def test_a_choice_names_a_model_or_one_version_of_it(repository: Path) -> None:
    assert found(repository, "sum=10", "other", "sum=1", "sum=1") == [
        ("other", "1"),
        ("sum", "1"),
        ("sum", "10"),
    ]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("smu", "no model 'smu'; did you mean 'sum'"),
        ("sum=3", "model 'sum' has no version '3'; known: 1, 2, 10"),
    ],
)
def test_a_choice_that_is_not_there_is_an_error_that_says_what_is(
    repository: Path, choice: str, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        found(repository, choice)


def test_a_missing_or_empty_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no such folder"):
        find_models(tmp_path / "nowhere")
    with pytest.raises(LoadError, match="no <model>/<version>/"):
        find_models(tmp_path)


def test_a_version_without_its_file_is_an_error(repository: Path) -> None:
    (repository / "sum" / "2" / "model.onnx").unlink()
    with pytest.raises(LoadError, match=r"sum/2: no model\.onnx"):
        find_models(repository)


# Cards


def test_the_committed_cards_say_all_that_a_card_can_say() -> None:
    card = read_card(DIGITS / "digits", "2")
    assert (card.name, card.date, card.labels) == ("digits", "2026-11-22", {"stable": "1", "canary": "2"})
    assert card.summary
    assert card.author
    assert card.dependencies
    assert card.inputs == {"input": Declared(BY_NAME["FP32"], (ANY, 64))}
    assert card.batching == Batching(max_batch=32, max_queue=1024)
    assert card.sample is not None


def test_a_version_card_replaces_single_keys_of_the_model_card(tmp_path: Path) -> None:
    put(tmp_path, "sum", "1", adder(), {"summary": "of one", "execution": "thread"})
    (tmp_path / "sum" / "model.yaml").write_text("summary: of all\nauthor: me\n")
    card = read_card(tmp_path / "sum", "1")
    assert (card.summary, card.author, card.execution) == ("of one", "me", "thread")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: product\n", "name is 'product', but the folder is 'sum'"),
        ("version: 2\n", "version is '2', but the folder is '1'"),
        ("inputs: {left: 'FP33 [n]'}\n", "expected a type and a shape"),
        ("batching: {max_batch: 0}\n", "max_batch and max_queue are at least 1"),
        ("exceution: thread\n", "did you mean 'execution'"),
        ("execution: treads\n", "did you mean 'thread'"),
        ("sample: {outputs: {}}\n", "missing key 'inputs'"),
    ],
)
def test_a_bad_card_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "sum", "1", adder())
    (tmp_path / "sum" / "model.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_card(tmp_path / "sum", "1")
    assert f"{tmp_path}/sum/model.yaml:1: " in str(caught.value)
    assert message in str(caught.value)


def test_a_model_without_a_card_is_named_by_its_folders(tmp_path: Path) -> None:
    put(tmp_path, "sum", "1", adder())
    assert found(tmp_path) == [("sum", "1")]
