"""In which form this gateway runs: the hot modules compiled (setup.py), or all of it pure Python."""

from __future__ import annotations

from importlib.util import find_spec


def form() -> str:
    """Return `compiled` or `pure`."""
    spec = find_spec("gateway.pipeline.exchange")
    return "pure" if spec is None or spec.origin is None or spec.origin.endswith(".py") else "compiled"
