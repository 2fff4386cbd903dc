from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gateway.dialects.canonical import canonical_key
from gateway.dialects.tensors import Tensor
from gateway.pipeline.promise import Promise
from gateway.runtime.threads import WorkThreads
from tests.dialects.models import a_request


async def settled(promise: Promise[bytes]) -> bytes:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    promise.then(future.set_result, future.set_exception)
    return await future


async def test_the_event_loop_goes_round_while_the_key_of_a_large_question_is_taken() -> None:
    threads = WorkThreads(asyncio.get_running_loop())
    large = a_request(Tensor("x", "FP32", (1, 8_000_000), np.ones(8_000_000, np.float32)))
    rounds = 0
    try:
        found = threads.run(lambda: canonical_key(large, "m", "1", b""))
        while not found.done:
            rounds += 1
            await asyncio.sleep(0.001)
        assert await settled(found) == canonical_key(large, "m", "1", b"")
    finally:
        threads.close()
    assert rounds > 4, "a call of tens of milliseconds on the loop would have been one round"


async def test_what_work_raises_is_its_promises_failure() -> None:
    threads = WorkThreads(asyncio.get_running_loop())

    def fail() -> bytes:
        raise ValueError("no key")

    try:
        with pytest.raises(ValueError, match="no key"):
            await settled(threads.run(fail))
    finally:
        threads.close()
