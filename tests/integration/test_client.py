"""The Python client and `headgate predict` against the demo's real models, in every dialect."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gateway.client.aio import AsyncClient
from gateway.client.asking import DIALECT_NAMES, UNVERSIONED
from gateway.client.errors import Refused, Unreadable
from gateway.client.sync import Client
from tests.integration.running import ROOT, SAMPLES, Demo, fresh_row

ROWS = np.array([sample["pixels"] for sample in SAMPLES], np.float32)
LABELS = [sample["label"] for sample in SAMPLES]
DIALECTS = pytest.mark.parametrize("dialect", [name for name in DIALECT_NAMES if name != "paddle-serving"])
"""All that name a model: PaddleServing's C++ server has but one (tests/client)."""


def url(demo: Demo) -> str:
    return f"http://127.0.0.1:{demo.http}"


@DIALECTS
def test_every_dialect_tells_the_same_numbers_to_both_clients(demo: Demo, dialect: str) -> None:
    with Client(url(demo), key="demo-pro") as plain:
        stable, canary = (plain.predict("digits", {"input": ROWS}, target=version) for version in "12")
    assert stable["label"].tolist() == canary["label"].tolist() == LABELS
    assert not agree(stable, canary)

    async def ask() -> Mapping[str, np.ndarray]:
        async with AsyncClient(url(demo), key="demo-pro", dialect=dialect) as client:
            assert await client.ready("digits")
            return await client.predict("digits", ROWS)

    with Client(url(demo), key="demo-pro", dialect=dialect) as client:
        assert client.metadata("digits").signature.inputs[0].render() == "input: FP32[-1,64]"
        if dialect not in UNVERSIONED:
            assert agree(client.predict("digits", ROWS.tolist(), target="1"), stable)
        for found in (client.predict("digits", ROWS.tolist()), asyncio.run(ask())):
            assert agree(found, stable) or agree(found, canary)  # which of them is the release's to say


def agree(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Tell whether both are the same tensors, but for what other batches make of the last digits."""
    return all(
        found[name].dtype == expected[name].dtype
        and np.allclose(found[name], expected[name], rtol=1e-6, atol=0)
        for name in ("label", "probabilities")
    )


@DIALECTS
def test_refusals_say_why(demo: Demo, dialect: str) -> None:
    with Client(url(demo), key="wrong", dialect=dialect) as client, pytest.raises(Refused) as refused:
        client.predict("digits", ROWS)
    assert (refused.value.status, refused.value.code, refused.value.policy) == (401, "invalid_key", "sign-in")
    assert refused.value.request_id
    with Client(url(demo), key="demo-pro", dialect=dialect) as client:
        with pytest.raises(Refused) as refused:
            client.predict("digits", {"input": ROWS[:, :63]})
        # the demo hands V2's calls over gRPC to the instance unread, and that has no words of the gateway's
        passed = dialect == "kserve-v2-grpc"
        assert (refused.value.status, refused.value.code) == ((400, "") if passed else (422, "wrong_shape"))
        assert passed or "input: FP32[-1,64]" in (refused.value.expected or refused.value.reason)
        with pytest.raises(Refused) as refused:
            client.predict("digit", {"input": ROWS})
        code = "" if dialect in ("kserve-v2-grpc", "paddle-pipeline-grpc") else "unknown_model"
        assert (refused.value.status, refused.value.code) == (404, code)


@pytest.mark.parametrize("dialect", sorted(UNVERSIONED))
def test_a_version_that_has_no_place_is_not_left_out(demo: Demo, dialect: str) -> None:
    with Client(url(demo), key="demo-pro", dialect=dialect) as client, pytest.raises(Unreadable) as told:
        client.predict("digits", {"input": ROWS}, target="1")
    assert told.value.code == "unsupported"


@pytest.mark.parametrize("dialect", ["kserve-v2", "kserve-v2-grpc"])
def test_a_real_429_is_waited_for(demo: Demo, dialect: str) -> None:
    with Client(url(demo), key="demo-free", dialect=dialect, retries=0) as client:
        with pytest.raises(Refused) as refused:  # noqa: PT012 - one of them is refused
            for _ in range(200):
                client.predict("digits", {"input": np.array([fresh_row()], np.float32)})
        assert refused.value.status == 429
        assert refused.value.retry_after
    with Client(url(demo), key="demo-free", dialect=dialect, retries=5) as client:
        assert client.predict("digits", {"input": ROWS[:1]}, timeout=20)["label"].tolist() == LABELS[:1]


def test_predict_prints_for_persons_and_for_programs(demo: Demo, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS[:2])
    (tmp_path / "x.json").write_text(json.dumps({"input": ROWS[:2].tolist()}))
    common = ("--url", url(demo), "--key", "demo-pro", "--version", "1")
    told = demo.headgate("predict", "digits", "--input", tmp_path / "x.npy", *common)
    assert (told.returncode, told.stderr) == (0, "")
    assert "label  int64[2]" in told.stdout
    asked = ("--json", "--output", tmp_path / "y.npz", "--dialect", "tensorflow-serving")
    told = demo.headgate("predict", "digits", "--input", tmp_path / "x.json", *common, *asked)
    assert (told.returncode, json.loads(told.stdout)["label"]) == (0, LABELS[:2])
    assert np.load(tmp_path / "y.npz")["label"].tolist() == LABELS[:2]


def test_predict_refuses_in_one_line(demo: Demo, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    file, at = tmp_path / "x.npy", ("--url", url(demo), "--key", "demo-pro")
    told = demo.headgate("predict", "digit", "--input", file, *at)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "there is digits" in told.stderr
    told = demo.headgate("predict", "digits", "--input", file, *at, "--label", "stable")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    told = demo.headgate("predict", "digits", "--input", tmp_path / "none.npy", *at)
    assert (told.returncode, told.stderr) == (
        2,
        f"headgate: {tmp_path}/none.npy: No such file or directory\n",
    )
    told = demo.headgate(
        "predict", "digits", "--input", file, "--url", "http://127.0.0.1:1", "--timeout", "1"
    )
    assert told.returncode == 3


def test_the_page_s_example_runs(demo: Demo) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)
    assert len(code) == 2
    for each in code:
        exec(compile(each.replace("http://127.0.0.1:8080", url(demo)), "docs/client.md", "exec"), {})
