"""The demo: a gateway and four model servers as processes of this machine, started in order, stopped
together.

Nothing in it is special: the gateway is `headgate serve` on the policy folder, each model server is `python
-m backends serve` registering itself, and every line that it prints can be typed by hand.

A signal only sets a flag that every wait looks at. An exception out of a signal handler could come between
the start of a child and its being written down, or in the middle of stopping the others: a second Ctrl-C
would leave them running. A shell ignores SIGINT for what it starts in the background, so each signal has its
own handler and none relies on another; SIGHUP, a closed terminal, stops the demo too.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config.units import parse_address, render_address
from gateway.runtime.parent import ending_with_parent

PATIENCE = 60.0  # s until everything must be up
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of this machine
GRACE = 8.0  # s until a child that was asked to stop is killed
FIRST = (  # name, model and version, service, registry's version
    ("digits-v2-a", "digits=2", "digits", "v2"),
    ("digits-lite-a", "digits-lite=1", "digits-lite", "v1"),
)
GRPC = "v1"  # the version that speaks gRPC as well
LAST = (  # those that make the gateway ready: who waits for that finds the canary and the lite model, too
    ("digits-v1-a", "digits=1", "digits", "v1"),
    ("digits-v1-b", "digits=1", "digits", "v1"),
)


PREDICT_GRPC = """\
import sys

import grpc
from backends.open_inference import SERVICE, message

tensor = message("ModelInferRequest.InferInputTensor")(name="input", datatype="FP32", shape=[1, 64])
tensor.contents.fp32_contents.extend({row})
request = message("ModelInferRequest")(model_name="digits", inputs=[tensor])
with grpc.insecure_channel("{address}") as channel:
    infer = channel.unary_unary(f"/{{SERVICE}}/ModelInfer", type(request).SerializeToString)
    try:
        said = infer(request, timeout=5, metadata=[("x-api-key", sys.argv[1])])
        answer = message("ModelInferResponse").FromString(said)
        print(answer.model_name, answer.model_version, [output.name for output in answer.outputs])
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"""


@dataclass(slots=True)
class Child:
    """One process of the demo."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes]
    log: Path


class DemoFailed(Exception):
    """Something did not come up; the text says what and what to do."""


class Interrupted(Exception):
    """Somebody asked the demo to stop while it was starting."""


