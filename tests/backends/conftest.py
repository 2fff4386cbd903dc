from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.engine import EngineSettings
from backends.repository import Choice, find_models
from backends.served import Catalogue, load_models


class Loader:
    """Loads repositories in the running event loop."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor

    def __call__(
        self, repository: Path, choices: Sequence[str] = (), *, all_or_none: bool = False
    ) -> Catalogue:
        found = find_models(repository, [Choice.parse(choice) for choice in choices])
        return load_models(found, EngineSettings(device="cpu"), self.executor, 2, all_or_none=all_or_none)


@pytest.fixture
def load() -> Iterator[Loader]:
    with ThreadPoolExecutor(2) as executor:
        yield Loader(executor)
