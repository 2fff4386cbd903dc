"""What a model is and whether it serves, told by the gateway itself in the client's dialect."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.dialects.metadata import Signature
from gateway.filters.describe import Describe
from gateway.http.message import Response
from gateway.pipeline.errors import Refusal
from gateway.pipeline.pool import Pool
from gateway.pipeline.promise import Eventual, Promise, resolved
from tests.fakes.traffic import SIGNATURE, Traffic

V1, V2 = b"/v1/models/digits", b"/v2/models/digits"


class Learnt:
    """Signatures that come late, or never."""

    def __init__(self, answer: Eventual[Signature | None]) -> None:
        self.answer = answer

    def signature(self, pool: Pool, model: str, version: str) -> Eventual[Signature | None]:
        return self.answer


def digits(**pools: int) -> Traffic:
    return Traffic(pools or {"a": 1, "b": 1}, versions={"1": "a", "10": "b"}, speaks="kserve-v2")


def ask(traffic: Traffic, path: bytes, method: bytes = b"GET") -> Any:
    ctx = traffic.context(path, method=method)
    if ctx.target is not None:
        ctx.version = ctx.target.version or ""
    return Describe(traffic.parts).on_request(ctx)


def body(answer: object) -> Any:
    assert isinstance(answer, Response)
    assert answer.body is not None
    return orjson.loads(answer.body)


def test_a_prediction_passes() -> None:
    assert ask(digits(), V1 + b":predict", b"POST") is None


def test_metadata_tells_the_versions_in_the_order_of_numbers() -> None:
    told = body(ask(digits(), V2))
    assert (told["name"], told["versions"]) == ("digits", ["1", "10"])
    assert [tensor["name"] for tensor in told["inputs"]] == [spec.name for spec in SIGNATURE.inputs]


def test_metadata_of_one_version_tells_that_version() -> None:
    assert body(ask(digits(), V2 + b"/versions/10"))["versions"] == ["10"]


def test_a_tensorflow_serving_client_may_describe_a_kserve_model() -> None:
    told = body(ask(digits(), V1 + b"/metadata"))
    assert told["model_spec"]["name"] == "digits"
    assert "signature_def" in told["metadata"]


def test_a_version_is_available_while_some_instance_can_take_a_request() -> None:
    traffic = digits()
    states = {one["version"]: one["state"] for one in body(ask(traffic, V1))["model_version_status"]}
    assert states == {"1": "AVAILABLE", "10": "AVAILABLE"}
    traffic.kill("b")
    states = {one["version"]: one["state"] for one in body(ask(traffic, V1))["model_version_status"]}
    assert states["1"] == "AVAILABLE"
    assert states["10"] != "AVAILABLE"


@pytest.mark.parametrize(("version", "state"), [(b"1", "AVAILABLE"), (b"10", "UNLOADING")])
def test_the_state_of_one_version_is_its_own(version: bytes, state: str) -> None:
    traffic = digits()
    traffic.kill("b")
    (told,) = body(ask(traffic, V1 + b"/versions/" + version))["model_version_status"]
    assert (told["version"], told["state"]) == (version.decode(), state)


def test_readiness_follows_the_instances() -> None:
    traffic = digits()
    ready = ask(traffic, V2 + b"/ready")
    for pool in traffic.pools:
        traffic.kill(pool)
    ill = ask(traffic, V2 + b"/ready")
    assert isinstance(ready, Response)
    assert isinstance(ill, Response)
    assert (ready.status, ill.status >= 400 or b"false" in (ill.body or b"")) == (200, True)


def test_a_signature_that_comes_later_is_answered_later() -> None:
    traffic, later = digits(), Promise[Signature | None]()
    traffic.parts.signatures = Learnt(later)
    answer = ask(traffic, V2)
    assert isinstance(answer, Promise)
    told: list[object] = []
    answer.then(told.append, lambda error: pytest.fail(str(error)))
    later.resolve(SIGNATURE)
    assert body(told[0])["name"] == "digits"


@pytest.mark.parametrize("unknown", [None, resolved(None)], ids=["at once", "later"])
def test_a_signature_that_nobody_told_is_503_and_worth_another_try(
    unknown: Eventual[Signature | None],
) -> None:
    traffic = digits()
    traffic.parts.signatures = Learnt(unknown)
    answer = ask(traffic, V2)
    if isinstance(answer, Promise):
        told: list[Any] = []
        answer.then(told.append, lambda error: pytest.fail(str(error)))
        (answer,) = told
    assert isinstance(answer, Refusal)
    assert (answer.status, answer.code, answer.retry_after) == (503, "signature_unknown", 1.0)
