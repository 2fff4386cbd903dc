from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.services.etcd import etcd, etcd_trio

__all__ = ["etcd", "etcd_trio"]


@pytest.fixture(autouse=True)
async def handshakes_may_end(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Give a TLS handshake that was cancelled in its first turn the time to fail before the loop ends.

    asyncio (CPython 3.11) can only close such a transport once the handshake is over; until then it counts as
    unclosed.
    """
    yield
    if "secured" in request.fixturenames:
        await asyncio.sleep(0.1)
