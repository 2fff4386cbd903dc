"""Real model servers, each serving `double`: x FP32[-1,2] -> y = 2x and n, INT64[-1], the larger column.

Negative numbers make the model raise, a third column makes it fail as that server's models fail. A server is
started on free ports of 127.0.0.1 in a folder of its own, and ended with its whole process group.
PaddleServing binds every address, so it runs only in a network namespace of its own (`make test-peers` makes
one and runs its tests inside).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.services.etcd import free_port
from tests.services.peers.install import home

INTO = Path(os.environ.get("HEADGATE_PEERS") or Path(__file__).resolve().parents[3] / ".venv")
SIGNATURE = "x: FP32[-1,2] -> y: FP32[-1,2], n: INT64[-1]"
NUMBERS = """
import numpy as np
def double(x):
    x = np.asarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError("could not broadcast: unexpected shape for input 'x'")
    if (x < 0).any():
        raise ValueError("no negative numbers")
    return x * np.float32(2), x.argmax(1).astype(np.int64)
"""


class Process:
    """A server's process group. It can hang, be killed, and start again on the same ports."""

    def __init__(
        self, folder: Path, command: list[str | Path], env: Mapping[str, str], ready: Callable[[], bool]
    ) -> None:
        self._folder = folder
        self._command = command
        self._env = env
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The first process, and the group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return once it says that it is ready; AssertionError with the end of its log otherwise."""
        (self._folder / "tmp" / ".model_server.pid").unlink(missing_ok=True)  # MMS takes a zombie for itself
        log = self._folder / "log"
        with log.open("ab") as out:
            env = {**os.environ, **self._env}
            process = self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=env, stdout=out, stderr=out, start_new_session=True
            )
        end = time.monotonic() + 90
        while not self._ready():
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.3)

    def hang(self) -> None:
        """From now on it accepts connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Hang no longer."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; nobody listens any more."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def end(self) -> None:
        """Ask it to end, and make it."""
        if self._process is None:
            return
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
            try:
                self._signal(number)
                if number is not signal.SIGCONT:
                    self._process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def _signal(self, number: signal.Signals) -> None:
        """Signal its group, and what it started in groups of their own (BentoML's workers)."""
        strays: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
            strays = [one for one in children if os.getpgid(one.pid) != self.pid]
        os.killpg(self.pid, number)
        for stray in strays:
            with suppress(psutil.NoSuchProcess):
                stray.send_signal(number)


@dataclass
class Server:
    """One running server.

    pools: `speaks` -> port. settings: more of the pool's. health: where its readiness is asked for, if not by
    its protocol. mute: protocols in which the server says of a client's mistake nothing but that something
    failed, so that only the gateway can tell (`validate`).
    """

    name: str
    version: str
    process: Process
    pools: dict[str, int]
    settings: dict[str, str] = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    mute: frozenset[str] = frozenset()

    def page(self, speaks: str, pool: str = "", health: str = "", verbs: str = "", beside: int = 0) -> str:
        """The policy file of an endpoint `double` in front of it.

        pool, health, verbs: more of each. beside: the port of a second instance.
        """
        instances = ", ".join(f"'127.0.0.1:{port}'" for port in (self.pools[speaks], beside) if port)
        checks = ", ".join(text for text in (self.health.get(speaks, ""), health) if text)
        more = f", {self.settings[speaks]}" if speaks in self.settings else ""
        more += f", health: {{{checks}}}" if checks else ""
        more += f", {pool}" if pool else ""
        asked = "match: /predict" if speaks == "http" else "model: double"
        validate = "    validate: true\n" if speaks in self.mute else ""
        return (
            f"pools:\n  peer: {{instances: [{instances}], speaks: {speaks}{more}}}\n"
            f"endpoints:\n  double:\n    {asked}\n    send: peer\n    authenticate: none\n"
            f"    safe_to_retry: true\n{validate}{verbs}"
        )

    def record(self, seen: Mapping[str, object]) -> None:
        """Append what was seen of it to HEADGATE_PEERS_TABLE, from which table.py writes docs/peers.md."""
        place = os.environ.get("HEADGATE_PEERS_TABLE")
        if place:
            with Path(place).open("a") as table:
                table.write(json.dumps({"server": self.name, "version": self.version, **seen}) + "\n")


def is_installed(name: str) -> bool:
    """Whether `make test-peers` installed it."""
    return (home(name, INTO) / ".ok").exists()


