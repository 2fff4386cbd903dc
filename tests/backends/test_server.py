from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from onnx import TensorProto, helper

from tests.backends.models import DIGITS, gatherer, put, value
from tests.backends.process import Backend

SAMPLES = json.loads((DIGITS / "samples.json").read_text())
ROWS = [sample["pixels"] for sample in SAMPLES]
LABELS = [sample["label"] for sample in SAMPLES]


def v2(rows: list[list[int]]) -> dict[str, object]:
    data = [pixel for row in rows for pixel in row]
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [len(rows), 64], "data": data}]}


def output(answer: dict[str, object], name: str) -> list[float]:
    return next(out["data"] for out in answer["outputs"] if out["name"] == name)


def slow(rounds: int = 400) -> bytes:
    """y = mean(x^w...): a loop of matrix products that takes about half a second for any x, FP32 [n]."""
    size = 512
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [size, size], [0.001] * (size * size))
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    constants = [
        matrix,
        helper.make_tensor("rounds", TensorProto.INT64, [], [rounds]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
    ]
    nodes = [
        helper.make_node("Loop", ["rounds", "yes", "w"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "slow",
            [value("x", TensorProto.FLOAT, ["n"])],
            [value("y", TensorProto.FLOAT, ["n"])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend("--repository", str(DIGITS), "--max-body", "64KiB") as backend:
        yield backend


def test_the_ready_line_names_the_url_and_what_is_served(backend: Backend) -> None:
    assert backend.ready == f"ready {backend.url} models=digits:1,digits:2,digits-lite:1"


@pytest.mark.parametrize("model", ["digits/versions/1", "digits/versions/2", "digits-lite"])
def test_every_model_reads_every_sample_in_both_dialects(backend: Backend, model: str) -> None:
    status, answer = backend.post(f"/v2/models/{model}/infer", v2(ROWS))
    assert status == 200
    assert output(answer, "label") == LABELS
    status, rows = backend.post(f"/v1/models/{model}:predict", {"instances": ROWS})
    assert status == 200
    assert [row["label"] for row in rows["predictions"]] == LABELS
    flat = [share for row in rows["predictions"] for share in row["probabilities"]]
    assert flat == pytest.approx(output(answer, "probabilities"))
    status, columns = backend.post(f"/v1/models/{model}:predict", {"inputs": {"input": ROWS}})
    assert columns["outputs"]["label"] == LABELS


def test_a_large_request_is_answered_row_by_row_in_both_dialects() -> None:
    rows, labels = ROWS * 120, LABELS * 120  # 2,400 rows in 500 kB: read off the loop and run in pieces
    with Backend("--repository", str(DIGITS), "--models", "digits=1") as backend:
        assert output(backend.post("/v2/models/digits/infer", v2(rows))[1], "label") == labels
        answer = backend.post("/v1/models/digits:predict", {"instances": rows})[1]
    assert [row["label"] for row in answer["predictions"]] == labels


def test_labels_choose_versions(backend: Backend) -> None:
    for label, version in (("stable", "1"), ("canary", "2")):
        labelled = backend.post(f"/v1/models/digits/labels/{label}:predict", {"inputs": ROWS[:1]})
        assert labelled == backend.post(f"/v1/models/digits/versions/{version}:predict", {"inputs": ROWS[:1]})


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param("/v2/models/digits/infer", b"{", 400, "malformed JSON", id="v2 malformed"),
        pytest.param("/v2/models/digits/infer", v2([[1] * 32] * 2), 400, "expected", id="v2 shape"),
        pytest.param("/v2/models/nope/infer", v2(ROWS[:1]), 404, "no model 'nope'", id="v2 model"),
        pytest.param(
            "/v2/models/digits/versions/3/infer", v2(ROWS[:1]), 404, "no version '3'", id="v2 version"
        ),
        pytest.param("/v2/models/digits/infer", b" " * 70_000, 413, "longer than 65536", id="v2 too large"),
        pytest.param("/v2/models/digits/ready", b"", 405, "use GET", id="v2 method"),
        pytest.param("/v1/models/digits:predict", b"{", 400, "malformed JSON", id="tfs malformed"),
        pytest.param(
            "/v1/models/digits:predict", {"instances": [[1]]}, 400, "input FP32 [n,64]", id="tfs shape"
        ),
        pytest.param(
            "/v1/models/nope:predict", {"instances": ROWS[:1]}, 404, "no model 'nope'", id="tfs model"
        ),
        pytest.param("/v1/models/digits/labels/x:predict", {}, 404, "no label 'x'", id="tfs label"),
        pytest.param(
            "/v1/models/digits:predict", b" " * 70_000, 413, "longer than 65536", id="tfs too large"
        ),
        pytest.param("/elsewhere", b"", 405, "use GET", id="elsewhere"),
    ],
)
def test_bad_requests_get_the_status_and_reason_in_the_dialects_form(
    backend: Backend, path: str, body: object, status: int, message: str
) -> None:
    got, answer = backend.post(path, body)
    assert got == status
    assert list(answer) == ["error"]
    assert message in str(answer["error"])
    assert "Traceback" not in str(answer)


def test_a_wrong_method_names_the_right_one(backend: Backend) -> None:
    status, _, headers = backend.call("GET", "/v2/models/digits/infer")
    assert (status, headers["Allow"]) == (405, "POST")


def test_a_chunked_body_that_grows_too_large_is_refused(backend: Backend) -> None:
    with socket.create_connection(("127.0.0.1", backend.port), timeout=10) as client:
        client.sendall(
            b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        client.sendall(b"11170\r\n" + b" " * 70_000 + b"\r\n0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_expect_100_continue_is_answered_before_the_body(backend: Backend) -> None:
    body = json.dumps(v2(ROWS[:1])).encode()
    with socket.create_connection(("127.0.0.1", backend.port), timeout=10) as client:
        client.sendall(
            b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        with client.makefile("rb") as answer:
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"


def test_health_metadata_and_metrics_are_open(backend: Backend) -> None:
    assert backend.get("/v2/health/live") == (200, b'{"live":true}')
    assert backend.get("/v2/health/ready") == (200, b'{"ready":true}')
    assert backend.get("/v1/models/digits")[0] == 200
    assert backend.get("/v1/models/digits/metadata")[0] == 200
    assert backend.get("/nothing") == (404, b'{"error":"no such URL"}')
    assert backend.call("HEAD", "/v2/health/live")[:2] == (200, b"")


def test_metrics_count_requests_failures_latency_and_batches() -> None:
    with Backend("--repository", str(DIGITS), "--models", "digits=1") as backend:
        for _ in range(3):
            backend.post("/v2/models/digits/infer", v2(ROWS[:2]))
        backend.post("/v2/models/digits/infer", v2([[1] * 32] * 2))
        page = backend.get("/metrics")[1].decode()
    labels = '{model="digits",version="1"}'
    for line in (
        f"headgate_backend_requests_total{labels} 4.0",
        'headgate_backend_failures_total{model="digits",status="400",version="1"} 1.0',
        f"headgate_backend_request_seconds_count{labels} 4.0",
        f"headgate_backend_batch_rows_count{labels} 3.0",
        f"headgate_backend_batch_rows_sum{labels} 6.0",
        f"headgate_backend_queued_rows{labels} 0.0",
        f"headgate_backend_in_flight{labels} 0.0",
    ):
        assert line in page.splitlines()
    assert "process_cpu_seconds_total" in page


async def test_concurrent_requests_share_engine_calls_and_keep_their_answers() -> None:
    with Backend("--repository", str(DIGITS), "--models", "digits=1") as backend:
        async with aiohttp.ClientSession(backend.url) as session:

            async def ask(index: int) -> bool:
                async with session.post("/v2/models/digits/infer", json=v2([ROWS[index]])) as answer:
                    return output(await answer.json(), "label") == [LABELS[index]]

            assert all(await asyncio.gather(*(ask(index % len(ROWS)) for index in range(400))))
            async with session.get("/metrics") as answer:
                page = await answer.text()
    calls = next(line for line in page.splitlines() if line.startswith("headgate_backend_batch_rows_count"))
    assert float(calls.split()[-1]) < 400


def test_a_single_request_does_not_wait_for_company(backend: Backend) -> None:
    times = []
    for _ in range(20):
        started = time.perf_counter()
        backend.post("/v2/models/digits/infer", v2(ROWS[:1]))
        times.append(time.perf_counter() - started)
    assert min(times) < 0.02  # with a new connection each time


def test_a_failure_in_the_engine_fails_only_its_request_and_shows_no_details(tmp_path: Path) -> None:
    put(tmp_path, "table", "1", gatherer())

    def ask(index: int) -> tuple[int, dict[str, object]]:
        return backend.post("/v1/models/table:predict", {"instances": [index]})

    with Backend("--repository", str(tmp_path)) as backend, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [0, 1, 7, 1] * 8))
    expected = [(200, {"predictions": [10.0]}), (200, {"predictions": [20.0]})]
    expected += [(500, {"error": "the model failed on this request"}), (200, {"predictions": [20.0]})]
    assert answers == expected * 8


# Starting


def test_a_sample_that_fails_prevents_serving(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "models")
    card = tmp_path / "models" / "digits" / "model.yaml"
    card.write_text(card.read_text().replace("label: [3, 8]", "label: [3, 9]"))
    with Backend("--repository", str(tmp_path / "models")) as backend:
        assert backend.ready.endswith(" models=digits-lite:1")
        assert backend.post("/v2/models/digits/infer", v2(ROWS[:1]))[0] == 404
    with Backend("--repository", str(tmp_path / "models"), "--models", "digits=1") as backend:
        assert backend.wait() == 2
        assert "digits version 1: the sample's 'label' is [3, 8], expected [3, 9]" in backend.log
        assert "Traceback" not in backend.log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repository", "nowhere"], "error: repository nowhere: no such folder"),
        (["--repository", str(DIGITS), "--models", "digits=9"], "error: model 'digits' has no version '9'"),
        (["--repository", str(DIGITS), "--device", "tensorrt"], "device 'tensorrt' is not available"),
        (["--repository", str(DIGITS), "--register", "http://127.0.0.1:1"], "--service is needed too"),
        (["--threads", "0"], "error: threads and max_body are at least 1"),
        (["--max-body", "much"], "expected a size such as 16MiB, got 'much'"),
        (["--address", "here"], "expected HOST:PORT, got 'here'"),
        (["--repository", str(DIGITS), "--address", "127.0.0.1:1"], "error: cannot listen on 127.0.0.1:1"),
    ],
)
def test_what_cannot_start_says_why_and_exits_2(flags: list[str], message: str) -> None:
    if "127.0.0.1:1" in flags and "--address" in flags:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            flags = [address if flag == "127.0.0.1:1" else flag for flag in flags]
            message = message.replace("127.0.0.1:1", address)
            assert_fails(flags, message)
    else:
        assert_fails(flags, message)


def assert_fails(flags: list[str], message: str) -> None:
    with Backend(*flags) as backend:
        assert backend.wait() == 2
        assert backend.ready == ""
        assert message in backend.log
        assert "Traceback" not in backend.log


def test_a_config_file_is_read_and_flags_override_it(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "models")
    config = tmp_path / "server.yaml"
    config.write_text("repository: models\nmodels: [digits=2]\nlog_level: error\nmax_body: 1KiB\n")
    with Backend("--config", str(config)) as backend:
        assert backend.ready.endswith("models=digits:2")
        assert backend.post("/v2/models/digits/infer", b" " * 2000)[0] == 413
        assert backend.stop() == 0
        assert backend.log == ""
    with Backend("--config", str(config), "--models", "digits=1", "digits-lite") as backend:
        assert backend.ready.endswith("models=digits:1,digits-lite:1")


def test_a_config_error_names_file_line_and_the_nearest_key(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("repository: models\nthraeds: 2\n")
    with Backend("--config", str(config)) as backend:
        assert backend.wait() == 2
        assert backend.log == f"error: {config}:2: unknown key 'thraeds'; did you mean 'threads'?\n"


def test_a_memory_limit_is_the_kernels(tmp_path: Path) -> None:
    with Backend("--repository", str(DIGITS), "--memory", "3GiB") as backend:
        limits = Path(f"/proc/{backend.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max data size")).split()[3] == str(
        3 << 30
    )


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_in_flight_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    put(tmp_path, "slow", "1", slow())
    with Backend("--repository", str(tmp_path)) as backend, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(backend.post, "/v1/models/slow:predict", {"instances": [1.5]})
        wait_until(lambda: in_flight(backend))
        started = time.monotonic()
        assert backend.stop(number) == 0
        assert answer.result(20) == (200, {"predictions": [1.5]})
        assert time.monotonic() - started < 10
        assert "Traceback" not in backend.log


def test_a_stop_under_load_leaves_no_request_unanswered() -> None:
    body = json.dumps(v2(ROWS[:1]))

    def ask_until_closed(_: int) -> int:
        client = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=10)
        with contextlib.closing(client):
            for count in itertools.count(1):
                client.request("POST", "/v2/models/digits/infer", body)
                with client.getresponse() as answer:
                    assert answer.status == 200
                    assert output(json.loads(answer.read()), "label") == LABELS[:1]
                    if answer.getheader("Connection") == "close":
                        return count
        raise AssertionError

    with Backend("--repository", str(DIGITS)) as backend, ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask_until_closed, number) for number in range(4)]
        wait_until(lambda: metric(backend, "requests_total", "digits", "2") > 100)
        assert backend.stop() == 0
        assert all(client.result(20) > 1 for client in clients)


