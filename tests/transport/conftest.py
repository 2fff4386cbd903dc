"""TLS runs on uvloop and on the plain loop; so do its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.fakes.wires import both_loops


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops for all tests of this room."""
    return both_loops()
