"""`drift` on a whole gateway: a version that begins to predict otherwise is told of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.dialects.tensors import InferResponse, Tensor
from gateway.filters.drift import numbers
from gateway.governance.drift import SAYS
from tests.fakes.versions import page, version
from tests.runtime.running import question, running, until

INFER = "/v2/models/m/infer"


async def test_a_version_that_begins_to_predict_otherwise_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with version("v1") as one, version("v2") as two:
        policies = page(one, two, "{weight: 0%}") + "    drift: {sample: 100%}\n"
        async with running(tmp_path, policies) as gateway:

            async def ask(count: int) -> None:
                for _ in range(count):
                    async with gateway.http.post(INFER, json=question(1, 2)) as answer:
                        assert answer.status == 200

            await ask(300)
            assert "drift of" not in caplog.text
            one.corrupted = 1.0
            await ask(60)
            assert "drift of class of m1 1 of endpoint m" in caplog.text
            await until(gateway.worker.drifts)
            async with gateway.admin.get("/drifts") as answer:
                first = (await answer.json())[0]
            assert (first["event"], first["endpoint"], first["version"]) == ("drift", "m", "m1 1")
            assert first["why"] in {
                *SAYS,
                "1 is less frequent",
                "0.8 is less frequent",
                "what was rare is more frequent",
            }
            log = tmp_path / ".headgate/releases.jsonl"
            await until(lambda: log.exists() and log.read_text().count("\n"))
            assert json.loads(log.read_text().splitlines()[0]) == first
            for verb in (["releases"], ["diff", "--policies", str(tmp_path)]):
                assert await asyncio.to_thread(main, [*verb, "--admin", gateway.admin_url]) == 0
                assert f"{first['of']} of m1 1 at m, {first['why']}" in capsys.readouterr().out
            async with gateway.admin.get("/metrics") as answer:
                shown = await answer.text()
            assert 'headgate_drift_alarms_total{endpoint="m",of="class",version="m1 1"} 1.0' in shown
            assert 'headgate_drift_evidence{endpoint="m",of="class",version="m1 1"}' in shown


@pytest.mark.parametrize(
    ("dtype", "data", "read"),
    [
        pytest.param("FP32", [[0.1, 0.7, 0.2]], [("class", 1.0), ("score", 0.75)], id="scores"),
        pytest.param("FP32", [[2.5], [3.5]], [("score", 2.5)], id="a number per row"),
        pytest.param("FP64", [4.5, 5.5], [("score", 4.5)], id="a flat list of them"),
        pytest.param("INT64", [7, 3], [("class", 7.0)], id="labels"),
    ],
)
def test_what_is_watched_of_an_answer(dtype: str, data: list[object], read: list[tuple[str, float]]) -> None:
    array = np.array(data, {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}[dtype])
    if dtype == "FP32" and array.size == 3:
        array[0, 1] = 0.75
    tensor = Tensor("y", dtype, array.shape, array)
    text = Tensor("t", "BYTES", (1,), [b"seven"])
    assert list(numbers(InferResponse(None, "m", "", (text, tensor), {}))) == read