def test_a_slow_model_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    put(tmp_path, "slow", "1", slow())
    with Backend("--repository", str(tmp_path)) as backend, ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        answer = pool.submit(backend.post, "/v1/models/slow:predict", {"instances": [1.5]})
        wait_until(lambda: in_flight(backend))
        assert backend.get("/v2/health/live")[0] == 200
        assert not answer.done()
        assert answer.result(20)[0] == 200
        assert time.monotonic() - started > 0.05


def test_a_full_queue_is_503_with_retry_after_and_a_client_that_leaves_frees_its_place(
    tmp_path: Path,
) -> None:
    put(tmp_path, "slow", "1", slow(), {"batching": {"max_queue": 1, "max_batch": 1}})
    body = json.dumps({"instances": [1.5]}).encode()
    head = b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Backend("--repository", str(tmp_path), "--threads", "1") as backend:
        with contextlib.ExitStack() as stack:
            for waiting in (0, 1):
                client = stack.enter_context(
                    socket.create_connection(("127.0.0.1", backend.port), timeout=10)
                )
                client.sendall(head + body)
                wait_until(lambda waiting=waiting: metric(backend, "in_flight") == 1 + waiting)
            assert metric(backend, "queued_rows") == 1
            status, answer, headers = backend.call("POST", "/v1/models/slow:predict", body)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert answer == b'{"error":"1 rows are waiting; try again later"}'
        wait_until(lambda: metric(backend, "cancelled_total") == 1)
        assert metric(backend, "queued_rows") == 0


def metric(backend: Backend, name: str, model: str = "slow", version: str = "1") -> float:
    prefix = f'headgate_backend_{name}{{model="{model}",version="{version}"}} '
    lines = backend.get("/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith(prefix)).removeprefix(prefix))


def in_flight(backend: Backend) -> bool:
    """Whether a prediction was read and is not answered yet."""
    return metric(backend, "in_flight") == 1


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
