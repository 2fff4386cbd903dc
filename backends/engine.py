"""The engine: one ONNX Runtime session, opened on a device that is really there.

Rules and where they come from (measured; `loadtests/micro/backend_cpu.py` repeats the last):
- The providers that ONNX Runtime lists were compiled in; that says nothing about this machine. A session
asked for
  a GPU that is not there is silently a CPU session. So an explicit list goes in, and what came out is read
  back from the session.
- One thread per call and no spinning: on a CPU two calls with one thread each do more work than one call
with two,
  and spinning threads burn what the neighbours need (83 -> 58 ms of CPU per call of a ResNet-18 without it).
- Plain `run`, not IOBinding: with outputs copied out of the bound buffers, which a batch shared by
several requests
  needs, binding saves 1.4 of 5.3 µs at one row and nothing at 32.

This is the only file that calls ONNX Runtime; its exceptions end here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from backends.errors import EngineFailure, LoadError
from backends.settings import Device
from backends.tensors import ANY, BY_ONNX, Array, Signature, Tensors, TensorSpec

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# ONNX Runtime's exceptions have no common base class; the last three are what its bindings raise.
_FAULTS = (
    native.EngineError,
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
    ValueError,
    MemoryError,
)

_log = logging.getLogger("backends.engine")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where and with how much memory sessions run."""

    device: Device = "auto"  # auto: CUDA where it works, else CPU; a named device must work
    gpu_memory: int | None = None  # bytes of the CUDA arena; None = no limit
    environment: Mapping[str, str] | None = None  # session configuration entries, from the card


class Engine:
    """An open session. `run` may be called from any thread.

    signature: what the graph takes and gives. provider: where it really runs.
    """

    __slots__ = ("_names", "_session", "provider", "signature")

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self.provider = str(session.get_providers()[0])
        self.signature = Signature(
            inputs=tuple(_spec(node) for node in session.get_inputs()),
            outputs=tuple(_spec(node) for node in session.get_outputs()),
        )

    @classmethod
    def open(cls, model: Path, settings: EngineSettings) -> Engine:
        """Load `model`. LoadError when it is no usable model or the named device is not there."""
        try:
            session = onnxruntime.InferenceSession(
                str(model),
                _session_options(settings.environment or {}),
                providers=choose_providers(settings, onnxruntime.get_available_providers(), model.parent),
            )
        except _FAULTS as e:
            raise LoadError(f"{model}: {first_line(e)}") from e
        engine = cls(session)
        check_device(settings.device, session.get_providers())
        return engine

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output of validated tensors. EngineFailure when the engine refuses or fails."""
        try:
            return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        except _FAULTS as e:
            _log.error("engine_failed error=%r", first_line(e))
            raise EngineFailure("the model failed on this request") from e

    def __repr__(self) -> str:
        return f"<Engine {self.provider} {self.signature}>"


def choose_providers(
    settings: EngineSettings, compiled_in: Sequence[str], cache: Path
) -> list[str | tuple[str, dict[str, str]]]:
    """Return the explicit list to ask for, best first, ending on the CPU.

    `auto` asks for CUDA and not for TensorRT: building its engines takes minutes per model, which nobody
    should get unasked. `cache` is where TensorRT keeps the engines that it built. LoadError when the
    named device is not compiled into this ONNX Runtime.
    """
    cuda = {"cudnn_conv_algo_search": "HEURISTIC"}  # EXHAUSTIVE tunes anew for every batch size
    if settings.gpu_memory is not None:
        cuda["gpu_mem_limit"] = str(settings.gpu_memory)
    tensorrt = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    wanted: dict[Device, list[str | tuple[str, dict[str, str]]]] = {
        "cpu": [CPU],
        "cuda": [(CUDA, cuda), CPU],
        "tensorrt": [(TENSORRT, tensorrt), (CUDA, cuda), CPU],
        "auto": [(CUDA, cuda), CPU],
    }
    providers = [
        entry
        for entry in wanted[settings.device]
        if (entry if isinstance(entry, str) else entry[0]) in compiled_in
    ]
    check_device(settings.device, [entry if isinstance(entry, str) else entry[0] for entry in providers])
    return providers


def check_device(device: Device, providers: Sequence[str]) -> None:
    """Raise LoadError unless the first of `providers` is what `device` names; `auto` takes any."""
    expected = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}.get(device)
    if expected is not None and (not providers or providers[0] != expected):
        got = ", ".join(providers) or "nothing"
        raise LoadError(f"device {device!r} is not available: ONNX Runtime offers {got}")


def first_line(error: BaseException) -> str:
    """Return what an operator needs of a library's exception: its first line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _session_options(entries: Mapping[str, str]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _spec(node: Any) -> TensorSpec:
    dtype = BY_ONNX.get(node.type)
    if dtype is None:
        raise LoadError(f"{node.name}: type {node.type} cannot be served")
    return TensorSpec(node.name, dtype, tuple(dim if isinstance(dim, int) else ANY for dim in node.shape))
