"""Two answers to the same question, number by number: by how much does a new version predict otherwise?

A value differs when |candidate - stable| > max_abs + max_rel * |stable| (numpy's `isclose` with stable as the
reference). Names, datatypes and shapes must be the same; text must be equal; NaN and infinities must stand
where stable has them. A flip is a row of a floating-point output, two columns or wider, whose largest value
stands elsewhere: the class that a caller would choose is another one, however small the difference.

Of large tensors only the first `most` elements are compared: whole rows, as many as fit. Nothing here raises
but for bugs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from gateway.dialects.tensors import Array, InferResponse, Tensor

MOST = 1 << 18
"""Elements per tensor that are compared: some milliseconds."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """How two answers differ.

    why: empty where they don't, beyond what is tolerated. max_abs, max_rel: the largest differences met, of
    finite numbers. rows: that could flip; flips: of them.
    """

    why: str = ""
    max_abs: float = 0.0
    max_rel: float = 0.0
    rows: int = 0
    flips: int = 0

    @property
    def differs(self) -> bool:
        """Beyond what is tolerated?"""
        return bool(self.why)


def compare(
    stable: InferResponse,
    candidate: InferResponse,
    max_abs: float = 0.001,
    max_rel: float = 0.0,
    most: int = MOST,
) -> Difference:
    """Compare all outputs. max_abs, max_rel: tolerated differences, see above."""
    theirs = {tensor.name: tensor for tensor in candidate.outputs}
    ours = {tensor.name for tensor in stable.outputs}
    if ours != theirs.keys():
        return Difference(f"outputs: {_names(ours)} became {_names(theirs.keys())}")
    found = [_tensor(one, theirs[one.name], max_abs, max_rel, most) for one in stable.outputs]
    return Difference(
        next((one.why for one in found if one.why), ""),
        max((one.max_abs for one in found), default=0.0),
        max((one.max_rel for one in found), default=0.0),
        sum(one.rows for one in found),
        sum(one.flips for one in found),
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _tensor(stable: Tensor, candidate: Tensor, max_abs: float, max_rel: float, most: int) -> Difference:
    name = stable.name
    if stable.dtype != candidate.dtype:
        return Difference(f"{name}: {stable.dtype} became {candidate.dtype}")
    if stable.shape != candidate.shape:
        return Difference(f"{name}: shape {list(stable.shape)} became {list(candidate.shape)}")
    one, other = stable.data, candidate.data
    if isinstance(one, list) or isinstance(other, list):
        same = list(one[:most]) == list(other[:most])
        return Difference() if same else Difference(f"{name}: other text")
    one, other = _first(one, most), _first(other, most)
    wide = one.dtype.kind == "f" and one.ndim >= 2 and one.shape[-1] >= 2
    if np.array_equal(one, other):
        return Difference(rows=prod(one.shape[:-1]) if wide else 0)
    a, b = one.astype(np.float64), other.astype(np.float64)
    rows, flips = _flips(a, b) if wide else (0, 0)
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if odd.any():
        strange = odd & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if strange.any():
            return Difference(f"{name}: NaN or infinity", rows=rows, flips=flips)
        a, b = a[~odd], b[~odd]
    apart = np.abs(b - a)
    size = np.abs(a)
    largest = float(apart.max(initial=0.0))
    relative = float((apart[size > 0] / size[size > 0]).max(initial=0.0))
    if bool((apart > max_abs + max_rel * size).any()):
        return Difference(f"{name}: values apart by up to {largest:.3g}", largest, relative, rows, flips)
    return Difference("", largest, relative, rows, flips)


def _first(data: Array, most: int) -> Array:
    """Return the first rows that hold at most `most` elements, one at least."""
    if data.size <= most or not data.ndim:
        return data
    return data[: max(1, most // max(1, data.size // data.shape[0]))]


def _flips(a: Doubles, b: Doubles) -> tuple[int, int]:
    """Count rows and those whose largest value stands elsewhere; NaN counts as largest, as in numpy."""
    chosen, now = a.argmax(-1), b.argmax(-1)
    return int(chosen.size), int(np.count_nonzero(chosen != now))
