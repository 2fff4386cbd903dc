"""The running server: repository API, load header, deadlines and polling, as clients see them."""

from __future__ import annotations

import concurrent.futures
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from gateway.http.load_report import read_load
from gateway.http.message import Response
from tests.backends.models import DIGITS, adder, gatherer, put
from tests.backends.process import Backend
from tests.backends.test_server import slow
from tests.services.etcd import free_port

ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    put(folder, "sum", "1", adder())
    put(folder, "slow", "1", slow(100), {"batching": {"parallel": 1}})
    return folder


@pytest.fixture(scope="module")
def backend(repository: Path) -> Iterator[Backend]:
    with Backend("--repository", str(repository), "--control", "--poll", "50ms") as backend:
        yield backend


def post(backend: Backend, path: str, body: object, **fields: str) -> tuple[int, bytes]:
    request = urllib.request.Request(backend.url + path, json.dumps(body).encode(), fields, method="POST")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read()


def index(backend: Backend) -> list[tuple[str, str, str]]:
    _, body = post(backend, "/v2/repository/index", {})
    return [(one["name"], one["version"], one["state"]) for one in json.loads(body)]


def test_models_are_listed_unloaded_and_loaded_by_triton_s_client(backend: Backend, repository: Path) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{backend.port}") as client:
        names = {one["name"] for one in client.get_model_repository_index()}
        assert names == {"sum", "slow"}
        client.unload_model("sum")
        assert not client.is_model_ready("sum")
        client.load_model("sum", config=json.dumps({"execution": "thread", "instances": 2}))
        assert client.is_model_ready("sum")
        with pytest.raises(InferenceServerException, match="did you mean 'instances'"):
            client.load_model("sum", config='{"instancse": 2}')
        with pytest.raises(InferenceServerException, match="a model's files come from the repository"):
            client.load_model("sum", config="{}", files={"file:1/model.onnx": b"x"})
    assert "execution=thread lanes=2" in backend.log


def test_without_control_nobody_takes_a_model_away() -> None:
    port = free_port()
    with Backend("--repository", str(DIGITS), "--grpc-address", f"127.0.0.1:{port}") as backend:
        assert post(backend, "/v2/repository/models/digits/unload", {})[0] == 403
        assert ("digits", "2", "READY") in index(backend)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            listed = client.get_model_repository_index().models
            assert ("digits", "1", "READY") in [(one.name, one.version, one.state) for one in listed]
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                client.unload_model("digits")


def test_a_version_that_appears_is_served_without_a_restart(backend: Backend, repository: Path) -> None:
    put(repository, "table", "1", gatherer())
    backend.until("/v2/models/table/versions/1/ready", 200)
    (repository / "table" / "1" / "model.onnx").unlink()
    (repository / "table" / "1").rmdir()
    backend.until("/v2/models/table/versions/1/ready", 404)


def test_answers_say_how_busy_the_server_is_in_words_that_the_gateway_reads(backend: Backend) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        under_way = [pool.submit(post, backend, "/v2/models/slow/infer", ONE) for _ in range(3)]
        said = set()
        while not all(one.done() for one in under_way):
            said.add(backend.call("GET", "/v2/health/live")[2]["x-headgate-load"])
    assert (1, 2) in {read_load(Response(200, [(b"x-headgate-load", one.encode())])) for one in said}, said
    assert all(re.fullmatch(r"running=\d, waiting=\d", one) for one in said)


def test_what_cannot_be_answered_in_time_is_not_computed(backend: Backend) -> None:
    path = "/v2/models/slow/infer"
    assert post(backend, path, ONE)[0] == 200  # now it knows how long a call takes
    status, body = post(backend, path, ONE, **{"x-request-timeout-ms": "5"})
    assert (status, json.loads(body)["error"]) == (504, "the deadline cannot be met")
    assert post(backend, path, ONE | {"parameters": {"timeout": 5000}})[0] == 504
    assert post(backend, path, ONE | {"parameters": {"timeout": 20_000_000, "priority": 1}})[0] == 200
    assert post(backend, path, ONE | {"parameters": {"priority": 10}})[0] == 400
    assert post(backend, path, ONE, **{"x-request-timeout-ms": "soon"})[0] == 400
    page = backend.get("/metrics")[1].decode()
    assert 'headgate_backend_expired_total{model="slow",version="1"} 2.0' in page
    assert 'headgate_backend_failures_total{model="slow",status="504",version="1"} 2.0' in page


def test_an_isolated_model_s_processes_end_with_the_server(tmp_path: Path) -> None:
    put(tmp_path, "sum", "1", adder(), {"isolation": "process", "instances": 2})
    with Backend("--repository", str(tmp_path)) as backend:
        tasks = Path(f"/proc/{backend.process.pid}/task").glob("*/children")
        children = [pid for task in tasks for pid in task.read_text().split()]
        assert len(children) == 2
        assert backend.stop() == 0
    assert not any(Path(f"/proc/{pid}/stat").exists() for pid in children)
