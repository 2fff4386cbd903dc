from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from backends.engine import (
    CPU,
    CUDA,
    TENSORRT,
    Engine,
    EngineSettings,
    check_device,
    choose_providers,
)
from backends.errors import EngineFailure, LoadError
from backends.settings import Device
from tests.backends.models import DIGITS, adder, echo, gatherer, put

BUILT_FOR_GPUS = [TENSORRT, CUDA, CPU]


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


# Devices


@pytest.mark.parametrize(
    ("device", "first"), [("auto", CUDA), ("cuda", CUDA), ("tensorrt", TENSORRT), ("cpu", CPU)]
)
def test_the_list_asked_for_is_explicit_and_ends_on_the_cpu(device: Device, first: str) -> None:
    providers = choose_providers(EngineSettings(device=device), BUILT_FOR_GPUS, Path("cache"))
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
    assert names[0] == first
    assert names[-1] == CPU


def test_the_memory_limit_reaches_cuda() -> None:
    providers = choose_providers(EngineSettings("cuda", gpu_memory=1 << 30), BUILT_FOR_GPUS, Path("cache"))
    assert isinstance(providers[0], tuple)
    assert providers[0][1]["gpu_mem_limit"] == "1073741824"


def test_auto_is_the_cpu_where_nothing_else_was_compiled_in() -> None:
    assert choose_providers(EngineSettings(), [CPU], Path("cache")) == [CPU]


def test_a_named_device_that_was_not_compiled_in_is_an_error() -> None:
    with pytest.raises(
        LoadError, match="device 'cuda' is not available: ONNX Runtime offers CPUExecutionProvider"
    ):
        choose_providers(EngineSettings("cuda"), [CPU], Path("cache"))


def test_a_session_that_fell_back_to_the_cpu_is_no_cuda_session() -> None:
    check_device("auto", [CPU])
    with pytest.raises(LoadError, match="device 'cuda' is not available"):
        check_device("cuda", [CPU])


@pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime was compiled for CUDA"
)
def test_opening_on_a_device_that_is_not_there_fails() -> None:
    with pytest.raises(LoadError, match="device 'cuda' is not available"):
        Engine.open(DIGITS / "digits" / "1" / "model.onnx", EngineSettings(device="cuda"))
