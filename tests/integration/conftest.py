"""Demos that tests of one module share: only for tests that leave them as they found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.running import Demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A running demo that nobody breaks."""
    with Demo(tmp_path_factory.mktemp("demo")) as running:
        yield running
