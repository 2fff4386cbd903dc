"""Which execution provider a session asks for, and whether it got it: choice without any GPU in sight.

The providers that ONNX Runtime lists were compiled in; that says nothing about this machine, and a session
asked for a GPU that is not there is silently a CPU session (measured with onnxruntime-gpu 1.31 without a
GPU: CUDA and TensorRT are listed, `get_device()` says GPU). So an explicit list goes in, and what came out is
read back from the session.

CUDA       cudnn_conv_algo_search HEURISTIC: EXHAUSTIVE, the default, tunes anew for every batch size.
           arena_extend_strategy kSameAsRequested where memory is limited: doubling overshoots the limit.
TensorRT   engines are cached, named by model, version and ONNX Runtime; profiles reach from the smallest
           bucket to the largest, so that no batch builds an engine anew. Building takes minutes per model:
           `auto` never asks for it.

Source: onnxruntime.ai/docs/execution-providers, CUDA and TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backends.errors import LoadError
from backends.settings import Device
from backends.tensors import ANY, Signature

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

Provider = str | tuple[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where and with how much memory sessions run."""

    device: Device = "auto"  # auto: CUDA where it works, else CPU; a named device must work
    gpu_memory: int | None = None  # bytes of the CUDA arena; None = no limit
    environment: Mapping[str, str] | None = None  # session configuration entries, from the card
    device_id: int = 0  # which GPU
    cache: Path | None = None  # where TensorRT keeps its engines; default: beside the model
    half: bool = False  # TensorRT may compute in FP16
    rows: tuple[int, ...] = ()  # the numbers of rows that the engine will be shown, growing
    threads: int = 1  # of one call (intra_op_num_threads); asynchronous calls need 2
    profiles: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # input -> shape, for TensorRT


def choose_providers(settings: EngineSettings, compiled_in: Sequence[str], beside: Path) -> list[Provider]:
    """Return the explicit list to ask for, best first, ending on the CPU.

    compiled_in: what ONNX Runtime lists. beside: the model's folder. LoadError when the named device is not
    compiled into this ONNX Runtime.
    """
    cuda, tensorrt = (CUDA, cuda_options(settings)), (TENSORRT, tensorrt_options(settings, beside))
    wanted: dict[Device, list[Provider]] = {
        "cpu": [CPU],
        "cuda": [cuda, CPU],
        "tensorrt": [tensorrt, cuda, CPU],
        "auto": [cuda, CPU],
    }
    providers = [entry for entry in wanted[settings.device] if name_of(entry) in compiled_in]
    check_device(settings.device, [name_of(entry) for entry in providers])
    return providers


def cuda_options(settings: EngineSettings) -> dict[str, str]:
    """Return the CUDA provider's options."""
    options = {"device_id": str(settings.device_id), "cudnn_conv_algo_search": "HEURISTIC"}
    if settings.gpu_memory is not None:
        options["gpu_mem_limit"] = str(settings.gpu_memory)
        options["arena_extend_strategy"] = "kSameAsRequested"
    return options


def tensorrt_options(settings: EngineSettings, beside: Path) -> dict[str, str]:
    """Return the TensorRT provider's options: cached engines, and profiles where the shapes are known."""
    cache = str(settings.cache or beside)
    options = {
        "device_id": str(settings.device_id),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
    }
    if settings.gpu_memory is not None:
        options["trt_max_workspace_size"] = str(settings.gpu_memory)
    if settings.half:
        options["trt_fp16_enable"] = "1"
    if settings.rows and settings.profiles:
        least, most = settings.rows[0], settings.rows[-1]
        for key, rows in (("min", least), ("opt", most), ("max", most)):
            options[f"trt_profile_{key}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, (rows, *shape)))}" for name, shape in settings.profiles.items()
            )
    return options


def profiles(signature: Signature) -> dict[str, tuple[int, ...]]:
    """Return each input's shape without its rows; nothing unless rows are the only free dimension."""
    shapes = {spec.name: spec.shape[1:] for spec in signature.inputs}
    free = any(ANY in shape for shape in shapes.values())
    return {} if free or not signature.batched else shapes


def check_device(device: Device, providers: Sequence[str]) -> None:
    """Raise LoadError unless the first of `providers` is what `device` names; `auto` takes any."""
    expected = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}.get(device)
    if expected is not None and (not providers or providers[0] != expected):
        got = ", ".join(providers) or "nothing"
        raise LoadError(f"device {device!r} is not available: ONNX Runtime offers {got}")


def name_of(provider: Provider) -> str:
    """Return a provider's name without its options."""
    return provider if isinstance(provider, str) else provider[0]
