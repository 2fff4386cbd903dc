"""The demo answers predictions: digits, versions, labels, metadata, cache, single flight, canary."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.running import (
    CANARY,
    FREE,
    INFER,
    NAMES,
    PREDICT,
    PRO,
    SAMPLES,
    Answer,
    Demo,
    Hammer,
    backend_requests,
    fresh_row,
    tfs,
    until,
    v2,
)

ROWS = [sample["pixels"] for sample in SAMPLES]
LABELS = [sample["label"] for sample in SAMPLES]
FRESH = {**PRO, "Cache-Control": "no-store"}


def labels(answer: Answer) -> list[int]:
    """The digits that an answer names, of either dialect."""
    assert answer.status == 200, answer.body
    if "predictions" in answer.json:
        return [row["label"] for row in answer.json["predictions"]]
    found: list[int] = output(answer, "label")["data"]
    return found


def output(answer: Answer, name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = next(one for one in answer.json["outputs"] if one["name"] == name)
    return found


# Predictions


@pytest.mark.parametrize("index", range(len(SAMPLES)), ids=lambda index: f"sample {index}")
def test_a_tensorflow_serving_client_is_told_the_right_digit(demo: Demo, index: int) -> None:
    assert labels(demo.ask(PREDICT, tfs(ROWS[index]))) == [LABELS[index]]


def test_all_samples_at_once_are_told_right_in_rows_and_in_columns(demo: Demo) -> None:
    rows = demo.ask(PREDICT, tfs(*ROWS))
    columns = demo.ask(PREDICT, json.dumps({"inputs": ROWS}).encode())
    assert labels(rows) == LABELS
    assert columns.json["outputs"]["label"] == LABELS


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_kserve_v2_client_is_told_the_same_numbers(demo: Demo, version: str) -> None:
    theirs = demo.ask(f"/v1/models/digits/versions/{version}:predict", tfs(*ROWS), FRESH)
    ours = demo.ask(f"/v2/models/digits/versions/{version}/infer", v2(*ROWS), FRESH)
    assert labels(ours) == labels(theirs) == LABELS
    flat = [value for row in theirs.json["predictions"] for value in row["probabilities"]]
    assert output(ours, "probabilities")["data"] == flat
    assert output(ours, "probabilities")["shape"] == [len(ROWS), 10]


@pytest.mark.parametrize(
    ("path", "write", "version"),
    [
        ("/v1/models/digits/versions/1:predict", tfs, "1"),
        ("/v1/models/digits/versions/2:predict", tfs, "2"),
        ("/v1/models/digits/labels/stable:predict", tfs, "1"),
        ("/v1/models/digits/labels/canary:predict", tfs, "2"),
        ("/v2/models/digits/versions/1/infer", v2, "1"),
        ("/v2/models/digits/versions/2/infer", v2, "2"),
    ],
)
def test_a_version_or_label_in_the_url_bypasses_the_canary(
    demo: Demo, path: str, write: Callable[..., bytes], version: str
) -> None:
    client = demo.client()
    answers = [client.ask(path, write(fresh_row())) for _ in range(25)]
    assert {answer.status for answer in answers} == {200}
    assert {answer["x-headgate-version"] for answer in answers} == {version}
    assert {answer["x-headgate-pool"] for answer in answers} == {f"digits-v{version}"}


def test_answers_say_who_served(demo: Demo) -> None:
    answer = demo.predict()
    ids = {one["id"]: one["pool"] for one in demo.instances()}
    assert ids[answer["x-headgate-instance"]] == answer["x-headgate-pool"]


# Metadata and status


def test_a_tensorflow_serving_client_learns_the_signature(demo: Demo) -> None:
    signature = demo.ask("/v1/models/digits/metadata").json
    assert signature["model_spec"]["name"] == "digits"
    default = signature["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["inputs"]["input"]["dtype"] == "DT_FLOAT"
    assert [axis["size"] for axis in default["inputs"]["input"]["tensor_shape"]["dim"]] == ["-1", "64"]
    assert set(default["outputs"]) == {"probabilities", "label"}


def test_a_kserve_v2_client_learns_the_signature(demo: Demo) -> None:
    metadata = demo.ask("/v2/models/digits").json
    assert (metadata["name"], metadata["versions"]) == ("digits", ["1", "2"])
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
    assert {one["name"]: one["datatype"] for one in metadata["outputs"]} == {
        "probabilities": "FP32",
        "label": "INT64",
    }


@pytest.mark.parametrize("version", ["1", "2"])
def test_metadata_of_a_version_names_that_version(demo: Demo, version: str) -> None:
    theirs = demo.ask(f"/v1/models/digits/versions/{version}/metadata").json
    assert theirs["model_spec"]["version"] == version
    assert demo.ask(f"/v2/models/digits/versions/{version}").json["versions"] == [version]


def test_metadata_without_a_version_is_of_the_version_that_would_answer(demo: Demo) -> None:
    answer = demo.ask("/v1/models/digits/metadata")
    assert answer.json["model_spec"]["version"] == answer["x-headgate-version"] == "1"


def test_the_status_says_which_versions_are_available(demo: Demo) -> None:
    states = demo.ask("/v1/models/digits").json["model_version_status"]
    assert {state["version"]: state["state"] for state in states} == {"1": "AVAILABLE", "2": "AVAILABLE"}
    (second,) = demo.ask("/v1/models/digits/versions/2").json["model_version_status"]
    assert (second["version"], second["state"]) == ("2", "AVAILABLE")


@pytest.mark.parametrize(
    "path",
    ["/v2/models/digits/ready", "/v2/models/digits/versions/2/ready", "/v2/health/ready", "/v2/health/live"],
)
def test_readiness_is_told_in_kserve_v2(demo: Demo, path: str) -> None:
    assert demo.ask(path).status == 200


def test_the_server_describes_itself_in_kserve_v2(demo: Demo) -> None:
    assert demo.ask("/v2").json["name"] == "headgate"


# The cache


def spaced(row: list[int]) -> bytes:
    return ('{ "instances" :\n [ [' + " ,\t".join(f"{value}" for value in row) + "] ] }").encode()


def as_floats(row: list[int]) -> bytes:
    return ('{"instances":[[' + ",".join(f"{value}.0" for value in row) + "]]}").encode()


def as_exponents(row: list[int]) -> bytes:
    return ('{"instances":[[' + ",".join(f"{value * 10}e-1" for value in row) + "]]}").encode()


def named(row: list[int]) -> bytes:
    return json.dumps({"signature_name": "serving_default", "instances": [{"input": row}]}).encode()


def in_columns(row: list[int]) -> bytes:
    return json.dumps({"inputs": {"input": [row]}}).encode()


def nested_v2(row: list[int]) -> bytes:
    return json.dumps(
        {"id": "7", "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [row]}]}
    ).encode()


@pytest.mark.parametrize(
    ("path", "rewritten"),
    [
        (PREDICT, tfs),
        (PREDICT, spaced),
        (PREDICT, as_floats),
        (PREDICT, as_exponents),
        (PREDICT, named),
        (PREDICT, in_columns),
        (INFER, v2),
        (INFER, nested_v2),
    ],
    ids=["same", "spaces", "floats", "exponents", "named", "columns", "kserve v2", "nested kserve v2"],
)
def test_the_same_tensor_is_a_hit_however_it_is_written(
    demo: Demo, path: str, rewritten: Callable[[list[int]], bytes]
) -> None:
    row = fresh_row()
    first = demo.ask(PREDICT, tfs(row))
    second = demo.ask(path, rewritten(row))
    assert "hit" not in first["Cache-Status"]
    assert second["Cache-Status"].startswith("headgate; hit")
    assert labels_of_any(second) == labels(first)


def test_a_repeated_question_is_a_hit_whichever_version_it_would_be_sent_to(demo: Demo) -> None:
    client = demo.client()
    bodies = [tfs(fresh_row()) for _ in range(40)]
    for body in bodies:
        client.ask(PREDICT, body)
    again = [client.ask(PREDICT, body) for body in bodies]
    assert {answer["Cache-Status"].partition(";")[2].strip() for answer in again} == {"hit"}


def labels_of_any(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    outputs = answer.json.get("outputs")
    if isinstance(outputs, dict):  # the column form
        found: list[int] = outputs["label"]
        return found
    return labels(answer)


def test_another_version_is_not_answered_from_the_cache_of_the_first(demo: Demo) -> None:
    body = tfs(fresh_row())
    one = demo.ask("/v1/models/digits/versions/1:predict", body)
    two = demo.ask("/v1/models/digits/versions/2:predict", body)
    assert "hit" not in one["Cache-Status"] + two["Cache-Status"]
    assert one.body != two.body


def test_a_client_may_refuse_to_be_cached(demo: Demo) -> None:
    body = tfs(fresh_row())
    answers = [demo.ask(PREDICT, body, FRESH) for _ in range(3)]
    assert all("hit" not in answer["Cache-Status"] for answer in answers)


def test_ten_identical_requests_at_once_reach_a_backend_once(demo: Demo) -> None:
    addresses = [demo.address_of(name) for name in NAMES]
    before = sum(map(backend_requests, addresses))
    body, path = tfs(fresh_row()), "/v1/models/digits/labels/stable:predict"
    gate = threading.Barrier(10)
    answers: list[Answer] = []

    def ask() -> None:
        client = demo.client()
        gate.wait()
        answers.append(client.ask(path, body))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 10
    assert len({answer.body for answer in answers}) == 1
    assert sum(map(backend_requests, addresses)) - before == 1


# The canary


def paced(count: int) -> Iterator[int]:
    """Slow enough for the endpoint's 200/s."""
    for number in range(count):
        yield number
        time.sleep(0.004)


