from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from loadtests.serving import compute
from loadtests.serving.__main__ import HISTORY, Contestant, misses, table, write_double

LINE = {
    "date": "2026-11-22", "cores": 2, "cpu": "x", "kernel": "6", "python": "3.11", "onnxruntime": "1.32",
    "rounds": 3, "seconds": 60,
    "digits": {"V2 JSON": {"cpu_us": 55.2, "rate": 6304}},
    "compute": {"raw_rows_per_second": 100.0, "rows_per_second": 98.0, "raw_cpu_ms": 10.0, "cpu_ms": 10.2,
                "ratio": 0.98, "cpu_ratio": 0.98},
    "double": {},
}  # fmt: skip


def test_the_table_shows_what_was_measured() -> None:
    said = table(LINE)
    assert "| V2 JSON | 55.2 | 6,304 |" in said
    assert "| backend / ONNX Runtime, median of the rounds | 0.980 | 1.020 |" in said
    assert "a model that does nothing" not in said


@pytest.mark.parametrize(
    ("row", "key", "value", "message"),
    [("V2 JSON", "cpu_us", 151.0, "at most 150 wanted"), ("", "ratio", 0.94, "at least 0.95 wanted")],
)
def test_a_missed_target_is_said(row: str, key: str, value: float, message: str) -> None:
    assert misses(LINE) == []
    line = copy.deepcopy(LINE)
    (line["digits"][row] if row else line["compute"])[key] = value
    (miss,) = misses(line)
    assert message in miss


def test_figures_are_medians() -> None:
    one = Contestant("x", 1, "", b"", figures=[(9.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
    assert (one.cpu, one.rate) == (2.0, 2.0)


def test_the_models_of_the_bench_answer(tmp_path: Path) -> None:
    compute.write_model(tmp_path / "conv.onnx")
    ran = compute.run_raw(tmp_path / "conv.onnx", 1, 0.01)
    assert ran["items"] >= 1
    headers, body = compute.request()
    head = json.loads(body[: int(headers["Inference-Header-Content-Length"])])
    assert head["inputs"][0]["parameters"]["binary_data_size"] == len(body) - len(json.dumps(head))
    write_double(tmp_path / "double.onnx")


def test_the_newest_recorded_run_stands_in_the_docs() -> None:
    newest = json.loads(HISTORY.read_text().splitlines()[-1])
    assert table(newest) in (HISTORY.parents[2] / "docs" / "serving.md").read_text()
