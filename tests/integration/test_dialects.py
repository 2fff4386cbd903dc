"""Clients of one serving protocol to servers of another, through a whole gateway on real sockets."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.runtime.running import backend, running, until

MODEL = "double"
SPEC = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}


def page(port: int, speaks: str, more: str = "", model: str = "") -> str:
    named = f", model: {model}" if model else ""
    return (
        f"pools:\n  peer: {{instances: ['127.0.0.1:{port}'], speaks: {speaks}{named}}}\n"
        f"endpoints:\n  double:\n    model: double\n    send: peer\n    authenticate: none\n{more}"
    )


# A server of V2 over gRPC, made of Triton's own messages


class Doubling(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Doubles x; what it answers bad input with is MLServer's way (INTERNAL), not Triton's."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name in (MODEL, "inner"))

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        made = service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])
        made.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
        made.outputs.add(name="y", datatype="FP32", shape=[-1, 2])
        return made

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        x = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(list(request.inputs[0].shape))
        if (x < 0).any():
            context.abort(grpc.StatusCode.INTERNAL, "ValueError: cannot reshape array of size 3")
        made = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        made.outputs.add(name="y", datatype="FP32", shape=x.shape)
        with np.errstate(over="ignore"):
            made.raw_output_contents.append((x * np.float32(2)).tobytes())
        return made


@pytest.fixture
def doubling() -> Iterator[tuple[int, Doubling]]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        made = Doubling()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(made, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port, made
        server.stop(None).wait()


async def v2_over_http(request: web.Request) -> web.StreamResponse:
    """The same over HTTP, as Triton answers."""
    if request.path.endswith("/ready"):
        return web.Response()
    if request.method == "GET":
        y = {**SPEC, "name": "y"}
        return web.json_response({"name": MODEL, "versions": ["1"], "inputs": [SPEC], "outputs": [y]})
    asked = await request.json()
    (x,) = asked["inputs"]
    if min(x["data"]) < 0:
        return web.json_response({"error": "failed to parse the request JSON buffer"}, status=500)
    y = {**x, "name": "y", "data": [2 * value for value in x["data"]]}
    answer = {"model_name": MODEL, "model_version": "1", "outputs": [y]}
    return web.json_response({**answer, "id": asked["id"]} if "id" in asked else answer)


# gRPC in, HTTP out


def ask_as_triton(port: int, *rows: list[float]) -> Any:
    values = np.array(rows, np.float32)
    tensor = triton.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        return client.infer(MODEL, [tensor], request_id="17", client_timeout=10)


def port_of(gateway: Any) -> int:
    port: int = gateway.worker.http_address[1]
    return port


async def test_a_grpc_client_gets_its_answer_from_a_server_of_json(tmp_path: Path) -> None:
    async with backend() as server, running(tmp_path, page(server.port, "kserve-v2")) as gateway:
        server.handler = v2_over_http
        answer = await asyncio.to_thread(ask_as_triton, port_of(gateway), [1.5, 2], [3, 4])
        assert answer.as_numpy("y").tolist() == [[3, 4], [6, 8]]
        said = answer.get_response()
        assert (said.model_name, said.model_version, said.id) == (MODEL, "1", "17")

        def describe() -> None:
            with triton.InferenceServerClient(f"127.0.0.1:{port_of(gateway)}") as client:
                assert client.is_server_live()
                assert client.is_model_ready(MODEL)
                assert [one.name for one in client.get_model_metadata(MODEL).inputs] == ["x"]
                assert client.get_server_metadata().name == "headgate"

        await asyncio.to_thread(describe)


@pytest.mark.parametrize(
    ("rows", "model", "status"),
    [
        pytest.param([[1.0, 2.0, 3.0]], MODEL, "INVALID_ARGUMENT", id="a shape the model does not take"),
        pytest.param([[-1.0, 2.0]], MODEL, "INVALID_ARGUMENT", id="what the server calls bad by 500"),
        pytest.param([[1.0, 2.0]], "nothing", "NOT_FOUND", id="no such model"),
    ],
)
async def test_a_grpc_client_is_refused_in_grpc(
    tmp_path: Path, rows: list[list[float]], model: str, status: str
) -> None:
    async with (
        backend() as server,
        running(tmp_path, page(server.port, "kserve-v2", "    validate: true\n")) as gateway,
    ):
        server.handler = v2_over_http
        tensor = triton.InferInput("x", [1, len(rows[0])], "FP32")
        tensor.set_data_from_numpy(np.array(rows, np.float32))

        def fail() -> str:
            with (
                triton.InferenceServerClient(f"127.0.0.1:{port_of(gateway)}") as client,
                pytest.raises(InferenceServerException) as failed,
            ):
                client.infer(model, [tensor], client_timeout=10)
            return str(failed.value.status())

        assert status in await asyncio.to_thread(fail)
        (pool,) = gateway.worker.snapshot.pools.values()
        (instance,) = pool.members.instances
        assert instance.failures == 0


# HTTP in, gRPC out


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        pytest.param(
            "/v1/models/double:predict",
            {"instances": [[1.5, 2.0], [3.0, 4.0]]},
            {"predictions": [[3.0, 4.0], [6.0, 8.0]]},
            id="TensorFlow Serving, by rows",
        ),
        pytest.param(
            "/v2/models/double/infer",
            {"id": "9", "inputs": [{**SPEC, "shape": [1, 2], "data": [1.0, 2.0]}]},
            {
                "model_name": "double",
                "model_version": "1",
                "id": "9",
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}],
            },
            id="V2",
        ),
    ],
)
async def test_a_client_of_json_gets_its_answer_over_grpc(
    tmp_path: Path, doubling: tuple[int, Doubling], path: str, body: object, answer: object
) -> None:
    port, server = doubling
    async with (
        running(tmp_path, page(port, "kserve-v2-grpc", model="inner")) as gateway,
        gateway.http.post(path, json=body) as answered,
    ):
        assert (answered.status, await answered.json()) == (200, answer)
        assert server.asked[-1].model_name == "inner"


async def test_bad_input_that_a_server_calls_internal_is_the_client_s(
    tmp_path: Path, doubling: tuple[int, Doubling]
) -> None:
    port, server = doubling
    async with running(tmp_path, page(port, "kserve-v2-grpc")) as gateway:
        async with gateway.http.post("/v1/models/double:predict", json={"instances": [[-1, 2]]}) as answered:
            assert answered.status == 422
            assert (await answered.json())["code"] == "invalid"
        assert len(server.asked) == 1
        (pool,) = gateway.worker.snapshot.pools.values()
        assert pool.members.instances[0].failures == 0


# gRPC on both sides


async def test_a_call_passes_untouched_but_for_the_pool_s_own_name_of_the_model(
    tmp_path: Path, doubling: tuple[int, Doubling]
) -> None:
    port, server = doubling
    async with running(tmp_path, page(port, "kserve-v2-grpc", model="inner")) as gateway:
        answer = await asyncio.to_thread(ask_as_triton, port_of(gateway), [1.0, 2.0])
        assert answer.as_numpy("y").tolist() == [[2, 4]]
        assert server.asked[-1].model_name == "inner"
        assert server.asked[-1].id == "17"


async def test_an_instance_is_well_while_its_model_is_ready(
    tmp_path: Path, doubling: tuple[int, Doubling]
) -> None:
    port, _ = doubling
    checked = "{every: 100ms, unhealthy_after: 1, healthy_after: 1}"
    for model, well in (("inner", True), ("absent", False)):
        pages = page(port, "kserve-v2-grpc", model=model).replace("speaks:", f"health: {checked}, speaks:")
        async with running(tmp_path, pages) as gateway:
            (instance,) = gateway.worker.snapshot.pools["peer"].members.instances
            instance.healthy = not well
            await until(lambda instance=instance, well=well: instance.healthy is well)


# Servers whose bodies are their handlers', and KServe V1


async def handler_server(request: web.Request) -> web.StreamResponse:
    """TorchServe and MMS, as their handlers and they themselves answer."""
    if request.path == "/ping":
        return web.json_response({"status": "Healthy"})
    if request.method == "GET":
        return web.json_response([{"modelName": MODEL, "workers": [{"status": "READY"}]}])
    rows = (await request.json())["instances"]
    if len(rows[0]) != 2:
        failed = {"code": 503, "type": "InternalServerException", "message": "Prediction failed"}
        answer = web.StreamResponse(status=503)  # head and body in two pieces, as slow servers send them
        await answer.prepare(request)
        await asyncio.sleep(0.05)
        await answer.write(json.dumps(failed).encode())
        return answer
    return web.json_response({"y": [[2 * value for value in row] for row in rows]})


async def kserve_v1(request: web.Request) -> web.StreamResponse:
    """The KServe SDK's server."""
    if request.path.startswith("/v2/"):
        y = {**SPEC, "name": "y"}
        return web.json_response({"name": MODEL, "versions": None, "inputs": [SPEC], "outputs": [y]})
    if request.method == "GET":
        return web.json_response({"name": MODEL, "ready": True})
    asked = await request.json()
    if "instances" not in asked:
        return web.json_response({"error": "KeyError : 'instances'"}, status=500)
    return web.json_response({"predictions": [[2 * value for value in row] for row in asked["instances"]]})


