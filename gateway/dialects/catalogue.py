"""The built-in dialects. A new one is a new file and one more entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.kserve_v1 import KServeV1
from gateway.dialects.kserve_v2 import KServeV2
from gateway.dialects.kserve_v2_grpc import KServeV2Grpc
from gateway.dialects.multi_model_server import MultiModelServer
from gateway.dialects.paddle_pipeline import PaddlePipeline
from gateway.dialects.paddle_pipeline_grpc import PaddlePipelineGrpc
from gateway.dialects.paddle_serving import PaddleServing
from gateway.dialects.protocol import Dialect, Operation, Target
from gateway.dialects.tensorflow_serving import TensorFlowServing
from gateway.dialects.tensorflow_serving_grpc import TensorFlowServingGrpc
from gateway.dialects.torchserve import TorchServe
from gateway.dialects.torchserve_grpc import TorchServeGrpc

TENSORFLOW_SERVING: Final = TensorFlowServing()
KSERVE_V1: Final = KServeV1()
KSERVE_V2: Final = KServeV2()
KSERVE_V2_GRPC: Final = KServeV2Grpc()
TORCHSERVE_GRPC: Final = TorchServeGrpc()
TENSORFLOW_SERVING_GRPC: Final = TensorFlowServingGrpc()
TORCHSERVE: Final = TorchServe()
MULTI_MODEL_SERVER: Final = MultiModelServer()
PADDLE_PIPELINE: Final = PaddlePipeline()
PADDLE_PIPELINE_GRPC: Final = PaddlePipelineGrpc()
PADDLE_SERVING: Final = PaddleServing()

DIALECTS: Final[tuple[Dialect, ...]] = (
    TENSORFLOW_SERVING,
    KSERVE_V2,
    KSERVE_V2_GRPC,
    TENSORFLOW_SERVING_GRPC,
    TORCHSERVE_GRPC,
    KSERVE_V1,
    TORCHSERVE,
    MULTI_MODEL_SERVER,
    PADDLE_PIPELINE,
    PADDLE_PIPELINE_GRPC,
    PADDLE_SERVING,
)
BY_NAME: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in DIALECTS}


def recognise(method: bytes, path: bytes) -> Target | None:
    """Say which dialect a URL belongs to and what it asks.

    None if it is no dialect's. The first match wins: a URL that several have (TensorFlow Serving's and KServe
    V1's, TorchServe's and MMS's) is `reread` once its endpoint is known.
    """
    for dialect in DIALECTS:
        target = dialect.recognise(method, path)
        if target is not None:
            return target
    return None


def reread(target: Target, method: bytes, path: bytes, speaks: str) -> Target:
    """Return what the URL says in the dialect of the endpoint's own pool, where it is one of that dialect.

    speaks: the pool's, of any kind. So a prediction that both sides know passes untouched.
    """
    theirs = BY_NAME.get(speaks)
    if theirs is None or theirs is target.dialect:
        return target
    meant = theirs.recognise(method, path)
    if meant is None or meant.model != target.model or meant.operation not in _SHARED:
        return target
    return meant


_SHARED: Final = frozenset((Operation.INFER, Operation.READY, Operation.STATUS, Operation.EXPLAIN))
