"""What both clients do, without I/O: a generator yields what it wants done and is sent the outcome.

    Send(call, left)  -> Reply, or Broken when nobody answered     left: seconds until the deadline
    Pause(seconds)    -> None

So there is one place that decides when to try again. A prediction changes nothing, so it may be asked again
after any broken connection, and after 429 and 503: after their Retry-After, else after a pause that doubles,
with jitter. What would end past the deadline is not begun: the server's No is raised instead. Each try tells
the server how much time is left (`x-request-timeout-ms`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from gateway.client.errors import ClientError, Expired, Refused, Unreachable, Unreadable, refused
from gateway.client.tensors import Inputs, Prediction, needs_signature, to_prediction, to_tensors
from gateway.dialects.binary import JSON_LENGTH, to_binary
from gateway.dialects.catalogue import (
    BY_NAME,
    KSERVE_V1,
    KSERVE_V2,
    KSERVE_V2_GRPC,
    MULTI_MODEL_SERVER,
    PADDLE_PIPELINE,
    PADDLE_PIPELINE_GRPC,
    PADDLE_SERVING,
    TENSORFLOW_SERVING,
    TORCHSERVE,
)
from gateway.dialects.errors import SIGNATURE_UNKNOWN, UNSUPPORTED, InvalidPrediction
from gateway.dialects.json_text import write_json
from gateway.dialects.metadata import Metadata, parse_signature
from gateway.dialects.protocol import Call, Dialect, encode_name
from gateway.dialects.tensors import NOTHING, InferRequest
from gateway.http.message import Headers, find

AGAIN: Final = frozenset((429, 503))
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
BINARY: Final = "kserve-v2-binary"
DIALECT_NAMES: Final = (*BY_NAME, BINARY)
SILENT: Final = frozenset(
    each.name
    for each in (TORCHSERVE, MULTI_MODEL_SERVER, PADDLE_PIPELINE, PADDLE_PIPELINE_GRPC, PADDLE_SERVING)
)
"""Dialects without a word about signatures: the gateway tells them in V2's, other servers nowhere."""
UNVERSIONED: Final = SILENT - {TORCHSERVE.name} | {KSERVE_V1.name}


class Reply(NamedTuple):
    """An answer. headers: names in lower case."""

    status: int
    headers: Headers
    body: bytes


class Broken(NamedTuple):
    """No answer. expired: because the time was over."""

    why: str
    expired: bool = False


class Send(NamedTuple):
    """Wanted: this call's Reply or Broken, within so many seconds."""

    call: Call
    left: float