def version_of(name: str, package: str) -> str:
    """The installed version."""
    script = f"from importlib.metadata import version; print(version({package!r}))"
    python = home(name, INTO) / "bin" / "python"
    return subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def answers(url: str, says: Callable[[bytes], bool] = lambda body: True) -> bool:
    """Whether a GET is 200 and its body says so."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return says(response.read())
    except (OSError, urllib.error.URLError):
        return False


def low_port() -> int:
    """A free port below 32768: MMS refuses higher ones."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port


@contextmanager
def _running(
    folder: Path, command: list[str | Path], env: Mapping[str, str], ready: Callable[[], bool]
) -> Iterator[Process]:
    process = Process(folder, command, env, ready)
    try:
        process.start()
        yield process
    finally:
        process.end()


# Triton, the native server of NVIDIA's wheel, with a model of its Python backend

TRITON_MODEL = """
import sys
sys.path.insert(0, {packages!r})
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        try:
            y, n = double(pb.get_input_tensor_by_name(request, "x").as_numpy())
        except ValueError as wrong:
            return pb.InferenceResponse([], pb.TritonError(str(wrong)))
        return pb.InferenceResponse([pb.Tensor("y", y), pb.Tensor("n", n)])
"""
TRITON_CONFIG = """
name: "double"
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]
output [
  { name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] },
  { name: "n" data_type: TYPE_INT64 dims: [ -1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


@contextmanager
def triton(folder: Path) -> Iterator[Server]:
    """Triton over HTTP and gRPC."""
    python = home("triton", INTO) / "bin" / "python"
    script = "import sys, sysconfig as s; print(s.get_path('purelib'), sys.base_prefix, sys.version_info[1])"
    told = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    packages, prefix, minor = told
    binaries = Path(packages) / "pytriton" / "tritonserver"
    (folder / "models" / "double" / "1").mkdir(parents=True)
    (folder / "models" / "double" / "config.pbtxt").write_text(TRITON_CONFIG)
    (folder / "models" / "double" / "1" / "model.py").write_text(
        TRITON_MODEL.format(packages=packages) + NUMBERS
    )
    shutil.copytree(binaries / "backends" / "python", folder / "backends" / "python")
    stub = binaries / "python_backend_stubs" / f"3.{minor}" / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    http, grpc = free_port(), free_port()
    command: list[str | Path] = [
        binaries / "bin" / "tritonserver",
        *("--model-repository", folder / "models", "--backend-directory", folder / "backends"),
        *("--http-address", "127.0.0.1", "--http-port", str(http)),
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(grpc), "--allow-metrics", "false"),
    ]
    env = {"LD_LIBRARY_PATH": f"{prefix}/lib:{packages}/nvidia_pytriton.libs", "PYTHONHOME": prefix}
    with _running(
        folder, command, env, lambda: answers(f"http://127.0.0.1:{http}/v2/models/double/ready")
    ) as process:
        yield Server("Triton", "2.51.0", process, {"kserve-v2": http, "kserve-v2-grpc": grpc})


# MLServer

MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.types import InferenceResponse
from mlserver.codecs import NumpyCodec

class Double(MLModel):
    async def load(self):
        return True

    async def predict(self, request):
        (x,) = [self.decode(one, default_codec=NumpyCodec) for one in request.inputs]
        y, n = double(x)
        outputs = [NumpyCodec.encode_output("y", y), NumpyCodec.encode_output("n", n)]
        named = {"model_name": self.name, "model_version": self.version, "id": request.id}
        return InferenceResponse(**named, outputs=outputs)
"""


@contextmanager
def mlserver(folder: Path) -> Iterator[Server]:
    """MLServer over HTTP and gRPC."""
    ports = [free_port() for _ in range(3)]
    settings = {
        "host": "127.0.0.1",
        **dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True)),
        "parallel_workers": 0,
        "metrics_dir": str(folder),
    }
    model = {
        "name": "double",
        "implementation": "served.Double",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "n", "datatype": "INT64", "shape": [-1]},
        ],
        "parameters": {"version": "1"},
    }
    (folder / "double").mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "double" / "model-settings.json").write_text(json.dumps(model))
    (folder / "served.py").write_text(NUMBERS + MLSERVER_MODEL)
    ready = f"http://127.0.0.1:{ports[0]}/v2/models/double/ready"
    command: list[str | Path] = [home("mlserver", INTO) / "bin" / "mlserver", "start", folder]
    with _running(folder, command, {"PYTHONPATH": str(folder)}, lambda: answers(ready)) as process:
        pools = {"kserve-v2": ports[0], "kserve-v2-grpc": ports[1]}
        yield Server("MLServer", version_of("mlserver", "mlserver"), process, pools)


