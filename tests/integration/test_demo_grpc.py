"""KServe V2 over gRPC through the demo: Triton's own client, and the policies of every other request."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.backends.models import DIGITS
from tests.integration.running import Demo, until

SAMPLES = json.loads((DIGITS / "samples.json").read_text())
ROWS = np.array([sample["pixels"] for sample in SAMPLES], dtype=np.float32)


def digits() -> triton.InferInput:
    made = triton.InferInput("input", list(ROWS.shape), "FP32")
    made.set_data_from_numpy(ROWS)
    return made


@pytest.fixture
def client(demo: Demo):
    with triton.InferenceServerClient(f"127.0.0.1:{demo.grpc}") as made:
        yield made


def test_digits_are_read_through_the_gateway(client):
    answer = client.infer("digits", [digits()], headers={"x-api-key": "demo-pro"})
    assert answer.as_numpy("label").tolist() == [sample["label"] for sample in SAMPLES]


def test_the_http_port_takes_the_same_call(demo):
    with triton.InferenceServerClient(f"127.0.0.1:{demo.http}") as client:
        assert client.is_model_ready("digits", headers={"x-api-key": "demo-pro"})


def test_health_and_metadata_pass(client):
    pro = {"x-api-key": "demo-pro"}
    assert client.is_server_live(headers=pro)
    assert client.is_server_ready(headers=pro)
    assert list(client.get_model_metadata("digits", headers=pro).versions) == ["1"]


def test_an_unknown_key_is_unauthenticated_and_a_guest_is_denied(client):
    for key, code in (("nobody", "UNAUTHENTICATED"), ("demo-guest", "PERMISSION_DENIED")):
        with pytest.raises(InferenceServerException) as failed:
            client.infer("digits", [digits()], headers={"x-api-key": key})
        assert code in str(failed.value.status())


def test_the_free_plan_is_exhausted(demo):
    with grpc.insecure_channel(f"127.0.0.1:{demo.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        codes = []
        for _ in range(12):
            try:
                stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=[("x-api-key", "demo-free")])
            except grpc.RpcError as error:
                codes.append(error.code())
                pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
                assert 0 < int(pushback) <= 1000
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes


def test_calls_are_counted_and_logged_by_their_status(demo, client):
    client.is_server_live(headers={"x-api-key": "demo-pro"})
    with pytest.raises(InferenceServerException):
        client.get_model_metadata("nothing", headers={"x-api-key": "demo-pro"})
    assert demo.metric("headgate_grpc_total", endpoint="digits-grpc", status="OK") >= 1
    assert demo.metric("headgate_grpc_total", endpoint="digits-grpc", status="NOT_FOUND") >= 1
    log = demo.folder / ".demo/access.log"
    until(lambda: log.exists() and '"grpc_status":5' in log.read_text(), "the line of the access log")