class Demo:
    """Starts everything, prints what to try, waits for Ctrl-C, stops everything."""

    def __init__(
        self,
        policies: Path,
        *,
        http: str | None = None,
        grpc: str | None = None,
        admin: str | None = None,
        etcd: str | None = None,
        models: Path | None = None,
    ) -> None:
        self.policies = policies
        self.http = render_address(parse_address(http or "127.0.0.1:8080"))
        self.grpc = render_address(parse_address(grpc or "127.0.0.1:8081"))
        self.admin = render_address(parse_address(admin or "127.0.0.1:9080"))
        self.etcd = etcd
        self.models = models or Path(__file__).resolve().parents[2] / "backends" / "models"
        self.folder = Path(".demo")
        self.children: list[Child] = []
        self._stopping = False

    def run(self) -> int:
        """Returns the exit code: 0 after Ctrl-C, SIGTERM or SIGHUP, 3 when something did not come up."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        try:
            self._start()
            self._say(self.lines())
            self._wait()
        except DemoFailed as failed:
            print(f"headgate demo: {failed}", file=sys.stderr)
            return 3
        except Interrupted:
            self._say("\nstopping")
        finally:
            self._stop()
        return 0

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _pause(self, seconds: float) -> None:
        """Let time pass. Raises Interrupted when somebody asked to stop."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.1, left))
        if self._stopping:
            raise Interrupted

    # Starting

    def _start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        registry = _etcd_url(self.etcd) if self.etcd else None
        gateway = [
            *(sys.executable, "-m", "gateway", "serve", "--policies", str(self.policies)),
            *("--http", self.http, "--grpc", self.grpc, "--admin-listen", self.admin),
            *("--access-log", str(self.folder / "access.log")),
            *(("--registry", registry) if registry else ()),
        ]
        self._say(f"  starting the gateway on {self.http}, gRPC on {self.grpc}, admin on {self.admin}")
        self._spawn("gateway", gateway)
        self._until_up("the gateway", f"http://{self.admin}/healthz")
        for instances in (FIRST, LAST):
            for name, model, service, version in instances:
                self._say(f"  starting {name} (model {model})")
                self._spawn(name, self.backend(model, service, version))
            self._until("every instance", self._all_registered)
        self._until_up("every pool", f"http://{self.admin}/readyz")

    def _all_registered(self) -> str | None:
        """None once the gateway knows every instance that was started; else what is missing."""
        known = len(self._ask("/instances"))
        wanted = sum(1 + ("--grpc-address" in child.command) for child in self.children) - 1
        return None if known >= wanted else f"{known} of {wanted} have registered"

    def backend(self, model: str, service: str, version: str) -> list[str]:
        """The command that runs one model server."""
        registry = _etcd_url(self.etcd) if self.etcd else f"http://{self.admin}"
        return [
            *(sys.executable, "-m", "backends", "serve", "--repository", str(self.models)),
            *("--models", model, "--address", "127.0.0.1:0", "--register", registry),
            *("--service", service, "--version-tag", version),
            *(("--grpc-address", "127.0.0.1:0") if version == GRPC and service == "digits" else ()),
        ]

    def _spawn(self, name: str, command: list[str]) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=ending_with_parent(),  # a demo that is killed leaves nobody behind
            )
        self.children.append(Child(name, command, process, log))

    def _ask(self, path: str) -> Any:
        """Ask the admin API. Raises OSError."""
        token = os.environ.get("HEADGATE_ADMIN_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://{self.admin}{path}", headers=headers)
        with DIRECT.open(request, timeout=1) as answer:
            return json.load(answer)

    def _until_up(self, what: str, url: str) -> None:
        def ask() -> str | None:
            with DIRECT.open(url, timeout=1) as answer:
                return None if answer.status == 200 else f"it answers {answer.status}"

        self._until(what, ask)

    def _until(self, what: str, look: Callable[[], str | None]) -> None:
        """Wait until `look` finds no more reason to wait. Raises DemoFailed."""
        end = time.monotonic() + PATIENCE
        while True:
            for child in self.children:
                if child.process.poll() is not None:
                    raise DemoFailed(f"{child.name} ended:\n{_tail(child.log)}{_advice(child.log)}")
            if self._stopping:
                raise Interrupted
            try:
                reason = look()
            except urllib.error.HTTPError as error:
                reason = error.read().decode("utf-8", "replace")
            except OSError as error:
                reason = str(error)
            if reason is None:
                return
            if time.monotonic() > end:
                raise DemoFailed(f"{what} did not come up within {PATIENCE:g} s: {reason}")
            self._pause(0.1)

    def _wait(self) -> None:
        """Report deaths and what became of edited policies, until Ctrl-C or the gateway ends."""
        known = {child.name for child in self.children}
        told = self._reloads(0.0)
        while True:
            self._pause(0.3)
            told = self._reloads(told)
            for child in self.children:
                if child.name in known and child.process.poll() is not None:
                    known.discard(child.name)
                    if child.name == "gateway":
                        raise DemoFailed(f"the gateway ended:\n{_tail(child.log)}")
                    self._say(f"{child.name} ended; start it again with:\n  {shlex.join(child.command)}")

    def _reloads(self, told: float) -> float:
        """Say what became of the policies since `told` (s since the epoch); returns when that was."""
        try:
            report = self._ask("/config")["last_reload"]
        except (OSError, ValueError, KeyError):
            return told
        if told and report["at"] > told:
            if report["ok"]:
                self._say("policies: live")
            else:
                self._say("policies: nothing was changed, for they are wrong:")
            for line in (*report["errors"], *report["notes"]):
                self._say(f"  {line}")
        return float(report["at"])

    def _stop(self) -> None:
        for child in reversed(self.children):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + GRACE
        for child in self.children:
            try:
                child.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()

    @staticmethod
    def _say(what: str) -> None:
        """Print; a terminal that was closed meanwhile must not keep the children from being stopped."""
        with suppress(OSError):
            print(what, flush=True)

    # What to try

    def lines(self) -> str:
        """The lines to copy: one for every behaviour."""
        url, command = f"http://{self.http}", f"{Path(sys.executable).parent / 'headgate'}"
        command, python = os.path.relpath(command), os.path.relpath(sys.executable)
        digit = json.loads((self.models / "samples.json").read_text())
        row, label = _sample(digit)
        rows = json.dumps({"instances": [row]})
        v2 = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 64], "data": row}]})
        (self.folder / "digit.json").write_text(rows)
        (self.folder / "digit-v2.json").write_text(v2)
        (self.folder / "predict_grpc.py").write_text(PREDICT_GRPC.format(row=row, address=self.grpc))
        port = "" if self.admin == "127.0.0.1:9080" else f" --admin http://{self.admin}"
        where = "" if self.policies == Path("policies") else f" --policies {shlex.quote(str(self.policies))}"
        victim = next(child for child in self.children if child.name == "digits-v1-a")
        tfs = f"curl -si -H 'X-API-Key: demo-pro' {url}/v1/models/digits:predict -d @.demo/digit.json"
        return f"""
Headgate is up: {url}   admin: http://{self.admin}   policies: {self.policies}/ (edit them, save, look)

A prediction, as a TensorFlow Serving client asks (the picture is a {label}), and as a KServe V2 client does:
  {tfs}
  curl -si -H 'X-API-Key: demo-pro' {url}/v2/models/digits/infer -d @.demo/digit-v2.json
The same over gRPC, to KServe V2's gRPC service (the gateway's second port), and without a key:
  {python} .demo/predict_grpc.py demo-pro
  {python} .demo/predict_grpc.py nobody
A cache hit: run one of the lines above twice, in either dialect, and look at Cache-Status.
What the model is, and whether it can serve:
  curl -s -H 'X-API-Key: demo-pro' {url}/v1/models/digits/metadata
  curl -s -H 'X-API-Key: demo-pro' {url}/v2/models/digits
Nobody, somebody without permission, a wrong shape:
  curl -si {url}/v1/models/digits:predict -d @.demo/digit.json
  curl -si -H 'X-API-Key: demo-guest' {url}/v1/models/digits:predict -d @.demo/digit.json
  curl -si -H 'X-API-Key: demo-pro' {url}/v1/models/digits:predict -d '{{"instances": [[1, 2, 3]]}}'
A 429 (the free plan has 5 per second):
  for i in 1 2 3 4 5 6 7 8; do curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'X-API-Key: demo-free' \\
    {url}/v1/models/digits:predict -d @.demo/digit.json; done
The canary (a tenth of the traffic; look at x-headgate-version), and forcing it:
  for i in $(seq 30); do curl -s -o /dev/null -D - -H 'X-API-Key: demo-pro' -H 'Cache-Control: no-store' \\
    {url}/v1/models/digits:predict -d @.demo/digit.json | grep -i x-headgate-version; done | sort | uniq -c
  {tfs} -H 'x-headgate-send: canary'
A breaker and a dead instance (nobody sees an error; look at state):
  kill -9 {victim.process.pid} && {tfs} ; {command} endpoints{port}
  {shlex.join(victim.command)} &
Why is it so?
  {command} explain POST /v1/models/digits:predict -H 'X-API-Key: demo-free' -d @.demo/digit.json{port}
An incident, and its end:
  {command} throttle digits 1/s --for 1m{where}
  {command} degrade digits --to digits-lite --for 1m{where}     # answers carry x-degraded
  {command} clear digits{where}
Ctrl-C stops everything. Logs: .demo/
"""


def _sample(samples: object) -> tuple[list[int], int]:
    """Return one row and its label from the repository's samples."""
    assert isinstance(samples, list)
    first = samples[6]
    return [int(value) for value in first["pixels"]], int(first["label"])


def _etcd_url(text: str) -> str:
    """Turn http(s)://host:2379 into the etcd(s):// form that registrations take."""
    for prefix, scheme in (("http://", "etcd://"), ("https://", "etcds://")):
        if text.startswith(prefix):
            return scheme + text.removeprefix(prefix).rstrip("/")
    return text


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-8:]
    return "\n".join(f"  {line}" for line in lines)


def _advice(log: Path) -> str:
    if "port is taken" in log.read_text(errors="replace"):
        ports = "HEADGATE_HTTP_PORT=8180 HEADGATE_GRPC_PORT=8181 HEADGATE_ADMIN_PORT=9180"
        return f"\n  choose others: {ports} make demo"
    return ""