# KServe's SDK: it binds every address unless told otherwise from outside

KSERVE_SERVER = """
import sys, uuid
import uvicorn
import grpc.aio._server as aio
from kserve import InferOutput, InferResponse, Model, ModelServer

plain = uvicorn.Config.__init__
def local(self, *given, **named):
    named["host"] = "127.0.0.1"
    plain(self, *given, **named)
uvicorn.Config.__init__ = local
port = aio.Server.add_insecure_port
aio.Server.add_insecure_port = lambda self, address: port(self, address.replace("[::]", "127.0.0.1"))

class Double(Model):
    def __init__(self):
        super().__init__("double")
        self.ready = True

    async def get_input_types(self):
        return [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]

    async def get_output_types(self):
        n = {"name": "n", "datatype": "INT64", "shape": [-1]}
        return [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}, n]

    async def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            y, n = double(payload["instances"])
            return {"predictions": [{"y": a, "n": b} for a, b in zip(y.tolist(), n.tolist())]}
        y, n = double(payload.inputs[0].as_numpy())
        outputs = []
        for name, values, datatype in (("y", y, "FP32"), ("n", n, "INT64")):
            one = InferOutput(name, list(values.shape), datatype)
            one.set_data_from_numpy(values, binary_data=payload.inputs[0]._raw_data is not None)
            outputs.append(one)
        return InferResponse(payload.id or str(uuid.uuid4()), "double", outputs, model_version="1")

ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1).start([Double()])
"""


@contextmanager
def kserve(folder: Path) -> Iterator[Server]:
    """The KServe SDK's server: V1 and V2 over HTTP, V2 over gRPC."""
    http, grpc = free_port(), free_port()
    (folder / "served.py").write_text(NUMBERS + KSERVE_SERVER)
    command: list[str | Path] = [home("kserve", INTO) / "bin" / "python", "served.py", str(http), str(grpc)]
    ready = f"http://127.0.0.1:{http}/v2/models/double/ready"
    with _running(folder, command, {}, lambda: answers(ready)) as process:
        pools = {"kserve-v1": http, "kserve-v2": http, "kserve-v2-grpc": grpc}
        mute = frozenset(("kserve-v2-grpc",))
        yield Server("KServe SDK", version_of("kserve", "kserve"), process, pools, mute=mute)


# TorchServe and MMS: one handler for both

HANDLE = """
import json
def v2(body):
    (x,) = body["inputs"]
    y, n = double(np.array(x["data"], np.float32).reshape(x["shape"]))
    outputs = [
        {"name": "y", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()},
        {"name": "n", "datatype": "INT64", "shape": list(n.shape), "data": n.tolist()},
    ]
    return {"id": body["id"], "model_name": "double", "model_version": "1.0", "outputs": outputs}

def answer(data):
    out = []
    for one in data:
        body = one.get("data") if one.get("data") is not None else one.get("body")
        if isinstance(body, (bytes, bytearray)):
            body = json.loads(body.decode())
        if "inputs" in body:
            out.append(v2(body))
            continue
        y, n = double(body["instances"])
        out.append({"y": y.tolist(), "n": n.tolist()})
    return out
"""
TORCH_HANDLER = """
from ts.torch_handler.base_handler import BaseHandler
class Double(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return answer(data)
"""
MMS_HANDLER = """
import mxnet as mx
checked = double
def double(x):
    checked(x)
    rows = mx.nd.array(x, dtype="float32")
    return (rows * 2).asnumpy(), rows.argmax(axis=1).astype("int64").asnumpy()

def handle(data, context):
    return None if data is None else answer(data)
"""
READY = b'"READY"'


