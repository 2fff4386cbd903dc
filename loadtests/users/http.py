"""Locust users that ask a model through the gateway and hold every answer against what the model declares.

An answer is right when its status is 200 and `Dialect.check` finds nothing wrong. A 429 is the gateway doing
its work: it is counted under "… throttled", not among the failures. Every other answer is a failure, with
the gateway's own reason in its text. With `--record FILE` each answer becomes one JSON line
(users/record.py), for whoever wants more than locust's sums.

Nothing is retried here: a connection that breaks is a failure that a client would have seen.
"""

from __future__ import annotations

import json
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

from loadtests.users.protocols import KSERVE_V2, TENSORFLOW_SERVING, Dialect
from loadtests.users.record import Answer, Recorder
from loadtests.users.signature import Signature, Unreadable
from loadtests.users.tensors import BadInput, Batch, RandomTensors, Records, load

DIGITS: Final = Path(__file__).resolve().parents[1] / "digits.json"
PATIENCE: Final = 5  # tries to read the metadata of a busy gateway


@events.init_command_line_parser.add_listener
def add_flags(parser: LocustArgumentParser) -> None:
    """Add what the users can be told; each flag also as an environment variable."""

    def add(flag: str, **settings: Any) -> None:
        variable = "HEADGATE_LOAD_" + flag.strip("-").upper().replace("-", "_")
        parser.add_argument(flag, env_var=variable, **settings)

    add("--model", default="digits", help="the model's name in URLs (default: digits)")
    add("--target", default="", help="a version or label in the URL; empty: the gateway chooses")
    add("--dialect", default="both", choices=["both", "tensorflow-serving", "kserve-v2"])
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
    unwanted = {"tensorflow-serving": KServeV2User, "kserve-v2": TensorFlowServingUser}.get(options.dialect)
    if unwanted is not None and unwanted in environment.user_classes:
        environment.user_classes = [one for one in environment.user_classes if one is not unwanted]
        environment.user_classes_by_name.pop(unwanted.__name__, None)


class Predictor(FastHttpUser):
    """Asks for predictions in one dialect. Subclasses choose the dialect."""

    abstract = True
    dialect: ClassVar[Dialect]
    label: ClassVar[str] = ""  # the name in statistics; empty: the dialect's
    known: ClassVar[dict[tuple[str, str, str], Signature]] = {}
    learning: ClassVar[Semaphore] = Semaphore()
    max_retries = 0

    options: Namespace

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        self.options = options
        self.network_timeout = self.connection_timeout = options.timeout  # read by the parent's __init__
        super().__init__(environment)
        self.name = self.label or self.dialect.name
        self.rng = np.random.default_rng()
        self.recorder: Recorder | None = getattr(environment, "recorder", None)

    def wait_time(self) -> float:
        """Keep the rate, whatever the answers take."""
        return float(constant_throughput(self.options.rate)(self))

    # Learning the model

    def on_start(self) -> None:
        """Learn what the model takes; the first user of a dialect asks, the others know."""
        options = self.options
        key = (self.dialect.name, options.model, options.target)
        with self.learning:
            if key not in self.known:
                self.known[key] = self._learn()
        self.signature = self.known[key]
        self.random = RandomTensors(self.signature, options.low, options.high, options.length)
        self.records = self._read_input()
        self.path = self.dialect.predict_path(options.model, options.target)

    def _learn(self) -> Signature:
        path = self.dialect.metadata_path(self.options.model, self.options.target)
        text = ""
        for _ in range(PATIENCE):
            answer = self.client.get(path, headers=self.headers(), name=f"{self.name} metadata")
            if answer.status_code == 200:
                try:
                    return self.dialect.read_metadata(json.loads(answer.text or ""))
                except (Unreadable, ValueError) as error:
                    self._give_up(str(error))
            text = (answer.text or str(getattr(answer, "error", "")))[:300]
            if answer.status_code not in (0, 429, 503):
                break
            time.sleep(1.0)
        self._give_up(f"{self.host}{path} answered {answer.status_code}: {text}")

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
        headers = {"Content-Type": "application/json"}
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
        """Post one prediction, judge and count the answer."""
        body = self.dialect.body(batch, self.signature)
        headers = {**self.headers(), **(extra or {})}
        sent = time.monotonic()
        with self.client.post(
            self.path, data=body, headers=headers, name=self.name, catch_response=True
        ) as response:
            took = time.monotonic() - sent
            problem = self._judge(response, batch)
            if response.status_code == 429:
                response.request_meta["name"] = f"{self.name} throttled"
            if problem:
                response.failure(problem)
            else:
                response.success()
        answer = Answer.of(sent, took, self.name, response.status_code, response.headers or {}, problem or "")
        if self.recorder is not None:
            self.recorder.write(answer)
        return answer

    def _judge(self, response: Any, batch: Batch) -> str | None:
        if response.status_code == 429:
            return None
        if response.status_code != 200:
            if not response.status_code:
                return f"no answer: {response.error!r}"
            reason = response.headers.get("x-headgate-reason", "")
            return f"{response.status_code} {reason}: {(response.text or '')[:200]}"
        try:
            document = json.loads(response.text)
        except ValueError:
            return "the answer is no JSON"
        return self.dialect.check(document, batch, self.signature)


class TensorFlowServingUser(Predictor):
    """A client of TensorFlow Serving's REST API."""

    dialect = TENSORFLOW_SERVING


class KServeV2User(Predictor):
    """A client of KServe V2's REST API."""

    dialect = KSERVE_V2
