"""The edges run on uvloop and on the plain loop; so do their tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.fakes.wires import both_loops


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops for the tests of the data plane."""
    if item.path.name in ("test_connection.py", "test_tunnel.py", "test_tls.py", "test_arrival.py"):
        return both_loops()
    return {"asyncio": asyncio.new_event_loop}
