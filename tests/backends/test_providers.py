"""The choice of providers needs no GPU: lists and options go in and out of pure functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.engine import Engine
from backends.errors import LoadError
from backends.providers import (
    CPU,
    CUDA,
    TENSORRT,
    EngineSettings,
    check_device,
    choose_providers,
    name_of,
    profiles,
    tensorrt_options,
)
from backends.settings import Device
from tests.backends.models import DIGITS, adder, put

BUILT_FOR_GPUS = [TENSORRT, CUDA, CPU]


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


def test_a_limited_arena_grows_by_what_is_asked_for_and_sits_on_its_device() -> None:
    providers = choose_providers(
        EngineSettings("cuda", gpu_memory=1 << 30, device_id=1), BUILT_FOR_GPUS, Path("cache")
    )
    assert providers[0] == (
        CUDA,
        {
            "device_id": "1",
            "cudnn_conv_algo_search": "HEURISTIC",
            "gpu_mem_limit": "1073741824",
            "arena_extend_strategy": "kSameAsRequested",
        },
    )
    assert [name_of(entry) for entry in providers] == [CUDA, CPU]


def test_tensorrt_keeps_its_engines_and_its_profile_spans_the_buckets() -> None:
    settings = EngineSettings(
        "tensorrt", cache=Path("/engines"), half=True, rows=(1, 8, 32), profiles={"x": (3, 224, 224)}
    )
    options = tensorrt_options(settings, Path("beside"))
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/engines"
    assert options["trt_fp16_enable"] == "1"
    assert options["trt_profile_min_shapes"] == "x:1x3x224x224"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "x:32x3x224x224"
    assert tensorrt_options(EngineSettings("tensorrt"), Path("beside"))["trt_engine_cache_path"] == "beside"


def test_profiles_are_told_only_where_rows_are_the_only_free_dimension(tmp_path: Path) -> None:
    engine = Engine.open(DIGITS / "digits" / "1" / "model.onnx", EngineSettings())
    assert profiles(engine.signature) == {"input": (64,)}
    two = Engine.open(put(tmp_path, "sum", "1", adder()) / "model.onnx", EngineSettings())
    assert profiles(two.signature) == {"left": (2,), "right": (2,)}