class Pause(NamedTuple):
    """Wanted: so many seconds of sleep."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Send | Pause, Reply | Broken | None, T]


@dataclass(slots=True)
class Asking:
    """One client's settings, and the signatures that it has learnt.

    timeout: seconds for a whole call, retries and metadata included. retries: further tries per request.
    key: sent as X-API-Key; bearer: as Authorization. signature: of the models asked, for servers that tell
    none (`x: FP32[-1,2] -> y: FP32[-1]`); "" asks the server.
    """

    dialect_name: str = "kserve-v2"
    key: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    timeout: float = 30.0
    retries: int = 2
    signature: str = ""
    known: dict[tuple[str, str], Metadata] = field(default_factory=dict)
    dialect: Dialect = field(init=False)
    teller: Dialect = field(init=False)  # the dialect in which signatures are asked for
    written: Metadata | None = field(init=False)

    def __post_init__(self) -> None:
        if self.dialect_name not in DIALECT_NAMES:
            raise ValueError(f"dialect must be one of {', '.join(DIALECT_NAMES)}, not {self.dialect_name!r}")
        self.dialect = BY_NAME["kserve-v2" if self.dialect_name == BINARY else self.dialect_name]
        told = self.dialect_name not in SILENT
        self.teller = self.dialect if told else KSERVE_V2_GRPC if self.dialect.is_grpc else KSERVE_V2
        self.written = Metadata(parse_signature(self.signature), ()) if self.signature else None

    # What may be asked

    def predict(
        self, model: str, inputs: Inputs, target: str, outputs: tuple[str, ...] | None, timeout: float | None
    ) -> Steps[Prediction]:
        """Ask for a prediction; target: a version or a label, "" for the server's choice."""
        ends = self._ends(timeout)
        signature = None
        if not self.dialect.is_typed or needs_signature(inputs):
            signature = (yield from self._metadata(model, target, ends)).signature
        try:
            tensors = to_tensors(inputs, signature)
            infer = InferRequest(None, model, None, None, "", tensors, outputs, NOTHING, "named")
            call = self._write(infer, model, target)
        except InvalidPrediction as error:
            raise Unreadable(error.code, error.message) from error
        reply = yield from self._ask(self.dialect, call, ends)
        try:
            response = self.dialect.read_response(reply.headers, reply.body, signature)
        except InvalidPrediction as error:
            raise Unreadable(error.code, f"the answer can't be read: {error.message}") from error
        request_id = find(reply.headers, b"x-request-id") or b""
        prediction = to_prediction(response, model, request_id.decode("latin-1"))
        if outputs is None:
            return prediction
        kept = {name: prediction.outputs[name] for name in outputs if name in prediction.outputs}
        return Prediction(prediction.model, prediction.version, kept, prediction.request_id)

    def metadata(self, model: str, target: str, timeout: float | None) -> Steps[Metadata]:
        """Ask what a model takes and gives, anew."""
        self.known.pop((model, target), None)
        return (yield from self._metadata(model, target, self._ends(timeout)))

    def ready(self, model: str, timeout: float | None) -> Steps[bool]:
        """Ask whether the model ("": the server) can serve; a server that can't be reached is not ready."""
        dialect = self.dialect if self.dialect.health_path(model) else self.teller
        call = dialect.health_request(model)
        call = call._replace(headers=[*call.headers, *self._credentials()])
        outcome = yield Send(call, max(0.001, self._ends(timeout) - time.monotonic()))
        reader = TENSORFLOW_SERVING if dialect is KSERVE_V1 and model else dialect  # one URL, two answers
        return isinstance(outcome, Reply) and reader.read_ready(outcome.status, outcome.body)

    # How

    def _ends(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def _metadata(self, model: str, target: str, ends: float) -> Steps[Metadata]:
        found = self.written or self.known.get((model, target))
        if found is None:
            version, label = self._aim(target)
            call = _labelled(self.teller.metadata_request(model, version), model, label)
            try:
                reply = yield from self._ask(self.teller, call, ends)
                found = self.teller.read_metadata(reply.body)
            except InvalidPrediction as error:
                raise Unreadable(error.code, f"the metadata can't be read: {error.message}") from error
            except Refused as refusal:
                if self.teller is self.dialect or refusal.code or refusal.request_id:  # a gateway's
                    raise
                why = f"{self.dialect_name} tells no signature; give it: 'x: FP32[-1,2] -> y: FP32[-1]'"
                raise Unreadable(SIGNATURE_UNKNOWN, why) from refusal
            self.known[model, target] = found
        return found

    def _write(self, infer: InferRequest, model: str, target: str) -> Call:
        version, label = self._aim(target)
        if target and self.dialect_name in UNVERSIONED:
            raise InvalidPrediction(UNSUPPORTED, f"{self.dialect_name} has no place for a version")
        call = self.dialect.write_request(infer, model, version)
        if self.dialect_name == BINARY:
            return _in_binary(call.path, infer)
        return _labelled(call, model, label)

    def _aim(self, target: str) -> tuple[str | None, str]:
        """Return the version and the label that are meant: where there are labels, versions are numbers."""
        if self.dialect is TENSORFLOW_SERVING and not target.isdigit():
            return None, target
        return target or None, ""

    def _credentials(self) -> Headers:
        headers: Headers = []
        if self.key:
            headers.append((b"x-api-key", self.key.encode()))
        if self.bearer:
            headers.append((b"authorization", b"Bearer " + self.bearer.encode()))
        return headers

    def _ask(self, dialect: Dialect, call: Call, ends: float) -> Steps[Reply]:
        """Send until there is a success, no more tries, or no more time."""
        headers = [*call.headers, *self._credentials()]
        last: ClientError = Expired("no time was given")
        for attempt in range(self.retries + 1):
            left = ends - time.monotonic()
            if left <= 0:
                raise last
            told = (b"x-request-timeout-ms", b"%d" % max(1, int(left * 1000)))
            outcome = yield Send(call._replace(headers=[*headers, told]), left)
            pause = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
            if isinstance(outcome, Reply):
                if dialect.succeeded(outcome.status, outcome.headers, outcome.body):
                    return outcome
                refusal = refused(dialect, outcome.status, outcome.headers, outcome.body)
                if refusal.status not in AGAIN:
                    raise refusal
                last = refusal
                if refusal.retry_after is not None:
                    pause = refusal.retry_after
            else:
                assert outcome is not None
                if outcome.expired:
                    raise Expired(outcome.why)
                last = Unreachable(outcome.why)
            if attempt == self.retries or time.monotonic() + pause >= ends:
                raise last
            yield Pause(pause)
        raise last


def _labelled(call: Call, model: str, label: str) -> Call:
    """Put the label into the path: dialects write none, for the gateway resolves a client's."""
    if not label:
        return call
    named = b"/models/" + encode_name(model)
    before, _, after = call.path.partition(named)
    return call._replace(path=before + named + b"/labels/" + encode_name(label) + after)


def _in_binary(path: bytes, infer: InferRequest) -> Call:
    """Write V2 with Triton's binary tensor extension: for the gateway, and servers known to read it."""
    raws = [to_binary(tensor) for tensor in infer.inputs]
    document: dict[str, object] = {
        "parameters": {"binary_data_output": True},
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.dtype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
            for tensor, raw in zip(infer.inputs, raws, strict=True)
        ],
    }
    if infer.outputs is not None:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in infer.outputs]
    head = write_json(document)
    headers = [(b"content-type", b"application/octet-stream"), (JSON_LENGTH, b"%d" % len(head))]
    return Call(b"POST", path, headers, head + b"".join(raws))
