"""Several models' answers to one question made into one: what an ensemble does.

    mean    floating outputs are averaged, weighted; every other value is the one with most weight behind it
    vote    the class with most weight behind it wins, row by row: of a floating output with classes on its
            last axis the mean of those members that chose it; elsewhere as `mean`
    all     every member's outputs side by side, named `member.output`

Ties go to the member named first. For `mean` and `vote` the members must answer with the same outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from gateway.dialects.errors import WRONG_SHAPE, InvalidPrediction
from gateway.dialects.tensors import NUMPY, Array, InferResponse, Tensor

By = Literal["mean", "vote", "all"]
Floats = npt.NDArray[np.float64]


def blend(answers: Mapping[str, InferResponse], weights: Mapping[str, float], by: By) -> InferResponse:
    """Return the answer of all. answers: by member, at least one. weights: of every member, above 0.

    Raises InvalidPrediction (wrong_shape) where the members' outputs are not alike.
    """
    first = next(iter(answers.values()))
    if by == "all":
        outputs = tuple(
            Tensor(f"{member}.{tensor.name}", tensor.dtype, tensor.shape, tensor.data, tensor.params)
            for member, answer in answers.items()
            for tensor in answer.outputs
        )
        return InferResponse(first.id, first.model, "", outputs, {})
    forms = {tuple((one.name, one.dtype, one.shape) for one in answer.outputs) for answer in answers.values()}
    if len(forms) != 1:
        raise InvalidPrediction(WRONG_SHAPE, "the members of the ensemble answered in different forms")
    shares = np.array([weights[member] for member in answers])
    outputs = tuple(
        _blended([answer.outputs[index] for answer in answers.values()], shares, by)
        for index in range(len(first.outputs))
    )
    return InferResponse(first.id, first.model, "", outputs, {})


def _blended(tensors: Sequence[Tensor], shares: Floats, by: By) -> Tensor:
    first = tensors[0]
    arrays = [tensor.data for tensor in tensors if not isinstance(tensor.data, list)]
    if not arrays:
        strings = [tensor.data for tensor in tensors if isinstance(tensor.data, list)]
        chosen = [_most(values, shares) for values in zip(*strings, strict=True)]
        return Tensor(first.name, first.dtype, first.shape, chosen, first.params)
    if arrays[0].dtype.kind != "f":
        return Tensor(first.name, first.dtype, first.shape, _voted(arrays, shares), first.params)
    stacked = np.stack(arrays).astype(np.float64)  # members first
    if by == "vote" and stacked.ndim >= 3 and stacked.shape[-1] > 1:
        mixed = _of_the_winners(stacked, shares)
    else:
        mixed = np.tensordot(shares, stacked, axes=1) / shares.sum()
    return Tensor(first.name, first.dtype, first.shape, mixed.astype(NUMPY[first.dtype]), first.params)


def _most(values: Sequence[bytes], shares: Floats) -> bytes:
    behind: dict[bytes, float] = {}
    for value, share in zip(values, shares, strict=True):
        behind[value] = behind.get(value, 0.0) + float(share)
    return max(behind, key=behind.__getitem__)


def _voted(arrays: Sequence[Array], shares: Floats) -> Array:
    """Element by element the value with most weight behind it; of equals the first member's."""
    stacked = np.stack(arrays)
    behind = np.stack([np.tensordot(shares, stacked == one, axes=1) for one in arrays])
    winner = behind.argmax(axis=0)
    chosen: Array = np.take_along_axis(stacked, winner[np.newaxis], axis=0)[0]
    return chosen


def _of_the_winners(stacked: Floats, shares: Floats) -> Floats:
    """Row by row the mean of those members whose largest class is the one that most weight chose."""
    classes = stacked.argmax(axis=-1)
    winner = _voted(list(classes), shares)
    weight = (classes == winner) * shares.reshape(-1, *[1] * (classes.ndim - 1))
    mixed: Floats = (stacked * weight[..., np.newaxis]).sum(axis=0) / weight.sum(axis=0)[..., np.newaxis]
    return mixed