@contextmanager
def torchserve(folder: Path) -> Iterator[Server]:
    """TorchServe over HTTP, and V2 over gRPC under its own name; readiness from its management API."""
    binaries = home("torchserve", INTO) / "bin"
    http, management, metrics, grpc, other = (free_port() for _ in range(5))
    for name in ("store", "logs", "tmp"):
        (folder / name).mkdir()
    (folder / "handler.py").write_text(NUMBERS + HANDLE + TORCH_HANDLER)
    env = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        "TEMP": str(folder / "tmp"),
        "TS_OPEN_INFERENCE_PROTOCOL": "oip",
    }
    archive = [
        "--model-name",
        "double",
        "--version",
        "1.0",
        "--handler",
        "handler.py",
        "--export-path",
        "store",
    ]
    subprocess.run(
        [binaries / "torch-model-archiver", *archive, "-f"],
        cwd=folder, env={**os.environ, **env}, check=True, capture_output=True,
    )  # fmt: skip
    workers = '"minWorkers": 1, "maxWorkers": 1, "batchSize": 4, "maxBatchDelay": 2, "responseTimeout": 60'
    version = f'{{"1.0": {{"defaultVersion": true, "marName": "double.mar", {workers}}}}}'
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{http}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_address=127.0.0.1\n"
        f"grpc_management_address=127.0.0.1\ngrpc_inference_port={grpc}\ngrpc_management_port={other}\n"
        f"initial_worker_port={free_port()}\nmodel_store=store\nload_models=double.mar\n"
        f'models={{"double": {version}}}\ninstall_py_dep_per_model=false\n'
    )
    command: list[str | Path] = [
        *(binaries / "torchserve", "--start", "--foreground", "--ncs", "--model-store", "store"),
        *("--ts-config", "config.properties", "--disable-token-auth", "--enable-model-api"),
    ]
    ready = f"http://127.0.0.1:{management}/models/double"
    with _running(folder, command, env, lambda: answers(ready, lambda body: READY in body)) as process:
        told = f'signature: "{SIGNATURE}"'
        settings = {"torchserve": told, "torchserve-grpc": told}
        management_api = f"expects: torchserve, port: {management}"
        health = {"torchserve": f"port: {management}", "torchserve-grpc": management_api}
        pools = {"torchserve": http, "torchserve-grpc": grpc}
        yield Server("TorchServe", version_of("torchserve", "torchserve"), process, pools, settings, health)


@contextmanager
def mms(folder: Path) -> Iterator[Server]:
    """multi-model-server, whose model is MXNet's."""
    binaries = home("mms", INTO) / "bin"
    http, management, worker = low_port(), low_port(), low_port()
    for name in ("store", "logs", "tmp", "model"):
        (folder / name).mkdir()
    (folder / "model" / "handler.py").write_text(NUMBERS + HANDLE + MMS_HANDLER)
    env = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        "TEMP": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [binaries / "model-archiver", "--model-name", "double", "--model-path", "model",
         "--handler", "handler:handle", "--export-path", "store", "-f"],
        cwd=folder, env={**os.environ, **env}, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{http}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"initial_worker_port={worker}\ndefault_workers_per_model=1\npreload_model=false\n"
    )
    command: list[str | Path] = [
        *(binaries / "multi-model-server", "--start", "--foreground", "--mms-config", "config.properties"),
        *("--model-store", "store", "--models", "double=double.mar"),
    ]
    ready = f"http://127.0.0.1:{management}/models/double"
    with _running(folder, command, env, lambda: answers(ready, lambda body: READY in body)) as process:
        name = "multi-model-server"
        settings = {name: f'signature: "{SIGNATURE}"'}
        health = {name: f"port: {management}"}
        yield Server(name, version_of("mms", name), process, {name: http}, settings, health)


# PaddleServing's pipeline

PADDLE_SERVER = """
import json, sys
from paddle_serving_server.pipeline import Op, PipelineServer, RequestOp, ResponseOp

class Double(Op):
    def preprocess(self, input_dicts, data_id=0, log_id=0):
        (_, given), = input_dicts.items()
        return {"x": json.loads(given["x"])}, False, None, ""

    # without a local service no process() runs
    def postprocess(self, input_dicts, fetch, data_id=0, log_id=0):
        y, n = double(fetch["x"])
        return {"y": str(y.tolist()), "n": str(n.tolist())}, None, ""

server = PipelineServer("double")
server.set_response_op(ResponseOp(input_ops=[Double(name="double", input_ops=[RequestOp()])]))
server.prepare_server("config.yml")
server.run_server()
"""