SIGNATURE = 'signature: "x: FP32[-1,2] -> y: FP32[-1,2]"'
ROWS: dict[str, object] = {"instances": [[1.5, 2.0], [3.0, 4.0]]}
V2: dict[str, object] = {"inputs": [{**SPEC, "shape": [2, 2], "data": [1.5, 2.0, 3.0, 4.0]}]}


@pytest.mark.parametrize("speaks", ["torchserve", "multi-model-server", "kserve-v1", "kserve-v2"])
@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/models/double:predict", ROWS, {"predictions": [[3, 4], [6, 8]]}),
        ("/v2/models/double/infer", V2, [3, 4, 6, 8]),
        ("/predictions/double", ROWS, {"y": [[3, 4], [6, 8]]}),
        ("/models/double/invoke", ROWS, {"y": [[3, 4], [6, 8]]}),
        ("/invocations", ROWS, {"y": [[3, 4], [6, 8]]}),
    ],
    ids=["TensorFlow Serving or KServe V1", "V2", "TorchServe", "MMS", "SageMaker"],
)
async def test_every_client_is_answered_by_every_server(
    tmp_path: Path, speaks: str, path: str, body: object, expected: object
) -> None:
    handlers = {"kserve-v1": kserve_v1, "kserve-v2": v2_over_http}
    async with backend() as server:
        server.handler = handlers.get(speaks, handler_server)
        pages = page(server.port, speaks)
        if speaks in ("torchserve", "multi-model-server"):
            pages = pages.replace("speaks:", f"{SIGNATURE}, speaks:")
        async with running(tmp_path, pages) as gateway, gateway.http.post(path, json=body) as answered:
            said = await answered.json()
            assert answered.status == 200, said
            assert (said["outputs"][0]["data"] if isinstance(expected, list) else said) == expected