def test_a_tenth_of_the_traffic_tries_version_2(demo: Demo) -> None:
    """300 draws at 10 %: 12..53 hold 99.99 % of a binomial's mass."""
    client = demo.client()
    answers = [client.ask(PREDICT, tfs(fresh_row())) for _ in paced(300)]
    assert {answer.status for answer in answers} == {200}
    canary = sum(answer["x-headgate-pool"] == "digits-v2" for answer in answers)
    print(f"{canary} of 300 on the canary")
    assert 12 <= canary <= 53
    assert sum(answer["x-headgate-pool"] == "digits-v1" for answer in answers) == 300 - canary


def test_both_instances_of_a_pool_serve_when_there_is_work_for_both(demo: Demo) -> None:
    before = {one["id"]: one["successes"] for one in demo.instances("digits-v1")}
    with Hammer(demo.http, clients=6) as load:
        until(
            lambda: all(one["successes"] > before[one["id"]] for one in demo.instances("digits-v1")),
            "both instances to serve",
        )
    assert load.failures == []


def test_the_override_header_forces_the_candidate_for_who_may(demo: Demo) -> None:
    client = demo.client()
    for _ in paced(20):
        assert client.ask(PREDICT, tfs(fresh_row()), CANARY)["x-headgate-pool"] == "digits-v2"


def test_the_override_header_of_who_may_not_forces_nothing(demo: Demo) -> None:
    """Five requests at 10 %: all on the candidate by chance once in 100 000 runs."""
    time.sleep(1.1)  # whatever was spent before is back
    answers = [demo.predict(headers={**FREE, "x-headgate-send": "canary"}) for _ in range(5)]
    served = [answer for answer in answers if answer.status == 200]
    assert len(served) == 5, "the free plan's bucket was not full"
    assert "digits-v1" in {answer["x-headgate-pool"] for answer in served}