@contextmanager
def paddle(folder: Path) -> Iterator[Server]:
    """PaddleServing's pipeline over HTTP and gRPC; only inside a network namespace of its own."""
    http, grpc = free_port(), free_port()
    (folder / "served.py").write_text(NUMBERS + PADDLE_SERVER)
    (folder / "config.yml").write_text(
        f"worker_num: 1\nrpc_port: {grpc}\nhttp_port: {http}\nbuild_dag_each_worker: false\n"
        "dag: {is_thread_op: true, retry: 1, use_profile: false, channel_size: 0}\n"
        "op: {double: {concurrency: 1}}\n"
    )
    body = json.dumps({"key": ["x"], "value": ["[[1,2]]"]}).encode()

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/double/prediction", body, 2) as response:
                return b'"err_no":0' in response.read()
        except (OSError, urllib.error.URLError):
            return False

    command: list[str | Path] = [home("paddle", INTO) / "bin" / "python", "served.py"]
    with _running(folder, command, {}, ready) as process:
        told = f'signature: "{SIGNATURE}"'
        settings = {"paddle-pipeline": told, "paddle-pipeline-grpc": told}
        pools = {"paddle-pipeline": http, "paddle-pipeline-grpc": grpc}
        version = version_of("paddle", "paddle-serving-server")
        yield Server("PaddleServing pipeline", version, process, pools, settings)


# Servers with an API of their own: nothing is translated

LITSERVE_SERVER = """
import sys
import litserve as ls

class Double(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["x"]

    def predict(self, x):
        return double(x)

    def encode_response(self, output):
        y, n = output
        return {"y": y.tolist(), "n": n.tolist()}

if __name__ == "__main__":
    ls.LitServer(Double(), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
"""
BENTO_SERVER = """
import bentoml

@bentoml.service
class Double:
    @bentoml.api
    def predict(self, x: list) -> dict:
        y, n = double(x)
        return {"y": y.tolist(), "n": n.tolist()}
"""
FASTAPI_SERVER = """
import sys
import uvicorn
from fastapi import FastAPI, HTTPException

app = FastAPI()

@app.get("/health")
def health():
    return "ok"

@app.post("/predict")
def predict(body: dict):
    try:
        y, n = double(body["x"])
    except ValueError as wrong:
        raise HTTPException(422, str(wrong))
    return {"y": y.tolist(), "n": n.tolist()}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@contextmanager
def litserve(folder: Path) -> Iterator[Server]:
    """LitServe, with its own /predict."""
    port = free_port()
    (folder / "served.py").write_text(NUMBERS + LITSERVE_SERVER)
    command: list[str | Path] = [home("litserve", INTO) / "bin" / "python", "served.py", str(port)]
    with _running(folder, command, {}, lambda: answers(f"http://127.0.0.1:{port}/health")) as process:
        yield Server(
            "LitServe",
            version_of("litserve", "litserve"),
            process,
            {"http": port},
            health={"http": "path: /health"},
        )


@contextmanager
def bentoml(folder: Path) -> Iterator[Server]:
    """BentoML, with its own /predict."""
    port = free_port()
    (folder / "served.py").write_text(NUMBERS + BENTO_SERVER)
    python = home("bentoml", INTO) / "bin" / "python"
    command: list[str | Path] = [python, "-m", "bentoml", "serve", "served:Double", "--working-dir", folder,
                                 "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    env = {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(folder)}
    with _running(folder, command, env, lambda: answers(f"http://127.0.0.1:{port}/readyz")) as process:
        yield Server(
            "BentoML",
            version_of("bentoml", "bentoml"),
            process,
            {"http": port},
            health={"http": "path: /readyz"},
        )


@contextmanager
def fastapi(folder: Path) -> Iterator[Server]:
    """A plain FastAPI application, from the tests' own environment."""
    from importlib.metadata import version

    port = free_port()
    (folder / "served.py").write_text(NUMBERS + FASTAPI_SERVER)
    command: list[str | Path] = [sys.executable, "served.py", str(port)]
    with _running(folder, command, {}, lambda: answers(f"http://127.0.0.1:{port}/health")) as process:
        yield Server("FastAPI", version("fastapi"), process, {"http": port}, health={"http": "path: /health"})


SERVERS = {
    "triton": triton,
    "mlserver": mlserver,
    "kserve": kserve,
    "torchserve": torchserve,
    "mms": mms,
    "paddle": paddle,
    "litserve": litserve,
    "bentoml": bentoml,
    "fastapi": fastapi,
}