@pytest.mark.parametrize(
    "path", ["/v1/models/double:predict", "/predictions/double"], ids=["translated", "untouched"]
)
async def test_what_torchserve_calls_unavailable_is_not_tried_again_and_blames_nobody(
    tmp_path: Path, path: str
) -> None:
    async with backend() as server:
        server.handler = handler_server
        own = f'{SIGNATURE.replace("[-1,2] ->", "[-1,-1] ->")}, retry: {{on: ["503"], attempts: 3}}, speaks:'
        pages = page(server.port, "torchserve").replace("speaks:", own)
        pages = pages.replace("]", f", 'localhost:{server.port}']", 1)
        async with running(tmp_path, pages) as gateway:
            async with gateway.http.post(path, json={"instances": [[1, 2, 3]]}) as answered:
                said = await answered.text()
                assert answered.status == (422 if "v1" in path else 503), said
            asked = [one for one in server.requests if one.method == "POST"]
            assert len(asked) == 1
            assert [one.failures for one in gateway.worker.snapshot.pools["peer"].members.instances] == [0, 0]


async def test_a_server_that_tells_no_signature_needs_one_in_the_policy(tmp_path: Path) -> None:
    async with backend() as server:
        server.handler = handler_server
        async with (
            running(tmp_path, page(server.port, "torchserve")) as gateway,
            gateway.http.post("/v2/models/double/infer", json=V2) as answered,
        ):
            assert answered.status == 503
            assert (await answered.json())["code"] == "signature_unknown"
        assert [one.method for one in server.requests if one.method == "POST"] == []


async def test_examples_are_classified_by_a_server_that_knows_only_tensors(tmp_path: Path) -> None:
    examples = {"examples": [{"x": [1.5, 2.0]}, {"x": [3.0, 4.0]}]}
    message = bytes.fromhex("0a080a06646f75626c6512190a170a150a130a110a0178120c120a0a080000c03f00000040")
    classified = "0a100a0e0a0515000040400a051500008040"
    async with backend() as server, running(tmp_path, page(server.port, "kserve-v2")) as gateway:
        server.handler = v2_over_http
        async with gateway.http.post("/v1/models/double:classify", json=examples) as answered:
            said = await answered.json()
            assert (answered.status, said) == (200, {"results": [[["", 3], ["", 4]], [["", 6], ["", 8]]]})
        async with gateway.http.post("/v1/models/double:regress", json=examples) as answered:
            said = await answered.json()
            assert (answered.status, said["code"]) == (422, "wrong_shape")
            assert "x: FP32[-1,2] -> y: FP32[-1,2]" in said["error"]
        assert [one.method for one in server.requests].count("POST") == 1

        def call() -> bytes:
            with grpc.insecure_channel(f"127.0.0.1:{port_of(gateway)}") as channel:
                path = "/tensorflow.serving.PredictionService/Classify"
                answer: bytes = channel.unary_unary(path)(message, timeout=10)
                return answer

        assert (await asyncio.to_thread(call)).hex().startswith(classified)


