"""Real model servers behind a whole gateway, asked in every dialect that clients have.

`make test` does so with Triton, `make test-peers` with all of them.

Every server serves the same small model (tests/services/peers/servers.py). Each client, most of them written
by others, predicts and compares numbers, and sends a tensor of the wrong shape, which must come back as the
client's own mistake in its own dialect, and blame no instance. Outcomes are kept in HEADGATE_PEERS_TABLE,
from which tests/services/peers/table.py writes docs/peers.md.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import httpx
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.integration.test_grpc import off
from tests.runtime.running import running
from tests.services.peers.install import home
from tests.services.peers.servers import INTO, Server, is_installed

ROWS = [[1.5, 2.0], [4.0, 3.0]]
WRONG = [[1.0, 2.0, 3.0]]
Y, N = [[3.0, 4.0], [8.0, 6.0]], [1, 0]


class Refused(Exception):
    """The gateway or the server said that the client's input is wrong."""


Asked = Callable[[int, list[list[float]]], tuple[Any, Any]]


# Clients: each returns y and n, or raises Refused


def posted(port: int, path: str, body: object, good: int = 200) -> Any:
    answer = requests.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=30)
    if answer.status_code in (400, 422):
        raise Refused(answer.text)
    assert answer.status_code == good, (answer.status_code, answer.text)
    return answer.json()


