"""The library on real folders and real engines; `sync` stands for one turn of the poll."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from backends.card import VersionPolicy
from backends.catalogue import Catalogue
from backends.errors import Gone, Invalid, NotFound, Unavailable
from backends.library import Library
from backends.providers import EngineSettings
from backends.repository import Survey, survey
from backends.state import Retired, State, write_state
from tests.backends.models import adder, echo, put

SAMPLE = {"inputs": {"left": [[1, 2]], "right": [[3, 4]]}, "outputs": {"sum": [[4, 6]]}}
WRONG = SAMPLE | {"outputs": {"sum": [[4, 7]]}}


def look(repository: Path, overrides: Mapping[str, str]) -> Survey:
    return survey(repository, overrides=overrides)


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    put(tmp_path, "sum", "1", adder(), {"sample": SAMPLE})
    library = Library(partial(look, tmp_path), EngineSettings("cpu"), 2, Catalogue())
    await library.sync()
    yield library
    await library.close()


def serving(library: Library) -> list[str]:
    return [f"{one.name}:{one.version}" for one in library.catalogue]


def decide(repository: Path, model: str, state: State) -> None:
    (repository / model / "state.yaml").write_bytes(write_state(state))


async def ask(library: Library) -> list[float]:
    served = library.catalogue.find("sum")
    rows = np.ones((1, 2), dtype=np.float32)
    answer = await served.batcher.submit({"left": rows, "right": rows}, 1)
    return [float(value) for value in answer["sum"][0]]


async def test_a_new_version_is_served_and_a_removed_one_no_more(library: Library, tmp_path: Path) -> None:
    put(tmp_path, "sum", "2", adder(), {"sample": SAMPLE})
    put(tmp_path, "other", "1", adder())
    await library.sync()
    assert serving(library) == ["other:1", "sum:1", "sum:2"]
    shutil.rmtree(tmp_path / "sum" / "1")
    shutil.rmtree(tmp_path / "other")
    await library.sync()
    assert serving(library) == ["sum:2"]
    with pytest.raises(NotFound):
        library.catalogue.find("other")


async def test_what_did_not_change_is_not_loaded_again(library: Library, tmp_path: Path) -> None:
    before = library.catalogue.find("sum")
    await library.sync()
    assert library.catalogue.find("sum") is before


async def test_words_of_a_card_are_exchanged_without_loading(library: Library, tmp_path: Path) -> None:
    before = library.catalogue.find("sum")
    (tmp_path / "sum" / "model.yaml").write_text("summary: adds\nlabels: {stable: 1}\n")
    await library.sync()
    after = library.catalogue.find("sum", label="stable")
    assert after.card.summary == "adds"
    assert after.batcher is before.batcher


async def test_a_changed_file_is_loaded_and_what_was_in_flight_is_finished_by_the_old(
    library: Library, tmp_path: Path
) -> None:
    before = library.catalogue.find("sum")
    rows = np.ones((1, 2), dtype=np.float32)
    under_way = before.batcher.submit({"left": rows, "right": rows}, 1)
    put(tmp_path / "new", "sum", "1", adder() + b"")
    (tmp_path / "new" / "sum" / "1" / "model.onnx").replace(tmp_path / "sum" / "1" / "model.onnx")
    shutil.rmtree(tmp_path / "new")
    await library.sync()
    after = library.catalogue.find("sum")
    assert after.batcher is not before.batcher
    assert before.batcher.closed
    assert (await under_way)["sum"].tolist() == [[2.0, 2.0]]
    assert after.metrics is before.metrics  # counters go on


async def test_a_broken_version_takes_nobody_down_and_is_tried_again_when_it_changes(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(tmp_path, "sum", "2", adder(), {"sample": WRONG})
    await library.sync()
    assert serving(library) == ["sum:1"]
    assert "off by 1" in library.catalogue.failed["sum", "2"]
    caplog.clear()
    await library.sync()
    assert "model_refused" not in caplog.text  # nothing changed: not tried again
    (folder / "model.yaml").write_text(yaml.safe_dump({"sample": SAMPLE}))
    await library.sync()
    assert serving(library) == ["sum:1", "sum:2"]
    assert library.catalogue.failed == {}


async def test_the_old_version_stays_while_the_new_ones_of_a_policy_fail(tmp_path: Path) -> None:
    put(tmp_path, "sum", "1", adder(), {"sample": SAMPLE})
    library = Library(
        lambda over: survey(tmp_path, policy=VersionPolicy.parse("latest"), overrides=over),
        EngineSettings("cpu"),
        2,
        Catalogue(),
    )
    await library.sync()
    folder = put(tmp_path, "sum", "2", adder(), {"sample": WRONG})
    await library.sync()
    assert serving(library) == ["sum:1"]
    (folder / "model.yaml").write_text(yaml.safe_dump({"sample": SAMPLE}))
    await library.sync()
    assert serving(library) == ["sum:2"]
    await library.close()


async def test_a_version_that_is_being_copied_is_waited_for(library: Library, tmp_path: Path) -> None:
    (tmp_path / "sum" / "2").mkdir()
    await library.sync()
    assert serving(library) == ["sum:1"]
    assert library.catalogue.failed == {}
    (tmp_path / "sum" / "2" / "model.onnx").write_bytes(adder())
    await library.sync()
    assert serving(library) == ["sum:1", "sum:2"]


async def test_a_retired_version_is_gone_with_its_successor_until_it_is_restored(
    library: Library, tmp_path: Path
) -> None:
    put(tmp_path, "sum", "2", adder(), {"sample": SAMPLE})
    decide(tmp_path, "sum", State(retired={"1": Retired("2", "2026-11-22", "slow")}))
    await library.sync()
    assert serving(library) == ["sum:2"]
    with pytest.raises(
        Gone, match=r"version 1 is retired \(slow\); its successor is sum version 2"
    ) as caught:
        library.catalogue.find("sum", "1")
    assert caught.value.successor == ("sum", "2")
    decide(tmp_path, "sum", State())
    await library.sync()
    assert serving(library) == ["sum:1", "sum:2"]


async def test_a_model_all_of_whose_versions_retired_names_the_model_that_follows(
    library: Library, tmp_path: Path
) -> None:
    put(tmp_path, "total", "1", adder())
    decide(tmp_path, "sum", State(retired={"1": Retired("total")}))
    await library.sync()
    with pytest.raises(Gone) as caught:
        library.catalogue.find("sum")
    assert caught.value.successor == ("total", "")


async def test_labels_of_commands_come_before_those_of_cards(library: Library, tmp_path: Path) -> None:
    put(tmp_path, "sum", "2", adder())
    (tmp_path / "sum" / "model.yaml").write_text("labels: {stable: 1, canary: 2}\n")
    decide(tmp_path, "sum", State(labels={"stable": "2"}))
    await library.sync()
    assert library.catalogue.find("sum", label="stable").version == "2"
    assert library.catalogue.find("sum", label="canary").version == "2"


# What clients ask for


async def test_a_load_may_replace_keys_of_the_card_while_requests_go_on(library: Library) -> None:
    assert repr(library.catalogue.find("sum").batcher).startswith("<Batcher inline")
    under_way = asyncio.gather(*(ask(library) for _ in range(20)))
    await library.load("sum", '{"execution": "thread", "instances": 2}')
    assert repr(library.catalogue.find("sum").batcher).startswith("<Batcher 0/2 calls")
    assert await under_way == [[2.0, 2.0]] * 20
    await library.load("sum", '{"execution": "async"}')
    assert await asyncio.gather(*(ask(library) for _ in range(5))) == [[2.0, 2.0]] * 5
    await library.sync()  # a poll does not undo it
    assert library.catalogue.find("sum").card.execution == "async"
    await library.load("sum")
    assert library.catalogue.find("sum").card.execution == "auto"


async def test_a_load_with_a_bad_card_changes_nothing(library: Library) -> None:
    before = library.catalogue.find("sum")
    with pytest.raises(Invalid, match="did you mean 'execution'"):
        await library.load("sum", '{"exceution": "thread"}')
    with pytest.raises(Unavailable, match="not in the graph"):
        await library.load(
            "sum", '{"inputs": {"left": "FP32 [n, 2]", "right": "FP32 [n, 2]", "x": "BOOL []"}}'
        )
    with pytest.raises(NotFound):
        await library.load("nope")
    await library.sync()
    assert library.catalogue.find("sum") is before


async def test_an_unloaded_model_stays_away_until_it_is_loaded(library: Library) -> None:
    await library.unload("sum")
    await library.sync()
    assert serving(library) == []
    assert [(one.name, one.state, one.reason) for one in await library.index()] == [
        ("sum", "UNAVAILABLE", "unloaded")
    ]
    await library.load("sum")
    assert serving(library) == ["sum:1"]
    with pytest.raises(NotFound):
        await library.unload("nope")


async def test_the_index_tells_what_is_ready_refused_and_retired(library: Library, tmp_path: Path) -> None:
    put(tmp_path, "sum", "2", adder(), {"sample": WRONG})
    put(tmp_path, "sum", "3", adder())
    put(tmp_path, "bad", "1", echo(1), {"execution": "never"})
    decide(tmp_path, "sum", State(retired={"3": Retired()}))
    await library.sync()
    lines = [(one.name, one.version, one.state) for one in await library.index()]
    assert lines == [
        ("bad", "1", "UNAVAILABLE"),
        ("sum", "1", "READY"),
        ("sum", "2", "UNAVAILABLE"),
        ("sum", "3", "UNAVAILABLE"),
    ]
    assert next(one.reason for one in await library.index() if one.version == "3") == "retired"


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("all", ["1", "2", "10"]),
        ("latest", ["10"]),
        ("latest 2", ["2", "10"]),
        ("latest 9", ["1", "2", "10"]),
        ("specific 1 10", ["1", "10"]),
        ("specific 2, 7", ["2"]),
    ],
)
def test_version_policies_choose(text: str, versions: list[str]) -> None:
    assert VersionPolicy.parse(text).choose(["1", "2", "10"]) == versions


@pytest.mark.parametrize("text", ["", "latest 0", "newest", "specific", "specific x", "latest 1 2"])
def test_what_is_no_version_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected all, latest N or specific N"):
        VersionPolicy.parse(text)


def test_a_cards_policy_comes_before_the_servers_and_retired_versions_do_not_count(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        put(tmp_path, "sum", version, adder())
        put(tmp_path, "other", version, adder())
    (tmp_path / "sum" / "model.yaml").write_text("versions: latest 2\n")
    decide(tmp_path, "sum", State(retired={"3": Retired()}))
    seen = survey(tmp_path, policy=VersionPolicy.parse("latest"))
    assert sorted(seen.wanted) == [("other", "3"), ("sum", "1"), ("sum", "2")]
