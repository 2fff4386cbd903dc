"""Both clients against a server that answers as told: retries, deadlines, errors, connections, tensors."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import numpy as np
import pytest

from gateway.client.aio import AsyncClient
from gateway.client.errors import Expired, Refused, Unreachable, Unreadable
from gateway.client.sync import Client
from gateway.client.tensors import Inputs, Prediction
from gateway.dialects.catalogue import PADDLE_SERVING, TORCHSERVE
from gateway.dialects.tensors import NOTHING, InferRequest, InferResponse, Tensor
from tests.client.fake_server import FakeServer, Given

X = {"x": np.ones((1, 2), np.float32)}
GOOD = Given(
    200,
    json.dumps(
        {
            "model_name": "m",
            "model_version": "3",
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}],
        }
    ).encode(),
)


def predict(kind: str, url: str, inputs: Inputs = X, *, times: int = 1, **settings: object) -> Prediction:
    """Ask with the sync or the async client."""
    if kind == "sync":
        with Client(url, **settings) as client:  # type: ignore[arg-type]
            return [client.predict("m", inputs) for _ in range(times)][-1]

    async def ask() -> Prediction:
        async with AsyncClient(url, **settings) as client:  # type: ignore[arg-type]
            return [await client.predict("m", inputs) for _ in range(times)][-1]

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("kind", ["sync", "async"])


@BOTH
def test_numpy_goes_in_and_comes_out_over_one_connection(kind: str) -> None:
    with FakeServer(GOOD) as server:
        found = predict(kind, server.url, times=3, key="k", bearer="b")
        assert (found.model, found.version, found["y"].tolist(), found["y"].dtype) == (
            "m",
            "3",
            [7],
            np.int64,
        )
        asked = server.asked[0]
        assert (asked.headers["x-api-key"], asked.headers["authorization"]) == ("k", "Bearer b")
        assert 29_000 < int(asked.headers["x-request-timeout-ms"]) <= 30_000
        assert json.loads(asked.body)["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}
        ]
        assert len({each.peer for each in server.asked}) == 1


@BOTH
def test_a_503_that_asks_for_it_is_tried_again_after_its_pause(kind: str) -> None:
    with FakeServer(Given(503, headers={"Retry-After": "1"}), GOOD) as server:
        began = time.monotonic()
        assert predict(kind, server.url)["y"].tolist() == [7]
        assert time.monotonic() - began >= 1
        assert len(server.asked) == 2


@BOTH
def test_a_pause_longer_than_the_deadline_is_not_begun(kind: str) -> None:
    with FakeServer(Given(429, headers={"Retry-After": "60", "x-headgate-policy": "p"})) as server:
        with pytest.raises(Refused) as refused:
            predict(kind, server.url, timeout=5.0)
        assert (refused.value.status, refused.value.retry_after, refused.value.policy) == (429, 60.0, "p")
        assert len(server.asked) == 1


@BOTH
def test_a_server_that_hangs_is_left_at_the_deadline(kind: str) -> None:
    with FakeServer(Given(200, hang=True)) as server:
        began = time.monotonic()
        with pytest.raises(Expired):
            predict(kind, server.url, timeout=0.2)
        assert time.monotonic() - began < 2


@BOTH
def test_nobody_there_is_unreachable(kind: str) -> None:
    with pytest.raises(Unreachable):
        predict(kind, "http://127.0.0.1:1", retries=0)


@BOTH
@pytest.mark.parametrize(
    ("body", "reason", "code"),
    [
        (
            b'{"detail": "no such path", "code": "unknown_endpoint", "request_id": "r"}',
            "no such path",
            "unknown_endpoint",
        ),
        (b'{"error": "no such model"}', "no such model", ""),
        (b"plain words", "plain words", ""),
    ],
    ids=["problem details", "the dialect's own", "text"],
)
def test_every_form_of_an_error_is_read(kind: str, body: bytes, reason: str, code: str) -> None:
    with FakeServer(Given(404, body)) as server, pytest.raises(Refused) as refused:
        predict(kind, server.url)
    assert (refused.value.status, refused.value.reason, refused.value.code) == (404, reason, code)


@BOTH
def test_an_answer_that_is_no_prediction_is_unreadable(kind: str) -> None:
    with FakeServer(Given(200, b"[]")) as server, pytest.raises(Unreadable):
        predict(kind, server.url)


def test_a_datatype_that_no_dialect_has_is_told_before_anything_is_sent() -> None:
    with FakeServer(GOOD) as server:
        with pytest.raises(Unreadable, match="complex128"):
            predict("sync", server.url, {"x": np.ones(1, complex)})
        assert server.asked == []


@BOTH
def test_a_server_that_has_one_model_and_names_it_nowhere_is_asked(kind: str) -> None:
    said = InferResponse(None, "", "", (Tensor("y", "INT64", (1,), np.array([7])),), NOTHING)
    wanted = InferRequest(None, "m", None, None, "", (), None, NOTHING, "named")
    with FakeServer(Given(200, PADDLE_SERVING.write_response(said, wanted)[1])) as server:
        assert predict(kind, server.url, dialect="paddle-serving")["y"].tolist() == [7]
        assert server.asked[0].path == "/GeneralModelService/inference"


@BOTH
def test_a_server_that_tells_no_signature_needs_one_written(kind: str) -> None:
    with FakeServer(Given(404)) as server, pytest.raises(Unreadable, match="torchserve tells no signature"):
        predict(kind, server.url, dialect="torchserve")
    with FakeServer(Given(200, b"[7]")) as server:
        told = predict(kind, server.url, dialect=TORCHSERVE.name, signature="x: FP32[-1,2] -> y: INT64[-1]")
        assert (told["y"].tolist(), [each.path for each in server.asked]) == ([7], ["/predictions/m"])


@BOTH
def test_a_failure_inside_a_200_is_refused(kind: str) -> None:
    failed = Given(200, b'{"err_no": 8, "err_msg": "out of order", "key": [], "value": []}')
    settings = {"dialect": "paddle-pipeline", "signature": "x: FP32[-1,2] -> y: INT64[-1]", "retries": 0}
    with FakeServer(failed) as server, pytest.raises(Refused, match="out of order") as refused:
        predict(kind, server.url, **settings)  # type: ignore[arg-type]
    assert refused.value.status >= 400


@BOTH
def test_grpc_tells_nobody_there_from_no_time(kind: str) -> None:
    with pytest.raises(Unreachable):
        predict(kind, "http://127.0.0.1:1", dialect="kserve-v2-grpc", retries=0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Expired):
            predict(kind, url, dialect="kserve-v2-grpc", timeout=0.2)


@BOTH
def test_without_grpcio_the_extra_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ImportError, match=r"headgate\[grpc\]"):
        predict(kind, "http://127.0.0.1:1", dialect="kserve-v2-grpc")
