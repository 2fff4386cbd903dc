"""The port between the HTTP server and a serving protocol: URLs and bodies in, predictions and errors
out.

One file per dialect implements it. A dialect is pure: it does no I/O, and its `read` and `write` may run
in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from backends.errors import BackendError
from backends.messages import Inference, Reply
from backends.served import Served
from backends.tensors import Tensors


class Dialect(Protocol):
    """A serving protocol over HTTP."""

    def get(self, path: str, ready: bool) -> Reply:
        """Answer health, status and metadata URLs. ready: False once the server drains. Raises
        NotFound."""
        ...

    def find(self, path: str) -> Served:
        """Return the model version that a prediction URL names. Raises NotFound, MethodNotAllowed."""
        ...

    def read(self, body: bytes, headers: Mapping[str, str], served: Served) -> Inference:
        """Read and validate the body of a prediction request. Raises Invalid."""
        ...

    def write(self, served: Served, inference: Inference, outputs: Tensors) -> Reply:
        """Write the answer to `inference`. Raises EngineFailure for values that the protocol cannot
        carry."""
        ...

    def error(self, error: BackendError) -> Reply:
        """Write an error in the protocol's own form."""
        ...

    def locate(self, name: str, version: str) -> str:
        """Return the URL path at which a model, or one version of it, describes itself.

        version: may be empty.
        """
        ...
