"""Graphs and gathered batches over the demo's real models: policies/examples/graphs beside its own."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gateway.client.sync import Client
from tests.integration import running
from tests.integration.running import ROOT, SAMPLES, Demo, fresh_row, tfs, v2

ROWS = np.array([sample["pixels"] for sample in SAMPLES], np.float32)
LABELS = [sample["label"] for sample in SAMPLES]


@pytest.fixture(scope="module")
def graphed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("graphed"))
    shutil.copy(ROOT / "policies/examples/graphs/council.yaml", demo.policies / "council.yaml")
    with demo:
        yield demo


@pytest.mark.parametrize("dialect", ["kserve-v2", "tensorflow-serving"])
@pytest.mark.parametrize("model", ["council", "careful", "spread", "gathered"])
def test_every_graph_reads_every_sample_in_every_dialect(graphed: Demo, model: str, dialect: str) -> None:
    with Client(f"http://127.0.0.1:{graphed.http}", dialect=dialect) as client:
        answer = client.predict(model, {"input": ROWS})
    assert answer["label"].tolist() == LABELS
    assert answer["probabilities"].shape == (len(LABELS), 10)


def test_a_scattered_batch_is_what_one_call_would_have_been(graphed: Demo) -> None:
    rows = np.array([fresh_row() for _ in range(200)], np.float32)
    with Client(f"http://127.0.0.1:{graphed.http}", key="demo-pro") as client:
        whole = client.predict("digits", {"input": rows}, target="1")
        parts = client.predict("spread", {"input": rows})
    np.testing.assert_allclose(parts["probabilities"], whole["probabilities"], rtol=1e-5)
    assert parts["label"].tolist() == whole["label"].tolist()


def test_a_council_goes_on_without_a_member_and_says_so(graphed: Demo) -> None:
    graphed.parts()["digits-v2-a"].kill(signal.SIGSTOP)
    try:
        end = time.monotonic() + 20
        while True:
            answer = graphed.client().ask("/v2/models/council/infer", v2(fresh_row()), {})
            if answer.status == 200 and answer["x-degraded"] == "ensemble 2 of 3":
                break
            assert time.monotonic() < end, (answer.status, answer.body)
            time.sleep(0.1)
    finally:
        graphed.parts()["digits-v2-a"].kill(signal.SIGCONT)


def test_gathered_predictions_are_answered_each_with_its_own(graphed: Demo) -> None:
    """Many clients at once, each with rows of its own: what each gets is what it would get alone."""
    rows = [fresh_row() for _ in range(300)]
    before = graphed.metric("headgate_errands_total", pool="one", result="answered")
    with Client(f"http://127.0.0.1:{graphed.http}", key="demo-pro") as client:
        alone = client.predict("digits", {"input": np.array(rows, np.float32)}, target="1")

    def ask(row: list[int]) -> int:
        client = running.Client(graphed.http)
        try:
            answer = client.ask("/v1/models/gathered:predict", tfs(row), {})
        finally:
            client.close()
        assert answer.status == 200, answer.body
        return int(answer.json["predictions"][0]["label"])

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, rows)) == alone["label"].tolist()
    calls = graphed.metric("headgate_errands_total", pool="one", result="answered") - before
    assert calls < 0.8 * len(rows)
