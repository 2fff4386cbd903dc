"""What a policy doesn't use isn't imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

LARGE = [
    "onnxruntime",
    "jwt",
    "cryptography",
    "sqlite3",
    "onnxruntime",
    "grpc",
    "opentelemetry.sdk",
    "fsspec",
    "google.protobuf",
]


@pytest.mark.parametrize("module", LARGE)
def test_a_gateway_without_its_feature_does_not_load(module: str) -> None:
    script = f"import sys, gateway.runtime.serve; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
