"""Slices: parts of torch tensors at kept indices, as views wherever the indices are evenly spaced. Differentiable."""

from __future__ import annotations

import numpy as np
import torch

from pleat.elastic.place import Cut, Index


def part(tensor: torch.Tensor, axis_cuts: tuple[Cut, ...]) -> torch.Tensor:
    """`tensor` restricted to the outer product of the cuts; None keeps an axis whole."""
    for axis, index in enumerate(axis_cuts):
        if index is not None:
            tensor = _along(tensor, axis, index)
    return tensor


def _along(tensor: torch.Tensor, axis: int, index: Index) -> torch.Tensor:
    """A view for a run or an even stride, a copy for anything else."""
    if index.size == tensor.shape[axis]:
        return tensor
    start, step = int(index[0]), int(index[1] - index[0]) if index.size > 1 else 1
    if index.size == 1 or bool((np.diff(index) == step).all()):
        if step == 1:
            return tensor.narrow(axis, start, index.size)
        places = [slice(None)] * tensor.dim()
        places[axis] = slice(start, int(index[-1]) + 1, step)
        return tensor[tuple(places)]
    return tensor.index_select(axis, torch.from_numpy(np.ascontiguousarray(index)).to(tensor.device))
