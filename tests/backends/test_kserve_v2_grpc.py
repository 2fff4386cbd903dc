"""The reference backend's gRPC port, as a process, asked by Triton's own client."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.backends.models import DIGITS, adder, echo, gatherer, put
from tests.backends.process import Backend
from tests.services.etcd import free_port

SAMPLES = json.loads((DIGITS / "samples.json").read_text())


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    models = tmp_path_factory.mktemp("models")
    put(models, "add", "1", adder())
    put(models, "add", "2", adder())
    put(models, "text", "1", echo(TensorProto.STRING))
    put(models, "half", "1", echo(TensorProto.FLOAT16))
    put(models, "flags", "1", echo(TensorProto.BOOL))
    put(models, "small", "1", echo(TensorProto.INT8))
    put(models, "gather", "1", gatherer())
    (models / "digits").symlink_to(DIGITS / "digits")
    chosen = free_port()
    flags = ["--repository", str(models), "--grpc-address", f"127.0.0.1:{chosen}", "--threads", "1"]
    with Backend(*flags) as backend:
        assert backend.ready, backend.log
        channel = grpc.insecure_channel(f"127.0.0.1:{chosen}")
        grpc.channel_ready_future(channel).result(timeout=10)
        channel.close()
        yield chosen
        assert backend.stop() == 0


@pytest.fixture
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as made:
        yield made


@pytest.fixture
def stub(port: int) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, values: np.ndarray, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def refused(error: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(error.value.status())


def test_the_server_is_live_ready_and_says_what_it_is(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "headgate-backend"


def test_a_model_is_ready_and_described(client):
    assert client.is_model_ready("add")
    assert client.is_model_ready("add", "1")
    metadata = client.get_model_metadata("add")
    assert list(metadata.versions) == ["1", "2"]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("left", "FP32", [-1, 2]),
        ("right", "FP32", [-1, 2]),
    ]


def test_digits_are_read(client):
    rows = np.array([sample["pixels"] for sample in SAMPLES], dtype=np.float32)
    answer = client.infer("digits", [tensor("input", rows, "FP32")])
    assert answer.as_numpy("label").tolist() == [sample["label"] for sample in SAMPLES]
    assert answer.as_numpy("probabilities").shape == (len(SAMPLES), 10)


def test_version_id_and_chosen_outputs_are_honoured(client):
    one = np.array([[1, 2]], dtype=np.float32)
    answer = client.infer(
        "add",
        [tensor("left", one, "FP32"), tensor("right", one, "FP32")],
        model_version="1",
        request_id="seven",
        outputs=[triton.InferRequestedOutput("sum")],
    )
    assert answer.get_response().model_version == "1"
    assert answer.get_response().id == "seven"
    assert answer.as_numpy("sum").tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("model", "datatype", "values"),
    [
        ("flags", "BOOL", np.array([True, False])),
        ("half", "FP16", np.array([0.5, 2.0], dtype=np.float16)),
        ("small", "INT8", np.array([-128, 127], dtype=np.int8)),
        ("text", "BYTES", np.array(["é".encode(), b""], dtype=np.object_)),
    ],
    ids=["BOOL", "FP16", "INT8", "BYTES"],
)
def test_raw_tensors_come_back_as_they_went(client, model, datatype, values):
    answer = client.infer(model, [tensor("x", values, datatype)])
    assert answer.as_numpy("y").tolist() == values.tolist()


def typed(model: str, datatype: str, shape: list[int], **contents: object) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    entry = request.inputs.add(name="x", datatype=datatype, shape=shape)
    entry.contents.CopyFrom(service_pb2.InferTensorContents(**contents))
    return request


@pytest.mark.parametrize(
    ("request_", "raw"),
    [
        (typed("small", "INT8", [2], int_contents=[-1, 1]), b"\xff\x01"),
        (typed("flags", "BOOL", [1], bool_contents=[True]), b"\x01"),
        (typed("text", "BYTES", [1], bytes_contents=[b"hi"]), b"\x02\0\0\0hi"),
    ],
    ids=["INT8", "BOOL", "BYTES"],
)
def test_typed_tensors_are_read(stub, request_, raw):
    assert list(stub.ModelInfer(request_).raw_output_contents) == [raw]


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (typed("nothing", "FP32", [1], fp32_contents=[1]), "NOT_FOUND", "no model"),
        (typed("small", "FP32", [1], fp32_contents=[1]), "INVALID_ARGUMENT", "datatype"),
        (typed("small", "INT8", [3], int_contents=[1]), "INVALID_ARGUMENT", "holds 1 values"),
        (typed("small", "INT8", [1], int_contents=[300]), "INVALID_ARGUMENT", "beyond INT8"),
        (typed("small", "INT8", [-1], int_contents=[1]), "INVALID_ARGUMENT", "list of sizes"),
        (typed("half", "FP16", [1], fp32_contents=[1]), "INVALID_ARGUMENT", "must be raw"),
        (typed("text", "BYTES", [1], bytes_contents=[b"\xff"]), "INVALID_ARGUMENT", "UTF-8"),
        (service_pb2.ModelInferRequest(model_name="small"), "INVALID_ARGUMENT", "inputs"),
        (typed("gather", "INT64", [1], int64_contents=[9]), "INTERNAL", ""),
    ],
    ids=["model", "type", "count", "range", "shape", "fp16", "text", "no inputs", "engine"],
)
def test_what_is_wrong_has_a_status_and_words(stub, request_, code, words):
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(request_)
    assert failed.value.code() is grpc.StatusCode[code]
    assert words in failed.value.details()


def test_a_stream_answers_each_request_and_goes_on_after_a_bad_one(client):
    answers: queue.Queue[object] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for name in ("small", "nothing", "small"):
        client.async_stream_infer(name, [tensor("x", np.array([1], dtype=np.int8), "INT8")])
    first, second, third = (answers.get(timeout=10) for _ in range(3))
    client.stop_stream()
    assert first.as_numpy("y").tolist() == third.as_numpy("y").tolist() == [1]
    assert "no model" in str(second)


def test_a_backend_without_the_flag_listens_on_one_port(tmp_path: Path):
    put(tmp_path, "add", "1", adder())
    with Backend("--repository", str(tmp_path)) as backend:
        assert "gRPC" not in backend.log
        assert backend.stop() == 0
