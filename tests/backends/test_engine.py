from __future__ import annotations

import queue
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from backends.engine import Engine
from backends.errors import BackendError, EngineFailure, LoadError
from backends.instances import Instances
from backends.providers import CUDA, EngineSettings
from backends.tensors import Array
from tests.backends.models import DIGITS, adder, echo, gatherer, put

MODEL = DIGITS / "digits" / "1" / "model.onnx"


def test_the_signature_is_read_from_the_graph() -> None:
    engine = Engine.open(DIGITS / "digits" / "1" / "model.onnx", EngineSettings())
    assert str(engine.signature) == "(input FP32 [n,64]) -> (probabilities FP32 [n,10], label INT64 [n])"
    assert engine.signature.batched
    assert repr(engine) == f"<Engine {engine.provider} {engine.signature}>"


def test_a_graph_without_free_first_dimension_is_not_batched(tmp_path: Path) -> None:
    folder = put(tmp_path, "echo", "1", echo(TensorProto.FLOAT, [3]))
    assert not Engine.open(folder / "model.onnx", EngineSettings()).signature.batched


def test_run_gives_every_output_by_name() -> None:
    engine = Engine.open(DIGITS / "digits" / "1" / "model.onnx", EngineSettings(device="cpu"))
    outputs = engine.run({"input": np.zeros((2, 64), dtype=np.float32)})
    assert {name: output.shape for name, output in outputs.items()} == {
        "probabilities": (2, 10),
        "label": (2,),
    }
    assert np.allclose(outputs["probabilities"].sum(axis=1), 1)


def test_a_failure_inside_the_graph_is_an_engine_failure_without_details(tmp_path: Path) -> None:
    engine = Engine.open(put(tmp_path, "table", "1", gatherer()) / "model.onnx", EngineSettings())
    assert engine.run({"x": np.array([1])})["y"].tolist() == [20]
    with pytest.raises(EngineFailure, match=r"^the model failed on this request$"):
        engine.run({"x": np.array([7])})


def test_what_is_no_model_is_a_load_error(tmp_path: Path) -> None:
    folder = put(tmp_path, "noise", "1", b"no model at all")
    with pytest.raises(LoadError, match=r"noise/1/model\.onnx: "):
        Engine.open(folder / "model.onnx", EngineSettings())


def test_a_type_that_no_dialect_carries_is_a_load_error(tmp_path: Path) -> None:
    folder = put(tmp_path, "wide", "1", echo(TensorProto.BFLOAT16))
    with pytest.raises(LoadError):
        Engine.open(folder / "model.onnx", EngineSettings())


def test_an_unknown_session_entry_of_the_card_does_not_stop_the_others(tmp_path: Path) -> None:
    folder = put(tmp_path, "sum", "1", adder())
    settings = EngineSettings(environment={"session.set_denormal_as_zero": "1"})
    assert Engine.open(folder / "model.onnx", settings).provider


# How calls run


def test_bound_inputs_and_outputs_give_the_same_answer_and_failures(tmp_path: Path) -> None:
    rows = {"input": np.arange(128, dtype=np.float32).reshape(2, 64) % 17}
    plain, bound = Engine.open(MODEL, EngineSettings()), Engine.open(MODEL, EngineSettings(), "on")
    for name, output in plain.run(rows).items():
        assert np.array_equal(bound.run(rows)[name], output)
    table = Engine.open(put(tmp_path, "table", "1", gatherer()) / "model.onnx", EngineSettings(), "on")
    with pytest.raises(EngineFailure):
        table.run({"x": np.array([7])})
    text = Engine.open(
        put(tmp_path, "text", "1", echo(TensorProto.STRING)) / "model.onnx", EngineSettings(), "on"
    )
    assert text.run({"x": np.array(["é", "b"], dtype=np.object_)})["y"].tolist() == ["é", "b"]


Outcome = Mapping[str, Array] | BackendError


def test_an_asynchronous_call_calls_back_with_outputs_or_a_failure(tmp_path: Path) -> None:
    path = put(tmp_path, "table", "1", gatherer()) / "model.onnx"
    engine = Engine.open(path, EngineSettings(threads=2))
    done: queue.Queue[Outcome] = queue.Queue()
    engine.start({"x": np.array([1])}, done.put)
    answer = done.get(timeout=10)
    assert not isinstance(answer, BackendError)
    assert answer["y"].tolist() == [20]
    engine.start({"x": np.array([7])}, done.put)
    assert isinstance(done.get(timeout=10), EngineFailure)


def test_an_asynchronous_call_of_a_session_without_threads_is_refused() -> None:
    with pytest.raises(EngineFailure):
        Engine.open(MODEL, EngineSettings()).start({"input": np.zeros((1, 64), np.float32)}, lambda _: None)


def test_instances_are_used_in_parallel_and_shared_when_all_are_busy() -> None:
    engines = [Engine.open(MODEL, EngineSettings()) for _ in range(2)]
    instances = Instances(engines)
    rows = {"input": np.zeros((1, 64), dtype=np.float32)}
    with ThreadPoolExecutor(4) as pool:
        labels = {int(answer["label"][0]) for answer in pool.map(lambda _: instances.run(rows), range(20))}
    assert len(labels) == 1
    assert repr(instances).startswith("<Instances 2/2 free")


# Devices


@pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime was compiled for CUDA"
)
def test_opening_on_a_device_that_is_not_there_fails() -> None:
    with pytest.raises(LoadError, match="device 'cuda' is not available"):
        Engine.open(DIGITS / "digits" / "1" / "model.onnx", EngineSettings(device="cuda"))
