from __future__ import annotations

from pathlib import Path

import pytest

from gateway.runtime.generated import generated


@pytest.mark.parametrize(
    ("path", "content"), generated().items(), ids=lambda value: getattr(value, "name", "")
)
def test_a_generated_file_is_what_the_verbs_say(path: Path, content: str) -> None:
    assert path.read_text() == content, "run `make generated`"
