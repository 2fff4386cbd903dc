"""Other people's gRPC servers and clients through the gateway, each call passed as it is.

Triton: the real server out of the nvidia-pytriton wheel, asked by its own client. TensorFlow Serving: its own
client stubs (tensorflow-serving-api) against a service made of the same stubs; the server itself is in no
package registry.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.integration.test_grpc import ANYBODY, off, through
from tests.services.peers.install import home
from tests.services.peers.servers import INTO, SERVERS, is_installed

pytestmark = pytest.mark.service("triton")


def page(port: int, service: str) -> str:
    return (
        f"pools:\n  peer: {{instances: ['127.0.0.1:{port}'], speaks: grpc}}\n"
        f"endpoints:\n  peer:\n    match: {{grpc: ['{service}']}}\n    send: peer\n{ANYBODY}"
    )


# Triton


@pytest.fixture(scope="module")
def triton_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if not is_installed("triton"):
        pytest.skip("triton is not installed: make test")
    with SERVERS["triton"](tmp_path_factory.mktemp("triton")) as server:
        yield server.pools["kserve-v2-grpc"]


def numbers(*values: float) -> triton.InferInput:
    rows = np.array([values], dtype=np.float32)
    made = triton.InferInput("x", list(rows.shape), "FP32")
    made.set_data_from_numpy(rows)
    return made


async def test_triton_answers_its_own_client_through_the_gateway(tmp_path, triton_port):
    async with through(tmp_path, page(triton_port, "inference.GRPCInferenceService")) as (gateway, _):
        target = "{}:{}".format(*gateway.worker.http_address)

        def ask() -> None:
            with triton.InferenceServerClient(target) as client:
                assert client.is_server_live()
                assert client.is_server_ready()
                assert client.get_server_metadata().name == "triton"
                assert [one.name for one in client.get_model_metadata("double").inputs] == ["x"]
                assert client.get_model_config("double").config.backend == "python"
                assert client.get_inference_statistics("double").model_stats[0].name == "double"
                for number in range(50):
                    answer = client.infer("double", [numbers(number, 1)], request_id=str(number))
                    assert answer.as_numpy("y").tolist() == [[2 * number, 2]]
                compressed = client.infer("double", [numbers(3, 4)], compression_algorithm="gzip")
                assert compressed.as_numpy("y").tolist() == [[6, 8]]

        await off(ask)


async def test_triton_s_errors_are_its_own(tmp_path, triton_port):
    async with through(tmp_path, page(triton_port, "inference.GRPCInferenceService")) as (gateway, _):
        target = "{}:{}".format(*gateway.worker.http_address)

        def fail(model: str, *values: float) -> str:
            with (
                triton.InferenceServerClient(target) as client,
                pytest.raises(InferenceServerException) as failed,
            ):
                client.infer(model, [numbers(*values)])
            return f"{failed.value.status()} {failed.value.message()}"

        assert "NOT_FOUND" in await off(lambda: fail("nothing", 1, 2))
        assert "INVALID_ARGUMENT" in await off(lambda: fail("double", 1, 2, 3))
        assert "no negative numbers" in await off(lambda: fail("double", -1, 2))


async def test_triton_s_streams_pass(tmp_path, triton_port):
    async with through(tmp_path, page(triton_port, "inference.GRPCInferenceService")) as (gateway, _):
        target = "{}:{}".format(*gateway.worker.http_address)

        def stream() -> list[list[list[float]]]:
            answers: queue.Queue[triton.InferResult] = queue.Queue()
            with triton.InferenceServerClient(target) as client:
                client.start_stream(lambda result, error: answers.put(error or result))
                for number in range(20):
                    client.async_stream_infer("double", [numbers(number, 0)])
                got = [answers.get(timeout=20).as_numpy("y").tolist() for _ in range(20)]
                client.stop_stream()
            return got

        assert await off(stream) == [[[2 * number, 0]] for number in range(20)]


# TensorFlow Serving's client


@pytest.fixture(scope="module")
def tensorflow_port() -> Iterator[int]:
    stubs = home("tfs", INTO)
    if not (stubs / "tensorflow_serving").exists():
        pytest.skip("TensorFlow Serving's stubs are not installed: make test")
    sys.path.insert(0, str(stubs))
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            from tensorflow_serving.apis import predict_pb2

            if request.model_spec.name != "double":
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nothing)")
            values = np.frombuffer(request.inputs["x"].tensor_content, np.float32)
            answer = predict_pb2.PredictResponse()
            answer.model_spec.name = "double"
            answer.model_spec.version.value = 1
            answer.outputs["y"].dtype = 1
            answer.outputs["y"].tensor_shape.dim.add(size=values.size)
            answer.outputs["y"].float_val.extend((values * 2).tolist())
            return answer

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request, context):
            from tensorflow_serving.apis import get_model_status_pb2

            return get_model_status_pb2.GetModelStatusResponse(
                model_version_status=[get_model_status_pb2.ModelVersionStatus(version=1, state=30)]
            )

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait()
    sys.path.remove(str(stubs))


async def test_tensorflow_serving_s_stubs_predict_through_the_gateway(tmp_path, tensorflow_port):
    async with through(tmp_path, page(tensorflow_port, "tensorflow.serving.*")) as (_, channel):
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        def ask() -> None:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "double"
            request.inputs["x"].dtype = 1
            request.inputs["x"].tensor_shape.dim.add(size=2)
            request.inputs["x"].tensor_content = np.array([1, 2], np.float32).tobytes()
            answer = stub.Predict(request, timeout=10)
            assert list(answer.outputs["y"].float_val) == [2.0, 4.0]
            assert answer.model_spec.version.value == 1
            request.model_spec.name = "nothing"
            with pytest.raises(grpc.RpcError) as failed:
                stub.Predict(request, timeout=10)
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.RpcError) as failed:
                stub.GetModelMetadata(get_model_metadata_pb2.GetModelMetadataRequest(), timeout=10)
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            status = models.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(), timeout=10)
            assert status.model_version_status[0].state == 30

        await off(ask)
