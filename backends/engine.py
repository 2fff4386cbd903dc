"""The engine: one ONNX Runtime session, opened on a device that is really there (providers.py).

Rules and where they come from (measured; `loadtests/micro/backend_cpu.py` repeats the last):
- One thread per call and no spinning: on a CPU two calls with one thread each do more work than one call
  with two, and spinning threads burn what the neighbours need (83 -> 58 ms of CPU per call of a ResNet-18
  without it).
- Plain `run` on a CPU, IOBinding on a GPU: with outputs copied out of the bound buffers, which a batch shared
  by several requests needs, binding saves 1.4 of 5.3 µs at one row and nothing at 32. On a GPU it keeps ONNX
  Runtime from copying through memory of its own.
- An asynchronous call needs a session with a thread pool: two threads, one of which calls back.

This is the only file that calls ONNX Runtime; its exceptions end here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from backends.card import Binding
from backends.errors import BackendError, EngineFailure, LoadError
from backends.providers import CPU, EngineSettings, check_device, choose_providers
from backends.tensors import ANY, BY_ONNX, Array, Signature, Tensors, TensorSpec

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


class Runner(Protocol):
    """What answers batches: one session, several, or processes that hold them."""

    signature: Signature
    provider: str  # where it really runs

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output of validated tensors; from any thread. Raises BackendError."""
        ...

    def close(self) -> None:
        """Let go of everything. Nothing runs any more, and nothing will."""
        ...


class Engine:
    """An open session. `run` may be called from any thread.

    signature: what the graph takes and gives. provider: where it really runs.
    """

    __slots__ = ("_binds", "_names", "_session", "provider", "signature")

    def __init__(self, session: onnxruntime.InferenceSession, binding: Binding = "auto") -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self.provider = str(session.get_providers()[0])
        self.signature = Signature(
            inputs=tuple(_spec(node) for node in session.get_inputs()),
            outputs=tuple(_spec(node) for node in session.get_outputs()),
        )
        text = any(spec.dtype.name == "BYTES" for spec in self.signature.inputs)  # can't be bound
        self._binds = not text and (binding == "on" or (binding == "auto" and self.provider != CPU))

    @classmethod
    def open(cls, model: Path, settings: EngineSettings, binding: Binding = "auto") -> Engine:
        """Load `model`. LoadError when it is no usable model or the named device is not there."""
        try:
            session = onnxruntime.InferenceSession(
                str(model),
                _session_options(settings),
                providers=choose_providers(settings, onnxruntime.get_available_providers(), model.parent),
            )
        except _FAULTS as e:
            raise LoadError(f"{model}: {first_line(e)}") from e
        engine = cls(session, binding)
        check_device(settings.device, session.get_providers())
        return engine

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output of validated tensors. EngineFailure when the engine refuses or fails."""
        try:
            if self._binds:
                return self._run_bound(inputs)
            return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        except _FAULTS as e:
            raise _failure(first_line(e)) from e

    def start(self, inputs: Tensors, done: Callable[[Mapping[str, Array] | BackendError], None]) -> None:
        """Begin a call; `done` is called once, in a thread of ONNX Runtime. EngineFailure: never."""

        def called(outputs: list[Array], _: object, error: str) -> None:
            done(_failure(error) if error else dict(zip(self._names, outputs, strict=True)))

        try:
            self._session.run_async(self._names, inputs, called, None)
        except _FAULTS as e:
            raise _failure(first_line(e)) from e

    def close(self) -> None:
        """Nothing to do: the session goes when nobody holds it."""

    def _run_bound(self, inputs: Tensors) -> dict[str, Array]:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(tensor))
        for name in self._names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return dict(zip(self._names, binding.copy_outputs_to_cpu(), strict=True))

    def __repr__(self) -> str:
        return f"<Engine {self.provider} {self.signature}>"


def first_line(error: BaseException) -> str:
    """Return what an operator needs of a library's exception: its first line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _failure(reason: str) -> EngineFailure:
    _log.error("engine_failed error=%r", reason)
    return EngineFailure("the model failed on this request")


def _session_options(settings: EngineSettings) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (settings.environment or {}).items():
        options.add_session_config_entry(key, value)
    return options


def _spec(node: Any) -> TensorSpec:
    dtype = BY_ONNX.get(node.type)
    if dtype is None:
        raise LoadError(f"{node.name}: type {node.type} cannot be served")
    return TensorSpec(node.name, dtype, tuple(dim if isinstance(dim, int) else ANY for dim in node.shape))
