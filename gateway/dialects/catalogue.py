"""The built-in dialects. A new one is a new file and one more entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects.kserve_v2 import KServeV2
from gateway.dialects.protocol import Dialect, Target
from gateway.dialects.tensorflow_serving import TensorFlowServing

TENSORFLOW_SERVING: Final = TensorFlowServing()
KSERVE_V2: Final = KServeV2()

DIALECTS: Final[tuple[Dialect, ...]] = (TENSORFLOW_SERVING, KSERVE_V2)
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
