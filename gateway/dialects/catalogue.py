"""The built-in dialects. A new one is a new file and one more entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.kserve_v2 import KServeV2
from gateway.dialects.kserve_v2_grpc import TORCHSERVE_SERVICE, KServeV2Grpc
from gateway.dialects.protocol import Dialect, Target
from gateway.dialects.tensorflow_serving import TensorFlowServing
from gateway.dialects.tensorflow_serving_grpc import TensorFlowServingGrpc

TENSORFLOW_SERVING: Final = TensorFlowServing()
KSERVE_V2: Final = KServeV2()
KSERVE_V2_GRPC: Final = KServeV2Grpc()
TORCHSERVE_GRPC: Final = KServeV2Grpc("torchserve-grpc", TORCHSERVE_SERVICE)
TENSORFLOW_SERVING_GRPC: Final = TensorFlowServingGrpc()

DIALECTS: Final[tuple[Dialect, ...]] = (
    TENSORFLOW_SERVING,
    KSERVE_V2,
    KSERVE_V2_GRPC,
    TENSORFLOW_SERVING_GRPC,
    TORCHSERVE_GRPC,
)
BY_NAME: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in DIALECTS}


def recognise(method: bytes, path: bytes) -> Target | None:
    """Say which dialect a URL belongs to and what it asks.

    None if it is no dialect's. The first match wins.
    """
    for dialect in DIALECTS:
        target = dialect.recognise(method, path)
        if target is not None:
            return target
    return None
