"""Shape buckets: the engine is shown few shapes, and everything else is padded up to the next of them.

An engine that plans for each shape (TensorRT, cuDNN's search, CUDA graphs) plans anew for every batch size
that it hasn't seen; on a CPU a bucket costs the padded rows and buys nothing, so there are none unless a card
asks. Rows are padded with copies of the last one: always a value that the model can digest. Dimension 1 is
padded only for the inputs that a card names, with the value that it names, because only the model's author
knows what it ignores; outputs of the same length are cut back for each request.

    rows       3 of buckets (1, 4, 8)      -> 4      9 -> 9: more than the last bucket is no batch
    lengths    17 of lengths (16, 32)      -> 32     40 -> 40: a call of its own shape
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from backends.card import Batching
from backends.tensors import Array, Tensors


class Padding:
    """What a card says of shapes. `lengths` tells whether dimension 1 is padded at all."""

    __slots__ = ("_buckets", "_cut", "_fill", "lengths")

    def __init__(self, batching: Batching) -> None:
        self._buckets = batching.buckets
        self._fill: Mapping[str, float] = batching.pad
        self._cut = batching.cut
        self.lengths: Sequence[int] = batching.lengths

    def rows(self, rows: int) -> int:
        """Return the rows that the engine is shown for `rows`."""
        return _up(self._buckets, rows)

    def length(self, inputs: Tensors) -> int:
        """Return the request's own size of dimension 1; 0 where none of its inputs is padded."""
        return max(
            (tensor.shape[1] for name, tensor in inputs.items() if name in self._fill and tensor.ndim > 1),
            default=0,
        )

    def lengthen(self, inputs: Tensors) -> Tensors:
        """Return the inputs with dimension 1 padded up."""
        size = _up(self.lengths, self.length(inputs))
        return {name: self._fill_up(name, tensor, size) for name, tensor in inputs.items()}

    def shorten(self, outputs: Mapping[str, Array], length: int) -> Mapping[str, Array]:
        """Return one request's outputs with dimension 1 cut back to its own length."""
        if not length or not self._cut:
            return outputs
        return {
            name: output[:, :length] if name in self._cut and output.ndim > 1 else output
            for name, output in outputs.items()
        }

    def _fill_up(self, name: str, tensor: Array, size: int) -> Array:
        fill = self._fill.get(name)
        if fill is None or tensor.ndim < 2 or tensor.shape[1] >= size:
            return tensor
        missing = (tensor.shape[0], size - tensor.shape[1], *tensor.shape[2:])
        return np.concatenate([tensor, np.full(missing, fill, dtype=tensor.dtype)], axis=1)


def add_rows(tensor: Array, rows: int) -> Array:
    """Return the tensor with copies of its last row up to `rows` rows."""
    missing = rows - len(tensor)
    return tensor if missing <= 0 else np.concatenate([tensor, np.repeat(tensor[-1:], missing, axis=0)])


def _up(sizes: Sequence[int], size: int) -> int:
    place = bisect_left(sizes, size)
    return sizes[place] if place < len(sizes) else size
