"""The locustfile against the real demo, and what it says when it can't work. locust patches the world at
import, so it runs in processes of its own.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.client.asking import BINARY
from gateway.dialects.catalogue import BY_NAME
from loadtests.scenarios.stage import ROOT, Stage
from loadtests.users.record import read

DIALECTS = (*(name for name, dialect in BY_NAME.items() if not dialect.is_grpc), BINARY)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
    with Stage(tmp_path_factory.mktemp("stage")) as running:
        running.wait()
        yield running


def locust(folder: Path, host: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--host", host),
        *("--headless", "-u", "4", "-r", "4", "-t", "3s", "--only-summary", "--csv", "stats"),
        *("--record", "answers.jsonl", *flags),
    ]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def requests(folder: Path) -> dict[str, int]:
    with (folder / "stats_stats.csv").open() as lines:
        return {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(lines)}


def test_both_dialects_get_right_answers_from_the_demo(stage: Stage, tmp_path: Path) -> None:
    run = locust(tmp_path, stage.url)
    assert run.returncode == 0, run.stderr
    answers = list(read(tmp_path / "answers.jsonl"))
    assert {one.user for one in answers} == {"tensorflow-serving", "kserve-v2"}
    assert {one.status for one in answers} == {200}
    assert not [one.problem for one in answers if one.problem]
    assert len(answers) > 30


def test_a_429_is_a_statistic_of_its_own_and_no_failure(stage: Stage, tmp_path: Path) -> None:
    run = locust(
        tmp_path, stage.url, "--dialect", "kserve-v2", "--rate", "10", HEADGATE_LOAD_API_KEY="demo-free"
    )
    assert run.returncode == 0, run.stderr
    counted = requests(tmp_path)
    assert counted["kserve-v2 throttled"] > counted["kserve-v2"] > 0
    assert not [name for name in counted if name.startswith("tensorflow-serving")]


def test_a_model_server_of_ones_own_with_rows_of_ones_own(stage: Stage, tmp_path: Path) -> None:
    port = stage.members("digits-lite")[0].port
    (tmp_path / "rows.json").write_text(json.dumps([[0] * 64, [16] * 64]))
    flags = ("--model", "digits-lite", "--rows", "3", "--input", "rows.json", "--api-key", "")
    run = locust(tmp_path, f"http://127.0.0.1:{port}", *flags)
    assert run.returncode == 0, run.stderr
    assert requests(tmp_path)["Aggregated"] > 20


def test_random_tensors_follow_from_the_metadata(stage: Stage, tmp_path: Path) -> None:
    run = locust(tmp_path, stage.url, "--input", "random", "--high", "16", "--target", "2")
    assert run.returncode == 0, run.stderr
    assert {one.version for one in read(tmp_path / "answers.jsonl")} == {"2"}


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "paddle-serving"])
def test_every_dialect_of_http_is_spoken(stage: Stage, tmp_path: Path, dialect: str) -> None:
    run = locust(tmp_path, stage.url, "--dialect", dialect, "--rows", "2", "-t", "2s")
    assert run.returncode == 0, run.stdout
    answers = list(read(tmp_path / "answers.jsonl"))
    assert {(one.user, one.status, one.problem) for one in answers} == {(dialect, 200, "")}


def test_wrong_answers_are_failures(stage: Stage, tmp_path: Path) -> None:
    samples = json.loads((ROOT / "loadtests" / "digits.json").read_text())
    (tmp_path / "wrong.json").write_text(json.dumps([{**one, "label": 9 - one["label"]} for one in samples]))
    run = locust(tmp_path, stage.url, "--input", "wrong.json")
    assert run.returncode == 1
    assert all("output 'label' is" in one.problem for one in read(tmp_path / "answers.jsonl"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        pytest.param(("--model", "nope"), "no endpoint serves the model 'nope'", id="an unknown model"),
        pytest.param(("--api-key", "wrong"), "401 invalid_key", id="a wrong key"),
        pytest.param(("--input", "missing.npy"), "missing.npy can't be read", id="a missing file"),
    ],
)
def test_it_says_why_it_can_not_start(
    stage: Stage, tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    run = locust(tmp_path, stage.url, *flags)
    assert run.returncode == 2, run.stdout
    assert reason in run.stdout