# A stream of predictions


def stream_as_triton(port: int, *questions: list[list[float]], model: str = MODEL) -> list[Any]:
    """What came back for each, in the order in which it came: an answer's y, or an error's text."""
    came: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.start_stream(lambda result, error: came.put(error or result))
        for index, rows in enumerate(questions):
            values = np.array(rows, np.float32)
            tensor = triton.InferInput("x", list(values.shape), "FP32")
            tensor.set_data_from_numpy(values)
            client.async_stream_infer(model, [tensor], request_id=str(index))
        said = [came.get(timeout=10) for _ in questions]
        client.stop_stream()
    assert came.empty()
    return [str(one) if isinstance(one, Exception) else one.as_numpy("y").tolist() for one in said]


@pytest.mark.parametrize("speaks", ["kserve-v2", "kserve-v2-grpc", "kserve-v1"])
async def test_a_stream_is_answered_in_order_whatever_the_server_speaks(
    tmp_path: Path, doubling: tuple[int, Doubling], speaks: str
) -> None:
    async with backend() as server:
        server.handler = kserve_v1 if speaks == "kserve-v1" else v2_over_http
        port = doubling[0] if speaks == "kserve-v2-grpc" else server.port
        async with running(tmp_path, page(port, speaks, "    validate: true\n")) as gateway:
            questions = [[[float(number), 1.0]] for number in range(40)]
            questions[7] = [[1.0, 2.0, 3.0]]  # the model takes pairs
            answers = await asyncio.to_thread(stream_as_triton, port_of(gateway), *questions)
            wrong = answers.pop(7)
            assert wrong.startswith("INVALID_ARGUMENT: input 'x' has shape [1, 3]; expected x: FP32[-1,2]"), (
                wrong
            )
            assert answers == [[[2.0 * number, 2.0]] for number in range(40) if number != 7]
            nobody = await asyncio.to_thread(
                partial(stream_as_triton, port_of(gateway), [[1.0, 2.0]], model="nothing")
            )
            assert nobody == ["NOT_FOUND: no endpoint serves the model 'nothing'"]
            assert gateway.worker.gateway.pressure.in_flight == 0


# What has no place on the other side


async def test_parameters_that_a_server_s_protocol_has_no_place_for_are_said_to_be_lost(
    tmp_path: Path,
) -> None:
    async with backend() as server, running(tmp_path, page(server.port, "kserve-v1")) as gateway:
        server.handler = kserve_v1
        for more, expected in (({"parameters": {"temperature": 0.5}}, "parameters"), ({}, None)):
            async with gateway.http.post("/v2/models/double/infer", json={**V2, **more}) as answered:
                assert answered.status == 200
                assert answered.headers.get("x-headgate-lossy") == expected
        sequence = {"parameters": {"sequence_id": 5}}
        async with gateway.http.post("/v2/models/double/infer", json={**V2, **sequence}) as answered:
            assert answered.status == 501
            assert (await answered.json())["code"] == "unsupported"


async def test_an_answer_that_the_client_s_json_can_not_say_is_refused_and_blames_nobody(
    tmp_path: Path, doubling: tuple[int, Doubling]
) -> None:
    port, _ = doubling
    async with running(tmp_path, page(port, "kserve-v2-grpc")) as gateway:
        huge = {"inputs": [{**SPEC, "shape": [1, 2], "data": [3e38, 1]}]}
        async with gateway.http.post("/v2/models/double/infer", json=huge) as answered:
            assert (answered.status, answered.headers["x-headgate-reason"]) == (422, "not_finite")
            assert (await answered.json())["code"] == "not_finite"
        rows = {"instances": [[3e38, 1]]}
        async with gateway.http.post("/v1/models/double:predict", json=rows) as answered:
            assert json.loads(await answered.text()) == {"predictions": [[float("inf"), 2.0]]}
        assert gateway.worker.snapshot.pools["peer"].members.instances[0].failures == 0