def tfs_rows(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    said = posted(port, "/v1/models/double:predict", {"instances": rows})["predictions"]
    return [one["y"] for one in said], [one["n"] for one in said]


def tfs_columns(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    said = posted(port, "/v1/models/double:predict", {"inputs": {"x": rows}})["outputs"]
    return said["y"], said["n"]


def v2_json(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows}
    url = f"http://127.0.0.1:{port}/v2/models/double/infer"
    answer = httpx.post(url, json={"id": "7", "inputs": [tensor]}, timeout=30)
    if answer.status_code in (400, 422):
        raise Refused(answer.text)
    assert answer.status_code == 200, (answer.status_code, answer.text)
    found = {
        one["name"]: np.array(one["data"]).reshape(one["shape"]).tolist() for one in answer.json()["outputs"]
    }
    return found["y"], found["n"]


def v2_binary(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    tensor = triton_http.InferInput("x", [len(rows), len(rows[0])], "FP32")
    tensor.set_data_from_numpy(np.array(rows, np.float32), binary_data=True)
    outputs = [triton_http.InferRequestedOutput(name, binary_data=True) for name in "yn"]
    with triton_http.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=30) as client:
        try:
            answer = client.infer("double", [tensor], outputs=outputs)
        except InferenceServerException as failed:
            raise _refused(failed) from failed
    return answer.as_numpy("y").tolist(), answer.as_numpy("n").tolist()


def v2_grpc(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    tensor = triton_grpc.InferInput("x", [len(rows), len(rows[0])], "FP32")
    tensor.set_data_from_numpy(np.array(rows, np.float32))
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        try:
            answer = client.infer("double", [tensor], request_id="7", client_timeout=30)
        except InferenceServerException as failed:
            raise _refused(failed) from failed
    return answer.as_numpy("y").tolist(), answer.as_numpy("n").tolist()


def v2_stream(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    """The second of two predictions on one stream; the first one is right."""
    came: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.start_stream(lambda result, error: came.put(error or result))
        for each in (ROWS, rows):
            tensor = triton_grpc.InferInput("x", [len(each), len(each[0])], "FP32")
            tensor.set_data_from_numpy(np.array(each, np.float32))
            client.async_stream_infer("double", [tensor], request_id="7")
        first, answer = came.get(timeout=30), came.get(timeout=30)
        client.stop_stream()
    if isinstance(answer, InferenceServerException):
        told = answer.message()
        raise Refused(told) if told.startswith("INVALID_ARGUMENT") else AssertionError(told)
    assert first.as_numpy("y").tolist() == Y
    return answer.as_numpy("y").tolist(), answer.as_numpy("n").tolist()


def _refused(failed: InferenceServerException) -> Exception:
    status = str(failed.status())
    wrong = "INVALID_ARGUMENT" in status or status in ("400", "422")
    return Refused(str(failed)) if wrong else AssertionError(f"{status} {failed.message()}")


def tfs_grpc(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    asked = predict_pb2.PredictRequest()
    asked.model_spec.name = "double"
    asked.inputs["x"].dtype = 1
    for size in (len(rows), len(rows[0])):
        asked.inputs["x"].tensor_shape.dim.add(size=size)
    asked.inputs["x"].float_val.extend(value for row in rows for value in row)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            answer = stub.Predict(asked, timeout=30)
        except grpc.RpcError as failed:
            if failed.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            raise Refused(failed.details()) from failed
    y, n = answer.outputs["y"], answer.outputs["n"]
    shape = [dim.size for dim in y.tensor_shape.dim]
    return (
        np.frombuffer(y.tensor_content, np.float32).reshape(shape).tolist(),
        np.frombuffer(n.tensor_content, np.int64).tolist(),
    )


def torchserve(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    said = posted(port, "/predictions/double", {"instances": rows})
    return said["y"], said["n"]


def torchserve_grpc(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    """Its own service and messages, which are V2's (tritonclient's are used), with typed contents."""
    asked = service_pb2.ModelInferRequest(model_name="double")
    tensor = asked.inputs.add(name="x", datatype="FP32", shape=[len(rows), len(rows[0])])
    tensor.contents.fp32_contents.extend(value for row in rows for value in row)
    path = "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path, response_deserializer=service_pb2.ModelInferResponse.FromString)
        try:
            answer = call(asked.SerializeToString(), timeout=30)
        except grpc.RpcError as failed:
            if failed.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            raise Refused(failed.details()) from failed
    y, n = answer.outputs
    return np.reshape(y.contents.fp32_contents, y.shape).tolist(), list(n.contents.int64_contents)


def mms(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    said = posted(port, "/models/double/invoke", {"instances": rows})
    return said["y"], said["n"]


def sagemaker(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    said = posted(port, "/invocations", {"instances": rows})
    return said["y"], said["n"]


def paddle(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    said = posted(port, "/double/prediction", {"key": ["x"], "value": [json.dumps(rows)]})
    if said["err_no"]:
        raise Refused(said["err_msg"])
    found = dict(zip(said["key"], map(json.loads, said["value"]), strict=True))
    return found["y"], found["n"]


PADDLE_CLIENT = """
import json, sys
from paddle_serving_client.httpclient import HttpClient
port, conf, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
import numpy as np
client = HttpClient(ip="127.0.0.1", port=port)
client.load_client_config(conf)
answer = client.predict(feed={"x": np.array(rows, np.float32)}, fetch=["y", "n"], batch=True)
if answer is None:
    sys.exit("refused")
y, n = answer.outputs[0].tensor
print(json.dumps([np.reshape(y.float_data, y.shape).tolist(), list(n.int64_data)]))
"""
PADDLE_CONF = """
feed_var { name: "x" alias_name: "x" feed_type: 1 shape: 2 }
fetch_var { name: "y" alias_name: "y" fetch_type: 1 shape: 2 }
fetch_var { name: "n" alias_name: "n" fetch_type: 0 shape: 1 }
"""


def paddle_own(port: int, rows: list[list[float]]) -> tuple[Any, Any]:
    """PaddleServing's own client of its C++ server, which says of an error only that there was one."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as conf:
        conf.write(PADDLE_CONF)
        conf.flush()
        python = home("paddle", INTO) / "bin" / "python"
        command = [str(python), "-c", PADDLE_CLIENT, str(port), conf.name, json.dumps(rows)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "refused" in done.stderr:
        raise Refused(done.stdout)
    assert done.returncode == 0, done.stderr
    y, n = json.loads(done.stdout.splitlines()[-1])
    return y, n


OF_PADDLE = "Paddle, its own client"  # which `make test` does not install
CLIENTS: dict[str, Asked] = {
    "TF Serving, rows": tfs_rows,
    "TF Serving, columns": tfs_columns,
    "TF Serving, gRPC": tfs_grpc,
    "V2, JSON": v2_json,
    "V2, binary": v2_binary,
    "V2, gRPC": v2_grpc,
    "V2, gRPC stream": v2_stream,
    "TorchServe": torchserve,
    "TorchServe, gRPC": torchserve_grpc,
    "MMS": mms,
    "SageMaker": sagemaker,
    "Paddle pipeline": paddle,
    OF_PADDLE: paddle_own,
}
# What passes untouched fails as the server itself says it: 500, 503, or 200 with an `err_no`.
UNTOUCHED = {
    "torchserve": {"TorchServe"},
    "torchserve-grpc": {"TorchServe, gRPC"},
    "multi-model-server": {"TorchServe", "MMS", "SageMaker"},
    "kserve-v1": {"TF Serving, rows"},
    "kserve-v2": {"V2, JSON", "V2, binary"},
    "kserve-v2-grpc": {"V2, gRPC", "V2, gRPC stream"},
    "paddle-pipeline": {"Paddle pipeline"},
}
# KServe V1 knows no columns, and binary tensors only pass where the server reads them.
NOT_SPOKEN = {"kserve-v1": {"TF Serving, columns"}, "MLServer kserve-v2": {"V2, binary"}}


# Servers


@pytest.fixture(scope="module", autouse=True)
def stubs() -> Iterator[None]:
    """TensorFlow Serving's own client stubs."""
    folder = home("tfs", INTO)
    if not (folder / "tensorflow_serving").exists():
        pytest.skip("TensorFlow Serving's stubs are not installed: make test")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def record(server: Server, speaks: str, outcomes: dict[str, str]) -> None:
    """Keep what happened, for the table in docs/."""
    server.record({"speaks": speaks, "outcomes": outcomes})


@pytest.mark.timeout(300)
async def test_every_client_is_answered_and_refused_in_its_own_words(server: Server, tmp_path: Path) -> None:
    for speaks in server.pools:
        if speaks == "http":
            await untranslated(server, tmp_path)
            continue
        async with running(tmp_path, server.page(speaks)) as gateway:
            port = gateway.worker.http_address[1]
            outcomes: dict[str, str] = {}
            allowed = UNTOUCHED.get(speaks, set())
            for name, ask in CLIENTS.items():
                if name == OF_PADDLE and not is_installed("paddle"):
                    continue
                if name in NOT_SPOKEN.get(speaks, ()) or name in NOT_SPOKEN.get(
                    f"{server.name} {speaks}", ()
                ):
                    outcomes[name] = "not spoken"
                    continue
                said = await off(partial(outcome, ask, port))
                own = name in allowed and said.startswith("ok, bad input: ")
                outcomes[name] = "ok, its own error" if own else said
            record(server, speaks, outcomes)
            fine = {"ok", "not spoken", "ok, its own error"}
            bad = {name: said for name, said in outcomes.items() if said not in fine}
            assert not bad, (server.name, speaks, bad)
            (pool,) = gateway.worker.snapshot.pools.values()
            assert [one.failures for one in pool.members.instances] == [0], (server.name, speaks)


def outcome(ask: Asked, port: int) -> str:
    """`ok`, or what was wrong."""
    try:
        y, n = ask(port, ROWS)
        if not np.allclose(y, Y) or np.ravel(n).tolist() != N:
            return f"other numbers: {y} {n}"
    except Exception as failed:
        return f"failed: {failed!r}"[:300]
    try:
        ask(port, WRONG)
    except Refused:
        return "ok"
    except Exception as failed:
        return f"ok, bad input: {failed!r}"[:300]
    return "ok, bad input taken"


async def untranslated(server: Server, folder: Path) -> None:
    """An API of its own passes as it is."""
    async with (
        running(folder, server.page("http")) as gateway,
        gateway.http.post("/predict", json={"x": ROWS}, timeout=aiohttp.ClientTimeout(30)) as answered,
    ):
        assert answered.status == 200, await answered.text()
        said = await answered.json()
        assert (said["y"], said["n"]) == (Y, N)
    record(server, "http", {"its own": "ok"})
