from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import LoadError, NotFound
from tests.backends.conftest import Loader
from tests.backends.models import DIGITS, adder, echo, put

SAMPLE = {"inputs": {"left": [[1, 2]], "right": [[3, 4]]}, "outputs": {"sum": [[4, 6]]}}


async def test_newest_version_answers_unless_a_version_or_label_is_named(load: Loader) -> None:
    catalogue = load(DIGITS)
    assert catalogue.find("digits").version == "2"
    assert catalogue.find("digits", "1").version == "1"
    assert catalogue.find("digits", label="stable").version == "1"
    assert catalogue.find("digits", label="canary").version == "2"
    assert [one.version for one in catalogue.versions("digits")] == ["1", "2"]
    assert [(one.name, one.version) for one in catalogue] == [
        ("digits", "1"),
        ("digits", "2"),
        ("digits-lite", "1"),
    ]


@pytest.mark.parametrize(
    ("name", "version", "label", "message"),
    [
        ("dogits", None, None, "no model 'dogits' here; serving: digits"),
        ("digits", "2", None, "model 'digits' has no version '2' here; serving: 1"),
        ("digits", None, "canary", "model 'digits' has no version '2' here; serving: 1"),
        ("digits", None, "gold", "model 'digits' has no label 'gold'"),
    ],
)
async def test_what_is_not_served_is_named(
    load: Loader, name: str, version: str | None, label: str | None, message: str
) -> None:
    with pytest.raises(NotFound, match=message):
        load(DIGITS, ["digits=1"]).find(name, version, label)


async def test_a_version_whose_sample_is_wrong_is_not_served_and_the_others_are(
    load: Loader, tmp_path: Path
) -> None:
    put(tmp_path, "sum", "1", adder(), {"sample": SAMPLE})
    put(tmp_path, "sum", "2", adder(), {"sample": SAMPLE | {"outputs": {"sum": [[4, 7]]}}})
    catalogue = load(tmp_path)
    assert [one.version for one in catalogue] == ["1"]
    assert "the sample's 'sum' is off by 1, allowed is 0.0001" in catalogue.failed["sum", "2"]


async def test_a_chosen_version_that_fails_is_an_error(load: Loader, tmp_path: Path) -> None:
    put(tmp_path, "sum", "1", adder(), {"sample": SAMPLE})
    put(tmp_path, "sum", "2", adder(), {"sample": SAMPLE | {"outputs": {"sum": [[4, 7]]}}})
    with pytest.raises(LoadError, match="sum version 2: the sample's"):
        load(tmp_path, ["sum"], all_or_none=True)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        pytest.param(
            {"sample": SAMPLE | {"outputs": {"sum": [4, 6]}}}, "has shape", id="shape of the answer"
        ),
        pytest.param(
            {"sample": SAMPLE | {"outputs": {"total": [1]}}}, "expects an output 'total'", id="no output"
        ),
        pytest.param(
            {"sample": {"inputs": {"left": [[1, 2]]}}}, "missing input 'right'", id="sample's inputs"
        ),
        pytest.param(
            {"inputs": {"left": "FP32 [n, 2]"}}, "input 'right' is not in the card", id="card lacks"
        ),
        pytest.param(
            {"outputs": {"sum": "FP32 [n,2]", "x": "BOOL [n]"}}, "'x' is not in the graph", id="graph lacks"
        ),
        pytest.param({"outputs": {"sum": "FP64 [n, 2]"}}, "the card says output sum FP64", id="type differs"),
        pytest.param({"outputs": {"sum": "FP32 [n, 3]"}}, "the graph says sum FP32 [n,2]", id="size differs"),
    ],
)
async def test_a_card_that_contradicts_the_model_prevents_serving(
    load: Loader, tmp_path: Path, card: dict[str, object], message: str
) -> None:
    put(tmp_path, "sum", "1", adder(), card)
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert message in str(caught.value)


async def test_a_sample_within_its_tolerance_passes(load: Loader, tmp_path: Path) -> None:
    sample = SAMPLE | {"outputs": {"sum": [[4.3, 5.8]]}, "tolerance": 0.5}
    put(tmp_path, "sum", "1", adder(), {"sample": sample})
    assert [one.version for one in load(tmp_path)] == ["1"]


async def test_a_fast_proven_model_runs_inline_and_an_unproven_one_in_a_thread(
    load: Loader, tmp_path: Path
) -> None:
    put(tmp_path, "fast", "1", adder(), {"sample": SAMPLE})
    put(tmp_path, "unproven", "1", adder())
    put(tmp_path, "told", "1", adder(), {"sample": SAMPLE, "execution": "thread"})
    where = {one.name: repr(one.batcher) for one in load(tmp_path)}
    assert where["fast"] == "<Batcher inline, 0 requests of 0 rows waiting>"
    assert where["unproven"] == where["told"] == "<Batcher 0/2 calls, 0 requests of 0 rows waiting>"


async def test_a_sample_of_text_is_compared_exactly(load: Loader, tmp_path: Path) -> None:
    sample = {"inputs": {"x": ["é", "b"]}, "outputs": {"y": ["é", "c"]}}
    put(tmp_path, "echo", "1", echo(8), {"sample": sample})
    with pytest.raises(LoadError, match=r"'y' is \['é', 'b'\], expected \['é', 'c'\]"):
        load(tmp_path)
