"""Locust users that ask a model through the gateway and hold every answer against what the model declares.

They speak every dialect of HTTP that the Python client does, for its sans-io half (client/asking.py) writes
the questions and reads the answers; only sending is locust's. An answer is right when it can be read and
judging.py finds nothing wrong with it. A 429 is the gateway doing its work: it is counted under
"… throttled", not among the failures. Every other answer is a failure, with the gateway's own reason in its
text. With `--record FILE` each answer becomes one JSON line (record.py), for whoever wants more than locust's
sums.

Nothing is retried here: a connection that breaks is a failure that a client would have seen.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

import numpy as np
from gevent.lock import Semaphore
from locust import FastHttpUser, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser

from gateway.client.asking import BINARY, Asking, Broken, Reply, Send, Steps
from gateway.client.errors import ClientError, Refused
from gateway.dialects.catalogue import BY_NAME
from gateway.dialects.metadata import Metadata
from loadtests.users.judging import fault
from loadtests.users.record import Answer, Recorder
from loadtests.users.tensors import BadInput, Batch, RandomTensors, Records, load

DIGITS: Final = Path(__file__).resolve().parents[1] / "digits.json"
PATIENCE: Final = 5  # tries to read the metadata of a busy gateway
DIALECTS: Final = (*(name for name, dialect in BY_NAME.items() if not dialect.is_grpc), BINARY)


@events.init_command_line_parser.add_listener
def add_flags(parser: LocustArgumentParser) -> None:
    """Add what the users can be told; each flag also as an environment variable."""

    def add(flag: str, **settings: Any) -> None:
        variable = "HEADGATE_LOAD_" + flag.strip("-").upper().replace("-", "_")
        parser.add_argument(flag, env_var=variable, **settings)

    add("--model", default="digits", help="the model's name in URLs (default: digits)")
    add("--target", default="", help="a version or label in the URL; empty: the gateway chooses")
    add("--dialect", default="both", choices=["both", *DIALECTS], help="both: TensorFlow Serving's and V2")
    add(
        "--signature",
        default="",
        help="the model's, for servers that tell none: x: FP32[-1,2] -> y: FP32[-1]",
    )
    add("--api-key", default="demo-pro", is_secret=True, help="sent as X-API-Key; empty: none")
    add("--api-key-header", default="X-API-Key")
    add("--bearer", default="", is_secret=True, help="a token, sent as Authorization: Bearer")
    add("--input", default="", help="a .npy or .json file of rows, or `random` (default: for digits its own)")
    add("--rows", type=int, default=1, help="rows per request")
    add("--fresh", type=float, default=0.5, help="share of requests that no cache can know (0..1)")
    add("--noise", type=float, default=0.001, help="how a row of --input is made fresh, of its size")
    add("--low", type=float, default=0.0, help="random numbers from here …")
    add("--high", type=float, default=1.0, help="… to here")
    add("--length", type=int, default=8, help="what open dimensions are, but for the rows")
    add("--rate", type=float, default=5.0, help="requests per second and user")
    add("--timeout", type=float, default=30.0, help="seconds until a request has failed")
    add("--record", default="", help="write one JSON line per answer into this file")


@events.init.add_listener
def on_init(environment: Environment, **_: object) -> None:
    """Apply the flags that concern the whole run."""
    options = environment.parsed_options
    if options is None:
        return
    if options.record:
        recorder = Recorder(Path(options.record))
        environment.recorder = recorder  # type: ignore[attr-defined]
        events.quitting.add_listener(lambda **_: recorder.close())
    if options.dialect == "both":
        return
    alone = [one for one in environment.user_classes if getattr(one, "dialect", "") == options.dialect]
    alone = alone or [type("OneDialectUser", (Predictor,), {"dialect": options.dialect})]
    environment.user_classes = alone


class Predictor(FastHttpUser):
    """Asks for predictions in one dialect. Subclasses choose the dialect."""

    abstract = True
    dialect: ClassVar[str]  # one of DIALECTS
    label: ClassVar[str] = ""  # the name in statistics; empty: the dialect's
    known: ClassVar[dict[str, Metadata]] = {}  # by dialect
    learning: ClassVar[Semaphore] = Semaphore()
    max_retries = 0

    options: Namespace

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        self.options = options
        self.network_timeout = self.connection_timeout = options.timeout  # read by the parent's __init__
        super().__init__(environment)
        self.name = self.label or self.dialect
        self.rng = np.random.default_rng()
        self.recorder: Recorder | None = getattr(environment, "recorder", None)

    def wait_time(self) -> float:
        """Keep the rate, whatever the answers take."""
        return float(constant_throughput(self.options.rate)(self))

    # Learning the model

    def on_start(self) -> None:
        """Learn what the model takes; the first user of a dialect asks, the others know."""
        options = self.options
        self.asking = Asking(self.dialect, timeout=options.timeout, retries=0, signature=options.signature)
        with self.learning:
            if self.dialect not in self.known:
                self.known[self.dialect] = self._learn()
        self.asking.written = self.known[self.dialect]
        self.signature = self.asking.written.signature
        self.random = RandomTensors(self.signature, options.low, options.high, options.length)
        self.records = self._read_input()

    def _learn(self) -> Metadata:
        steps = self.asking.metadata(self.options.model, self.options.target, None)
        last: ClientError | None = None
        for _ in range(PATIENCE):
            try:
                return self._asked(steps)
            except Refused as refusal:
                last = refusal
                if refusal.status not in (429, 503):
                    break
            except ClientError as error:
                last = error
            steps = self.asking.metadata(self.options.model, self.options.target, None)
            time.sleep(1.0)
        self._give_up(f"what {self.options.model} at {self.host} takes is not known: {last}")

    def _asked(self, steps: Steps[Metadata]) -> Metadata:
        try:
            wanted = next(steps)
            while True:
                assert isinstance(wanted, Send)  # there are no pauses without further tries
                answer = self._send(wanted, f"{self.name} metadata")
                wanted = steps.send(_reply(answer))
        except StopIteration as done:
            told: Metadata = done.value
            return told

    def _read_input(self) -> Records | None:
        given = self.options.input or ("random" if self.options.model != "digits" else str(DIGITS))
        if given == "random":
            return None
        try:
            return load(Path(given), self.signature)
        except BadInput as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> NoReturn:
        print(f"load test: {reason}")
        self.environment.process_exit_code = 2
        if self.environment.runner is not None:
            self.environment.runner.quit()
        raise StopUser

    # Asking

    def headers(self) -> dict[str, str]:
        """Who asks."""
        headers = {}
        if self.options.api_key:
            headers[self.options.api_key_header] = self.options.api_key
        if self.options.bearer:
            headers["Authorization"] = f"Bearer {self.options.bearer}"
        return headers

    def batch(self) -> Batch:
        """What to ask next."""
        fresh = self.rng.random() < self.options.fresh
        if self.records is None:
            rng = self.rng if fresh else np.random.default_rng(int(self.rng.integers(16)))
            return self.random.draw(self.options.rows, rng)
        return self.records.draw(self.options.rows, self.rng, self.options.noise if fresh else 0.0)

    @task
    def predict(self) -> None:
        """One prediction."""
        self.ask(self.batch())

    def ask(self, batch: Batch, extra: Mapping[str, str] | None = None) -> Answer:
        """Send one prediction, judge and count the answer."""
        steps = self.asking.predict(self.options.model, batch.inputs, self.options.target, None, None)
        wanted = next(steps)
        assert isinstance(wanted, Send)
        sent = time.monotonic()
        with self._send(wanted, self.name, extra or {}, catch_response=True) as response:
            took = time.monotonic() - sent
            status, problem = response.status_code, ""
            try:
                steps.send(_reply(response))
            except StopIteration as done:
                problem = fault(done.value, batch, self.signature) or ""
            except Refused as refusal:
                status = refusal.status  # PaddleServing's is inside a 200
                problem = "" if status == 429 else str(refusal)
            except ClientError as error:
                problem = str(error)
            if status == 429:
                response.request_meta["name"] = f"{self.name} throttled"
            if problem:
                response.failure(problem)
            else:
                response.success()
        answer = Answer.of(sent, took, self.name, status, response.headers or {}, problem)
        if self.recorder is not None:
            self.recorder.write(answer)
        return answer

    def _send(
        self, wanted: Send, name: str, extra: Mapping[str, str] | None = None, *, catch_response: bool = False
    ) -> Any:
        call = wanted.call
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers}
        return self.client.request(
            call.method.decode(),
            call.path.decode("latin-1"),
            data=call.body or None,
            headers={**fields, **self.headers(), **(extra or {})},
            name=name,
            catch_response=catch_response,
        )


def _reply(response: Any) -> Reply | Broken:
    """Hand an answer of locust's client to the dialect's reader."""
    if not response.status_code:
        return Broken(f"no answer: {response.error!r}")
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()
    ]
    return Reply(response.status_code, headers, response.content or b"")


class TensorFlowServingUser(Predictor):
    """A client of TensorFlow Serving's REST API."""

    dialect = "tensorflow-serving"


class KServeV2User(Predictor):
    """A client of KServe V2's REST API."""

    dialect = "kserve-v2"
